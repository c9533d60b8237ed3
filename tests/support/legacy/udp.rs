//! Datagrams: raw on the stream, one write for each, or framed.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::codec::Signal;
use super::conn::Conn;
use super::script::Generation;
use super::session::{Session, WAIT};

/// How often a waiting thread looks whether all is over.
const NAP: Duration = Duration::from_millis(100);

type Flows = Arc<Mutex<HashMap<SocketAddr, Arc<Conn>>>>;

/// The socket of the users; `None` when the session ends before the address is free.
pub(crate) fn bind(session: &Session) -> Option<UdpSocket> {
    let socket = session.life.wait(Duration::from_secs(60), || {
        UdpSocket::bind(session.script.local).ok()
    })?;
    socket.set_read_timeout(Some(NAP)).unwrap();
    Some(socket)
}

/// Serves users until the session ends.
pub(crate) fn users(session: &Arc<Session>, socket: &UdpSocket) {
    let flows = Flows::default();
    let mut buffer = vec![0; 65_536];
    while !session.life.is_over() {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let flow = flows.lock().unwrap().get(&from).cloned();
        let Some(flow) = flow.or_else(|| open(session, socket, from, &flows)) else {
            continue;
        };
        if send(session, &flow, &buffer[..len]).is_err() {
            flow.close();
        }
    }
}

fn open(
    session: &Arc<Session>,
    socket: &UdpSocket,
    from: SocketAddr,
    flows: &Flows,
) -> Option<Arc<Conn>> {
    let idle = session.pool.take(&session.life, &session.journal, WAIT)?;
    let signal = Signal::Udp {
        id: idle.id,
        remote: from.to_string(),
    };
    session.send(&[signal]).ok()?;
    idle.announced.wait();
    flows.lock().unwrap().insert(from, Arc::clone(&idle.conn));
    let (session, conn, flows) = (
        Arc::clone(session),
        Arc::clone(&idle.conn),
        Arc::clone(flows),
    );
    let back = socket.try_clone().ok()?;
    thread::spawn(move || {
        // A user that is gone is no failure.
        receive(&session, &conn, |datagram| {
            drop(back.send_to(datagram, from))
        });
        flows.lock().unwrap().remove(&from);
        conn.close();
    });
    Some(idle.conn)
}

/// Carries the datagrams of one user to the target until the connection ends.
pub(crate) fn target(session: &Session, conn: &Arc<Conn>) {
    let Ok(socket) = UdpSocket::bind((session.script.local.ip(), 0)) else {
        return;
    };
    // Nobody may be there: that ends nothing.
    drop(socket.connect(session.script.local));
    socket.set_read_timeout(Some(NAP)).unwrap();
    let (ended, mut buffer) = (Mutex::new(false), vec![0; 65_536]);
    thread::scope(|scope| {
        scope.spawn(|| {
            receive(session, conn, |datagram| drop(socket.send(datagram)));
            *ended.lock().unwrap() = true;
        });
        while !*ended.lock().unwrap() {
            if let Ok(len) = socket.recv(&mut buffer)
                && send(session, conn, &buffer[..len]).is_err()
            {
                conn.close();
            }
        }
    });
}

fn send(session: &Session, conn: &Conn, datagram: &[u8]) -> io::Result<()> {
    if session.script.generation == Generation::Https {
        let len = u16::try_from(datagram.len()).unwrap().to_be_bytes();
        return conn.write_all(&[&len, datagram].concat());
    }
    conn.write_all(datagram)
}

fn receive(session: &Session, conn: &Conn, deliver: impl Fn(&[u8])) {
    let limit = session.script.generation.datagram();
    let mut buffer = vec![0; limit];
    loop {
        let len = if session.script.generation == Generation::Https {
            let mut len = [0; 2];
            if conn.read_exact(&mut len).is_err() {
                return;
            }
            let len = usize::from(u16::from_be_bytes(len));
            if len > limit {
                return session
                    .journal
                    .foul(format!("a framed datagram of {len} bytes"));
            }
            conn.read_exact(&mut buffer[..len]).map(|()| len)
        } else {
            // As the real ones do: whatever one read gives is one datagram.
            conn.read(&mut buffer).and_then(|len| {
                if len == 0 {
                    Err(io::ErrorKind::UnexpectedEof.into())
                } else {
                    Ok(len)
                }
            })
        };
        match len {
            Ok(len) => deliver(&buffer[..len]),
            Err(_) => return,
        }
    }
}
