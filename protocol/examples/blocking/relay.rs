//! The threads of what is open: sessions, data connections, users (`wire.md` §2.2, §2.4).

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};

use protocol::id::{ConnId, LinkId, UserId};
use protocol::launching::{Launching, Outcome};
use protocol::session::Input;
use protocol::terms::Transport;
use protocol::time::Duration;
use protocol::wire::launch::{Launch, Status, WhileIdle};
use protocol::{ingress, pool, reconnect};

use crate::conn::{CHUNK, Conn};
use crate::open::{Remote, connect, dial};
use crate::tunnel::{Data, Machines, Tunnel};
use crate::{Fault, now, spawn};

/// How often a launch that reads its user looks for the answer.
const TICK: Duration = Duration::from_millis(5);
/// Pieces that wait to be written to a control connection; more wait in the session's machine.
const UNWRITTEN: usize = 16;

/// A client's control connection.
pub(crate) fn session(tunnel: Tunnel) {
    match connect(tunnel) {
        Ok((conn, up)) => control(tunnel, conn, Vec::new(), |m| m.on_connected(tunnel, up)),
        Err(error) => {
            eprintln!("no session with the server: {error}");
            tunnel.tell(|m| m.reconnect(reconnect::Input::Failed));
        }
    }
}

/// A control connection: this thread reads it, another one writes, `first` before anything else.
pub(crate) fn control(
    tunnel: Tunnel,
    conn: Conn,
    first: Vec<u8>,
    link: impl FnOnce(&mut Machines) -> LinkId,
) {
    let (conn, (sender, unwritten)) = (Arc::new(conn), sync_channel(UNWRITTEN));
    let writer = Arc::clone(&conn);
    spawn(move || {
        let mut unwritten = [first].into_iter().chain(unwritten);
        unwritten.try_for_each(|bytes| writer.send(&bytes)).ok();
        writer.close();
    });
    let link = tunnel.tell(|m| {
        let link = link(m);
        m.add_session(tunnel, link, sender);
        link
    });
    loop {
        let bytes = conn.receive(CHUNK, None).unwrap_or_default();
        if bytes.is_empty() {
            return tunnel.tell(|m| m.session(link, Input::ControlEof));
        }
        tunnel.tell(|m| m.session(link, Input::Control(&bytes)));
    }
}

/// A data connection that a client opens.
pub(crate) fn dialled(tunnel: Tunnel, link: LinkId, id: ConnId, remote: &Remote) {
    match remote.open(tunnel) {
        Ok(conn) => data(tunnel, link, id, conn),
        Err(error) => {
            eprintln!("data connection not opened: {error}");
            tunnel.tell(|m| m.pool(pool::Input::DialFailed(id)));
        }
    }
}

/// A data connection, from when it is idle.
pub(crate) fn data(tunnel: Tunnel, link: LinkId, id: ConnId, conn: Conn) {
    let (conn, (sender, answer)) = (Arc::new(conn), sync_channel(1));
    let data = Data {
        link,
        conn: Arc::clone(&conn),
        answer,
    };
    match tunnel.tell(|m| m.add_idle(id, data)) {
        Some(true) => at_ingress(tunnel, id, &conn, &sender),
        Some(false) => at_egress(tunnel, id, &conn),
        None => {}
    }
}

/// Waits for the first byte: the answer to a launch, or why the connection is not idle any more.
fn at_ingress(tunnel: Tunnel, id: ConnId, conn: &Conn, answer: &SyncSender<u8>) {
    let mut first = conn.receive(CHUNK, None).unwrap_or_default().into_iter();
    let byte = first.next();
    conn.put_back(first.as_slice());
    let why = match byte.map(WhileIdle::from_byte) {
        Some(WhileIdle::Withdrawn) => pool::Input::Withdrawn(id),
        Some(WhileIdle::Bad(_)) | None => pool::Input::Ended(id),
    };
    let idle = tunnel.tell(|m| m.take(id, why));
    if let Some(byte) = byte.filter(|_| idle.is_none()) {
        answer.send(byte).ok();
    }
}

/// Waits for a launch and serves it.
fn at_egress(tunnel: Tunnel, id: ConnId, conn: &Arc<Conn>) {
    let launch = await_launch(tunnel, conn);
    let taken = launch.as_ref().map(|_| pool::Input::Taken(id));
    let why = taken.unwrap_or(pool::Input::Ended(id));
    match (tunnel.tell(|m| m.take(id, why)), launch) {
        (Some(_), Ok(launch)) => serve(tunnel, &launch, conn),
        (Some(_), Err(_)) => {}
        // Withdrawn; a launch that crossed that is void.
        (None, _) => conn.linger(),
    }
}

/// Says that no launch on a connection is served any more.
pub(crate) fn withdraw(conn: &Conn) {
    conn.send(&[Status::Withdrawn.as_byte()]).ok();
    conn.finish();
}

