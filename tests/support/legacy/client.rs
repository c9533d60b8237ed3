//! The client's side: a handshake, a session, and again.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use super::codec::{self, CONTROL};
use super::conn::{Conn, Lines};
use super::head::{self, Terms};
use super::life::Life;
use super::peer::Context;
use super::pool::{Idle, Pool};
use super::script::Generation;
use super::session::Session;
use crate::support::tunnel::End;

/// How long it waits for an id, a minute in the real ones.
const ID_WAIT: Duration = Duration::from_secs(10);

/// Connects again and again until the peer is stopped.
pub(crate) fn run(context: &Context) {
    while !context.life.is_over() {
        let life = context.life.child();
        match handshake(context, &life) {
            Ok((terms, control)) => serve(context, &life, terms, control),
            Err(why) => context.journal.note(format!("no session: {why}")),
        }
        life.end();
        if context.script.quirks.once && context.journal.sessions() > 0 {
            return;
        }
        context.life.pause(context.script.interval);
    }
}

type Control = Option<(Arc<Conn>, Lines)>;

fn handshake(context: &Context, life: &Life) -> Result<(Terms, Control), String> {
    let said = |error: io::Error| error.to_string();
    let script = &context.script;
    let socket =
        TcpStream::connect_timeout(&script.tunnel, Duration::from_secs(5)).map_err(said)?;
    life.pause(script.quirks.slow_start);
    let conn = match script.generation {
        Generation::Https => Conn::tls_client(socket, &["h2", "http/1.1"]).map_err(said)?,
        Generation::Http | Generation::Classic => Conn::plain(socket),
    };
    let conn = life.holds(conn);
    if script.generation == Generation::Classic {
        return by_line(context, conn);
    }
    conn.write_all(head::request(&script.key()).as_bytes())
        .map_err(said)?;
    conn.patience(Some(Duration::from_secs(5)));
    let answer = conn.read_to_end().map_err(said)?;
    conn.close();
    if !answer.starts_with(b"HTTP/") {
        return Err(format!("an answer of {} bytes", answer.len()));
    }
    Ok((head::judge_answer(&answer, &context.journal)?, None))
}

fn by_line(context: &Context, conn: Arc<Conn>) -> Result<(Terms, Control), String> {
    let (script, key, mut lines) = (&context.script, context.script.key(), Lines::default());
    let mut line = codec::xor(script.generation, &key, key.as_bytes());
    line.push(b'\n');
    conn.write_all(&line).map_err(|error| error.to_string())?;
    let line = lines.next(&conn, Duration::from_secs(5))?;
    let text = String::from_utf8_lossy(&codec::xor(script.generation, &key, &line)).into_owned();
    let terms = text
        .strip_prefix("//")
        .and_then(|rest| rest.split_once('#'))
        .and_then(|(sign, tls)| {
            Some(Terms {
                flow: head::flow(sign)?,
                tls: tls.parse().ok().filter(|tls| *tls <= 2)?,
                max: 1024,
            })
        });
    let Some(terms) = terms else {
        // A server that still has our old session sends the id of a data connection.
        return Err(format!("an answer that is none: {text:?}"));
    };
    Ok((terms, Some((conn, lines))))
}

fn serve(context: &Context, life: &Arc<Life>, terms: Terms, control: Control) {
    context.journal.note(format!("granted {terms:?}"));
    let pool = Arc::new(Pool::default());
    let (controls, inbox) = mpsc::channel();
    let dialler = Arc::new(Dialler {
        context: context.clone(),
        life: Arc::clone(life),
        pool: Arc::clone(&pool),
        terms,
        dialling: AtomicUsize::new(0),
        controls,
    });
    let keeper = thread::spawn(move || keep(&dialler));
    let control = control.or_else(|| {
        let conn = inbox.recv_timeout(ID_WAIT).ok()?;
        Some((conn, Lines::default()))
    });
    match control {
        Some((control, lines)) => {
            Session::new(
                context,
                Arc::clone(life),
                End::Client,
                terms,
                control,
                pool,
                None,
            )
            .run(lines);
        }
        None => context.journal.note("no control channel came"),
    }
    life.end();
    drop(keeper.join());
    if inbox.try_recv().is_ok() {
        context.journal.foul("a second connection with id zero");
    }
}

/// Opens data connections.
struct Dialler {
    context: Context,
    life: Arc<Life>,
    pool: Arc<Pool>,
    terms: Terms,
    dialling: AtomicUsize,
    controls: mpsc::Sender<Arc<Conn>>,
}

/// Holds as many idle connections as it should, all of them dialled at once.
fn keep(dialler: &Arc<Dialler>) {
    let wanted = dialler.context.script.min.min(dialler.terms.max);
    while !dialler.life.is_over() {
        while dialler.pool.len() + dialler.dialling.load(Ordering::SeqCst) < wanted {
            dialler.dialling.fetch_add(1, Ordering::SeqCst);
            let of_thread = Arc::clone(dialler);
            thread::spawn(move || {
                if let Err(error) = of_thread.dial() {
                    if !of_thread.life.is_over() {
                        of_thread
                            .context
                            .journal
                            .note(format!("a dial failed: {error}"));
                    }
                    of_thread.life.pause(Duration::from_millis(100));
                }
                of_thread.dialling.fetch_sub(1, Ordering::SeqCst);
            });
        }
        dialler.life.pause(Duration::from_millis(20));
    }
}

impl Dialler {
    fn dial(&self) -> io::Result<()> {
        let script = &self.context.script;
        let socket = TcpStream::connect_timeout(&script.tunnel, Duration::from_secs(5))?;
        let conn = if self.terms.tls == 0 {
            Conn::plain(socket)
        } else {
            Conn::tls_client(socket, &[])?
        };
        let conn = self.life.holds(conn);
        conn.patience(Some(ID_WAIT));
        let classic = script.generation == Generation::Classic;
        let mut bytes = vec![0; if classic { 8 } else { 4 }];
        conn.read_exact(&mut bytes)?;
        conn.patience(None);
        let id = if classic {
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            crate::support::hex(&bytes)
        };
        if id == CONTROL && !classic {
            // Nobody waits any more for a second one; the session says so at its end.
            drop(self.controls.send(conn));
            return Ok(());
        }
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !id.bytes().all(digit) || id == CONTROL {
            self.context
                .journal
                .foul(format!("{id:?} is not the id of a data connection"));
        }
        let announced = Arc::new(OnceLock::from(()));
        if !self.pool.add(Idle {
            id: id.clone(),
            conn,
            announced,
            used: false,
        }) {
            self.context
                .journal
                .foul(format!("the id {id} was given twice"));
        }
        Ok(())
    }
}
