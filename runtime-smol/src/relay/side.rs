//! What a UDP session may have at either end: a user, a target, or a stream that carries datagrams.
//!
//! All of them receive and send *frames* (`len (2) ‖ datagram`), several at once, so that a burst
//! becomes one write on a stream, and a read from a stream becomes many datagrams.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::UdpSocket;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use protocol::limits::DATAGRAM;
use protocol::wire::datagram::{Form, HEADER, TooLong, encode, split};
use rustix::io::Errno;

use super::buffer::{Buffer, STANDARD};
use super::carrier::Carrier;
use super::queue::Closed;
use super::users::UdpUser;
use super::{Budget, Ended};
use crate::net::datagram::{self, MOST, Route, Trains, receive};
use crate::net::{Polled, Room, Stream};

/// One end of a UDP session.
#[derive(Debug)]
pub struct Side<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    User(User),
    Target(Target),
    Stream(Carrier<'a>),
}

/// Why a side gives or takes nothing any more.
#[derive(Debug)]
pub(crate) enum Over {
    /// It ended in order.
    Ended(Ended),
    Failed(io::Error),
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<TooLong> for Over {
    fn from(error: TooLong) -> Self {
        Self::Failed(io::Error::new(
            io::ErrorKind::InvalidData,
            error.to_string(),
        ))
    }
}

/// What became of datagrams that were to be sent.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Bytes of payload that went out.
    pub(crate) sent: usize,
    /// Datagrams that did not.
    pub(crate) dropped: u64,
}

impl<'a> Side<'a> {
    /// A user of the socket that [`serve`](super::users::serve) reads.
    #[must_use]
    pub const fn user(user: UdpUser) -> Self {
        Self(Kind::User(User {
            user,
            trains: Trains::new(),
            room: None,
        }))
    }

    /// A target: a connected socket of this session's own.
    #[must_use]
    pub const fn target(socket: Polled<UdpSocket>) -> Self {
        Self(Kind::Target(Target {
            socket,
            trains: Trains::new(),
        }))
    }

    /// A data connection, from which `initial` was read before. How datagrams go on it is said by
    /// `form`; one that is longer than the peer takes is dropped instead of sent, and where there are
    /// no frames, an empty one, too.
    #[must_use]
    pub const fn stream(stream: &'a mut Stream, initial: Vec<u8>, form: Form) -> Self {
        Self(Kind::Stream(Carrier::new(stream, initial, form)))
    }

    /// Whether the end of idleness is somebody else's to notice.
    pub(crate) const fn has_deadline(&self) -> bool {
        matches!(self.0, Kind::User(_))
    }

    /// The longest datagram that can be sent.
    pub(crate) const fn longest(&self) -> usize {
        match &self.0 {
            Kind::User(_) | Kind::Target(_) => DATAGRAM,
            Kind::Stream(carrier) => carrier.form.max(),
        }
    }

    /// Receives some whole frames into `frames`, which is empty.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<u8>,
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Poll<Result<(), Over>> {
        match &mut self.0 {
            Kind::User(user) => {
                budget.spend(0);
                user.user.poll_take(cx, frames).map_err(|closed| {
                    Over::Ended(match closed {
                        Closed::Idle => Ended::Expired,
                        Closed::Stopped => Ended::Finished,
                    })
                })
            }
            Kind::Target(target) => target.poll_recv(cx, frames, tally, budget),
            Kind::Stream(carrier) => carrier.poll_recv(cx, frames, budget),
        }
    }

    /// Sends some of `frames`, which are whole apart from what was sent of the first: how many bytes
    /// are done with, sent or dropped.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frames: &[u8],
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Poll<Result<usize, Over>> {
        match &mut self.0 {
            Kind::User(user) => user.poll_send(cx, frames, tally, budget),
            Kind::Target(target) => target.poll_send(cx, frames, tally, budget),
            Kind::Stream(carrier) => carrier.poll_send(cx, frames, tally, budget),
        }
    }

    /// Nothing more comes for now: what a stream holds back must go out.
    pub(crate) fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        match &mut self.0 {
            Kind::User(_) | Kind::Target(_) => Ok(()),
            Kind::Stream(carrier) => carrier.flush(cx),
        }
    }
}

/// Whether an error of a UDP socket is about a datagram sent earlier (an ICMP answer to it) and not
/// about the socket.
pub(crate) fn concerns_one_peer(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNREFUSED
                | Errno::CONNRESET
                | Errno::HOSTUNREACH
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::NETDOWN
                | Errno::NONET
                | Errno::NOPROTOOPT
                | Errno::PROTO
                | Errno::MSGSIZE
                | Errno::ACCESS
                | Errno::OPNOTSUPP
                | Errno::INTR
        )
    )
}

