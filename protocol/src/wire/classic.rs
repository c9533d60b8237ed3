//! The `classic` generation: XOR-ed lines (`wire.md` §5).

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use crate::key::TunnelKey;
use crate::limits;
use crate::terms::{DataId, DataTls, Flow, Transport};
use crate::wire::launch::Launch;
use crate::wire::signal::{BadSignal, Signal};

const LF: u8 = b'\n';
/// Every byte that a signal or an answer may have.
const ALPHABET: &[u8] = b"#/-+:.[]0123456789abcdefio";

/// A key that the `classic` generation can speak with: each byte of a line is XOR-ed with its
/// length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cipher {
    key: TunnelKey,
    mask: u8,
}

/// A key that does not work here: some byte of a line would become a line feed, and cut it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the tunnel key's length of {0} bytes does not work with the classic generation; \
     use a key of another length"
)]
pub struct BadKey(pub usize);

impl Cipher {
    /// The cipher of this key.
    ///
    /// # Errors
    /// [`BadKey`], if lines would break.
    pub fn new(key: TunnelKey) -> Result<Self, BadKey> {
        let text = key.reveal().as_bytes();
        let len = text.len();
        let mask = u8::try_from(len % 256).unwrap_or(0);
        let breaks = |byte: &u8| byte ^ mask == LF;
        let too_long = len >= limits::CLASSIC_LINE;
        if too_long || ALPHABET.iter().any(breaks) || text.iter().any(breaks) {
            return Err(BadKey(len));
        }
        Ok(Self { key, mask })
    }

    /// Appends the client's line.
    pub fn encode_hello(&self, out: &mut Vec<u8>) {
        self.encode(self.key.reveal(), out);
    }

    /// What a client's line, without its `\n`, is.
    #[must_use]
    pub fn read_hello(&self, line: &[u8]) -> Hello {
        let text = self.xor(line);
        let claimed = core::str::from_utf8(&text).map(TunnelKey::new);
        match claimed {
            // Compared in constant time.
            Ok(claimed) if claimed == self.key => Hello::Right,
            Ok(_)
                if line.len() < limits::CLASSIC_GUESS
                    && text.iter().all(|byte| (b' '..=b'~').contains(byte)) =>
            {
                Hello::Wrong
            }
            Ok(_) | Err(_) => Hello::Noise,
        }
    }

    /// Appends the server's answer.
    pub fn encode_answer(&self, flow: Flow, tls: DataTls, out: &mut Vec<u8>) {
        self.encode(&format!("//{}#{}", flow.as_str(), tls.as_str()), out);
    }

    /// Reads the server's answer without its `\n`; `None` if it is none.
    #[must_use]
    pub fn decode_answer(&self, line: &[u8]) -> Option<(Flow, DataTls)> {
        let text = self.text(line)?;
        let (flow, tls) = text.strip_prefix("//")?.split_once('#')?;
        Some((Flow::from_wire(flow)?, DataTls::from_wire(tls)?))
    }

    /// Appends the line of a signal, `\n` included; nothing for those that have none.
    pub fn encode_signal(&self, signal: &Signal, out: &mut Vec<u8>) {
        match signal {
            Signal::Ping { .. } => self.encode("#i", out),
            Signal::Pong { .. } => self.encode("#o", out),
            Signal::Flush => self.encode("#0", out),
            Signal::Launch { id, launch } => match launch.transport {
                Transport::Tcp => self.encode(&format!("//{id}#1"), out),
                Transport::Udp => {
                    let source = without_zone(&launch.source);
                    self.encode(&format!("//{source}/{id}#2"), out);
                }
            },
            Signal::Demand { .. }
            | Signal::Cert { .. }
            | Signal::Bye { .. }
            | Signal::Verify { .. } => {}
        }
    }

