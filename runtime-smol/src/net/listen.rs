//! Listening sockets (`config.md` §2).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use super::polled::Polled;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::datagram;
use super::reason;
use super::resolve::{ResolveError, Resolver};
use super::socket::tune_datagrams;

/// Connections that the system holds until they are accepted.
pub const BACKLOG: i32 = 1024;
/// Ports tried for a TCP and UDP pair when the system picks the port.
const PAIR_ATTEMPTS: usize = 16;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// For connections.
    #[error("listen on {address}: {}", reason(.source))]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// For datagrams.
    #[error("listen on {address} for UDP: {}", reason(.source))]
    Udp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The host name has no address.
    #[error("listen: {0}")]
    Name(#[from] ResolveError),
}

impl ListenError {
    /// Whether something else listens there.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.errno() == Some(Errno::ADDRINUSE)
    }

    /// Whether the address belongs to another machine.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.errno() == Some(Errno::ADDRNOTAVAIL)
    }

    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Tcp { source, .. } | Self::Udp { source, .. } => Errno::from_io_error(source),
            Self::Name(_) => None,
        }
    }
}

/// The address to listen on for `host` and `port` of a URL: all interfaces for an empty host; of a
/// name's addresses the first, IPv4 before IPv6.
///
/// # Errors
/// The name cannot be resolved.
pub async fn address(
    resolver: &Resolver,
    host: &str,
    port: u16,
) -> Result<SocketAddr, ListenError> {
    if host.is_empty() {
        return Ok((Ipv6Addr::UNSPECIFIED, port).into());
    }
    let found = resolver.resolve(host, port).await?;
    let first = found.iter().find(|a| a.is_ipv4()).or_else(|| found.first());
    first
        .copied()
        .ok_or_else(|| ResolveError::empty(host).into())
}

/// Listens for connections. `[::]` also takes IPv4, and becomes `0.0.0.0` on a machine without
/// IPv6. To be called on the thread that accepts.
///
/// # Errors
/// The address is in use, foreign or forbidden.
pub fn listen_tcp(address: SocketAddr) -> Result<Polled<TcpListener>, ListenError> {
    on(address, open_tcp).map_err(|source| ListenError::Tcp { address, source })
}

/// Binds a socket for datagrams, with large buffers; `[::]` as for [`listen_tcp`]. Several may come at
/// once: it is for [`serve`](crate::relay::udp::serve).
///
/// # Errors
/// The address is in use, foreign or forbidden.
pub fn listen_udp(address: SocketAddr) -> Result<Polled<UdpSocket>, ListenError> {
    on(address, open_udp).map_err(|source| ListenError::Udp { address, source })
}

/// Listens for both on one port, also when `address` leaves the port to the system.
///
/// # Errors
/// Those of [`listen_tcp`] and [`listen_udp`].
pub fn listen_both(
    address: SocketAddr,
) -> Result<(Polled<TcpListener>, Polled<UdpSocket>), ListenError> {
    let mut attempts = if address.port() == 0 {
        PAIR_ATTEMPTS
    } else {
        1
    };
    loop {
        let tcp = listen_tcp(address)?;
        let local = tcp.get_ref().local_addr();
        let local = local.map_err(|source| ListenError::Tcp { address, source })?;
        attempts -= 1;
        match listen_udp(local) {
            Ok(udp) => return Ok((tcp, udp)),
            // Another program has that port for UDP: have the system pick another one.
            Err(error) if error.is_in_use() && attempts > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens a socket on `address`, or on its IPv4 equivalent if there is no IPv6 here.
pub(super) fn on<T>(
    address: SocketAddr,
    open: impl Fn(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    match open(address) {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
                ) =>
        {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<Polled<TcpListener>> {
    Polled::new_nonblocking(plain_tcp(address)?.into())
}

fn open_udp(address: SocketAddr) -> io::Result<Polled<UdpSocket>> {
    let socket = plain_udp(address)?;
    datagram::take_trains(&socket);
    datagram::note_destinations(&socket, address);
    Polled::new_nonblocking(socket.into())
}

/// A listening TCP socket, not yet known to the reactor.
pub(super) fn plain_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = open(address, Type::STREAM)?;
    // A restart must not wait for connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A bound UDP socket, not yet known to the reactor. No `SO_REUSEADDR`: with it, two programs could
/// hold the port, and only one would get the datagrams.
pub(super) fn plain_udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = open(address, Type::DGRAM)?;
    tune_datagrams(&socket);
    socket.bind(&address.into())?;
    Ok(socket)
}

fn open(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != Ipv6Addr::UNSPECIFIED)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn a_taken_address_is_named_in_one_line() {
        let first = listen_tcp(ANY).unwrap();
        let address = first.get_ref().local_addr().unwrap();
        let error = listen_tcp(address).unwrap_err();
        assert!(error.is_in_use());
        assert_eq!(
            error.to_string(),
            format!("listen on {address}: address already in use")
        );
    }

    #[test]
    fn a_foreign_address_is_named_in_one_line() {
        let error = listen_udp("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(error.is_foreign(), "{error}");
        assert!(
            error
                .to_string()
                .starts_with("listen on 192.0.2.1:0 for UDP: ")
        );
    }

    #[test]
    fn both_transports_share_a_port_of_the_systems_choice() {
        let (tcp, udp) = listen_both(ANY).unwrap();
        let (tcp, udp) = (tcp.get_ref().local_addr(), udp.get_ref().local_addr());
        assert_eq!(tcp.unwrap(), udp.unwrap());
    }

    #[test]
    fn an_empty_host_takes_ipv4_too() {
        let resolver = Resolver::new(Duration::ZERO);
        let address = smol::block_on(address(&resolver, "", 0)).unwrap();
        let listener = listen_tcp(address).unwrap();
        let port = listener.get_ref().local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn a_restart_does_not_meet_time_wait() {
        // Nobody else uses this address, so nobody takes the port meanwhile.
        let listener = listen_tcp("127.77.0.3:0".parse().unwrap()).unwrap();
        let address = listener.get_ref().local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        listener.get_ref().set_nonblocking(false).unwrap();
        let (served, _) = listener.get_ref().accept().unwrap();
        drop((served, client, listener));
        listen_tcp(address).unwrap();
    }

    #[test]
    fn ipv4_stands_in_where_ipv6_is_missing() {
        let missing = |address: SocketAddr| match address {
            SocketAddr::V4(_) => Ok(address),
            SocketAddr::V6(_) => Err(Errno::AFNOSUPPORT.into()),
        };
        let got = on("[::]:80".parse().unwrap(), missing).unwrap();
        assert_eq!(got.to_string(), "0.0.0.0:80");
        on("[::1]:80".parse().unwrap(), missing).unwrap_err();
    }
}
