//! One control channel after its handshake: signals, liveness and goodbye (`wire.md` §2.2, §3, §5).
//!
//! ```text
//!            Send(Bye)                    peer's bye
//!   Open ───────────────▶ Leaving ◀────────────────── Open
//!    │                       │
//!    │ silence, end of       │ end of stream
//!    ▼ stream, broken line   ▼
//!  Closed (unclean)        Closed (clean)
//! ```
//!
//! How lines are spelled and how often a peer must speak comes with the session's
//! [`Dialect`]. A `bye` that the peer has no word for still makes the end that follows a clean one.
//!
//! The machine holds the bytes that wait for the peer ([`Session::control_out`]), so that it can
//! bound them. It answers pings by itself and reports everything else.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::dialect::Dialect;
use crate::limits;
use crate::terms::{DataId, Fingerprint};
use crate::time::Instant;
use crate::wire::codec::Codec;
use crate::wire::launch::Launch;
use crate::wire::line::LineDecoder;
use crate::wire::signal::Signal;

/// While more than this waits for the peer, its lines are not read either.
const PAUSE_READING: usize = limits::CONTROL_BACKLOG / 4;

/// One session's control channel.
#[derive(Debug)]
pub struct Session {
    codec: Codec,
    interval: Duration,
    silence: Duration,
    decoder: LineDecoder,
    outputs: VecDeque<Output>,
    control: Vec<u8>,
    written: usize,
    now: Instant,
    next_ping: Instant,
    silent_at: Instant,
    seq: u64,
    pinged: Option<Instant>,
    said_bye: bool,
    heard_bye: bool,
    ended: bool,
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes from the peer.
    Control(&'a [u8]),
    /// The control connection ended or failed.
    ControlEof,
    /// Tell the peer this. A `bye` makes the end that follows a clean one.
    Send(Signal),
}

/// What a session wants done, or has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// At least one line came: the peer is alive.
    Heard,
    /// The peer answered a ping.
    RoundTrip(Duration),
    /// The peer is ingress and short of this many data connections right now.
    Demand(u32),
    /// The server's leaf certificates valid from now on.
    Certificates(Vec<Fingerprint>),
    /// Close idle data connections and refill.
    Flush,
    /// The peer takes no new launches; relays go on.
    Leaving {
        /// The peer's words, for the log.
        reason: String,
        /// When it wants to be tried again.
        retry_after: Duration,
    },
    /// The peer is ingress and launched a user on the data connection `id`.
    Launch {
        /// Which data connection.
        id: DataId,
        /// For whom.
        launch: Launch,
    },
    /// The peer shows what certificate it sees on the data connection `id`.
    Verify {
        /// Which data connection.
        id: DataId,
        /// `None` if it cannot tell.
        fp: Option<Fingerprint>,
    },
    /// Lines that are no signals, or signals of a later version, were dropped.
    Skipped,
    /// The last output: the session is over.
    Closed(End),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// One end said `bye` before the connection ended.
    #[error("graceful end")]
    Graceful,
    /// The connection ended without a `bye`.
    #[error("control connection lost")]
    Lost,
    /// No line for as long as the [`Liveness`](crate::dialect::Liveness) says.
    #[error("no line from the peer for too long")]
    Silent,
    /// A line outgrew [`Codec::max_line`].
    #[error("the peer sent a control line that is too long")]
    LineTooLong,
    /// The peer does not read: [`limits::CONTROL_BACKLOG`] bytes wait for it.
    #[error("the peer does not read its control connection")]
    Backlog,
}

impl End {
    /// Whether relays of the session may trust their connections as before. After an unclean end, a
    /// relay that hears nothing for [`limits::ORPHAN_SILENCE`] is reset.
    #[must_use]
    pub const fn is_clean(self) -> bool {
        matches!(self, Self::Graceful)
    }
}

impl Session {
    /// A session whose handshake has just finished; `report_interval` is `NP_REPORT_INTERVAL`.
    #[must_use]
    pub fn new(dialect: &Dialect, report_interval: Duration, now: Instant) -> Self {
        let liveness = dialect.capabilities.liveness;
        let silence = liveness.silence(report_interval);
        let mut session = Self {
            codec: dialect.codec.clone(),
            interval: liveness.ping_interval(report_interval),
            silence,
            decoder: LineDecoder::new(dialect.codec.max_line()),
            outputs: VecDeque::new(),
            control: Vec::new(),
            written: 0,
            now,
            next_ping: now,
            silent_at: now.after(silence),
            seq: 0,
            pinged: None,
            said_bye: false,
            heard_bye: false,
            ended: false,
        };
        session.ping();
        session
    }

