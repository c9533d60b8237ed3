//! Where users come in.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::codec::Signal;
use super::conn::{Conn, Stir, is_silence};
use super::pool::Idle;
use super::relay::relay;
use super::script::Generation;
use super::session::{Session, WAIT};
use super::udp;

/// Accepts users until the session ends.
pub(crate) fn run(session: &Arc<Session>) {
    // The sockets are there from the start, but nobody is served before the check of the
    // certificates: users wait.
    let life = &session.life;
    let Some(listener) = life.listen(session.script.local) else {
        return;
    };
    let Some(socket) = udp::bind(session) else {
        return;
    };
    if life
        .wait(Duration::from_secs(60), || {
            session.may_serve().then_some(())
        })
        .is_none()
    {
        return;
    }
    let of_thread = Arc::clone(session);
    let datagrams = thread::spawn(move || udp::users(&of_thread, &socket));
    let count = AtomicUsize::new(0);
    while !life.is_over() {
        let Some((user, from)) = life.accept(&listener, Duration::from_secs(1)) else {
            continue;
        };
        let early = count.fetch_add(1, Ordering::SeqCst) % 2 == 1;
        let (session, remote) = (Arc::clone(session), from.to_string());
        thread::spawn(move || serve(&session, user, &remote, early));
    }
    drop(datagrams.join());
}

fn serve(session: &Session, user: TcpStream, remote: &str, early: bool) {
    let user = session.life.holds(Conn::plain(user));
    // What the user said before the launch, to be said again if its connection was a used one.
    let mut said = Vec::new();
    if early && !session.script.quirks.overtake.is_zero() {
        said = first_words(&user);
    }
    while let Some(idle) = session.pool.take(&session.life, &session.journal, WAIT) {
        if launch(session, &idle, remote, &said) && !(idle.used && was_closed(session, &idle)) {
            relay(&idle.conn, &user, session.ending());
            finish(session, idle, &user);
            break;
        }
        idle.conn.close();
    }
    user.close();
}

/// Whether the launch is out, and what the user has said.
fn launch(session: &Session, idle: &Idle, remote: &str, said: &[u8]) -> bool {
    let signal = Signal::Tcp {
        id: idle.id.clone(),
        remote: remote.to_owned(),
    };
    if said.is_empty() {
        let sent = session.send(&[signal]).is_ok();
        idle.announced.wait();
        return sent;
    }
    idle.announced.wait();
    idle.conn.write_all(said).is_ok()
        && session.life.pause(session.script.quirks.overtake)
        && session.send(&[signal]).is_ok()
}

/// Whether the other side closes a used connection, as it must: it wants no second user on it.
fn was_closed(session: &Session, idle: &Idle) -> bool {
    let (life, journal, id) = (&session.life, &session.journal, &idle.id);
    journal.note(format!("{id} used again"));
    let end = life.wait(Duration::from_secs(2), || match idle.conn.stir() {
        Stir::Nothing => None,
        other => Some(other),
    });
    match end {
        Some(Stir::End) => {}
        Some(_) => journal.foul(format!(
            "{id} carries a second user to where the first one was"
        )),
        None => journal.foul(format!(
            "{id} was used and is not closed when launched again"
        )),
    }
    true
}

fn first_words(user: &Conn) -> Vec<u8> {
    let mut buffer = vec![0; 8 * 1024];
    user.patience(Some(Duration::from_millis(200)));
    let read = user.read(&mut buffer);
    user.patience(None);
    match read {
        Ok(count) => buffer.truncate(count),
        Err(error) if is_silence(&error) => buffer.clear(),
        Err(_) => buffer.clear(),
    }
    buffer
}

fn finish(session: &Session, idle: Idle, user: &Conn) {
    user.close();
    let classic = session.script.generation == Generation::Classic;
    if classic && session.script.quirks.reuse && idle.conn.stir() == Stir::Nothing {
        session
            .journal
            .note(format!("{} goes back into the pool", idle.id));
        session.pool.add(Idle { used: true, ..idle });
    } else {
        idle.conn.close();
    }
}