/// Sends frames on `socket`, within the budget, give or take a batch: how many bytes are done with, and
/// whether the socket had no room for more. A datagram that the system refuses is dropped.
fn send_frames(
    (socket, route, trains): (&UdpSocket, Route, &mut Trains),
    frames: &[u8],
    tally: &mut Tally,
    budget: &mut Budget,
) -> Result<(usize, bool), Over> {
    let mut done = 0;
    while !budget.is_spent() && done < frames.len() {
        let batch = next_batch(frames.get(done..).unwrap_or_default())?;
        if batch.is_empty() {
            break;
        }
        let (mut rest, mut again) = (&*batch, true);
        while !rest.is_empty() {
            let (count, sent) = datagram::send(socket, route, trains, rest);
            match &sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((done, true)),
                // It may be the answer to an earlier datagram, and these are not sent then.
                Err(error) if again && concerns_one_peer(error) => {
                    again = false;
                    continue;
                }
                Ok(()) | Err(_) => again = true,
            }
            let (gone, left) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            for datagram in gone {
                done += HEADER + datagram.len();
                budget.spend(datagram.len());
                match sent {
                    Ok(()) => tally.sent += datagram.len(),
                    Err(_) => tally.dropped += 1,
                }
            }
            rest = left;
        }
    }
    Ok((done, false))
}

/// What [`send_frames`] did, for a [`Polled`] socket: nothing, if there was no room at all.
fn or_would_block(sent: Result<(usize, bool), Over>) -> io::Result<Result<usize, Over>> {
    match sent {
        Ok((0, true)) => Err(io::ErrorKind::WouldBlock.into()),
        Ok((done, _)) => Ok(Ok(done)),
        Err(over) => Ok(Err(over)),
    }
}

/// The datagrams of the first frames: as many as are sent at once.
fn next_batch(frames: &[u8]) -> Result<Vec<IoSlice<'_>>, TooLong> {
    let (mut batch, mut bytes, mut rest) = (Vec::new(), 0, frames);
    while batch.len() < MOST
        && bytes < STANDARD
        && let Some(frame) = split(rest)?
    {
        batch.push(IoSlice::new(frame.datagram));
        bytes += frame.datagram.len();
        rest = frame.rest;
    }
    Ok(batch)
}

struct User {
    user: UdpUser,
    trains: Trains,
    /// Waits for room in the socket that all relays send on.
    room: Option<Room<UdpSocket>>,
}

impl User {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frames: &[u8],
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Poll<Result<usize, Over>> {
        if let Some(room) = &mut self.room {
            ready!(Pin::new(room).poll(cx))?;
            self.room = None;
        }
        loop {
            let (route, trains) = (self.user.route(), &mut self.trains);
            let sent = self.user.socket().write_with(|socket| {
                let way = (socket, route, trains);
                or_would_block(send_frames(way, frames, tally, budget))
            });
            match sent {
                Ok(sent) => {
                    let done = sent?;
                    if done > 0 {
                        self.user.refresh();
                    }
                    return Poll::Ready(Ok(done));
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error.into()));
                }
                Err(_) => {}
            }
            // Many tasks send here.
            let mut room = Room::new(self.user.socket());
            if Pin::new(&mut room).poll(cx)?.is_pending() {
                self.room = Some(room);
                return Poll::Pending;
            }
        }
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.user.fmt(f)
    }
}

#[derive(Debug)]
struct Target {
    socket: Polled<UdpSocket>,
    trains: Trains,
}

