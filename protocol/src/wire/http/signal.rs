//! Control lines: `base64(xor(json, key)) ‖ "\n"`.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::key::TunnelKey;
use crate::limits;
use crate::terms::{DataId, Fingerprint, Transport};
use crate::wire::hex;
use crate::wire::launch::Launch;
use crate::wire::signal::{BadSignal, Signal};

/// How a fingerprint is spelled in `verify`. Both are read, whichever is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrintForm {
    /// `sha256:` and 32 upper-case pairs joined by `:`.
    Pairs,
    /// `sha256:` and 64 lower-case digits.
    Digits,
}

/// Signals of one session. The XOR hides nothing from anybody who sees two lines: it is there
/// because the peer expects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalCodec {
    key: TunnelKey,
    prints: PrintForm,
}

/// Empty fields are absent.
#[derive(Default, Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    action: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    remote: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    fp: String,
}

impl SignalCodec {
    /// Signals under this tunnel key.
    #[must_use]
    pub const fn new(key: TunnelKey, prints: PrintForm) -> Self {
        Self { key, prints }
    }

    /// Appends the line, `\n` included; nothing for `demand`, `cert` and `bye`.
    pub fn encode(&self, signal: &Signal, out: &mut Vec<u8>) {
        let mut line = Line::default();
        match signal {
            Signal::Ping { .. } => line.action = "ping".into(),
            Signal::Pong { .. } => line.action = "pong".into(),
            Signal::Flush => line.action = "flush".into(),
            Signal::Launch { id, launch } => {
                line.action = match launch.transport {
                    Transport::Tcp => "tcp".into(),
                    Transport::Udp => "udp".into(),
                };
                line.remote = launch.source.as_str().into();
                line.id = id.to_string();
            }
            Signal::Verify { id, fp } => {
                line.action = "verify".into();
                line.id = id.to_string();
                line.fp = fp.map(|print| self.print(print)).unwrap_or_default();
            }
            Signal::Demand { .. } | Signal::Cert { .. } | Signal::Bye { .. } => return,
        }
        // A struct of texts always serializes.
        let mut json = serde_json::to_vec(&line).unwrap_or_default();
        self.xor(&mut json);
        out.extend_from_slice(BASE64.encode(&json).as_bytes());
        out.push(b'\n');
    }

