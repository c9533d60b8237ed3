//! One direction of a TCP relay.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use protocol::config::Environment;
use protocol::sniff::{Kind, Verdict};
use protocol::time::Instant;
use smol::io::AsyncWrite as _;

use super::buffer::STANDARD;
use super::hand::{Filled, Hand};
use super::splice::Surge;
use super::tcp::FirstBytes;
use super::{Budget, Settings};
use crate::clock::Clock;
use crate::limiter::{Limiter, PIECE};
use crate::net::Stream;
use crate::stats::Counter;

/// What a direction is measured and limited by.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    /// Counts what is read.
    read: Option<&'a Counter>,
    /// Counts what is written.
    written: Option<&'a Counter>,
    limiter: Option<&'a Limiter>,
    /// How much to read at once.
    size: usize,
}

impl<'a> Lane<'a> {
    /// From the near end to the peer.
    pub(crate) fn up(settings: &'a Settings) -> Self {
        let limiter = settings.rx.as_ref();
        Self {
            read: Some(&settings.stats.tcp_rx),
            written: None,
            limiter,
            size: Self::size(settings, limiter),
        }
    }

    /// From the peer to the near end.
    pub(crate) fn down(settings: &'a Settings) -> Self {
        let limiter = settings.tx.as_ref();
        Self {
            read: None,
            written: Some(&settings.stats.tcp_tx),
            limiter,
            size: Self::size(settings, limiter),
        }
    }

    fn size(settings: &Settings, limiter: Option<&Limiter>) -> usize {
        let size = if settings.buffer < Environment::TCP_BUFFER {
            settings.buffer
        } else {
            settings.buffer.max(STANDARD)
        };
        match limiter {
            Some(_) => size.min(PIECE),
            None => size,
        }
    }

    fn count(counter: Option<&Counter>, bytes: usize) {
        if let Some(counter) = counter {
            counter.add_len(bytes);
        }
    }
}

/// Which socket of a direction failed.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The one that is read.
    Source(io::Error),
    /// The one that is written.
    Sink(io::Error),
    /// Its user speaks what is blocked.
    Blocked(Kind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The source has ended; the sink must learn it.
    Closing,
    Done,
}

/// Reads a source and writes a sink until the source ends, then closes the sink's write side.
#[derive(Debug)]
pub(crate) struct Pump {
    stage: Stage,
    hand: Option<Hand>,
    /// Until the source's first bytes have shown what it speaks. Boxed: few relays look.
    first: Option<Box<FirstBytes>>,
    surge: Surge,
    /// Nothing more was to be read: wait for readiness before trying again.
    quiet: bool,
    /// The sink took less than offered: wait for room before trying again.
    blocked: bool,
    /// The sink may hold bytes back (TLS).
    unflushed: bool,
    /// The limiter wants nothing to be sent before then.
    pause: Option<Instant>,
    read: bool,
    wrote: bool,
}

impl Pump {
    /// A pump that first writes `initial`.
    pub(crate) fn new(initial: Vec<u8>) -> Self {
        let hand = Hand::of(initial);
        Self {
            stage: Stage::Open,
            read: hand.is_some(),
            hand,
            first: None,
            surge: Surge::default(),
            quiet: false,
            blocked: false,
            unflushed: false,
            pause: None,
            wrote: false,
        }
    }

    /// The same pump, which looks at the first bytes of its source.
    pub(crate) fn looking_at(mut self, first: Option<FirstBytes>) -> Self {
        self.first = first.map(Box::new);
        self
    }

    /// The same pump, whose source may have ended already.
    pub(crate) fn ended(mut self, ended: bool) -> Self {
        if ended {
            self.stage = Stage::Closing;
        }
        self
    }

    /// The same pump, whose source may have nothing to be read.
    pub(crate) const fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Until when the limiter makes this direction wait.
    pub(crate) const fn pause(&self) -> Option<Instant> {
        self.pause
    }

    /// Whether bytes were read, and written, since the last call.
    pub(crate) const fn take_progress(&mut self) -> (bool, bool) {
        let progress = (self.read, self.wrote);
        (self.read, self.wrote) = (false, false);
        progress
    }

