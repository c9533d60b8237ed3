//! Ingress between its launch and egress' answer (`wire.md` §2.4).
//!
//! The user's bytes go out right behind the launch, and are kept until the status byte says that
//! they arrived somewhere: if egress withdrew the connection, the launch is repeated with them on
//! the next idle one. The driver, until there is an [`Outcome`]:
//!
//! - writes [`to_send`](Launching::to_send) and reports [`sent`](Launching::sent);
//! - reads the user while [`wants_user`](Launching::wants_user) is not 0;
//! - reads the peer, and hands over the first byte that comes;
//! - wakes at [`deadline`](Launching::deadline).
//!
//! After [`Outcome::Connected`] it writes what is left to send, passes on
//! [`user_ended`](Launching::user_ended) as a half-close, and relays.

use alloc::vec::Vec;
use core::mem;

use crate::limits::{LAUNCH_KEPT, LAUNCH_WAIT};
use crate::time::Instant;
use crate::wire::datagram;
use crate::wire::launch::{Launch, Status};

/// One launch whose status byte has not come yet.
#[derive(Clone, Debug)]
pub struct Launching {
    /// The launch, then the user's bytes.
    out: Vec<u8>,
    /// How much of `out` is the launch.
    head: usize,
    /// How much of `out` is on its way to the peer.
    sent: usize,
    user_ended: bool,
    deadline: Instant,
}

/// How a launch ended. Everything but `Connected` ends the data connection as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered: write what is left to send, then relay.
    Connected,
    /// Egress says why not: reset the user. Never `Connected` or `Withdrawn`.
    Failed(Status),
    /// Egress was closing this connection and dialled nothing: launch again on another one.
    Withdrawn {
        /// The user's bytes so far, for [`Launching::new`].
        kept: Vec<u8>,
        /// Whether the user ended its stream.
        eof: bool,
    },
    /// The connection ended or broke the protocol; the target may have been dialled. Reset the
    /// user, without a repeat.
    Lost,
    /// No answer within [`LAUNCH_WAIT`]: reset the user.
    TimedOut,
}

impl Launching {
    /// Starts a launch at `now`. `kept` and `kept_eof` are what the user sent before, by way of an
    /// earlier [`Outcome::Withdrawn`] or otherwise; for a UDP user they are frames.
    #[must_use]
    pub fn new(now: Instant, launch: &Launch, kept: Vec<u8>, kept_eof: bool) -> Self {
        let mut out = Vec::new();
        launch.encode(&mut out);
        let head = out.len();
        out.extend(kept);
        Self {
            out,
            head,
            sent: 0,
            user_ended: kept_eof,
            deadline: now.after(LAUNCH_WAIT),
        }
    }

