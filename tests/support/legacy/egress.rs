//! Where users go out.

use std::net::TcpStream;

use super::codec::Signal;
use super::conn::Conn;
use super::relay::relay;
use super::session::{Session, WAIT};
use super::udp;

/// Carries out one launch.
pub(crate) fn run(session: &Session, launch: &Signal) {
    let (Signal::Tcp { id, .. } | Signal::Udp { id, .. }) = launch else {
        return;
    };
    // The line may have overtaken the connection.
    let Some(idle) = session.pool.take_id(id, &session.life, WAIT) else {
        return session
            .journal
            .note(format!("{id} was launched and is not here"));
    };
    if matches!(launch, Signal::Udp { .. }) {
        udp::target(session, &idle.conn);
    } else if let Ok(target) = TcpStream::connect_timeout(&session.script.local, WAIT) {
        let target = session.life.holds(Conn::plain(target));
        relay(&idle.conn, &target, session.ending());
        target.close();
    }
    // There is no status: a failure is a closed connection.
    idle.conn.close();
}
