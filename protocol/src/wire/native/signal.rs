//! Signals as JSON lines.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{BadLine, Head, clip, fingerprints_in, fingerprints_out, read_line, write_line};
use crate::limits;
use crate::wire::signal::{BadSignal, Signal};

impl Signal {
    /// Appends the native line, `\n` included; at most [`limits::CONTROL_LINE`] bytes. Nothing for
    /// what is said on data connections here.
    pub fn encode_line(&self, out: &mut Vec<u8>) {
        let wire = match self {
            Self::Ping { seq } => SignalLine::Ping {
                seq: seq.unwrap_or(0),
            },
            Self::Pong { seq } => SignalLine::Pong {
                seq: seq.unwrap_or(0),
            },
            Self::Demand { n } => SignalLine::Demand { n: *n },
            Self::Cert { fp } => SignalLine::Cert {
                fp: fingerprints_out(fp),
            },
            Self::Flush => SignalLine::Flush,
            Self::Bye { reason, retry_ms } => SignalLine::Bye {
                reason: clip(reason, limits::BYE_REASON),
                retry_ms: *retry_ms,
            },
            Self::Launch { .. } | Self::Verify { .. } => return,
        };
        write_line(&wire, out);
    }

    /// Reads a native line, with or without its `\n`. `Ok(None)`: an action unknown here, which is
    /// ignored.
    ///
    /// # Errors
    /// [`BadSignal`], if the line must be dropped.
    pub fn decode_line(line: &[u8]) -> Result<Option<Self>, BadSignal> {
        let head = Head::read(line).map_err(|bad| match bad {
            BadLine::TooLong => BadSignal::TooLong,
            BadLine::Malformed | BadLine::Version { .. } => BadSignal::Malformed,
        })?;
        let Some(&action) = ACTIONS.iter().find(|known| **known == head.action) else {
            return Ok(None);
        };
        let bad = BadSignal::Fields(action);
        let signal = match read_line(line).map_err(|_| bad)? {
            SignalLine::Ping { seq } => Self::Ping { seq: Some(seq) },
            SignalLine::Pong { seq } => Self::Pong { seq: Some(seq) },
            SignalLine::Demand { n } => Self::Demand { n },
            SignalLine::Cert { fp } => Self::Cert {
                fp: fingerprints_in(&fp).ok_or(bad)?,
            },
            SignalLine::Flush => Self::Flush,
            SignalLine::Bye { reason, retry_ms } => Self::Bye {
                reason: clip(&reason, limits::BYE_REASON),
                retry_ms,
            },
        };
        Ok(Some(signal))
    }
}

/// What [`SignalLine`] knows.
const ACTIONS: [&str; 6] = ["ping", "pong", "demand", "cert", "flush", "bye"];

