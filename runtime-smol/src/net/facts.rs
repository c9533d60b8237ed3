//! What this machine is, for `mode=0` (`config.md` §2). Asked once, at start.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use rustix::io::Errno;

use super::listen::{ListenError, on, plain_tcp, plain_udp};

/// Whether `ip` is an address of this machine (the unspecified ones are).
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    !matches!(
        UdpSocket::bind((ip, 0)).map_err(|error| Errno::from_io_error(&error)),
        Err(Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
    )
}

/// What stands at an address.
#[derive(Debug)]
pub enum Place {
    /// It can be listened on here.
    Free,
    /// Something listens there already.
    Taken,
    /// It belongs to another machine.
    Foreign,
    /// It is ours and free, but the system refuses, for example a port below 1024.
    Denied(ListenError),
}

impl Place {
    /// Whether it can be listened on.
    #[must_use]
    pub const fn can_listen(&self) -> bool {
        matches!(self, Self::Free)
    }

    /// Whether something listens there.
    #[must_use]
    pub const fn something_listens(&self) -> bool {
        matches!(self, Self::Taken)
    }
}

/// Tries to listen on `address` for `tcp` and `udp`, whichever is wanted, and lets go at once.
/// Taken by one of the two counts as taken: it is one service.
#[must_use]
pub fn place(address: SocketAddr, tcp: bool, udp: bool) -> Place {
    let tcp = tcp
        .then(|| on(address, plain_tcp))
        .and_then(Result::err)
        .map(|source| ListenError::Tcp { address, source });
    let udp = udp
        .then(|| on(address, plain_udp))
        .and_then(Result::err)
        .map(|source| ListenError::Udp { address, source });
    let mut denied = Place::Free;
    for error in [tcp, udp].into_iter().flatten() {
        if error.is_in_use() {
            return Place::Taken;
        }
        if error.is_foreign() {
            return Place::Foreign;
        }
        denied = Place::Denied(error);
    }
    denied
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn loopback_is_ours_and_a_documentation_address_is_not() {
        assert!(is_local("127.0.0.1".parse().unwrap()));
        assert!(is_local("0.0.0.0".parse().unwrap()));
        assert!(!is_local("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn places_are_told_apart() {
        // Nobody else uses this address, so nobody takes the port meanwhile.
        let listener = TcpListener::bind("127.77.0.2:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(place(address, true, true).something_listens());
        assert!(place(address, true, false).something_listens());
        drop(listener);
        assert!(place(address, true, false).can_listen());
        let foreign = place("192.0.2.1:80".parse().unwrap(), true, true);
        assert!(matches!(foreign, Place::Foreign), "{foreign:?}");
    }

    #[test]
    fn a_service_for_datagrams_alone_counts() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        assert!(place(address, true, true).something_listens());
    }
}
