//! Relaying a user's TCP connection.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use protocol::config::Block;
use protocol::sniff::{Sniffer, Verdict};
use protocol::terms::Transport;
use protocol::time::earliest;

use super::pump::{Broken, Lane, Pump};
use super::watch::Watch;
use super::{Budget, End, Ended, Fate, Settings, Stay};
use crate::net::Stream;
use crate::stats::Running;

/// Bytes that were read before the relay began. They go first.
#[derive(Debug, Default)]
pub struct Initial {
    /// For the near end: what followed the status byte.
    pub to_near: Vec<u8>,
    /// For the peer: what was read from the user before, or a PROXY header for a target.
    pub to_peer: Vec<u8>,
    /// The near end has ended its stream already.
    pub near_ended: bool,
    /// All that had come from the near end was read: its readiness is awaited before it is tried. It
    /// is a guess about what saves a system call, no promise.
    pub near_quiet: bool,
    /// The same for the peer.
    pub peer_quiet: bool,
    /// Looks at the near end's first bytes, which are none of `to_peer`.
    pub first: Option<FirstBytes>,
}

/// The first bytes of a user, held back until it is known that it may speak what it speaks.
#[derive(Clone, Debug)]
pub struct FirstBytes {
    sniffer: Sniffer,
    held: Vec<u8>,
}

impl FirstBytes {
    /// A user that has sent nothing yet; `None` if nothing is blocked.
    #[must_use]
    pub fn new(block: Block) -> Option<Self> {
        let sniffer = Sniffer::new(block);
        let held = Vec::new();
        (sniffer.feed(&held) == Verdict::NeedMore).then_some(Self { sniffer, held })
    }

    /// Takes the bytes that came next.
    pub fn feed(&mut self, bytes: &[u8]) -> Verdict {
        self.held.extend_from_slice(bytes);
        self.sniffer.feed(&self.held)
    }

    /// What was held back.
    #[must_use]
    pub fn release(self) -> Vec<u8> {
        self.held
    }
}

/// Relays between the user or target of this end (`near`) and a data connection, or, with a client
/// alone, its target (`peer`), until both directions have ended or something went wrong.
///
/// The end of one direction is passed on as a half-close while the other goes on. `fate` is that of
/// the session which the data connection belongs to. The relay counts as running until the future is
/// dropped. After an end that is not [orderly](Ended::is_orderly), or when the future is dropped
/// before the end, both streams are reset as soon as they are dropped.
pub fn relay<'a>(
    near: &'a mut Stream,
    peer: &'a mut Stream,
    settings: &'a Settings,
    fate: Option<Arc<Fate>>,
    initial: Initial,
) -> impl Future<Output = Ended> {
    let mut relay = Relay {
        _running: settings.stats.running(Transport::Tcp),
        near,
        peer,
        settings,
        up: Pump::new(initial.to_peer)
            .looking_at(initial.first)
            .ended(initial.near_ended)
            .quiet(initial.near_quiet),
        down: Pump::new(initial.to_near).quiet(initial.peer_quiet),
        watch: Watch::new(settings.tcp_idle, fate),
        down_first: false,
        stay: Stay::new(),
        orderly: false,
    };
    poll_fn(move |cx| {
        let ended = ready!(relay.poll(cx));
        relay.orderly = ended.is_orderly();
        Poll::Ready(ended)
    })
}

struct Relay<'a> {
    _running: Running,
    near: &'a mut Stream,
    peer: &'a mut Stream,
    settings: &'a Settings,
    up: Pump,
    down: Pump,
    watch: Watch,
    down_first: bool,
    stay: Stay,
    orderly: bool,
}

/// A relay that is cut short, at the end of a stop for one, must not look as if it were complete.
impl Drop for Relay<'_> {
    fn drop(&mut self) {
        if !self.orderly {
            self.near.reset_when_dropped();
            self.peer.reset_when_dropped();
        }
    }
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut budget = Budget::new();
        // The budget is shared; who comes first may spend all of it, so they take turns.
        self.down_first = !self.down_first;
        for down in [self.down_first, !self.down_first] {
            if let Err(ended) = self.pump(down, cx, &mut budget) {
                return Poll::Ready(ended);
            }
        }
        if self.up.is_done() && self.down.is_done() {
            return Poll::Ready(Ended::Finished);
        }
        let (up, down) = (self.up.take_progress(), self.down.take_progress());
        let moved = up.0 || up.1 || down.0 || down.1;
        self.watch.note(moved, down.0);
        let pause = earliest(self.up.pause(), self.down.pause());
        if let Poll::Ready(ended) = self.watch.poll(cx, pause) {
            return Poll::Ready(ended);
        }
        self.stay.note(&budget);
        if budget.is_spent() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn pump(&mut self, down: bool, cx: &mut Context<'_>, budget: &mut Budget) -> Result<(), Ended> {
        let (near, peer) = (&mut *self.near, &mut *self.peer);
        let (poll, source, sink) = if down {
            let lane = Lane::down(self.settings);
            (
                self.down.poll(cx, (peer, near), &lane, budget),
                End::Peer,
                End::Near,
            )
        } else {
            let lane = Lane::up(self.settings);
            (
                self.up.poll(cx, (near, peer), &lane, budget),
                End::Near,
                End::Peer,
            )
        };
        match poll {
            Poll::Ready(Err(Broken::Blocked(kind))) => Err(Ended::Blocked(kind)),
            Poll::Ready(Err(Broken::Source(error))) => Err(Ended::Failed(source, error)),
            Poll::Ready(Err(Broken::Sink(error))) => Err(Ended::Failed(sink, error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