#[derive(Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
enum SignalLine {
    Ping {
        seq: u64,
    },
    Pong {
        seq: u64,
    },
    Demand {
        n: u32,
    },
    Cert {
        fp: Vec<String>,
    },
    Flush,
    Bye {
        #[serde(default)]
        reason: String,
        #[serde(default)]
        retry_ms: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;

    use proptest::prelude::*;

    use crate::terms::Fingerprint;

    fn line(signal: &Signal) -> String {
        let mut out = Vec::new();
        signal.encode_line(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn golden_lines() {
        let cert = format!("{{\"action\":\"cert\",\"fp\":[\"{}\"]}}\n", "0f".repeat(32));
        for (signal, text) in [
            (
                Signal::Ping { seq: Some(7) },
                "{\"action\":\"ping\",\"seq\":7}\n",
            ),
            (
                Signal::Pong { seq: Some(7) },
                "{\"action\":\"pong\",\"seq\":7}\n",
            ),
            (Signal::Demand { n: 3 }, "{\"action\":\"demand\",\"n\":3}\n"),
            (
                Signal::Cert {
                    fp: vec![Fingerprint([0x0f; 32])],
                },
                &cert,
            ),
            (Signal::Flush, "{\"action\":\"flush\"}\n"),
            (
                Signal::Bye {
                    reason: "stop".into(),
                    retry_ms: 100,
                },
                "{\"action\":\"bye\",\"reason\":\"stop\",\"retry_ms\":100}\n",
            ),
        ] {
            assert_eq!(line(&signal), text);
            assert_eq!(Signal::decode_line(text.as_bytes()), Ok(Some(signal)));
        }
    }

    #[test]
    fn unknown_actions_and_fields_are_ignored() {
        assert_eq!(
            Signal::decode_line(br#"{"action":"dance","seq":"x"}"#),
            Ok(None)
        );
        assert_eq!(
            Signal::decode_line(br#"{"x":1,"seq":9,"action":"ping"}"#),
            Ok(Some(Signal::Ping { seq: Some(9) }))
        );
        assert_eq!(
            Signal::decode_line(br#"{"action":"flush","why":null}"#),
            Ok(Some(Signal::Flush))
        );
        assert_eq!(
            Signal::decode_line(br#"{"action":"bye"}"#),
            Ok(Some(Signal::Bye {
                reason: String::new(),
                retry_ms: 0
            }))
        );
    }

    #[test]
    fn bad_lines_say_what_is_bad() {
        for (text, bad) in [
            ("", BadSignal::Malformed),
            ("ping", BadSignal::Malformed),
            ("[\"ping\"]", BadSignal::Malformed),
            ("{\"seq\":1}", BadSignal::Malformed),
            ("{\"action\":\"ping\"}", BadSignal::Fields("ping")),
            (
                "{\"action\":\"pong\",\"seq\":-1}",
                BadSignal::Fields("pong"),
            ),
            (
                "{\"action\":\"demand\",\"n\":4294967296}",
                BadSignal::Fields("demand"),
            ),
            (
                "{\"action\":\"cert\",\"fp\":[\"00\"]}",
                BadSignal::Fields("cert"),
            ),
            (
                "{\"action\":\"bye\",\"reason\":1}",
                BadSignal::Fields("bye"),
            ),
        ] {
            assert_eq!(Signal::decode_line(text.as_bytes()), Err(bad), "{text}");
        }
        let long = vec![b' '; limits::CONTROL_LINE + 1];
        assert_eq!(Signal::decode_line(&long), Err(BadSignal::TooLong));
    }

    fn signal() -> impl Strategy<Value = Signal> {
        prop_oneof![
            any::<u64>().prop_map(|seq| Signal::Ping { seq: Some(seq) }),
            any::<u64>().prop_map(|seq| Signal::Pong { seq: Some(seq) }),
            any::<u32>().prop_map(|n| Signal::Demand { n }),
            prop::collection::vec(any::<[u8; 32]>().prop_map(Fingerprint), 0..=16)
                .prop_map(|fp| Signal::Cert { fp }),
            Just(Signal::Flush),
            ("\\PC{0,60}", any::<u64>())
                .prop_map(|(reason, retry_ms)| Signal::Bye { reason, retry_ms }),
        ]
    }

    proptest! {
        #[test]
        fn signals_survive_the_wire(signal in signal()) {
            let text = line(&signal);
            prop_assert!(text.len() <= limits::CONTROL_LINE);
            prop_assert_eq!(text.find('\n'), Some(text.len() - 1));
            prop_assert_eq!(Signal::decode_line(text.as_bytes()), Ok(Some(signal)));
        }
    }

    #[test]
    fn the_fullest_lines_fit() {
        let bye = Signal::Bye {
            reason: "\"".repeat(10_000),
            retry_ms: u64::MAX,
        };
        let cert = Signal::Cert {
            fp: vec![Fingerprint([0xff; 32]); 100],
        };
        for signal in [bye, cert] {
            let text = line(&signal);
            assert!(text.len() <= limits::CONTROL_LINE);
            assert!(matches!(Signal::decode_line(text.as_bytes()), Ok(Some(_))));
        }
    }
}
