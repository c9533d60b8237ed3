use alloc::string::String;
use alloc::vec::Vec;

use crate::dialect::Dialect;
use crate::handshake::legacy::{LegacyKeys, Spoken};
use crate::key::TunnelKey;
use crate::limits;
use crate::session::{Input, Output, Session};
use crate::proof::Side;
use crate::terms::{DataId, DataTls, Fingerprint, Transport};
use crate::testing::contract::{Machine, check_after_mutation};
use crate::testing::script::Script;
use crate::time::{Duration, Instant};
use crate::wire::codec::Codec;
use crate::wire::launch::Launch;
use crate::wire::signal::Signal;

/// Bytes: the report interval, the dialect, then steps: signals and noise from the peer in pieces, signals to
/// it, how much it reads, time, the end of the stream.
///
/// # Panics
/// If the contract is broken, a session ends twice or speaks after its end, its buffer outgrows its
/// limit, a ping is not answered, or silence is not noticed in time.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut now = Instant::default();
    let interval = script.duration();
    let dialect = dialect(&mut script);
    let patience = dialect.capabilities.liveness.silence(interval);
    let mut run = Run {
        session: Session::new(&dialect, interval, now),
        codec: dialect.codec,
        outputs: Vec::new(),
        ended: false,
        heard: now,
    };
    while !script.is_empty() {
        run.step(&mut script, &mut now);
        check_after_mutation(&mut run, now);
        run.check(patience, now);
    }
}

struct Run {
    session: Session,
    codec: Codec,
    outputs: Vec<Output>,
    ended: bool,
    heard: Instant,
}

impl Run {
    fn step(&mut self, script: &mut Script<'_>, now: &mut Instant) {
        match script.u32_below(8) {
            0 | 1 => {
                let mut line = Vec::new();
                self.codec.encode(&signal(script), &mut line);
                let pieces = script.u32_below(4);
                let at = usize::from(script.u8()) % line.len().max(1);
                let (head, tail) = line.split_at(if pieces == 0 { at } else { 0 });
                self.session.handle_input(*now, Input::Control(head));
                self.session.handle_input(*now, Input::Control(tail));
            }
            2 => {
                let len = usize::from(script.u8());
                let noise = script.bytes(len);
                self.session.handle_input(*now, Input::Control(noise));
            }
            3 => {
                let flood = script.u32_below(2) == 0;
                let bytes = alloc::vec![if flood { b'x' } else { b'\n' }; usize::from(script.u16()) % 6000];
                self.session.handle_input(*now, Input::Control(&bytes));
            }
            4 => {
                let signal = signal(script);
                for _ in 0..=script.u8() {
                    self.session.handle_input(*now, Input::Send(signal.clone()));
                }
            }
            5 => {
                *now = now.after(script.duration());
                self.session.handle_timeout(*now);
            }
            6 => self.session.control_sent(usize::from(script.u16())),
            _ if script.u8() < 32 => self.session.handle_input(*now, Input::ControlEof),
            _ => self.answers_a_ping(*now, script.u64()),
        }
    }

    /// On a line of its own, whatever was left of the one before.
    fn answers_a_ping(&mut self, now: Instant, seq: u64) {
        self.session.control_sent(usize::MAX);
        self.session.handle_input(now, Input::Control(b"\n"));
        let mut ping = Vec::new();
        self.codec.encode(&Signal::Ping { seq: Some(seq) }, &mut ping);
        let was_open = !self.ended && self.session.wants_control();
        self.session.handle_input(now, Input::Control(&ping));
        let mut pong = Vec::new();
        self.codec.encode(&Signal::Pong { seq: Some(seq) }, &mut pong);
        assert!(!was_open || self.session.control_out().ends_with(&pong));
    }

    fn check(&mut self, patience: Duration, now: Instant) {
        for output in self.outputs.drain(..) {
            match output {
                Output::Heard => self.heard = now,
                Output::Certificates(fp) => assert!(fp.len() <= limits::FINGERPRINTS),
                Output::Leaving { reason, .. } => assert!(reason.len() <= limits::BYE_REASON),
                Output::Launch { launch, .. } => {
                    assert!(launch.source.len() <= limits::LAUNCH_SOURCE);
                }
                Output::Verify { .. } => {}
                Output::RoundTrip(_) | Output::Demand(_) | Output::Flush => {}
                Output::Skipped | Output::Closed(_) => {}
            }
        }
        let waiting = self.session.control_out().len();
        // What crossed the limit is still there, at most one line.
        assert!(waiting <= limits::CONTROL_BACKLOG + limits::CONTROL_LINE);
        assert!(self.ended || waiting <= limits::CONTROL_BACKLOG);
        if self.ended {
            assert!(!self.session.wants_control());
            return;
        }
        assert!(now < self.heard.after(patience), "silence is the end");
        let next = self.session.poll_timeout();
        assert!(next.is_some_and(|next| next <= self.heard.after(patience)));
    }
}

impl Machine for Run {
    fn handle_timeout(&mut self, now: Instant) {
        self.session.handle_timeout(now);
    }

    fn poll_output_is_some(&mut self) -> bool {
        let output = self.session.poll_output();
        if let Some(output) = &output {
            assert!(!self.ended, "nothing comes after the end");
            self.ended = matches!(output, Output::Closed(_));
        }
        let is_some = output.is_some();
        self.outputs.extend(output);
        is_some
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.session.poll_timeout()
    }

    fn ended(&self) -> bool {
        // Time may pass as it likes after the end; the script's steps go on, too.
        false
    }
}

fn dialect(script: &mut Script<'_>) -> Dialect {
    let keys = LegacyKeys::new(&TunnelKey::new("KEY"), None);
    let spoken = match script.u32_below(4) {
        0 => return Dialect::native(),
        1 => Spoken::Http,
        2 => Spoken::Https,
        _ => Spoken::Classic,
    };
    let dialect = keys.dialect(spoken, DataTls::Pinned, Side::Server);
    dialect.unwrap_or_else(|_| Dialect::native())
}

fn signal(script: &mut Script<'_>) -> Signal {
    match script.u32_below(8) {
        0 => Signal::Ping {
            seq: Some(script.u64()),
        },
        1 => Signal::Pong {
            seq: Some(script.u32_below(4).into()),
        },
        2 => Signal::Demand { n: script.u32() },
        3 => Signal::Cert {
            fp: (0..script.u32_below(20))
                .map(|_| Fingerprint(script.array()))
                .collect(),
        },
        4 => Signal::Flush,
        5 => Signal::Launch {
            id: DataId(script.u32()),
            launch: Launch::from_text(
                if script.bool() { Transport::Tcp } else { Transport::Udp },
                &String::from_utf8_lossy(script.bytes(16)),
            ),
        },
        6 => Signal::Verify {
            id: DataId(script.u32()),
            fp: script.bool().then(|| Fingerprint(script.array())),
        },
        _ => Signal::Bye {
            reason: String::from_utf8_lossy(script.bytes(8)).repeat(script.u8().into()),
            retry_ms: script.u64(),
        },
    }
}