    /// Reads a signal's line without its `\n`. `Ok(None)`: an action unknown here.
    ///
    /// # Errors
    /// [`BadSignal`], if the line must be dropped.
    pub fn decode_signal(&self, line: &[u8]) -> Result<Option<Signal>, BadSignal> {
        if line.len() > limits::CLASSIC_LINE {
            return Err(BadSignal::TooLong);
        }
        let text = self.text(line).ok_or(BadSignal::Malformed)?;
        let (body, action) = text.split_once('#').ok_or(BadSignal::Malformed)?;
        let launch = |name, transport, source: &str, id: &str| {
            Ok(Some(Signal::Launch {
                id: DataId::from_hex(id).ok_or(BadSignal::Fields(name))?,
                launch: Launch::from_text(transport, source),
            }))
        };
        let body = body.strip_prefix("//").unwrap_or(body);
        match action {
            "i" => Ok(Some(Signal::Ping { seq: None })),
            "o" => Ok(Some(Signal::Pong { seq: None })),
            "0" => Ok(Some(Signal::Flush)),
            "1" => launch("#1", Transport::Tcp, "", body),
            "2" => {
                let (source, id) = body.split_once('/').ok_or(BadSignal::Fields("#2"))?;
                launch("#2", Transport::Udp, source, id)
            }
            _ => Ok(None),
        }
    }

    fn encode(&self, text: &str, out: &mut Vec<u8>) {
        let line = self.xor(text.as_bytes());
        // Only a source address that is none could break it.
        if !line.contains(&LF) && line.len() < limits::CLASSIC_LINE {
            out.extend_from_slice(&line);
            out.push(LF);
        }
    }

    fn text(&self, line: &[u8]) -> Option<String> {
        String::from_utf8(self.xor(line)).ok()
    }

    fn xor(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().map(|byte| byte ^ self.mask).collect()
    }
}

/// What a client's first line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The key.
    Right,
    /// Another key.
    Wrong,
    /// Nothing that anybody would take for a key.
    Noise,
}

