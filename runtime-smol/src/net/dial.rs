//! Dialling: all addresses of a name, within one deadline (`config.md` §3, `dns` and `dial`).

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::io::Errno;
use smol::future::FutureExt as _;
use socket2::{Domain, Socket, Type};

use super::datagram;
use super::polled::Polled;
use super::race::race;
use super::reason;
use super::resolve::{ResolveError, Resolver};
use super::shortage::{Episode, is_shortage};
use super::socket::{tune_datagrams, tune_edge, tune_tunnel};
use crate::timer::Timer;

/// A dial that failed: one line that names the target.
#[derive(Debug, thiserror::Error)]
#[error("dial {target}: {failure}")]
pub struct DialError {
    /// Host and port as they were asked for.
    pub target: String,
    /// Why.
    pub failure: DialFailure,
}

/// Why a dial failed; of several addresses, what says most (the order here).
#[derive(Debug)]
pub enum DialFailure {
    /// This machine lacks something: descriptors, memory, permission.
    Local(io::Error),
    /// The target answered that nothing listens there.
    Refused,
    /// No answer in time.
    TimedOut,
    /// There is no way to the target.
    Unreachable,
    /// The name has no address.
    Unresolved(ResolveError),
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(error) => f.write_str(&reason(error)),
            Self::Refused => f.write_str("refused"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Unresolved(error) => error.fmt(f),
        }
    }
}

impl DialFailure {
    pub(super) fn from_io(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::CONNREFUSED | Errno::CONNRESET) => Self::Refused,
            Some(Errno::TIMEDOUT) => Self::TimedOut,
            Some(
                Errno::NETUNREACH
                | Errno::HOSTUNREACH
                | Errno::NETDOWN
                | Errno::HOSTDOWN
                | Errno::ADDRNOTAVAIL
                | Errno::AFNOSUPPORT
                | Errno::INVAL,
            ) => Self::Unreachable,
            _ => Self::Local(error),
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Local(_) => 4,
            Self::Refused => 3,
            Self::TimedOut => 2,
            Self::Unreachable => 1,
            Self::Unresolved(_) => 0,
        }
    }

    pub(super) fn worse(self, other: Self) -> Self {
        if other.rank() > self.rank() {
            other
        } else {
            self
        }
    }
}

/// Dials targets and tunnel hosts.
#[derive(Clone, Debug)]
pub struct Dialer {
    resolver: Resolver,
    source: Option<IpAddr>,
    shortage: Arc<Mutex<Episode>>,
}

impl Dialer {
    /// A dialer that binds to `source` for targets, if given; addresses of the other family are
    /// then left out.
    #[must_use]
    pub fn new(resolver: Resolver, source: Option<IpAddr>) -> Self {
        Self {
            resolver,
            source,
            shortage: Arc::default(),
        }
    }

