//! Relays: moving users' bytes between two sockets, whatever the protocol decided about them.
//!
//! ```text
//!                        tcp::relay                           wire
//!   user or target  ── up: Pump ──▶   data connection   ═════════════▶  the other end
//!       (near)      ◀── down: Pump ──      (peer)
//!
//!                        udp::relay
//!   Side::User / Side::Target  ── frames ──▶  Side::Stream / Side::Target
//! ```
//!
//! Both are one task per user that polls both directions: try first and wait on `WouldBlock`, unless it
//! is known that there is nothing more to read. A buffer is borrowed while bytes are in hand and given
//! back before waiting for more, so an idle relay holds none. Large amounts between plain TCP sockets go
//! through borrowed pipes instead. Every poll has a [`Budget`], because a task is never made to yield.
//! One timer per relay serves the idle timeout, the orphan rule and the rate.

mod buffer;
mod carrier;
mod hand;
mod pump;
mod queue;
mod side;
mod splice;
pub mod tcp;
#[cfg(test)]
pub(crate) mod testing;
pub mod udp;
mod users;
mod watch;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::sniff::Kind;

pub use watch::Fate;

use crate::executor;
use crate::limiter::Limiter;
use crate::stats::Stats;

/// What all relays of an instance share.
#[derive(Debug)]
pub struct Settings {
    /// The instance's counters.
    pub stats: Arc<Stats>,
    /// `rate` for what is read from users or targets.
    pub rx: Option<Limiter>,
    /// `rate` for what is written to users or targets.
    pub tx: Option<Limiter>,
    /// `read`: a TCP relay without data for this long ends; `None`: never.
    pub tcp_idle: Option<Duration>,
    /// `NP_UDP_READ_TIMEOUT`: a UDP session without a datagram for this long ends.
    pub udp_idle: Duration,
    /// `NP_TCP_DATA_BUF_SIZE` in bytes. Less than the default is taken at its word, for a machine
    /// with little memory. From the default on it is at least 64 KiB, which measured best and costs
    /// nothing at rest, since buffers are only borrowed; and at most 1 MiB. A `rate` makes it at most
    /// [`PIECE`](crate::limiter::PIECE).
    pub buffer: usize,
}

/// One of a relay's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The user or the target of this end of the tunnel.
    Near,
    /// The data connection; with a client alone, its target.
    Peer,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Near => "near end",
            Self::Peer => "peer",
        })
    }
}

/// Why a relay is over.
///
/// After anything but an [orderly](Self::is_orderly) end the caller resets both streams
/// ([`Stream::reset`](crate::net::Stream::reset)), so that both sides see a failure. After an orderly
/// one a TCP relay has closed both already; a UDP relay leaves its data connection to be closed.
#[derive(Debug)]
pub enum Ended {
    /// TCP: both directions ended, each passed on. UDP: the connection or the user's socket ended.
    Finished,
    /// TCP: no data in either direction for the idle time. Whether all was sent is unknown.
    Idle,
    /// UDP: no datagram in either direction for the idle time, the usual end of a session.
    Expired,
    /// The session died unclean and the peer has been silent since (`wire.md` §2.2).
    Orphaned,
    /// The user speaks what `block` excludes.
    Blocked(Kind),
    /// An end failed.
    Failed(End, io::Error),
}

impl Ended {
    /// Whether the streams may be closed in order rather than reset.
    #[must_use]
    pub const fn is_orderly(&self) -> bool {
        matches!(self, Self::Finished | Self::Expired)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Idle => f.write_str("idle for too long"),
            Self::Expired => f.write_str("no more datagrams"),
            Self::Orphaned => f.write_str("session lost and peer silent"),
            Self::Blocked(kind) => write!(f, "{kind} is blocked"),
            Self::Failed(end, error) => write!(f, "{end} failed: {error}"),
        }
    }
}

/// Rounds (reads, datagrams) that a relay may do in one poll.
const ROUNDS: u32 = 16;
/// Datagrams that a relay may move in one poll: they are small, and each is a round.
const DATAGRAMS: u32 = 64;
/// Bytes that a relay may move in one poll, give or take one buffer or pipe.
const BYTES: usize = 128 * 1024;

/// Polls after which a relay is no short one.
const SHORT: u32 = 8;

/// Whether a relay is so short that it is best done where its user was accepted.
#[derive(Debug)]
pub(crate) struct Stay {
    polls: u32,
}

impl Stay {
    pub(crate) const fn new() -> Self {
        Self { polls: SHORT }
    }

    /// It was polled and took what it could: one that moves much or lasts steps aside.
    pub(crate) fn note(&mut self, budget: &Budget) {
        self.polls = self.polls.saturating_sub(1);
        if self.polls == 0 || budget.is_spent() {
            executor::step_aside();
        }
    }
}

/// What one poll may do before it must let other tasks run.
#[derive(Debug)]
pub(crate) struct Budget {
    rounds: u32,
    bytes: usize,
}

impl Budget {
    pub(crate) const fn new() -> Self {
        Self {
            rounds: ROUNDS,
            bytes: BYTES,
        }
    }

    pub(crate) const fn of_datagrams() -> Self {
        Self {
            rounds: DATAGRAMS,
            bytes: BYTES,
        }
    }

    pub(crate) const fn spend(&mut self, bytes: usize) {
        self.rounds = self.rounds.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(crate) const fn is_spent(&self) -> bool {
        self.rounds == 0 || self.bytes == 0
    }
}