    /// What to write to the data connection next.
    #[must_use]
    pub fn to_send(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    /// The first `n` bytes of [`to_send`](Self::to_send) were written.
    pub fn sent(&mut self, n: usize) {
        self.sent = self.sent.saturating_add(n).min(self.out.len());
    }

    /// How many bytes to read from the user: the room left below [`LAUNCH_KEPT`], 0 when the user
    /// has to wait or has ended.
    #[must_use]
    pub fn wants_user(&self) -> usize {
        if self.user_ended { 0 } else { self.room() }
    }

    /// Queues bytes of the user, whole or not at all: `false` says that they did not fit.
    ///
    /// A stream never meets that when it reads at most [`wants_user`](Self::wants_user) bytes. A
    /// datagram's frame that does not fit is to be dropped; the first one always fits.
    #[must_use]
    pub fn handle_user(&mut self, bytes: &[u8]) -> bool {
        let first = self.out.len() == self.head && bytes.len() <= datagram::FRAME;
        let fits = !self.user_ended && (first || bytes.len() <= self.room());
        if fits {
            self.out.extend_from_slice(bytes);
        }
        fits
    }

    /// The user ended its stream. The half-close is passed on after [`Outcome::Connected`].
    pub const fn handle_user_eof(&mut self) {
        self.user_ended = true;
    }

    /// Whether the user ended its stream.
    #[must_use]
    pub const fn user_ended(&self) -> bool {
        self.user_ended
    }

    /// The first byte that came on the data connection. What follows it belongs to the user.
    pub fn handle_peer(&mut self, first_byte: u8) -> Outcome {
        match Status::from_byte(first_byte) {
            Some(Status::Connected) => Outcome::Connected,
            Some(Status::Withdrawn) => self.withdrawn(),
            Some(
                failure @ (Status::Refused
                | Status::TimedOut
                | Status::Unreachable
                | Status::Limit
                | Status::Blocked
                | Status::Disabled),
            ) => Outcome::Failed(failure),
            None => Outcome::Lost,
        }
    }

    /// The data connection ended, or failed, without a status byte.
    #[must_use]
    pub fn handle_peer_eof(self) -> Outcome {
        Outcome::Lost
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// [`Outcome::TimedOut`] once the deadline has come.
    #[must_use]
    pub fn handle_timeout(&self, now: Instant) -> Option<Outcome> {
        (now >= self.deadline).then_some(Outcome::TimedOut)
    }

    fn room(&self) -> usize {
        (self.head + LAUNCH_KEPT).saturating_sub(self.out.len())
    }

    fn withdrawn(&mut self) -> Outcome {
        let mut kept = mem::take(&mut self.out);
        kept.drain(..self.head);
        (self.head, self.sent) = (0, 0);
        Outcome::Withdrawn {
            kept,
            eof: self.user_ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use core::time::Duration;

    use super::*;
    use crate::terms::Transport;

    fn launching(kept: &[u8], eof: bool) -> Launching {
        let launch = Launch::new(Transport::Tcp, ([192, 0, 2, 1], 5000).into());
        Launching::new(Instant::default(), &launch, kept.to_vec(), eof)
    }

    #[test]
    fn user_bytes_follow_the_launch_at_once() {
        let mut launching = launching(b"kept ", false);
        assert!(launching.handle_user(b"more"));
        assert_eq!(launching.to_send(), b"\x01\x0e192.0.2.1:5000kept more");
        launching.sent(16);
        assert_eq!(launching.to_send(), b"kept more");
        launching.sent(usize::MAX);
        assert_eq!(launching.to_send(), b"");
    }

    #[test]
    fn what_was_not_sent_when_connected_still_is_to_send() {
        let mut launching = launching(b"request", false);
        launching.sent(19);
        launching.handle_user_eof();
        assert_eq!(launching.handle_peer(0), Outcome::Connected);
        assert_eq!(launching.to_send(), b"uest");
        assert!(launching.user_ended());
    }

    #[test]
    fn a_withdrawn_launch_gives_back_the_user_bytes_sent_or_not() {
        let mut first = launching(b"ab", false);
        first.sent(17);
        assert!(first.handle_user(b"cd"));
        first.handle_user_eof();
        let Outcome::Withdrawn { kept, eof } = first.handle_peer(7) else {
            panic!("not withdrawn")
        };
        assert_eq!((kept.as_slice(), eof), (&b"abcd"[..], true));

        let again = launching(&kept, eof);
        assert_eq!(again.to_send(), b"\x01\x0e192.0.2.1:5000abcd");
        assert_eq!((again.wants_user(), again.user_ended()), (0, true));
    }

    #[test]
    fn the_user_waits_at_the_limit_even_when_its_bytes_are_sent() {
        let mut launching = launching(&[], false);
        assert_eq!(launching.wants_user(), LAUNCH_KEPT);
        assert!(launching.handle_user(&[0; LAUNCH_KEPT - 1]));
        launching.sent(usize::MAX);
        assert_eq!(launching.wants_user(), 1);
        assert!(launching.handle_user(&[0]));
        assert_eq!(launching.wants_user(), 0);
        assert!(!launching.handle_user(&[0]));
    }

    #[test]
    fn a_frame_goes_whole_or_not_at_all_and_the_first_always_goes() {
        let largest = vec![0; datagram::FRAME];
        let mut launching = launching(&[], false);
        assert!(launching.handle_user(&largest));
        assert_eq!(launching.wants_user(), 0);
        assert!(!launching.handle_user(&largest));
        assert_eq!(launching.to_send().len(), 16 + datagram::FRAME);
    }

    #[test]
    fn outcomes() {
        let table = [
            (1, Outcome::Failed(Status::Refused)),
            (6, Outcome::Failed(Status::Disabled)),
            (8, Outcome::Lost),
            (b'H', Outcome::Lost),
        ];
        for (byte, outcome) in table {
            assert_eq!(launching(b"x", false).handle_peer(byte), outcome);
        }
        assert_eq!(launching(b"x", false).handle_peer_eof(), Outcome::Lost);
    }

    #[test]
    fn it_times_out_at_the_deadline_and_not_before() {
        let launching = launching(b"", false);
        let just_before = Instant::from_origin(LAUNCH_WAIT.saturating_sub(Duration::from_nanos(1)));
        assert_eq!(launching.handle_timeout(just_before), None);
        assert_eq!(
            launching.handle_timeout(launching.deadline()),
            Some(Outcome::TimedOut)
        );
    }
}
