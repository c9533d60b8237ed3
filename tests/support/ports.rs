//! Ports that the system picked and that stay ours for the whole test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Socket, Type};

/// A port number that nobody else gets while this lives.
///
/// A bound socket that never listens holds it. With `SO_REUSEADDR` on both sides a listener may
/// still bind there, but no outgoing connection is given the number, and until something listens
/// the kernel refuses connections to it.
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
        let any = SocketAddr::new(ip, 0);
        loop {
            let holder = Socket::new(Domain::for_address(any), Type::STREAM, None).unwrap();
            holder.bind(&any.into()).expect("bind a port to hold");
            holder.set_reuse_address(true).unwrap();
            let addr = holder.local_addr().unwrap().as_socket().unwrap();
            if UdpSocket::bind(addr).is_ok() {
                return Self {
                    addr,
                    _holder: holder,
                };
            }
        }
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

#[test]
fn a_held_port_can_be_listened_on_and_is_given_to_nobody_else() {
    let port = Port::reserve();
    assert!(std::net::TcpStream::connect(port.addr()).is_err());
    let listener = std::net::TcpListener::bind(port.addr()).unwrap();
    assert!(std::net::TcpStream::connect(port.addr()).is_ok());
    drop(listener);
    assert!(std::net::TcpListener::bind(port.addr()).is_ok());
}
