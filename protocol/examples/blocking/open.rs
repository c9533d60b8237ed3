//! From a TCP connection to a session or a data connection, on both ends (`wire.md` §1 to §2.3).

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use protocol::config::HostPort;
use protocol::demux::{self, Demux, Expected, Inside, Verdict, Why};
use protocol::endpoint::{Input, Output, Refusal};
use protocol::handshake::{
    AwaitHello, ClientHandshake, ClientHandshakeConfig, Established, ServerStep, Step,
    VerifiedHello, WelcomeParams,
};
use protocol::id::ConnId;
use protocol::proof::{DataSecret, LABEL_AUTH, LABEL_CONN, LABEL_DATA};
use protocol::terms::{DataTls, Fingerprint, SessionId};
use protocol::time::{Duration, Instant};
use protocol::wire::preface::{self, Preface};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};

use crate::conn::Conn;
use crate::relay;
use crate::tunnel::Tunnel;
use crate::{Fault, host, lock, now};

/// What a connection at the tunnel port turned out to be.
enum Door {
    Control(VerifiedHello),
    /// Its proof is wrong, and this line says so.
    Stranger(Vec<u8>),
    Data,
}

/// The thread of a connection at the tunnel port.
pub(crate) fn at_door(tunnel: Tunnel, socket: TcpStream, from: SocketAddr) -> Result<(), Fault> {
    let (half, (sender, verdict)) = (socket.try_clone()?, sync_channel(1));
    let id = tunnel.tell(|m| {
        let (conn, from) = (m.endpoint.next_conn(), from.ip());
        m.doors.insert(conn, (half, sender));
        m.endpoint(Input::Accepted { conn, from });
        conn
    });
    let met = meet(tunnel, id, socket);
    let (conn, door, input) = met.inspect_err(|_| tunnel.tell(|m| m.endpoint(Input::Ended(id))))?;
    tunnel.tell(|m| m.endpoint(input));
    match (door, verdict.recv()?) {
        (Door::Control(hello), Output::Welcome { link, session, .. }) => {
            let (tls, mut line) = (tunnel.config.tls, Vec::new());
            let params = WelcomeParams {
                session,
                flow: tunnel.flow,
                max: tunnel.max,
                tls,
                fingerprints: vec![tunnel.server_tls.1],
            };
            hello.welcome(&params, &mut line);
            relay::control(tunnel, conn, line, |_| link);
        }
        (Door::Stranger(line), Output::Refuse(_)) => {
            conn.send(&line)?;
            conn.finish();
        }
        (Door::Data, Output::Data(_, link)) => relay::data(tunnel, link, id, conn),
        (_, Output::Close(_, why)) => {
            // As egress not without a word: a launch may be on its way.
            if why == Refusal::TooManyIdle && !tunnel.tell(|m| m.is_ingress) {
                relay::withdraw(&conn);
                conn.linger();
            }
            return Err(why.into());
        }
        (Door::Control(_) | Door::Stranger(_) | Door::Data, _) => {}
    }
    Ok(())
}

type Met = (Conn, Door, Input);

fn meet(tunnel: Tunnel, id: ConnId, socket: TcpStream) -> Result<Met, Fault> {
    let proto = tunnel.config.proto;
    let mut demux = Demux::new(
        proto,
        Expected::Nothing,
        now(),
        tunnel.config.env.handshake_timeout,
    );
    let until = demux.deadline();
    let (mut conn, mut bytes) = (Conn::new(socket)?, Vec::new());
    let mut inside = loop {
        let more = conn.expect(until)?;
        bytes.extend_from_slice(&more);
        match demux.handle_bytes(&more) {
            Verdict::NeedMore => {}
            Verdict::Tls => break Inside::NeedMore,
            Verdict::NativePreface => break Inside::Preface,
            Verdict::Legacy(spoken) => break Inside::Legacy(spoken),
            Verdict::Silent => break Inside::Silent,
            Verdict::Close(why) => break Inside::Close(why),
        }
    };
    if inside == Inside::NeedMore {
        conn.put_back(&mem::take(&mut bytes));
        conn = conn.secure(
            ServerConnection::new(Arc::clone(&tunnel.server_tls.0))?,
            until,
        )?;
    }
    loop {
        match inside {
            Inside::NeedMore => {
                bytes.extend(conn.expect(until)?);
                inside = demux::after_tls(proto, conn.alpn().as_deref(), &bytes);
            }
            Inside::Control => {
                conn.put_back(&bytes);
                return await_hello(tunnel, id, conn, until);
            }
            Inside::Preface => match bytes.split_first_chunk::<{ preface::LEN }>() {
                None => bytes.extend(conn.expect(until)?),
                Some((head, rest)) => {
                    conn.put_back(rest);
                    let input = Input::Preface {
                        conn: id,
                        preface: Preface::decode(head)?,
                        exporter: conn.exporter(LABEL_CONN),
                    };
                    return Ok((conn, Door::Data, input));
                }
            },
            Inside::Legacy(spoken) => {
                return Err(Why::NotAllowed(spoken.generation()).into());
            }
            Inside::Silent => return Err(Why::Unknown.into()),
            Inside::Close(why) => return Err(why.into()),
        }
    }
}

