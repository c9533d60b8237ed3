//! One control connection after its handshake: signals, liveness and goodbye (`wire.md` §2.2).
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
//! The machine holds the bytes that wait for the peer ([`Session::control_out`]), so that it can
//! bound them. It answers pings by itself and reports everything else.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::limits;
use crate::terms::Fingerprint;
use crate::time::Instant;
use crate::wire::line::LineDecoder;
use crate::wire::signal::Signal;

/// While more than this waits for the peer, its lines are not read either.
const PAUSE_READING: usize = limits::CONTROL_BACKLOG / 4;

/// One session's control channel.
#[derive(Debug)]
pub struct Session {
    interval: Duration,
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
    /// No line for [`limits::SILENT_INTERVALS`] report intervals.
    #[error("no line from the peer for three report intervals")]
    Silent,
    /// A line outgrew [`limits::CONTROL_LINE`].
    #[error("the peer sent a control line above 4096 bytes")]
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
    pub fn new(report_interval: Duration, now: Instant) -> Self {
        let interval = report_interval.max(Duration::from_millis(1));
        let mut session = Self {
            interval,
            decoder: LineDecoder::new(limits::CONTROL_LINE),
            outputs: VecDeque::new(),
            control: Vec::new(),
            written: 0,
            now,
            next_ping: now,
            silent_at: now.after(interval.saturating_mul(limits::SILENT_INTERVALS)),
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
                let silence = self.interval.saturating_mul(limits::SILENT_INTERVALS);
                self.silent_at = self.now.after(silence);
                self.outputs.push_back(Output::Heard);
            }
            match Signal::decode_line(&line) {
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
            Signal::Pong { seq } if seq == self.seq => {
                if let Some(sent) = self.pinged.take() {
                    self.outputs
                        .push_back(Output::RoundTrip(self.now.saturating_since(sent)));
                }
            }
            Signal::Pong { .. } => {}
            Signal::Demand { n } => self.outputs.push_back(Output::Demand(n)),
            Signal::Cert { fp } => self.outputs.push_back(Output::Certificates(fp)),
            Signal::Flush => self.outputs.push_back(Output::Flush),
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
        self.send(&Signal::Ping { seq: self.seq });
    }

    fn send(&mut self, signal: &Signal) {
        signal.encode_line(&mut self.control);
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
mod tests {
    use super::*;
    use alloc::vec;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn drain(session: &mut Session) -> Vec<Output> {
        core::iter::from_fn(|| session.poll_output()).collect()
    }

    fn text(session: &mut Session) -> String {
        let text = String::from_utf8(session.control_out().to_vec()).unwrap();
        session.control_sent(text.len());
        text
    }

    fn open() -> Session {
        let mut session = Session::new(INTERVAL, at(0));
        assert_eq!(text(&mut session), "{\"action\":\"ping\",\"seq\":1}\n");
        session
    }

    #[test]
    fn a_ping_is_answered_and_a_pong_gives_the_round_trip() {
        let mut session = open();
        session.handle_input(at(30), Input::Control(b"{\"action\":\"pong\",\"seq\":1}\n"));
        assert_eq!(
            drain(&mut session),
            [Output::Heard, Output::RoundTrip(Duration::from_millis(30))]
        );
        session.handle_input(at(31), Input::Control(b"{\"action\":\"pong\",\"seq\":1}\n"));
        assert_eq!(
            drain(&mut session),
            [Output::Heard],
            "a second pong says nothing new"
        );
        session.handle_input(
            at(32),
            Input::Control(b"{\"action\":\"ping\",\"seq\":77}\n"),
        );
        drain(&mut session);
        assert_eq!(text(&mut session), "{\"action\":\"pong\",\"seq\":77}\n");
    }

    #[test]
    fn three_silent_intervals_end_it_unclean() {
        let mut session = open();
        for millis in [5_000, 10_000] {
            assert_eq!(session.poll_timeout(), Some(at(millis)));
            session.handle_timeout(at(millis));
            assert_eq!(drain(&mut session), vec![]);
        }
        assert_eq!(session.poll_timeout(), Some(at(15_000)));
        session.handle_timeout(at(15_000));
        assert_eq!(drain(&mut session), [Output::Closed(End::Silent)]);
        assert!(!End::Silent.is_clean());
        assert_eq!(session.poll_timeout(), None);
    }

    #[test]
    fn any_line_counts_as_life_even_one_that_is_not_understood() {
        let mut session = open();
        session.handle_input(
            at(9_000),
            Input::Control(b"{\"action\":\"later\"}\nnoise\n"),
        );
        assert_eq!(drain(&mut session), [Output::Heard, Output::Skipped]);
        session.handle_timeout(at(15_001));
        assert_eq!(drain(&mut session), vec![]);
    }

    #[test]
    fn an_end_after_bye_is_clean_whoever_said_it() {
        let bye = || Signal::Bye {
            reason: "stop".into(),
            retry_ms: 0,
        };
        let mut ours = open();
        ours.handle_input(at(1), Input::Send(bye()));
        ours.handle_input(at(2), Input::ControlEof);
        assert_eq!(drain(&mut ours), [Output::Closed(End::Graceful)]);

        let mut theirs = open();
        let line = b"{\"action\":\"bye\",\"reason\":\"stop\",\"retry_ms\":200}\n";
        theirs.handle_input(at(1), Input::Control(line));
        theirs.handle_input(at(2), Input::ControlEof);
        let retry_after = Duration::from_millis(200);
        let reason = "stop".into();
        assert_eq!(
            drain(&mut theirs),
            [
                Output::Heard,
                Output::Leaving {
                    reason,
                    retry_after
                },
                Output::Closed(End::Graceful)
            ]
        );

        let mut neither = open();
        neither.handle_input(at(1), Input::ControlEof);
        assert_eq!(drain(&mut neither), [Output::Closed(End::Lost)]);
        neither.handle_input(at(3), Input::Control(b"{\"action\":\"flush\"}\n"));
        assert_eq!(drain(&mut neither), vec![], "the end is final");
    }

    #[test]
    fn a_peer_that_never_reads_is_paused_then_dropped() {
        let mut session = open();
        while session.wants_control() {
            session.handle_input(at(1), Input::Control(b"{\"action\":\"ping\",\"seq\":9}\n"));
            drain(&mut session);
        }
        assert!(session.control_out().len() < limits::CONTROL_BACKLOG / 2);
        loop {
            session.handle_input(at(1), Input::Send(Signal::Flush));
            if let Some(end) = drain(&mut session).pop() {
                assert_eq!(end, Output::Closed(End::Backlog));
                break;
            }
        }
    }

    #[test]
    fn a_peer_that_reads_all_but_a_byte_does_not_make_the_buffer_grow() {
        let mut session = open();
        for seq in 0..20_000 {
            session.handle_input(at(1), Input::Send(Signal::Pong { seq }));
            session.control_sent(session.control_out().len() - 1);
        }
        assert_eq!(drain(&mut session), vec![]);
        assert!(session.control.len() <= 2 * limits::CONTROL_BACKLOG);
    }

    #[test]
    fn lines_before_an_endless_one_count_however_the_bytes_are_cut() {
        let mut bytes = b"{\"action\":\"flush\"}\n".to_vec();
        bytes.extend([b'x'; limits::CONTROL_LINE]);
        let mut session = open();
        session.handle_input(at(1), Input::Control(&bytes));
        assert_eq!(
            drain(&mut session),
            [
                Output::Heard,
                Output::Flush,
                Output::Closed(End::LineTooLong)
            ]
        );
    }

    #[test]
    fn an_endless_report_interval_is_no_overflow() {
        let session = Session::new(Duration::MAX, at(1));
        assert!(session.poll_timeout().is_some_and(|due| due > at(1)));
    }

    #[test]
    fn an_endless_line_ends_the_session() {
        let mut session = open();
        session.handle_input(at(1), Input::Control(&[b'x'; limits::CONTROL_LINE + 1]));
        assert_eq!(drain(&mut session), [Output::Closed(End::LineTooLong)]);
    }
}
