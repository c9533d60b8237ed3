//! The server's side: one handshake, one session, and again.

use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use super::codec::{self, CONTROL};
use super::conn::{Conn, Lines};
use super::head::{self, Terms};
use super::identity::Identity;
use super::life::Life;
use super::peer::Context;
use super::pool::{Idle, Pool};
use super::script::{Generation, Script};
use super::session::Session;
use crate::support::tunnel::End;

/// How long it waits for the control channel after a handshake.
const CONTROL_WAIT: Duration = Duration::from_secs(10);

/// A client that got in.
struct Granted {
    ip: IpAddr,
    /// In `classic` the handshake's connection is the control channel.
    control: Option<(Arc<Conn>, Lines)>,
}

/// Serves until the peer is stopped.
pub(crate) fn run(context: &Context) {
    let script = &context.script;
    // The one of the handshake; with `tls` 1 the data connections get another.
    let alpn = ["http/1.1"];
    let identity = match &script.pem {
        Some(pem) => Identity::from_pem(pem, &alpn),
        None => Identity::fresh(&alpn),
    };
    let identity = Arc::new(identity);
    let mut forgets = script.quirks.forgets;
    while !context.life.is_over() {
        let Some(mut listener) = context.life.listen(script.tunnel) else {
            return;
        };
        let life = context.life.child();
        let door = life.child();
        let Some(granted) = handshake(context, &door, &listener, &identity) else {
            return;
        };
        if std::mem::take(&mut forgets) {
            context.journal.note("it restarts");
            drop(listener);
            life.end();
            continue;
        }
        if script.generation != Generation::Classic {
            // Whoever dialled before the new listener is there meets the old one's end.
            drop(listener);
            door.end();
            context.life.pause(script.quirks.deaf);
            let Some(again) = context.life.listen(script.tunnel) else {
                return;
            };
            listener = again;
        }
        serve(context, &life, listener, granted);
        life.end();
        context.life.pause(script.interval);
    }
}

fn terms(script: &Script) -> Terms {
    Terms {
        flow: script.flow,
        tls: script.tls,
        max: 1024,
    }
}

/// Accepts until one client shows the right key.
fn handshake(
    context: &Context,
    life: &Arc<Life>,
    listener: &TcpListener,
    identity: &Arc<Identity>,
) -> Option<Granted> {
    let (granted, inbox) = mpsc::channel();
    while !context.life.is_over() {
        if let Ok(granted) = inbox.try_recv() {
            return Some(granted);
        }
        let Some((socket, from)) = context.life.accept(listener, Duration::from_millis(20)) else {
            continue;
        };
        let (context, life, identity, granted) = (
            context.clone(),
            Arc::clone(life),
            Arc::clone(identity),
            granted.clone(),
        );
        thread::spawn(move || {
            let control = match context.script.generation {
                Generation::Classic => by_line(&context, life.holds(Conn::plain(socket))),
                Generation::Http => by_request(&context, &life.holds(Conn::plain(socket))),
                Generation::Https => match within(&life, socket, &identity) {
                    Ok((conn, _)) => by_request(&context, &life.holds(conn)),
                    Err(error) => return context.journal.note(format!("no TLS: {error}")),
                },
            };
            if let Some(control) = control {
                // Another client may have been faster.
                drop(granted.send(Granted {
                    ip: from.ip(),
                    control,
                }));
            }
        });
    }
    None
}

/// A TLS handshake that breaks off when `life` ends.
fn within(life: &Life, socket: TcpStream, identity: &Identity) -> io::Result<(Conn, bool)> {
    let _held = life.holds(Conn::plain(socket.try_clone()?));
    Conn::tls_server(socket, identity)
}

type Control = Option<(Arc<Conn>, Lines)>;

/// `Some` if the request was granted.
fn by_request(context: &Context, conn: &Conn) -> Option<Control> {
    let request = head::read_request(conn)?;
    let status = match &request {
        Ok(head) => head::judge_request(head, &context.script, &context.journal),
        Err(status) => Some(*status),
    };
    context
        .journal
        .note(format!("answered {}", status.unwrap_or(200)));
    let answer = status.map_or_else(|| head::answer(terms(&context.script)), head::refusal);
    let sent = conn.write_all(answer.as_bytes());
    conn.end_writing();
    // Until the client has read it all; then both close.
    drop(conn.read_to_end());
    conn.close();
    (status.is_none() && sent.is_ok()).then_some(None)
}