    /// The resolver it uses.
    #[must_use]
    pub const fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Connects to a target. Addresses of both families are tried in turn, each with a head start
    /// of [`HEAD_START`](super::race::HEAD_START); the first that answers wins. Lookup included, it ends by `deadline`.
    ///
    /// # Errors
    /// No address could be connected to.
    pub async fn tcp(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<Polled<TcpStream>, DialError> {
        let dial = async {
            let found = within(deadline, self.resolver.resolve(host, port)).await?;
            race(self.usable(found), self.source, tune_edge, deadline).await
        };
        dial.await
            .map_err(|failure| self.failed(host, port, failure))
    }

    /// Connects to a tunnel host, whose name is looked up anew, with a tunnel connection's options.
    ///
    /// # Errors
    /// As for [`tcp`](Self::tcp).
    pub async fn tunnel(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<Polled<TcpStream>, DialError> {
        let dial = async {
            let found = within(deadline, self.resolver.resolve_fresh(host, port)).await?;
            race(found, None, tune_tunnel, deadline).await
        };
        dial.await
            .map_err(|failure| self.failed(host, port, failure))
    }

    /// Connects to the address of a tunnel server that is known already: for data connections.
    ///
    /// # Errors
    /// As for [`tcp`](Self::tcp).
    pub async fn tunnel_to(
        &self,
        address: SocketAddr,
        deadline: Instant,
    ) -> Result<Polled<TcpStream>, DialError> {
        let dial = race(vec![address], None, tune_tunnel, deadline);
        dial.await
            .map_err(|failure| self.failed(&address.ip().to_string(), address.port(), failure))
    }

    /// A UDP socket that exchanges datagrams with a target only: with the first of its addresses
    /// that this machine has a route to. Several may come at once: it is for
    /// [`Side::target`](crate::relay::udp::Side::target).
    ///
    /// # Errors
    /// The name has no address or there is no route.
    pub async fn udp(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<Polled<UdpSocket>, DialError> {
        let dial = async {
            let found = within(deadline, self.resolver.resolve(host, port)).await?;
            let mut failure = DialFailure::Unreachable;
            for address in self.usable(found) {
                match associate(address, self.source) {
                    Ok(socket) => return Ok(socket),
                    Err(error) => failure = failure.worse(DialFailure::from_io(error)),
                }
            }
            Err(failure)
        };
        dial.await
            .map_err(|failure| self.failed(host, port, failure))
    }

    /// Those of `found` that can be reached from the source address.
    fn usable(&self, mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        if let Some(source) = self.source {
            found.retain(|address| address.is_ipv4() == source.is_ipv4());
        }
        found
    }

    /// Names the target. That the system has no room for another socket is logged once, as it may
    /// concern every user.
    fn failed(&self, host: &str, port: u16, failure: DialFailure) -> DialError {
        if let DialFailure::Local(error) = &failure
            && is_shortage(error)
            && self
                .shortage
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .begins(Instant::now())
        {
            tracing::warn!("dials fail: {}", reason(error));
        }
        let target = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        DialError { target, failure }
    }
}

/// The answer of a lookup, if it comes in time.
async fn within(
    deadline: Instant,
    lookup: impl Future<Output = Result<Vec<SocketAddr>, ResolveError>>,
) -> Result<Vec<SocketAddr>, DialFailure> {
    let answer = async { lookup.await.map_err(DialFailure::Unresolved) };
    let late = async {
        Timer::at(deadline).await;
        Err(DialFailure::TimedOut)
    };
    answer.or(late).await
}

fn associate(address: SocketAddr, source: Option<IpAddr>) -> io::Result<Polled<UdpSocket>> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking(),
        None,
    )?;
    tune_datagrams(&socket);
    let any = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    socket.bind(&SocketAddr::new(source.unwrap_or(any), 0).into())?;
    socket.connect(&address.into())?;
    datagram::take_trains(&socket);
    Polled::new_nonblocking(socket.into())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::TcpListener;
    use std::time::Duration;

    use smol::block_on;
    use socket2::SockRef;

    use super::*;

    fn dialer(source: Option<&str>) -> Dialer {
        let source = source.map(|ip| ip.parse().unwrap());
        Dialer::new(Resolver::new(Duration::ZERO), source)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn dials_may_run_on_any_thread() {
        fn sent<T: Send>(_: T) {}
        let dialer = dialer(None);
        sent(dialer.tcp("", 1, soon()));
        sent(dialer.tunnel("", 1, soon()));
        sent(dialer.udp("", 1, soon()));
    }

    #[test]
    fn a_name_connects_whichever_of_its_addresses_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = block_on(dialer(None).tcp("localhost", address.port(), soon())).unwrap();
        assert_eq!(stream.get_ref().peer_addr().unwrap(), address);
        assert!(stream.get_ref().nodelay().unwrap());
        block_on(dialer(None).tcp("", address.port(), soon())).unwrap();
    }

    #[test]
    fn a_closed_port_refuses() {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        held.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        let port = held.local_addr().unwrap().as_socket().unwrap().port();
        let error = block_on(dialer(None).tcp("127.0.0.1", port, soon())).unwrap_err();
        assert!(matches!(error.failure, DialFailure::Refused));
        assert_eq!(error.to_string(), format!("dial 127.0.0.1:{port}: refused"));
    }

    #[test]
    fn a_refusal_says_more_than_a_missing_route() {
        let failure = DialFailure::Unreachable.worse(DialFailure::Refused);
        assert!(matches!(failure, DialFailure::Refused));
        let failure = failure.worse(DialFailure::TimedOut);
        assert!(matches!(failure, DialFailure::Refused));
    }

    #[test]
    fn the_source_address_is_used_and_decides_the_family() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialer = dialer(Some("127.0.0.9"));
        let stream = block_on(dialer.tcp("", port, soon())).unwrap();
        let local = stream.get_ref().local_addr().unwrap();
        assert_eq!(local.ip().to_string(), "127.0.0.9");
        let error = block_on(dialer.tcp("::1", port, soon())).unwrap_err();
        assert_eq!(error.to_string(), format!("dial [::1]:{port}: unreachable"));
    }

    #[test]
    fn datagrams_go_to_the_target_and_back() {
        block_on(async {
            let target = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = target.local_addr().unwrap().port();
            let socket = dialer(None).udp("localhost", port, soon()).await;
            let dialled = dialer(None).udp("127.0.0.1", port, soon()).await.unwrap();
            socket.unwrap();
            dialled.get_ref().send(b"hi").unwrap();
            let mut buffer = [0; 8];
            let (len, from) = target.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"hi");
            target.send_to(b"ho", from).unwrap();
            let answer =
                poll_fn(|cx| dialled.poll_read_with(cx, |socket| socket.recv(&mut buffer)));
            let len = answer.await.unwrap();
            assert_eq!(&buffer[..len], b"ho");
        });
    }

    #[test]
    fn tunnel_connections_have_their_options() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = block_on(dialer(None).tunnel("localhost", port, soon())).unwrap();
        let socket = SockRef::from(stream.get_ref());
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(super::super::socket::TUNNEL_USER_TIMEOUT)
        );
    }
}
