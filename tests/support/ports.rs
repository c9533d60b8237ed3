//! Port numbers that stay ours for the whole test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Socket, Type};

use super::kernel::is_bound_udp;

/// A port number that nobody else gets while this lives.
///
/// A bound socket that never listens holds it against other test runs. With `SO_REUSEADDR` on both
/// sides a listener may still bind there, and until something listens the kernel refuses connections
/// to it. The number lies outside of the range that the kernel gives to sockets which name none, so
/// neither a connection on its way out nor a UDP socket, which nothing can hold a number against,
/// ever has it. Nor does this process use a number twice: late news for the previous holder, such as
/// a datagram on its way, reaches nobody.
#[derive(Debug)]
pub(crate) struct Port {
    addr: SocketAddr,
    _holder: Socket,
}

impl Port {
    /// A free port of 127.0.0.1, for TCP and UDP.
    pub(crate) fn reserve() -> Self {
        Self::reserve_on(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// A free port of `ip`, for TCP and UDP.
    pub(crate) fn reserve_on(ip: IpAddr) -> Self {
        let numbers = numbers();
        (0..numbers.len())
            .find_map(|_| Self::hold(SocketAddr::new(ip, next(&numbers))))
            .expect("no port is free")
    }

    fn hold(addr: SocketAddr) -> Option<Self> {
        let holder = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        holder.bind(&addr.into()).ok()?;
        holder.set_reuse_address(true).unwrap();
        // Looked up, not tried: a child that is being started would hold the probe for a while.
        if is_bound_udp(addr) {
            return None;
        }
        Some(Self {
            addr,
            _holder: holder,
        })
    }

    /// The address to listen on or to dial.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The number alone.
    pub(crate) const fn number(&self) -> u16 {
        self.addr.port()
    }
}

/// The larger part of what the kernel leaves alone, without the numbers of well-known services.
fn numbers() -> Range<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let bounds: Vec<u16> = range
        .split_whitespace()
        .map(|bound| bound.parse().unwrap())
        .collect();
    let (below, above) = (10_000..bounds[0], bounds[1]..u16::MAX);
    let numbers = if below.len() > above.len() {
        below
    } else {
        above
    };
    assert!(
        numbers.len() > 2000,
        "ip_local_port_range leaves no numbers to tests: {range}"
    );
    numbers
}

/// The next of `numbers`, beginning somewhere else in each process.
fn next(numbers: &Range<u16>) -> u16 {
    static USED: AtomicU32 = AtomicU32::new(0);
    let used = USED.fetch_add(1, Ordering::Relaxed);
    let at = std::process::id().wrapping_mul(997).wrapping_add(used);
    let at = at as usize % numbers.len();
    numbers.start + u16::try_from(at).unwrap()
}

#[test]
fn a_held_port_can_be_listened_on_and_is_given_to_nobody_else() {
    let port = Port::reserve();
    assert!(std::net::TcpStream::connect(port.addr()).is_err());
    assert!(Port::hold(port.addr()).is_none());
    let listener = std::net::TcpListener::bind(port.addr()).unwrap();
    assert!(std::net::TcpStream::connect(port.addr()).is_ok());
    drop(listener);
    assert!(std::net::TcpListener::bind(port.addr()).is_ok());
}
