//! What Linux has for many datagrams at once.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::OnceLock;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, UdpGroSegment, UdpGsoSegment};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage,
    getsockopt, recvmsg, sendmmsg, sendmsg, setsockopt,
};

use super::{Received, Route};

/// What the system says beside a datagram: one of our addresses, and the length of each in a train.
#[repr(align(8))]
struct Aside([u8; 128]);

pub(super) fn take_trains(socket: &impl AsFd) {
    // What a kernel does not have is done without.
    setsockopt(socket, UdpGroSegment, &true).ok();
}

pub(super) fn note_destinations(socket: &impl AsFd, bound: SocketAddr) {
    // Without it, the system chooses where answers leave from.
    let noted = match bound {
        SocketAddr::V4(_) => setsockopt(socket, Ipv4PacketInfo, &true),
        // IPv4 is told in the same way, as a mapped address.
        SocketAddr::V6(_) => setsockopt(socket, Ipv6RecvPacketInfo, &true),
    };
    noted.ok();
}

pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut aside = Aside([0; 128]);
    let mut into = [IoSliceMut::new(buffer)];
    let fd = socket.as_raw_fd();
    let message = recvmsg(fd, &mut into, Some(&mut aside.0), MsgFlags::empty())?;
    received(&message)
}

/// An odd message is told as an error that concerns its sender alone.
fn received(message: &RecvMsg<'_, '_, SockaddrStorage>) -> io::Result<Received> {
    let from = message.address.as_ref().and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|&v4| SocketAddr::from(v4));
        v4.or_else(|| from.as_sockaddr_in6().map(|&v6| SocketAddr::from(v6)))
    });
    let mut received = Received {
        from: from.ok_or(Errno::EPROTO)?,
        to: None,
        len: message.bytes,
        each: message.bytes,
    };
    for aside in message.cmsgs().map_err(|_| Errno::EPROTO)? {
        if let ControlMessageOwned::UdpGroSegments(each) = aside {
            received.each = usize::try_from(each).unwrap_or(received.len);
        } else if let ControlMessageOwned::Ipv4PacketInfo(info) = aside {
            // Not the destination, which may be a broadcast address.
            let ours = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
            received.to = Some(ours.into()).filter(may_answer);
        } else if let ControlMessageOwned::Ipv6PacketInfo(info) = aside {
            let ours = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            received.to = Some(ours.into()).filter(may_answer);
        }
    }
    Ok(received)
}

fn may_answer(address: &IpAddr) -> bool {
    let address = address.to_canonical();
    !address.is_unspecified()
        && !address.is_multicast()
        && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// An older kernel would send a train as one long datagram, so it is asked before.
pub(super) fn has_trains(socket: &UdpSocket) -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| getsockopt(socket, UdpGsoSegment).is_ok())
}

/// Sends all of `datagrams`, of `each` bytes, or none.
pub(super) fn send_train(
    socket: &UdpSocket,
    route: Route,
    datagrams: &[IoSlice<'_>],
    each: usize,
) -> io::Result<()> {
    let each = u16::try_from(each).map_err(|_| Errno::EMSGSIZE)?;
    with_aside(route.from, Some(&each), |aside| {
        let (fd, to) = (socket.as_raw_fd(), route.to.map(SockaddrStorage::from));
        sendmsg(fd, datagrams, aside, MsgFlags::empty(), to.as_ref())?;
        Ok(())
    })
}

/// Sends `datagrams` until one is refused: how many were sent. An error concerns the first.
pub(super) fn send_each(
    socket: &UdpSocket,
    route: Route,
    datagrams: &[IoSlice<'_>],
) -> io::Result<usize> {
    let (fd, to) = (socket.as_raw_fd(), route.to.map(SockaddrStorage::from));
    with_aside(route.from, None, |aside| {
        if datagrams.len() > 1 {
            let room = match route.from {
                None => None,
                Some(IpAddr::V4(_)) => Some(cmsg_space!(in_pktinfo)),
                Some(IpAddr::V6(_)) => Some(cmsg_space!(in6_pktinfo)),
            };
            let mut headers = MultiHeaders::preallocate(datagrams.len(), room);
            let messages: Vec<_> = datagrams.iter().map(|one| [*one]).collect();
            let to = vec![to; datagrams.len()];
            match sendmmsg(fd, &mut headers, &messages, to, aside, MsgFlags::empty()) {
                Err(Errno::ENOSYS) => {}
                sent => return Ok(sent?.count()),
            }
        }
        let first = datagrams.get(..1).unwrap_or_default();
        sendmsg(fd, first, aside, MsgFlags::empty(), to.as_ref())?;
        Ok(1)
    })
}

/// Calls `then` with what the system is to be told beside datagrams.
fn with_aside<T>(
    from: Option<IpAddr>,
    each: Option<&u16>,
    then: impl FnOnce(&[ControlMessage<'_>]) -> T,
) -> T {
    let v4 = |from: Ipv4Addr| in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: in_addr {
            s_addr: u32::from_ne_bytes(from.octets()),
        },
        ipi_addr: in_addr { s_addr: 0 },
    };
    let v6 = |from: Ipv6Addr| in6_pktinfo {
        ipi6_addr: in6_addr {
            s6_addr: from.octets(),
        },
        ipi6_ifindex: 0,
    };
    let each = each.map(ControlMessage::UdpGsoSegments);
    match (from, each) {
        (None, None) => then(&[]),
        (None, Some(each)) => then(&[each]),
        (Some(IpAddr::V4(from)), None) => then(&[ControlMessage::Ipv4PacketInfo(&v4(from))]),
        (Some(IpAddr::V6(from)), None) => then(&[ControlMessage::Ipv6PacketInfo(&v6(from))]),
        (Some(IpAddr::V4(from)), Some(each)) => {
            then(&[ControlMessage::Ipv4PacketInfo(&v4(from)), each])
        }
        (Some(IpAddr::V6(from)), Some(each)) => {
            then(&[ControlMessage::Ipv6PacketInfo(&v6(from)), each])
        }
    }
}