/// An IPv6 address as a URL's host may spell it.
fn without_zone(source: &str) -> String {
    match (source.split_once('%'), source.split_once(']')) {
        (Some((address, _)), Some((_, port))) => format!("{address}]{port}"),
        _ => source.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher() -> Cipher {
        Cipher::new(TunnelKey::new("KEY")).unwrap()
    }

    fn written(write: impl Fn(&Cipher, &mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&cipher(), &mut out);
        out
    }

    /// The examples of the specification.
    #[test]
    fn golden_lines_both_ways() {
        let cipher = cipher();
        assert_eq!(written(Cipher::encode_hello), b"\x48\x46\x5a\x0a");
        assert_eq!(cipher.read_hello(b"\x48\x46\x5a"), Hello::Right);
        let answer = written(|c, out| c.encode_answer(Flow::Reverse, DataTls::Plain, out));
        assert_eq!(answer, b"\x2c\x2c\x2e\x20\x33\x0a");
        assert_eq!(
            cipher.decode_answer(b"\x2c\x2c\x2e\x20\x33"),
            Some((Flow::Reverse, DataTls::Plain))
        );
        let launch = |id, transport, source| Signal::Launch {
            id: DataId(id),
            launch: Launch::from_text(transport, source),
        };
        for (signal, line) in [
            (Signal::Ping { seq: None }, &b"\x20\x6a\x0a"[..]),
            (Signal::Pong { seq: None }, b"\x20\x6c\x0a"),
            (Signal::Flush, b"\x20\x33\x0a"),
            (
                launch(0x0a1b_2c3d, Transport::Tcp, ""),
                b"\x2c\x2c\x33\x62\x32\x61\x31\x60\x30\x67\x20\x32\x0a",
            ),
            // What a 1.5 server sent.
            (
                launch(0x6d70_aa66, Transport::Udp, "127.0.0.1:34823"),
                b"\x2c\x2c214-3-3-2907;10,5g43bb55 1\x0a",
            ),
        ] {
            let out = written(|cipher, out| cipher.encode_signal(&signal, out));
            assert_eq!(out, line, "{signal:?}");
            let line = line.strip_suffix(b"\n").unwrap();
            assert_eq!(cipher.decode_signal(line), Ok(Some(signal)));
        }
    }

    #[test]
    fn the_source_of_a_tcp_user_is_not_told() {
        let launch = Launch::from_text(Transport::Tcp, "192.0.2.1:5");
        let signal = Signal::Launch {
            id: DataId(1),
            launch,
        };
        assert_eq!(written(|c, out| c.encode_signal(&signal, out)).len(), 13);
    }

    #[test]
    fn a_zone_is_left_out() {
        assert_eq!(without_zone("[fe80::1%3]:53"), "[fe80::1]:53");
        assert_eq!(without_zone("[::1]:53"), "[::1]:53");
        assert_eq!(without_zone("1.2.3.4:5"), "1.2.3.4:5");
    }

    #[test]
    fn keys_that_would_cut_lines_are_refused() {
        for len in [37, 41, 39, 33, 58, 104, 99, 101, 256 + 37] {
            let key = TunnelKey::new("k".repeat(len));
            assert_eq!(Cipher::new(key), Err(BadKey(len)), "{len}");
        }
        for len in [1, 3, 4, 8, 16, 32, 64, 128, 256] {
            assert!(
                Cipher::new(TunnelKey::new("k".repeat(len))).is_ok(),
                "{len}"
            );
        }
        // Byte by byte, with the three letters' own length: `\t` ^ 3 is a line feed.
        assert_eq!(Cipher::new(TunnelKey::new("a\tb")), Err(BadKey(3)));
        assert_eq!(
            Cipher::new(TunnelKey::new("k".repeat(600))),
            Err(BadKey(600))
        );
    }

    #[test]
    fn only_what_may_be_a_key_counts_as_a_wrong_one() {
        let cipher = cipher();
        for (line, hello) in [
            (&b"HFX"[..], Hello::Wrong),
            (&[b'a'; 255], Hello::Wrong),
            (&[b'a'; 256], Hello::Noise),
            (b"\x80\x81", Hello::Noise),
            (b"\x01", Hello::Noise),
        ] {
            assert_eq!(cipher.read_hello(line), hello, "{line:x?}");
        }
    }

    #[test]
    fn bad_lines_are_told_from_unknown_ones() {
        let cipher = cipher();
        for (text, expected) in [
            ("#9", Ok(None)),
            ("noise", Err(BadSignal::Malformed)),
            ("//xyz#1", Err(BadSignal::Fields("#1"))),
            ("//00000001#2", Err(BadSignal::Fields("#2"))),
        ] {
            let line = cipher.xor(text.as_bytes());
            assert_eq!(cipher.decode_signal(&line), expected, "{text}");
        }
        for text in ["//?#0", "-#0", "//-#3", "//-"] {
            assert_eq!(cipher.decode_answer(&cipher.xor(text.as_bytes())), None);
        }
    }

    #[test]
    fn no_line_is_longer_than_the_limit_or_ends_early() {
        let cipher = cipher();
        let longest = [b'x'; limits::CLASSIC_LINE];
        assert_eq!(cipher.decode_signal(&longest), Err(BadSignal::Malformed));
        let longer = [b'x'; limits::CLASSIC_LINE + 1];
        assert_eq!(cipher.decode_signal(&longer), Err(BadSignal::TooLong));
        for (text, len) in [
            ("x".repeat(limits::CLASSIC_LINE - 1), limits::CLASSIC_LINE),
            ("x".repeat(limits::CLASSIC_LINE), 0),
            // Is a line feed on the wire.
            ("a\tb".into(), 0),
        ] {
            let out = written(|cipher, out| cipher.encode(&text, out));
            assert_eq!(out.len(), len, "{text:?}");
        }
    }
}