impl Target {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<u8>,
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Poll<Result<(), Over>> {
        self.socket.follow();
        let mut buffer = None;
        while !budget.is_spent() && frames.len() < STANDARD {
            // Borrowed only when there may be something: a session that waits holds none.
            let received = self.socket.poll_read_with(cx, |socket| {
                let buffer = buffer.get_or_insert_with(|| Buffer::borrow(STANDARD));
                receive(socket, buffer)
            });
            match received {
                Poll::Ready(Ok(received)) => {
                    for datagram in received.datagrams(buffer.as_deref().unwrap_or_default()) {
                        budget.spend(datagram.len());
                        // IPv6 can carry a little more than a frame can.
                        if encode(datagram, frames).is_err() {
                            tally.dropped += 1;
                        }
                    }
                }
                Poll::Pending if frames.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Err(error)) if concerns_one_peer(&error) => budget.spend(0),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frames: &[u8],
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Poll<Result<usize, Over>> {
        let trains = &mut self.trains;
        let sent = self.socket.poll_write_with(cx, |socket| {
            let way = (socket, Route::default(), &mut *trains);
            or_would_block(send_frames(way, frames, tally, budget))
        });
        Poll::Ready(ready!(sent)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use socket2::SockRef;

    use super::*;
    use crate::relay::testing::{ANY, PATIENCE};

    /// Frames of datagrams of these lengths.
    fn frames(lens: &[usize]) -> Vec<u8> {
        let mut frames = Vec::new();
        for &len in lens {
            encode(&vec![7; len], &mut frames).unwrap();
        }
        frames
    }

    fn send(socket: &UdpSocket, frames: &[u8], tally: &mut Tally) -> (usize, bool) {
        let (mut done, mut trains) = (0, Trains::new());
        loop {
            let way = (socket, Route::default(), &mut trains);
            let mut budget = Budget::of_datagrams();
            let (more, full) = send_frames(way, &frames[done..], tally, &mut budget).unwrap();
            done += more;
            if full || done == frames.len() {
                return (done, full);
            }
        }
    }

    fn pair() -> (UdpSocket, UdpSocket) {
        let [here, there] = [(); 2].map(|()| UdpSocket::bind(ANY).unwrap());
        here.connect(there.local_addr().unwrap()).unwrap();
        there.set_read_timeout(Some(PATIENCE)).unwrap();
        (here, there)
    }

    /// A socket that is full when its peer does not read, and its peer. It would make one datagram of a
    /// train, so none must be sent, and whether the system knows them must have been asked before. It
    /// refuses what is longer than its buffer.
    fn narrow() -> (UdpSocket, UnixDatagram) {
        let mut tally = Tally::default();
        send(&pair().0, &frames(&[1, 1]), &mut tally);
        let (here, there) = UnixDatagram::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        there.set_nonblocking(true).unwrap();
        (OwnedFd::from(here).into(), there)
    }

    #[test]
    fn a_full_socket_takes_the_rest_later_and_in_order() {
        let (here, there) = narrow();
        let lens: Vec<usize> = (0..1500).collect();
        let (all, mut tally) = (frames(&lens), Tally::default());
        let (mut done, mut came, mut waits, mut buffer) = (0, 0, 0, [0; 2048]);
        while came < lens.len() {
            let (more, full) = send(&here, &all[done..], &mut tally);
            (done, waits) = (done + more, waits + u32::from(full));
            while let Ok(len) = there.recv(&mut buffer) {
                assert_eq!(len, lens[came]);
                came += 1;
            }
        }
        assert!(waits > 0);
        let payload = lens.iter().sum();
        assert_eq!((done, tally.sent, tally.dropped), (all.len(), payload, 0));
    }

    #[test]
    fn what_is_refused_is_dropped_alone() {
        let (here, there) = narrow();
        let long = SockRef::from(&here)
            .send_buffer_size()
            .unwrap()
            .min(DATAGRAM);
        SockRef::from(&here).set_send_buffer_size(8192).unwrap();
        let (all, mut tally) = (frames(&[1, 2, long, 4, long, long, 6, 7]), Tally::default());
        assert_eq!(send(&here, &all, &mut tally), (all.len(), false));
        assert_eq!((tally.sent, tally.dropped), (20, 3));
        let mut buffer = [0; 16];
        for len in [1, 2, 4, 6, 7] {
            assert_eq!(there.recv(&mut buffer).unwrap(), len);
        }
    }

    #[test]
    fn the_answer_to_an_earlier_datagram_costs_no_other() {
        // Nobody else uses this address, so nobody takes the port meanwhile.
        let here = UdpSocket::bind(ANY).unwrap();
        for lens in [&[8, 8, 8, 3][..], &[1, 2, 0, 3], &[5]] {
            let gone = UdpSocket::bind("127.77.0.7:0").unwrap();
            let target = gone.local_addr().unwrap();
            here.connect(target).unwrap();
            drop(gone);
            here.send(b"is nobody there?").unwrap();
            let back = UdpSocket::bind(target).unwrap();
            back.set_read_timeout(Some(PATIENCE)).unwrap();
            let (all, mut tally) = (frames(lens), Tally::default());
            assert_eq!(send(&here, &all, &mut tally), (all.len(), false));
            assert_eq!(tally.dropped, 0);
            let mut buffer = [0; 16];
            for &len in lens {
                assert_eq!(back.recv(&mut buffer).unwrap(), len);
            }
        }
    }
}