    /// One mutation; drain [`poll_output`](Self::poll_output) afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        self.advance(now);
        if self.ended {
            return;
        }
        match input {
            Input::Control(bytes) => self.on_bytes(bytes),
            Input::ControlEof if self.said_bye || self.heard_bye => self.close(End::Graceful),
            Input::ControlEof => self.close(End::Lost),
            Input::Send(signal) => {
                self.said_bye |= matches!(signal, Signal::Bye { .. });
                self.send(&signal);
            }
        }
    }

    /// Acts on deadlines that have passed; early or repeated calls change nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        if self.ended {
            return;
        }
        if self.now >= self.silent_at {
            self.close(End::Silent);
        } else if self.now >= self.next_ping {
            self.ping();
        }
    }

    /// The next thing to do; `None` when all is done.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.outputs.is_empty() {
            return Some(self.now);
        }
        (!self.ended).then(|| self.next_ping.min(self.silent_at))
    }

    /// Bytes waiting for the peer.
    #[must_use]
    pub fn control_out(&self) -> &[u8] {
        self.control.get(self.written..).unwrap_or_default()
    }

    /// The driver wrote the first `n` bytes of [`control_out`](Self::control_out).
    pub fn control_sent(&mut self, n: usize) {
        self.written = self.written.saturating_add(n).min(self.control.len());
        // A peer that always leaves some bytes unread must not make what it did read stay here.
        if self.written == self.control.len() || self.written >= limits::CONTROL_BACKLOG {
            self.control.drain(..self.written);
            self.written = 0;
        }
    }

    /// Whether the driver should read the control connection: not while the peer leaves our answers
    /// unread.
    #[must_use]
    pub fn wants_control(&self) -> bool {
        !self.ended && self.control_out().len() < PAUSE_READING
    }

    fn on_bytes(&mut self, bytes: &[u8]) {
        let fed = self.decoder.feed(bytes);
        let (mut heard, mut skipped) = (false, false);
        while let Some(line) = self.decoder.poll_line() {
            if !heard {
                heard = true;
                self.silent_at = self.now.after(self.silence);
                self.outputs.push_back(Output::Heard);
            }
            match self.codec.decode(&line) {
                Ok(Some(signal)) => self.on_signal(signal),
                // Said once for all that came together: a peer must not fill the driver's queues.
                Ok(None) | Err(_) if !skipped => {
                    skipped = true;
                    self.outputs.push_back(Output::Skipped);
                }
                Ok(None) | Err(_) => {}
            }
            if self.ended {
                return;
            }
        }
        // After the lines before it: what a stream means does not depend on how it was cut.
        if fed.is_err() {
            self.close(End::LineTooLong);
        }
    }

    fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Ping { seq } => self.send(&Signal::Pong { seq }),
            Signal::Pong { seq } if seq.is_none_or(|seq| seq == self.seq) => {
                if let Some(sent) = self.pinged.take() {
                    self.outputs
                        .push_back(Output::RoundTrip(self.now.saturating_since(sent)));
                }
            }
            Signal::Pong { .. } => {}
            Signal::Demand { n } => self.outputs.push_back(Output::Demand(n)),
            Signal::Cert { fp } => self.outputs.push_back(Output::Certificates(fp)),
            Signal::Flush => self.outputs.push_back(Output::Flush),
            Signal::Launch { id, launch } => {
                self.outputs.push_back(Output::Launch { id, launch });
            }
            Signal::Verify { id, fp } => self.outputs.push_back(Output::Verify { id, fp }),
            Signal::Bye { reason, retry_ms } => {
                self.heard_bye = true;
                let retry_after = Duration::from_millis(retry_ms);
                self.outputs.push_back(Output::Leaving {
                    reason,
                    retry_after,
                });
            }
        }
    }

    fn ping(&mut self) {
        self.seq += 1;
        self.pinged = Some(self.now);
        self.next_ping = self.now.after(self.interval);
        let seq = Some(self.seq);
        self.send(&Signal::Ping { seq });
    }

    fn send(&mut self, signal: &Signal) {
        self.codec.encode(signal, &mut self.control);
        if self.control_out().len() > limits::CONTROL_BACKLOG {
            self.close(End::Backlog);
        }
    }

    fn close(&mut self, why: End) {
        self.ended = true;
        self.outputs.push_back(Output::Closed(why));
    }

    fn advance(&mut self, now: Instant) {
        debug_assert!(now >= self.now, "time goes forward");
        self.now = self.now.max(now);
    }
}

#[cfg(test)]
mod tests;
