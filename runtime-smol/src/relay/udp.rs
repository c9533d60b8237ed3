//! Relaying the datagrams of one user.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use protocol::limits::DATAGRAM;
use protocol::terms::Transport;
use protocol::time::{Instant, earliest};
use protocol::wire::datagram::{HEADER, TooLong, encode, split};

pub use super::side::Side;
use super::side::{Over, Tally};
pub use super::users::{UdpUser, serve};
use super::watch::Watch;
use super::{Budget, End, Ended, Fate, Settings, Stay};
use crate::clock::Clock;
use crate::limiter::{Limiter, PIECE};
use crate::stats::{Counter, Running};

/// Relays datagrams between the user or target of this end (`near`) and a data connection, or, with a
/// client alone, its target (`peer`), until the connection ends, the session is idle for too long, or
/// an end fails.
///
/// Datagrams that cannot be delivered are dropped and counted; they never end the session. `fate` is
/// that of the session which the data connection belongs to. The relay counts as running until the
/// future is dropped.
pub fn relay<'a>(
    near: &'a mut Side<'static>,
    peer: Side<'a>,
    settings: &'a Settings,
    fate: Option<Arc<Fate>>,
) -> impl Future<Output = Ended> {
    // A user's own deadline comes first; this one still ends the session when the peer does not read.
    let grace = if near.has_deadline() {
        settings.udp_idle / 4
    } else {
        Duration::ZERO
    };
    let idle = Some(settings.udp_idle + grace);
    let mut relay = Relay {
        _running: settings.stats.running(Transport::Udp),
        near,
        peer,
        settings,
        up: Direction::default(),
        down: Direction::default(),
        watch: Watch::new(idle, fate),
        down_first: false,
        stay: Stay::new(),
    };
    poll_fn(move |cx| relay.poll(cx))
}

/// The bytes of the datagrams in whole `frames`.
#[must_use]
pub fn payload(mut frames: &[u8]) -> usize {
    let mut payload = 0;
    while let Ok(Some(frame)) = split(frames) {
        payload += frame.datagram.len();
        frames = frame.rest;
    }
    payload
}

struct Relay<'a> {
    _running: Running,
    near: &'a mut Side<'static>,
    peer: Side<'a>,
    settings: &'a Settings,
    up: Direction,
    down: Direction,
    watch: Watch,
    down_first: bool,
    stay: Stay,
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut budget = Budget::of_datagrams();
        self.down_first = !self.down_first;
        for down in [self.down_first, !self.down_first] {
            if let Err(ended) = self.move_some(down, cx, &mut budget) {
                return Poll::Ready(ended);
            }
        }
        let heard = std::mem::take(&mut self.down.moved);
        let moved = std::mem::take(&mut self.up.moved) || heard;
        self.watch.note(moved, heard);
        let pause = earliest(self.up.pause, self.down.pause);
        if let Poll::Ready(ended) = self.watch.poll(cx, pause) {
            let idle = matches!(ended, Ended::Idle);
            return Poll::Ready(if idle { Ended::Expired } else { ended });
        }
        self.stay.note(&budget);
        if budget.is_spent() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn move_some(
        &mut self,
        down: bool,
        cx: &mut Context<'_>,
        budget: &mut Budget,
    ) -> Result<(), Ended> {
        let stats = &self.settings.stats;
        let (near, peer) = (&mut *self.near, &mut self.peer);
        let mut tally = Tally::default();
        let result = if down {
            let limiter = self.settings.tx.as_ref();
            let result = self
                .down
                .poll(cx, (peer, near), limiter, None, &mut tally, budget);
            stats.udp_tx.add_len(tally.sent);
            result.map_err(|(source, over)| (if source { End::Peer } else { End::Near }, over))
        } else {
            let (limiter, counter) = (self.settings.rx.as_ref(), Some(&stats.udp_rx));
            let result = self
                .up
                .poll(cx, (near, peer), limiter, counter, &mut tally, budget);
            result.map_err(|(source, over)| (if source { End::Near } else { End::Peer }, over))
        };
        if tally.dropped > 0 {
            stats.dropped.add(tally.dropped);
        }
        result.map_err(|(end, over)| match over {
            Over::Ended(ended) => ended,
            Over::Failed(error) => Ended::Failed(end, error),
        })
    }
}