fn by_line(context: &Context, conn: Arc<Conn>) -> Option<Control> {
    let (script, mut lines) = (&context.script, Lines::default());
    let line = lines.next(&conn, Duration::from_secs(5));
    let key = script.key();
    if line.as_deref() != Ok(&codec::xor(script.generation, &key, key.as_bytes())) {
        context.journal.note("a wrong line");
        conn.close();
        return None;
    }
    let answer = format!("//{}#{}", head::sign(script.flow), script.tls);
    let mut answer = codec::xor(script.generation, &key, answer.as_bytes());
    answer.push(b'\n');
    conn.write_all(&answer).ok()?;
    Some(Some((conn, lines)))
}

/// One session.
fn serve(context: &Context, life: &Arc<Life>, listener: TcpListener, granted: Granted) {
    let script = &context.script;
    let identity = script
        .pem
        .as_ref()
        .map_or_else(|| Identity::fresh(&[]), |pem| Identity::from_pem(pem, &[]));
    let leaf = (script.tls > 0).then(|| identity.leaf().to_vec());
    let (controls, inbox) = mpsc::channel();
    let hall = Arc::new(Hall {
        context: context.clone(),
        life: Arc::clone(life),
        pool: Arc::new(Pool::default()),
        identity,
        ip: granted.ip,
        count: AtomicUsize::new(0),
        controls,
    });
    let pool = Arc::clone(&hall.pool);
    let acceptor = thread::spawn(move || accept(&hall, &listener));
    let control = granted.control.or_else(|| {
        let conn = inbox.recv_timeout(CONTROL_WAIT).ok()?;
        Some((conn, Lines::default()))
    });
    match control {
        Some((control, lines)) => {
            Session::new(
                context,
                Arc::clone(life),
                End::Server,
                terms(script),
                control,
                pool,
                leaf,
            )
            .run(lines);
        }
        None => context.journal.note("no control channel came"),
    }
    life.end();
    drop(acceptor.join());
}

/// Where data connections are received.
struct Hall {
    context: Context,
    life: Arc<Life>,
    pool: Arc<Pool>,
    identity: Identity,
    ip: IpAddr,
    count: AtomicUsize,
    controls: mpsc::Sender<Arc<Conn>>,
}

fn accept(hall: &Arc<Hall>, listener: &TcpListener) {
    while !hall.life.is_over() {
        let Some((socket, from)) = hall.life.accept(listener, Duration::from_secs(1)) else {
            continue;
        };
        if head::same_host(from.ip(), hall.ip) {
            let hall = Arc::clone(hall);
            thread::spawn(move || hall.receive(socket));
        } else {
            hall.context.journal.note(format!(
                "a connection from {from}, whose session this is not"
            ));
        }
    }
}

impl Hall {
    fn receive(&self, socket: TcpStream) {
        let script = &self.context.script;
        let conn = if script.tls == 0 {
            Conn::plain(socket)
        } else {
            match within(&self.life, socket, &self.identity) {
                Ok((conn, offered)) => {
                    // A client that comes back asks like this, and is no data connection.
                    if offered {
                        self.context
                            .journal
                            .note("a data connection that offers application protocols");
                    }
                    conn
                }
                Err(error) => {
                    return self
                        .context
                        .journal
                        .note(format!("a data connection without TLS: {error}"));
                }
            }
        };
        let conn = self.life.holds(conn);
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if script.generation == Generation::Classic {
            let id = random_id();
            self.admit(conn, &id, id.as_bytes());
        } else if number == script.quirks.control_at {
            if conn.write_all(&[0; 4]).is_ok() {
                drop(self.controls.send(conn));
            }
        } else {
            let id = random_id();
            self.admit(
                conn,
                &id,
                &u32::from_str_radix(&id, 16).unwrap().to_be_bytes(),
            );
        }
    }

    /// An idle connection may be launched before its id is out.
    fn admit(&self, conn: Arc<Conn>, id: &str, bytes: &[u8]) {
        let announced = Arc::new(OnceLock::new());
        let idle = Idle {
            id: id.to_owned(),
            conn: Arc::clone(&conn),
            announced: Arc::clone(&announced),
            used: false,
        };
        let late = self.context.script.quirks.late_id;
        if late.is_zero() {
            drop(conn.write_all(bytes));
            announced.set(()).unwrap();
            self.pool.add(idle);
        } else {
            self.pool.add(idle);
            self.life.pause(late);
            drop(conn.write_all(bytes));
            announced.set(()).unwrap();
        }
    }
}

fn random_id() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(1);
    let count = COUNT.fetch_add(1, Ordering::SeqCst);
    let id = crate::support::sha256(&count.to_be_bytes())[..8].to_owned();
    if id == CONTROL { random_id() } else { id }
}
