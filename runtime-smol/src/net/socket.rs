//! Options of sockets (`wire.md` §2.2).

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{SockRef, TcpKeepalive};

/// Silence after which the system asks a tunnel peer whether it is there.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(15);
/// Time between two such questions.
pub const TUNNEL_INTERVAL: Duration = Duration::from_secs(5);
/// Questions without an answer that end a connection.
pub const TUNNEL_PROBES: u32 = 3;
/// How long sent bytes may stay unacknowledged before a tunnel connection fails.
pub const TUNNEL_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// What UDP sockets ask for, each way, in bytes. The system may give less.
pub const DATAGRAM_BUFFER: usize = 4 * 1024 * 1024;

/// One of [`tune_tunnel`] and [`tune_edge`].
pub type Tune = fn(&SockRef<'_>) -> io::Result<()>;

/// Prepares a connection between the two ends of a tunnel. Do it before the TLS handshake: waiting
/// for acknowledgements there costs a factor of forty.
///
/// # Errors
/// Those of `setsockopt`.
pub fn tune_tunnel(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(TUNNEL_USER_TIMEOUT))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(TUNNEL_IDLE)
            .with_interval(TUNNEL_INTERVAL)
            .with_retries(TUNNEL_PROBES),
    )
}

/// Takes a tunnel connection's time limit for unacknowledged bytes back, when a relay begins on it:
/// the system applies the limit also to a live peer that reads nothing, and a user may pause a
/// download. A dead peer is noticed by its session (`wire.md` §2.2).
pub fn allow_pauses(socket: &SockRef<'_>) {
    // If it stays, only long pauses suffer.
    drop(socket.set_tcp_user_timeout(None));
}

/// Prepares a connection to a user or a target: no delay, and the system's own keep-alive times.
///
/// # Errors
/// Those of `setsockopt`.
pub fn tune_edge(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)
}

/// Asks for large buffers, so that a burst of datagrams survives until it is read. What does not fit
/// the system drops, unseen.
pub fn tune_datagrams(socket: &impl AsFd) {
    if set_socket_recv_buffer_size_force(socket, DATAGRAM_BUFFER).is_err() {
        // Unprivileged: as much as `net.core.rmem_max` allows, which is the best there is.
        drop(SockRef::from(socket).set_recv_buffer_size(DATAGRAM_BUFFER));
    }
    drop(SockRef::from(socket).set_send_buffer_size(DATAGRAM_BUFFER));
}

/// `address` with `::ffff:a.b.c.d` written as `a.b.c.d`, as dual-stack sockets need it
/// (`wire.md` §1).
#[must_use]
pub const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn tunnel_connections_get_their_times() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        tune_tunnel(&SockRef::from(&socket)).unwrap();
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), TUNNEL_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), TUNNEL_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), TUNNEL_PROBES);
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(TUNNEL_USER_TIMEOUT)
        );
    }

    #[test]
    fn edge_connections_keep_the_systems_times() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let before = socket.tcp_keepalive_time().unwrap();
        tune_edge(&SockRef::from(&socket)).unwrap();
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), before);
    }

    #[test]
    fn mapped_addresses_are_those_of_ipv4() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped).to_string(), "192.0.2.1:80");
        let plain: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        assert_eq!(canonical(plain), plain);
    }
}
