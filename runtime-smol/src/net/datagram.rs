//! Datagrams in few system calls, and answers that leave from the address that was asked.
//!
//! Datagrams of one length on their way to one address go to the system as a *train*: it passes its
//! layers once instead of once for each, which is most of what sending costs (`UDP_SEGMENT`). What
//! came in such a way is received at once as well (`UDP_GRO`). Other lengths share a system call
//! (`sendmmsg`). All of it is Linux's; elsewhere datagrams go and come one by one.

#[cfg(not(target_os = "linux"))]
#[path = "datagram/one_by_one.rs"]
mod system;
#[cfg(target_os = "linux")]
#[path = "datagram/linux.rs"]
mod system;

use std::io::{self, IoSlice};
use std::iter::once;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use protocol::limits::DATAGRAM;
use rustix::io::Errno;

/// The most datagrams to pass to [`send`] at once, and of a train: older kernels take no more.
pub(crate) const MOST: usize = 64;

/// Has the system deliver trains, where it can: datagrams must be received by [`receive`] then.
pub(crate) fn take_trains(socket: &impl AsFd) {
    system::take_trains(socket);
}

/// Has the system say which of our addresses datagrams were sent to, where it can and `bound`, which
/// the socket is bound to, stands for all of them.
pub(crate) fn note_destinations(socket: &impl AsFd, bound: SocketAddr) {
    if bound.ip().is_unspecified() {
        system::note_destinations(socket, bound);
    }
}

/// One datagram, or a train of them from one sender.
#[derive(Debug)]
pub(crate) struct Received {
    /// Who sent it.
    pub(crate) from: SocketAddr,
    /// Which of our addresses it was sent to, if the system said so and an answer may come from it.
    pub(crate) to: Option<IpAddr>,
    len: usize,
    /// The length of each datagram, of which the last may be shorter.
    each: usize,
}

impl Received {
    /// The datagrams, in the `buffer` that they were received into.
    pub(crate) fn datagrams<'b>(&self, buffer: &'b [u8]) -> impl Iterator<Item = &'b [u8]> {
        let bytes = buffer.get(..self.len).unwrap_or_default();
        let each = self.each.clamp(1, self.len.max(1));
        let (first, rest) = bytes.split_at_checked(each).unwrap_or((bytes, &[]));
        once(first).chain(rest.chunks(each))
    }
}

/// Receives into `buffer`, in which every datagram and train finds room from 64 KiB on.
///
/// # Errors
/// Those of `recvmsg`.
pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    system::receive(socket, buffer)
}

/// Fewer do not leave the system call that they share with others.
const WORTH: usize = 3;

/// From where to where datagrams go.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Route {
    /// `None` where the socket is connected.
    pub(crate) to: Option<SocketAddr>,
    /// Which of our addresses they leave from; by default the system chooses.
    pub(crate) from: Option<IpAddr>,
}

/// Which datagrams to one address may travel as a train.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trains {
    /// The longest, in bytes. It falls when the system refuses a train: the network may carry only
    /// shorter ones in one piece, or the device cannot do it.
    longest: usize,
}

impl Trains {
    pub(crate) const fn new() -> Self {
        Self { longest: DATAGRAM }
    }