/// Waits for a launch, once it has begun not for long.
fn await_launch(tunnel: Tunnel, conn: &Conn) -> Result<Launch, Fault> {
    let mut bytes = conn.receive(CHUNK, None)?;
    let until = now().after(tunnel.config.env.handshake_timeout);
    loop {
        if let Some((launch, len)) = Launch::decode(&bytes)? {
            conn.put_back(bytes.get(len..).unwrap_or_default());
            return Ok(launch);
        }
        bytes.extend(conn.expect(until)?);
    }
}

fn serve(tunnel: Tunnel, launch: &Launch, conn: &Arc<Conn>) {
    match dial_target(tunnel, launch.transport) {
        Ok(target) if conn.send(&[Status::Connected.as_byte()]).is_ok() => {
            relay(conn, &Arc::new(target), false);
        }
        Ok(target) => target.reset(),
        Err(status) => {
            conn.send(&[status.as_byte()]).ok();
            conn.finish();
            conn.linger();
        }
    }
}

fn dial_target(tunnel: Tunnel, transport: Transport) -> Result<Conn, Status> {
    if transport == Transport::Udp {
        return Err(Status::Disabled);
    }
    let until = now().after(tunnel.config.env.tcp_dial_timeout);
    let mut failure = Status::Unreachable;
    for target in &tunnel.config.targets {
        let dialled = dial(target, until).and_then(Conn::new);
        failure = match dialled.map_err(|error| error.kind()) {
            Ok(target) => return Ok(target),
            Err(io::ErrorKind::ConnectionRefused) => Status::Refused,
            Err(io::ErrorKind::TimedOut) => Status::TimedOut,
            Err(_) => Status::Unreachable,
        };
    }
    Err(failure)
}

/// A user at ingress.
pub(crate) fn user(tunnel: Tunnel, socket: TcpStream, source: SocketAddr) -> Result<(), Fault> {
    let user = Arc::new(Conn::new(socket)?);
    let launch = Launch::new(Transport::Tcp, source);
    let (mut kept, mut ended) = (Vec::new(), false);
    let mut how: fn(UserId) -> ingress::Input = ingress::Input::User;
    loop {
        let (sender, idle) = sync_channel(1);
        tunnel.tell(|m| m.add_user(sender, how));
        let Ok(data) = idle.recv() else {
            user.reset();
            return Err("user not served: no data connection in time".into());
        };
        let mut launching = Launching::new(now(), &launch, mem::take(&mut kept), ended);
        let outcome = launched(&mut launching, &user, &data);
        match outcome.unwrap_or(Outcome::Lost) {
            Outcome::Connected => {
                relay(&data.conn, &user, launching.user_ended());
                return Ok(());
            }
            Outcome::Withdrawn { kept: bytes, eof } => {
                (kept, ended, how) = (bytes, eof, ingress::Input::Again);
            }
            failed @ (Outcome::Failed(_) | Outcome::Lost | Outcome::TimedOut) => {
                user.reset();
                data.conn.close();
                return Err(format!("user not served: {failed:?}").into());
            }
        }
    }
}

/// Sends the launch and what the user says until the answer comes.
fn launched(launching: &mut Launching, user: &Conn, data: &Data) -> io::Result<Outcome> {
    loop {
        let n = launching.to_send().len();
        data.conn.send(launching.to_send())?;
        launching.sent(n);
        let room = launching.wants_user();
        let wait = if room == 0 { TICK } else { Duration::ZERO };
        match data.answer.recv_timeout(wait) {
            Ok(status) => return Ok(launching.handle_peer(status)),
            Err(RecvTimeoutError::Disconnected) => return Ok(Outcome::Lost),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(outcome) = launching.handle_timeout(now()) {
            return Ok(outcome);
        }
        if room > 0 {
            match user.receive(room, Some(now().after(TICK))) {
                Ok(bytes) if bytes.is_empty() => launching.handle_user_eof(),
                Ok(bytes) if launching.handle_user(&bytes) => {}
                Ok(_) => return Ok(Outcome::Lost),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Relays both directions, that to `conn` only its end if it has `ended`.
fn relay(conn: &Arc<Conn>, other: &Arc<Conn>, ended: bool) {
    let (from, to) = (Arc::clone(conn), Arc::clone(other));
    spawn(move || pour(&from, &to));
    if ended {
        conn.finish();
    } else {
        pour(other, conn);
    }
}

/// One direction: an end is passed on as an end, an error as an error.
fn pour(from: &Conn, to: &Conn) {
    loop {
        match from.receive(CHUNK, None) {
            Ok(bytes) if bytes.is_empty() => return to.finish(),
            Ok(bytes) if to.send(&bytes).is_ok() => {}
            Ok(_) => return from.reset(),
            Err(_) => return to.reset(),
        }
    }
}