fn await_hello(tunnel: Tunnel, id: ConnId, conn: Conn, until: Instant) -> Result<Met, Fault> {
    let (exporter, data_secret) = secrets(&conn)?;
    let start = now();
    let left = until.saturating_since(start);
    let mut state = AwaitHello::new(&tunnel.key, &exporter, start, left);
    loop {
        match state.handle_bytes(&conn.expect(until)?)? {
            ServerStep::NeedsInput(next) => state = next,
            ServerStep::Verified(hello) => {
                conn.put_back(&hello.rest);
                let input = Input::Hello {
                    conn: id,
                    instance: hello.instance,
                    data_secret,
                };
                return Ok((conn, Door::Control(hello), input));
            }
            ServerStep::Refused { line, why } if why.counts_for_ban() => {
                return Ok((conn, Door::Stranger(line), Input::WrongProof(id)));
            }
            ServerStep::Refused { line, why } => {
                conn.send(&line)?;
                conn.finish();
                return Err(why.into());
            }
        }
    }
}

/// What a control connection's TLS gives for its proofs and for the session's data connections.
fn secrets(conn: &Conn) -> Result<([u8; 32], DataSecret), Fault> {
    let data = conn.exporter(LABEL_DATA).map(DataSecret::from_bytes);
    let secrets = conn.exporter(LABEL_AUTH).zip(data);
    secrets.ok_or_else(|| "no keys from tls".into())
}

/// What opening data connections of a client's session takes.
pub(crate) struct Remote {
    session: SessionId,
    data_secret: DataSecret,
    seq: AtomicU64,
    server: SocketAddr,
    name: ServerName<'static>,
    is_tls: bool,
    pub(crate) fingerprints: Mutex<Vec<Fingerprint>>,
}

/// Opens a session, up to and with its `welcome`.
pub(crate) fn connect(tunnel: Tunnel) -> Result<(Conn, (Established, Remote)), Fault> {
    let config = &tunnel.config;
    let timeout = config.env.handshake_timeout;
    let until = now().after(timeout);
    let socket = dial(&config.tunnel, until)?;
    let server = socket.peer_addr()?;
    let host = host(&config.tunnel, "localhost").to_owned();
    let name = ServerName::try_from(host)?;
    let tls = ClientConnection::new(Arc::clone(&tunnel.client_tls), name.clone())?;
    let conn = Conn::new(socket)?.secure(tls, until)?;
    let client = ClientHandshakeConfig {
        instance: tunnel.instance,
        agent: concat!("nodepass-blocking/", env!("CARGO_PKG_VERSION")).to_owned(),
        least_tls: config.tls,
    };
    let ((exporter, data_secret), mut hello) = (secrets(&conn)?, Vec::new());
    let key = &tunnel.key;
    let mut state = ClientHandshake::start(&client, key, &exporter, now(), timeout, &mut hello);
    conn.send(&hello)?;
    let established = loop {
        match state.handle_bytes(&conn.expect(until)?)? {
            Step::NeedsInput(next) => state = next,
            Step::Done(established) => break established,
        }
    };
    conn.put_back(&established.rest);
    if established.tls == DataTls::Verified {
        return Err("the server has tls=2, which this example lacks".into());
    }
    let remote = Remote {
        session: established.session.ok_or("a session without a name")?,
        data_secret,
        seq: AtomicU64::new(1),
        server,
        name,
        is_tls: established.tls != DataTls::Plain,
        fingerprints: Mutex::new(established.fingerprints.clone()),
    };
    Ok((conn, (established, remote)))
}

impl Remote {
    /// Opens a data connection, up to and with its preface.
    pub(crate) fn open(&self, tunnel: Tunnel) -> Result<Conn, Fault> {
        let timeout = tunnel.config.env.handshake_timeout;
        let until = now().after(timeout);
        let mut conn = Conn::new(TcpStream::connect_timeout(&self.server, timeout)?)?;
        if self.is_tls {
            let config = Arc::clone(&tunnel.client_tls);
            conn = conn.secure(ClientConnection::new(config, self.name.clone())?, until)?;
            let known = lock(&self.fingerprints).clone();
            if conn.fingerprint().is_none_or(|leaf| !known.contains(&leaf)) {
                return Err("the certificate is not the one that the server told of".into());
            }
        }
        let exporter = conn.exporter(LABEL_CONN);
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let preface = Preface::new(&self.data_secret, self.session, seq, exporter.as_ref());
        conn.send(&preface.encode())?;
        Ok(conn)
    }
}

/// Connects to the first address that answers.
pub(crate) fn dial(to: &HostPort, until: Instant) -> io::Result<TcpStream> {
    let mut result = Err(io::ErrorKind::NotFound.into());
    for address in (host(to, "localhost"), to.port).to_socket_addrs()? {
        let left = until.saturating_since(now()).max(Duration::from_millis(1));
        result = TcpStream::connect_timeout(&address, left);
        if result.is_ok() {
            break;
        }
    }
    result
}