    /// Reads a line without its `\n`. `Ok(None)`: an action unknown here.
    ///
    /// # Errors
    /// [`BadSignal`], if the line must be dropped: another key, most of all.
    pub fn decode(&self, line: &[u8]) -> Result<Option<Signal>, BadSignal> {
        if line.len() > limits::CONTROL_LINE {
            return Err(BadSignal::TooLong);
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut json = BASE64.decode(line).map_err(|_| BadSignal::Malformed)?;
        self.xor(&mut json);
        if json.first() != Some(&b'{') {
            return Err(BadSignal::Malformed);
        }
        let line: Line<'_> = serde_json::from_slice(&json).map_err(|_| BadSignal::Malformed)?;
        let launch = |name, transport| {
            Ok(Some(Signal::Launch {
                id: DataId::from_hex(&line.id).ok_or(BadSignal::Fields(name))?,
                launch: Launch::from_text(transport, &line.remote),
            }))
        };
        match &*line.action {
            "ping" => Ok(Some(Signal::Ping { seq: None })),
            "pong" => Ok(Some(Signal::Pong { seq: None })),
            "flush" => Ok(Some(Signal::Flush)),
            "tcp" => launch("tcp", Transport::Tcp),
            "udp" => launch("udp", Transport::Udp),
            "verify" => verify(&line).map(Some).ok_or(BadSignal::Fields("verify")),
            _ => Ok(None),
        }
    }

    fn xor(&self, bytes: &mut [u8]) {
        let key = self.key.reveal().bytes().cycle();
        for (byte, key) in bytes.iter_mut().zip(key) {
            *byte ^= key;
        }
    }

    fn print(&self, print: Fingerprint) -> String {
        match self.prints {
            PrintForm::Digits => format!("{PREFIX}{print}"),
            PrintForm::Pairs => {
                let pairs: Vec<String> = print.0.iter().map(|b| format!("{b:02X}")).collect();
                format!("{PREFIX}{}", pairs.join(":"))
            }
        }
    }
}

const PREFIX: &str = "sha256:";

fn verify(line: &Line<'_>) -> Option<Signal> {
    let id = DataId::from_hex(&line.id)?;
    if line.fp.is_empty() {
        return Some(Signal::Verify { id, fp: None });
    }
    let digits = line.fp.strip_prefix(PREFIX)?;
    let plain: String = digits
        .chars()
        .filter(|&c| c != ':')
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let fp = Some(Fingerprint(hex::decode(&plain)?));
    Some(Signal::Verify { id, fp })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(prints: PrintForm) -> SignalCodec {
        SignalCodec::new(TunnelKey::new("KEY"), prints)
    }

    fn line(codec: &SignalCodec, signal: &Signal) -> String {
        let mut out = Vec::new();
        codec.encode(signal, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The examples of the specification, and lines that a 1.14 server sent.
    #[test]
    fn golden_lines_both_ways() {
        let codec = codec(PrintForm::Pairs);
        let launch = |transport, source, id| Signal::Launch {
            id: DataId(id),
            launch: Launch::from_text(transport, source),
        };
        for (signal, text) in [
            (Signal::Ping { seq: None }, "MGc4KDEwJCt7cWcpIis+aTg="),
            (Signal::Pong { seq: None }, "MGc4KDEwJCt7cWcpJCs+aTg="),
            (Signal::Flush, "MGc4KDEwJCt7cWc/JzAqI2ck"),
            (
                launch(Transport::Tcp, "127.0.0.1:50000", 0x0a1b_2c3d),
                "MGc4KDEwJCt7cWctKDV7Z2crLig2PyB7cWdoeXJ3e2tpZXRjfnVpe3V7Z2cwL2djaXU4eidrKHY9aTg=",
            ),
            (
                launch(Transport::Udp, "127.0.0.1:35486", 0xda95_87df),
                "MGc4KDEwJCt7cWcsLzV7Z2crLig2PyB7cWdoeXJ3e2tpZXRjeHBtc3N7Z2cwL2djaSE4cnBhfCE/aTg=",
            ),
        ] {
            assert_eq!(line(&codec, &signal), format!("{text}\n"));
            assert_eq!(codec.decode(text.as_bytes()), Ok(Some(signal)));
        }
    }

    #[test]
    fn fingerprints_are_written_in_one_form_and_read_in_both() {
        let fp = Fingerprint(core::array::from_fn(|n| u8::try_from(n * 8).unwrap()));
        let verify = Signal::Verify {
            id: DataId(1),
            fp: Some(fp),
        };
        let (pairs, digits) = (codec(PrintForm::Pairs), codec(PrintForm::Digits));
        let text = |codec: &SignalCodec| {
            let mut json = BASE64
                .decode(line(codec, &verify).trim_end().as_bytes())
                .unwrap();
            codec.xor(&mut json);
            String::from_utf8(json).unwrap()
        };
        let head = "{\"action\":\"verify\",\"id\":\"00000001\",\"fp\":\"sha256:";
        assert!(text(&pairs).starts_with(&format!("{head}00:08:10:18:20")));
        assert!(text(&pairs).ends_with(":F0:F8\"}"));
        assert!(text(&digits).starts_with(&format!("{head}0008101820")));
        for (from, to) in [(&pairs, &digits), (&digits, &pairs)] {
            let line = line(from, &verify);
            assert_eq!(
                to.decode(line.trim_end().as_bytes()),
                Ok(Some(verify.clone()))
            );
        }
        let unknown = Signal::Verify {
            id: DataId(1),
            fp: None,
        };
        let empty = line(&pairs, &unknown);
        assert_eq!(pairs.decode(empty.trim_end().as_bytes()), Ok(Some(unknown)));
    }

    #[test]
    fn what_is_no_signal_is_told_apart_from_what_is_unknown() {
        let codec = codec(PrintForm::Pairs);
        let encode = |json: &str| {
            let mut bytes = json.as_bytes().to_vec();
            codec.xor(&mut bytes);
            BASE64.encode(&bytes)
        };
        for (json, expected) in [
            ("{\"action\":\"later\"}", Ok(None)),
            ("{}", Ok(None)),
            ("{\"action\":\"tcp\"}", Err(BadSignal::Fields("tcp"))),
            (
                "{\"action\":\"verify\",\"id\":\"00000001\",\"fp\":\"md5:00\"}",
                Err(BadSignal::Fields("verify")),
            ),
            ("[\"ping\"]", Err(BadSignal::Malformed)),
            ("ping", Err(BadSignal::Malformed)),
        ] {
            assert_eq!(codec.decode(encode(json).as_bytes()), expected, "{json}");
        }
        let other = SignalCodec::new(TunnelKey::new("OTHER"), PrintForm::Pairs);
        let foreign = line(&other, &Signal::Flush);
        assert_eq!(
            codec.decode(foreign.trim_end().as_bytes()),
            Err(BadSignal::Malformed)
        );
        assert_eq!(codec.decode(b"no base64!"), Err(BadSignal::Malformed));
        assert_eq!(codec.decode(b""), Err(BadSignal::Malformed));
    }

    #[test]
    fn a_line_has_a_limit() {
        let codec = codec(PrintForm::Pairs);
        let longest = [b'!'; limits::CONTROL_LINE];
        assert_eq!(codec.decode(&longest), Err(BadSignal::Malformed));
        let longer = [b'!'; limits::CONTROL_LINE + 1];
        assert_eq!(codec.decode(&longer), Err(BadSignal::TooLong));
    }

    #[test]
    fn what_the_peer_has_no_words_for_is_not_said() {
        let codec = codec(PrintForm::Pairs);
        assert_eq!(line(&codec, &Signal::Demand { n: 3 }), "");
        assert_eq!(line(&codec, &Signal::Cert { fp: Vec::new() }), "");
    }
}