    /// How many of `datagrams` make a train: those of the first one's length, and at the end a
    /// shorter one, which is not empty. One by itself is none.
    fn of(self, datagrams: &[IoSlice<'_>]) -> usize {
        let each = length(datagrams);
        if each == 0 || each > self.longest {
            return datagrams.len().min(1);
        }
        let most = (DATAGRAM / each).min(MOST);
        let same = datagrams
            .iter()
            .take(most)
            .take_while(|one| one.len() == each)
            .count();
        let shorter = datagrams
            .get(same)
            .is_some_and(|last| same < most && !last.is_empty() && last.len() < each);
        same + usize::from(shorter)
    }
}

/// Sends some of `datagrams`, of which there is one at least, in order: of how many it was decided, and
/// whether those were sent or, with an error of `sendmsg`, none of them.
///
/// A source that is not ours, or not any more, is not insisted on.
pub(crate) fn send(
    socket: &UdpSocket,
    route: Route,
    trains: &mut Trains,
    datagrams: &[IoSlice<'_>],
) -> (usize, io::Result<()>) {
    let before = *trains;
    let (count, sent) = send_from(socket, route, trains, datagrams);
    if route.from.is_some() && sent.as_ref().is_err_and(may_be_the_source) {
        *trains = before;
        let route = Route {
            from: None,
            ..route
        };
        return send_from(socket, route, trains, datagrams);
    }
    (count, sent)
}

fn send_from(
    socket: &UdpSocket,
    route: Route,
    trains: &mut Trains,
    datagrams: &[IoSlice<'_>],
) -> (usize, io::Result<()>) {
    let may = system::has_trains(socket);
    let train = if may { trains.of(datagrams) } else { 1 };
    if train >= WORTH || (train > 1 && train == datagrams.len()) {
        let (train, each) = (
            datagrams.get(..train).unwrap_or_default(),
            length(datagrams),
        );
        let send = || system::send_train(socket, route, train, each);
        let mut sent = send();
        if sent.as_ref().is_err_and(is_refusal) {
            // It may be about an earlier datagram.
            sent = send();
        }
        if !sent.as_ref().is_err_and(is_refusal) {
            return (train.len(), sent);
        }
        trains.longest = each - 1;
    }
    // Up to the next train.
    let singles = (1..datagrams.len())
        .find(|&at| may && trains.of(datagrams.get(at..).unwrap_or_default()) >= WORTH)
        .unwrap_or(datagrams.len());
    let singles = datagrams.get(..singles).unwrap_or_default();
    match system::send_each(socket, route, singles) {
        Ok(count) => (count, Ok(())),
        Err(error) => (1, Err(error)),
    }
}

/// That of the first.
fn length(datagrams: &[IoSlice<'_>]) -> usize {
    datagrams.first().map_or(0, |first| first.len())
}

/// Whether the system refuses a train: as such, or as longer than the network carries in one piece.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::IO | Errno::MSGSIZE | Errno::OPNOTSUPP)
    )
}

/// Whether the system may refuse the source.
fn may_be_the_source(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::ADDRNOTAVAIL | Errno::NETUNREACH)
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;
    use crate::net::listen_udp;

    /// Sends datagrams of these lengths, each filled with its number: how many system calls it took.
    fn send_all(socket: &UdpSocket, route: Route, lens: &[usize]) -> usize {
        let bytes: Vec<Vec<u8>> = (0_u8..)
            .zip(lens)
            .map(|(number, &len)| vec![number; len])
            .collect();
        let datagrams: Vec<_> = bytes.iter().map(|one| IoSlice::new(one)).collect();
        let (mut rest, mut calls, mut trains) = (&*datagrams, 0, Trains::new());
        while !rest.is_empty() {
            let (count, sent) = send(socket, route, &mut trains, rest);
            sent.unwrap();
            rest = &rest[count..];
            calls += 1;
        }
        calls
    }

    /// Receives datagrams of these lengths: how many system calls it took.
    fn receive_all(socket: &UdpSocket, lens: &[usize]) -> usize {
        let (mut buffer, mut calls, mut number) = (vec![0; 65_536], 0, 0);
        while number < lens.len() {
            let received = receive(socket, &mut buffer).unwrap();
            for datagram in received.datagrams(&buffer) {
                assert_eq!(datagram.len(), lens[number], "length of {number}");
                let filling = u8::try_from(number).unwrap();
                assert!(datagram.iter().all(|&byte| byte == filling), "{number}");
                number += 1;
            }
            calls += 1;
        }
        calls
    }

    fn socket(address: impl Into<SocketAddr>) -> UdpSocket {
        let socket = listen_udp(address.into()).unwrap();
        let socket = socket.get_ref().try_clone().unwrap();
        socket.set_nonblocking(false).unwrap();
        let patience = Some(Duration::from_secs(20));
        socket.set_read_timeout(patience).unwrap();
        socket
    }

    fn pair() -> (UdpSocket, UdpSocket) {
        let (here, there) = (socket(([127, 0, 0, 1], 0)), socket(([127, 0, 0, 1], 0)));
        here.connect(there.local_addr().unwrap()).unwrap();
        (here, there)
    }

    #[test]
    fn a_train_is_of_one_length_and_its_end_may_be_shorter() {
        let long = DATAGRAM / 2 + 1;
        let mut trains = Trains::new();
        let of = |trains: Trains, lens: &[usize]| {
            let bytes = vec![0; DATAGRAM];
            let datagrams: Vec<_> = lens
                .iter()
                .map(|&len| IoSlice::new(&bytes[..len]))
                .collect();
            trains.of(&datagrams)
        };
        for (lens, count) in [
            (&[][..], 0),
            (&[7], 1),
            (&[7, 8], 1),
            (&[0, 0, 0], 1),
            (&[7, 0], 1),
            (&[7, 7, 0], 2),
            (&[7, 7, 7, 8], 3),
            (&[7, 7, 6, 6], 3),
            (&[7, 1], 2),
            (&[long, long], 1),
            (&[long, 1], 1),
            (&[long - 1, long - 1, 1], 2),
            (&[1; MOST + 9], MOST),
        ] {
            assert_eq!(of(trains, lens), count, "{lens:?}");
        }
        trains.longest = 6;
        assert_eq!(of(trains, &[7, 7]), 1);
        assert_eq!(of(trains, &[6, 6]), 2);
    }

    #[test]
    fn datagrams_of_all_lengths_come_out_whole_and_in_order() {
        let mut lens = vec![0, 0, 5, 1200, 1200, 1200, 40, 0, 9, 9, 9, 9];
        lens.extend([
            DATAGRAM, 1, 2, 3, 3, DATAGRAM, 700, 701, 20_000, 20_000, 20_000, 0,
        ]);
        let (here, there) = pair();
        let sent = send_all(&here, Route::default(), &lens);
        let came = receive_all(&there, &lens);
        if system::has_trains(&here) {
            assert!(sent < lens.len() / 2, "{sent} system calls");
            assert!(came < lens.len(), "{came} system calls");
        }
    }

    #[test]
    fn who_takes_no_trains_gets_datagrams() {
        let (here, there) = (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)), pair().0);
        let here = here.unwrap();
        there.connect(here.local_addr().unwrap()).unwrap();
        let lens = [300, 300, 300, 20, 300, 300];
        send_all(&there, Route::default(), &lens);
        let mut buffer = [0; 1024];
        for len in lens {
            assert_eq!(here.recv(&mut buffer).unwrap(), len);
        }
    }

    /// How datagrams go that would make one train, two, or none.
    const WAYS: [&[usize]; 4] = [&[8], &[8, 8, 8, 2], &[8, 8, 9, 9], &[0, 1, 2]];

    #[test]
    #[cfg(target_os = "linux")]
    fn answers_leave_from_the_address_that_was_asked() {
        let v4 = socket((Ipv4Addr::UNSPECIFIED, 0));
        let v6 = socket((Ipv6Addr::UNSPECIFIED, 0));
        for (users, asked) in [
            (&v4, IpAddr::from([127, 77, 0, 5])),
            (&v6, IpAddr::from([127, 77, 0, 6])),
            (&v6, Ipv6Addr::LOCALHOST.into()),
        ] {
            let user = match asked {
                IpAddr::V4(_) => socket((Ipv4Addr::LOCALHOST, 0)),
                IpAddr::V6(_) => socket((Ipv6Addr::LOCALHOST, 0)),
            };
            user.connect((asked, users.local_addr().unwrap().port()))
                .unwrap();
            user.send(b"?").unwrap();
            let received = receive(users, &mut [0; 16]).unwrap();
            assert_eq!(received.to.map(|to| to.to_canonical()), Some(asked));
            let route = Route {
                to: Some(received.from),
                from: received.to,
            };
            for lens in WAYS {
                send_all(users, route, lens);
                receive_all(&user, lens);
            }
        }
    }

    #[test]
    fn a_socket_of_one_address_is_told_no_other() {
        let (here, there) = pair();
        here.send(b"?").unwrap();
        assert_eq!(receive(&there, &mut [0; 16]).unwrap().to, None);
    }

    #[test]
    fn a_source_that_is_not_ours_is_not_insisted_on() {
        for (any, loopback, foreign) in [
            ("0.0.0.0", "127.0.0.1", "192.0.2.1"),
            ("::", "::1", "2001:db8::1"),
            ("::", "::ffff:127.0.0.1", "::ffff:192.0.2.1"),
        ] {
            let [any, loopback, foreign]: [IpAddr; 3] =
                [any, loopback, foreign].map(|ip| ip.parse().unwrap());
            let (here, there) = (socket((any, 0)), socket((loopback.to_canonical(), 0)));
            let route = Route {
                to: Some((loopback, there.local_addr().unwrap().port()).into()),
                from: Some(foreign),
            };
            for lens in WAYS {
                send_all(&here, route, lens);
                receive_all(&there, lens);
            }
        }
    }
}