/// One direction: the frames in hand.
#[derive(Debug, Default)]
struct Direction {
    frames: Vec<u8>,
    /// Up to here they are done with.
    at: usize,
    /// Up to here the limiter was asked.
    paid: usize,
    pause: Option<Instant>,
    moved: bool,
}

impl Direction {
    /// Moves datagrams until it must wait or has spent the budget. An error says whether the source
    /// is to blame.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut Side<'_>, &mut Side<'_>),
        limiter: Option<&Limiter>,
        received: Option<&Counter>,
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Result<(), (bool, Over)> {
        while !budget.is_spent() {
            if self.at < self.frames.len() {
                let sent = self.poll_send(cx, to, limiter, tally, budget);
                match sent.map_err(|over| (false, over))? {
                    Poll::Ready(()) => continue,
                    Poll::Pending => break,
                }
            }
            // What was in hand is given back before anything is awaited.
            (self.frames, self.at, self.paid) = (Vec::new(), 0, 0);
            let Poll::Ready(got) = from.poll_recv(cx, &mut self.frames, tally, budget) else {
                to.flush(cx).map_err(|over| (false, over))?;
                break;
            };
            got.map_err(|over| (true, over))?;
            self.moved |= !self.frames.is_empty();
            let checked = self.check(to.longest(), received, tally);
            checked.map_err(|error| (true, error.into()))?;
        }
        Ok(())
    }

    /// Counts what came, and drops what the other side cannot carry.
    fn check(
        &mut self,
        longest: usize,
        received: Option<&Counter>,
        tally: &mut Tally,
    ) -> Result<(), TooLong> {
        let (mut rest, mut payload, mut kept) = (&*self.frames, 0, Vec::new());
        while let Some(frame) = split(rest)? {
            payload += frame.datagram.len();
            if frame.datagram.len() > longest {
                tally.dropped += 1;
            } else if longest < DATAGRAM {
                encode(frame.datagram, &mut kept)?;
            }
            rest = frame.rest;
        }
        if let Some(counter) = received {
            counter.add_len(payload);
        }
        if longest < DATAGRAM {
            self.frames = kept;
        }
        Ok(())
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Side<'_>,
        limiter: Option<&Limiter>,
        tally: &mut Tally,
        budget: &mut Budget,
    ) -> Result<Poll<()>, Over> {
        if self.paid <= self.at {
            self.pay(limiter)?;
        }
        if self.pause.is_some_and(|at| Clock::new().now() < at) {
            return Ok(Poll::Pending);
        }
        self.pause = None;
        let frames = self.frames.get(self.at..self.paid).unwrap_or_default();
        let Poll::Ready(done) = to.poll_send(cx, frames, tally, budget) else {
            return Ok(Poll::Pending);
        };
        self.at += done?;
        Ok(Poll::Ready(()))
    }

    /// Asks the limiter for the next piece, of whole frames; without one all of them are free.
    fn pay(&mut self, limiter: Option<&Limiter>) -> Result<(), TooLong> {
        self.paid = self.frames.len();
        let Some(limiter) = limiter else {
            return Ok(());
        };
        let (start, mut piece) = (self.at, 0);
        let mut rest = self.frames.get(start..).unwrap_or_default();
        while let Some(frame) = split(rest)?
            && (piece == 0 || piece + HEADER + frame.datagram.len() <= PIECE)
        {
            piece += HEADER + frame.datagram.len();
            rest = frame.rest;
        }
        self.paid = start + piece;
        self.pause = limiter.pause(piece);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
