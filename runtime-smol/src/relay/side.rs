//! What a UDP session may have at either end: a user, a target, or a stream that carries datagrams.
//!
//! All of them receive and send *frames* (`len (2) ‖ datagram`), several at once, so that a burst
//! becomes one write on a stream, and a read from a stream becomes many datagrams.

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_io::{Async, WritableOwned};
use protocol::limits::DATAGRAM;
use protocol::wire::datagram::{Form, TooLong, encode, split};
use rustix::io::Errno;

use super::buffer::{Buffer, STANDARD};
use super::carrier::Carrier;
use super::queue::Closed;
use super::users::UdpUser;
use super::{Budget, Ended};
use crate::net::Stream;

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
        Self(Kind::User(User { user, room: None }))
    }

    /// A target: a connected socket of this session's own.
    #[must_use]
    pub const fn target(socket: Async<UdpSocket>) -> Self {
        Self(Kind::Target(Target {
            socket,
            quiet: false,
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

/// Sends frame by frame with `send`, within the budget: how many bytes are done with, and whether
/// the socket had no room for more. A datagram that the system refuses is dropped.
fn send_each(
    frames: &[u8],
    tally: &mut Tally,
    budget: &mut Budget,
    mut send: impl FnMut(&[u8]) -> io::Result<usize>,
) -> Result<(usize, bool), Over> {
    let mut rest = frames;
    while !budget.is_spent() {
        let Some(frame) = split(rest)? else { break };
        // An error may be the answer to an earlier datagram, and this one is not sent then.
        let mut sent = send(frame.datagram);
        if sent.as_ref().is_err_and(concerns_one_peer) {
            sent = send(frame.datagram);
        }
        match sent {
            Ok(sent) => tally.sent += sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok((frames.len() - rest.len(), true));
            }
            Err(_) => tally.dropped += 1,
        }
        budget.spend(frame.datagram.len());
        rest = frame.rest;
    }
    Ok((frames.len() - rest.len(), false))
}

struct User {
    user: UdpUser,
    /// Waits for room in the socket that all relays send on.
    room: Option<Pin<Box<WritableOwned<UdpSocket>>>>,
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
            ready!(room.as_mut().poll(cx))?;
            self.room = None;
        }
        loop {
            let (done, full) = send_each(frames, tally, budget, |bytes| self.user.send(bytes))?;
            if done > 0 {
                self.user.refresh();
            }
            if done > 0 || !full {
                return Poll::Ready(Ok(done));
            }
            // Many tasks send here, so each waits in a future of its own.
            let mut room = Box::pin(Arc::clone(self.user.socket()).writable_owned());
            if room.as_mut().poll(cx)?.is_pending() {
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
    socket: Async<UdpSocket>,
    quiet: bool,
}

impl Target {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<u8>,
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Poll<Result<(), Over>> {
        if self.quiet {
            ready!(self.socket.poll_readable(cx))?;
            self.quiet = false;
        }
        let mut buffer = Buffer::borrow(STANDARD);
        while !budget.is_spent() && frames.len() < STANDARD {
            match self.socket.get_ref().recv(&mut buffer) {
                Ok(len) => {
                    budget.spend(len);
                    // IPv6 can carry a little more than a frame can.
                    if encode(buffer.get(..len).unwrap_or_default(), frames).is_err() {
                        tally.dropped += 1;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.quiet = true;
                    if !frames.is_empty() {
                        break;
                    }
                    drop(buffer);
                    ready!(self.socket.poll_readable(cx))?;
                    buffer = Buffer::borrow(STANDARD);
                    self.quiet = false;
                }
                Err(error) if concerns_one_peer(&error) => budget.spend(0),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        frames: &[u8],
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Poll<Result<usize, Over>> {
        loop {
            let send = |bytes: &[u8]| self.socket.get_ref().send(bytes);
            let (done, full) = send_each(frames, tally, budget, send)?;
            if done > 0 || !full {
                return Poll::Ready(Ok(done));
            }
            ready!(self.socket.poll_writable(cx))?;
        }
    }
}