    /// Moves bytes until the direction has ended, must wait, or has spent the budget.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut Stream, &mut Stream),
        lane: &Lane<'_>,
        budget: &mut Budget,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if self.hand.is_some() {
                ready!(self.poll_write(cx, to, lane))?;
                continue;
            }
            match self.stage {
                Stage::Open => {}
                Stage::Closing => {
                    ready!(Pin::new(&mut *to).poll_close(cx)).map_err(Broken::Sink)?;
                    self.stage = Stage::Done;
                    return Poll::Ready(Ok(()));
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
            if budget.is_spent() {
                return Poll::Pending;
            }
            match self.poll_read(cx, (from, to), lane) {
                Poll::Ready(Ok(bytes)) => {
                    budget.spend(bytes);
                    self.look()?;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Source(error))),
                Poll::Pending => {
                    self.flush(cx, to)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once into a borrowed buffer or pipe; what was read is in hand afterwards.
    ///
    /// A read that did not fill the buffer has emptied the socket, so the next one would only say
    /// `WouldBlock`: readiness is awaited at once instead. TLS is tried until it says so itself, and so
    /// is splicing, which may stop short for other reasons.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut Stream, &Stream),
        lane: &Lane<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.quiet {
            ready!(from.poll_read_ready(cx))?;
            self.quiet = false;
        }
        let pipe = self.pipe(from, to, lane);
        let mut hand = pipe.unwrap_or_else(|| Hand::buffer(lane.size));
        let Poll::Ready(filled) = hand.poll_fill(cx, from) else {
            self.quiet = true;
            self.surge.ebb();
            return Poll::Pending;
        };
        let bytes = match filled? {
            Filled::End => {
                self.stage = Stage::Closing;
                return Poll::Ready(Ok(0));
            }
            Filled::Copied { bytes, full } => {
                self.surge.copied(full);
                self.quiet = !full;
                bytes
            }
            Filled::Spliced(bytes) => {
                self.surge.spliced(bytes);
                bytes
            }
            Filled::Refused => {
                self.surge.denied();
                return Poll::Ready(Ok(0));
            }
        };
        Lane::count(lane.read, bytes);
        self.read = true;
        self.hand = Some(hand);
        Poll::Ready(Ok(bytes))
    }

    /// A pipe to read into, if splicing pays and is possible: nobody has to see the bytes, or to hold
    /// them back.
    fn pipe(&mut self, from: &Stream, to: &Stream, lane: &Lane<'_>) -> Option<Hand> {
        let possible = from.is_plain() && to.is_plain() && lane.limiter.is_none();
        if !possible || !self.surge.is_on() || self.first.is_some() {
            return None;
        }
        let pipe = Hand::pipe();
        if pipe.is_none() {
            self.surge.denied();
        }
        pipe
    }

    /// Holds the first bytes back until they show what the source speaks. Its end shows it, too.
    fn look(&mut self) -> Result<(), Broken> {
        let Some(mut first) = self.first.take() else {
            return Ok(());
        };
        if let Some(hand) = self.hand.take() {
            match first.feed(hand.bytes()) {
                Verdict::NeedMore => {
                    self.first = Some(first);
                    return Ok(());
                }
                Verdict::Blocked(kind) => return Err(Broken::Blocked(kind)),
                Verdict::Pass => {}
            }
        }
        self.hand = Hand::of(first.release());
        Ok(())
    }

    /// Writes what is in hand, all of it, when the limiter allows.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Stream,
        lane: &Lane<'_>,
    ) -> Poll<Result<(), Broken>> {
        let Some(hand) = &mut self.hand else {
            return Poll::Ready(Ok(()));
        };
        ready!(pay(hand, &mut self.pause, lane.limiter));
        loop {
            if self.blocked {
                ready!(to.poll_write_ready(cx)).map_err(Broken::Sink)?;
                self.blocked = false;
            }
            let left = hand.len();
            if left == 0 {
                self.hand = None;
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(written) = hand.poll_drain(cx, to) else {
                self.blocked = true;
                return Poll::Pending;
            };
            let written = written.map_err(Broken::Sink)?;
            if written == 0 {
                return Poll::Ready(Err(Broken::Sink(io::ErrorKind::WriteZero.into())));
            }
            Lane::count(lane.written, written);
            self.blocked = written < left;
            self.wrote = true;
            self.unflushed = true;
        }
    }

    /// The source is quiet, so the sink must not hold anything back. Waiting for it keeps nothing up.
    fn flush(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Result<(), Broken> {
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(to).poll_flush(cx)
        {
            flushed.map_err(Broken::Sink)?;
            self.unflushed = false;
        }
        Ok(())
    }
}

/// Pending while the limiter holds back what is in hand; the relay's timer ends that.
fn pay(hand: &mut Hand, pause: &mut Option<Instant>, limiter: Option<&Limiter>) -> Poll<()> {
    let Some(limiter) = limiter else {
        return Poll::Ready(());
    };
    if !hand.paid {
        hand.paid = true;
        *pause = limiter.pause(hand.len());
    }
    if pause.is_some_and(|at| Clock::new().now() < at) {
        return Poll::Pending;
    }
    *pause = None;
    Poll::Ready(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::settings;
    use super::*;

    #[test]
    fn a_small_buffer_is_as_small_as_asked_and_others_are_as_fast_as_they_can_be() {
        for (asked, unlimited, limited) in [
            (512, 512, 512),
            (Environment::TCP_BUFFER - 1, 16_383, 16_383),
            (Environment::TCP_BUFFER, 65_536, PIECE),
            (65_536, 65_536, PIECE),
            (100_000, 100_000, PIECE),
        ] {
            let mut settings = settings();
            settings.buffer = asked;
            let sizes = |settings: &Settings| (Lane::up(settings).size, Lane::down(settings).size);
            assert_eq!(sizes(&settings), (unlimited, unlimited), "{asked}");
            settings.rx = Some(Limiter::new(125_000));
            assert_eq!(sizes(&settings), (limited, unlimited), "{asked}");
        }
    }
}
