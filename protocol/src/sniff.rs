//! What a user speaks, from its first bytes (`config.md` §3, `block`).

use core::fmt;
use core::ops::RangeInclusive;

use crate::config::Block;
use crate::limits::SNIFFED;

/// Looks for the protocols that users may not speak.
#[derive(Clone, Copy, Debug)]
pub struct Sniffer {
    block: Block,
}

/// What is known about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may still be something blocked: hold the bytes and ask again with more. Never after
    /// [`SNIFFED`] bytes.
    NeedMore,
    /// It is nothing blocked: pass on all bytes and stop asking.
    Pass,
    /// It speaks this.
    Blocked(Kind),
}

/// A protocol that can be blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SOCKS4 or SOCKS5.
    Socks,
    /// HTTP/1 or HTTP/2 in the clear.
    Http,
    /// TLS.
    Tls,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socks => "SOCKS",
            Self::Http => "HTTP",
            Self::Tls => "TLS",
        })
    }
}

impl Sniffer {
    /// A sniffer for what `block` names.
    #[must_use]
    pub const fn new(block: Block) -> Self {
        Self { block }
    }

    /// The verdict on a user whose stream starts with `first_bytes`, all it has sent so far.
    #[must_use]
    pub fn feed(self, first_bytes: &[u8]) -> Verdict {
        let bytes = first_bytes.get(..SNIFFED).unwrap_or(first_bytes);
        let mut verdict = Verdict::Pass;
        for kind in self.wanted() {
            match kind.compare(bytes) {
                Likeness::Same => return Verdict::Blocked(kind),
                Likeness::SoFar { missing } if bytes.len() + missing <= SNIFFED => {
                    verdict = Verdict::NeedMore;
                }
                Likeness::SoFar { .. } | Likeness::Different => {}
            }
        }
        verdict
    }

    fn wanted(self) -> impl Iterator<Item = Kind> {
        let Block { socks, http, tls } = self.block;
        let all = [(socks, Kind::Socks), (http, Kind::Http), (tls, Kind::Tls)];
        all.into_iter()
            .filter_map(|(wanted, kind)| wanted.then_some(kind))
    }
}

impl Kind {
    fn compare(self, bytes: &[u8]) -> Likeness {
        match self {
            Self::Socks => compare_socks(bytes),
            Self::Http => compare_http(bytes),
            Self::Tls => compare_tls(bytes),
        }
    }
}

/// How far bytes are those of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Likeness {
    Same,
    /// With at least this many bytes more they may be.
    SoFar {
        missing: usize,
    },
    Different,
}

impl Likeness {
    /// Whichever says more.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Same, _) | (_, Self::Same) => Self::Same,
            (Self::SoFar { missing: one }, Self::SoFar { missing: two }) => Self::SoFar {
                missing: one.min(two),
            },
            (Self::Different, likeness) | (likeness, Self::Different) => likeness,
        }
    }
}

/// A request of version 4 (connect, bind), or a greeting of version 5 with at least one method.
fn compare_socks(bytes: &[u8]) -> Likeness {
    starts_in_range(bytes, &[4], 1..=2).or(starts_in_range(bytes, &[5], 1..=u8::MAX))
}

/// A handshake record of any version of TLS, and of SSL 3.
fn compare_tls(bytes: &[u8]) -> Likeness {
    starts_in_range(bytes, &[0x16, 3], 0..=4)
}

/// The lengths of HTTP methods: of all that are registered, and most that are made up.
const METHOD: RangeInclusive<usize> = 3..=16;

/// What follows the method and a space: a path, an absolute URL, or the server itself. The last is
/// also in the preface of HTTP/2; alone, an asterisk is an argument in other protocols.
const REQUEST_TARGETS: [&[u8]; 3] = [b"/", b"http", b"* HTTP"];

/// A request line, after empty ones, which servers skip. Unlike the method its target says that this
/// is HTTP and not RTSP, SIP or Redis.
fn compare_http(bytes: &[u8]) -> Likeness {
    let empty = bytes.iter().take_while(|byte| b"\r\n".contains(byte));
    let (_, line) = bytes.split_at(empty.count());
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    let length = line.iter().take_while(|byte| is_method(byte)).count();
    let (method, rest) = line.split_at(length);
    if length > *METHOD.end() {
        return Likeness::Different;
    }
    let connect = method == b"CONNECT";
    match rest.strip_prefix(b" ") {
        Some(_) if connect => Likeness::Same,
        Some(target) if METHOD.contains(&length) => REQUEST_TARGETS
            .into_iter()
            .map(|start| starts_with(target, start))
            .fold(Likeness::Different, Likeness::or),
        None if rest.is_empty() => Likeness::SoFar {
            // A space, and a target of one byte.
            missing: METHOD.start().saturating_sub(length) + if connect { 1 } else { 2 },
        },
        Some(_) | None => Likeness::Different,
    }
}

/// `start`, in upper or lower case.
fn starts_with(bytes: &[u8], start: &[u8]) -> Likeness {
    let common = bytes.len().min(start.len());
    match (bytes.get(..common), start.get(..common)) {
        (Some(have), Some(want)) if !have.eq_ignore_ascii_case(want) => Likeness::Different,
        _ if common == start.len() => Likeness::Same,
        _ => Likeness::SoFar {
            missing: start.len() - common,
        },
    }
}

/// `start`, and a byte of `range` after it.
fn starts_in_range(bytes: &[u8], start: &[u8], range: RangeInclusive<u8>) -> Likeness {
    match (starts_with(bytes, start), bytes.get(start.len())) {
        (Likeness::Same, Some(byte)) if range.contains(byte) => Likeness::Same,
        (Likeness::Same, Some(_)) | (Likeness::Different, _) => Likeness::Different,
        (Likeness::Same, None) => Likeness::SoFar { missing: 1 },
        (Likeness::SoFar { missing }, _) => Likeness::SoFar {
            missing: missing + 1,
        },
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const ALL: Block = Block {
        socks: true,
        http: true,
        tls: true,
    };

    #[test]
    fn verdicts() {
        let table: [(&[u8], Verdict); 16] = [
            (b"", Verdict::NeedMore),
            (b"\x04", Verdict::NeedMore),
            (b"\x04\x01", Verdict::Blocked(Kind::Socks)),
            (b"\x04\x03", Verdict::Pass),
            (b"\x05", Verdict::NeedMore),
            (b"\x05\x01\x00", Verdict::Blocked(Kind::Socks)),
            (b"\x05\x00", Verdict::Pass),
            (b"GE", Verdict::NeedMore),
            (b"GET / HTTP/1.1\r\n", Verdict::Blocked(Kind::Http)),
            (b"PRI * HTTP/2.0", Verdict::Blocked(Kind::Http)),
            (b"PRI *", Verdict::NeedMore),
            (b"PRIVMSG #", Verdict::Pass),
            (b"\x16\x03", Verdict::NeedMore),
            (b"\x16\x03\x01", Verdict::Blocked(Kind::Tls)),
            (b"\x16\x03\x09", Verdict::Pass),
            (b"SSH-2.0", Verdict::Pass),
        ];
        for (bytes, verdict) in table {
            assert_eq!(Sniffer::new(ALL).feed(bytes), verdict, "{bytes:?}");
        }
    }

    #[test]
    fn http_is_known_by_its_request_line_whatever_the_method() {
        for line in [
            "POST /x",
            "PROPFIND /dav",
            "M-SEARCH * HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "BASELINE-CONTROL /",
            "BREW /pot",
            "GET http://example.org/",
            "GET HTTP://example.org/",
            "BASELINE-CONTROL * HTTP/1.1",
            "CONNECT example.org:443 HTTP/1.1",
            "CONNECT [::1]:443",
            "\r\nGET / HTTP/1.1",
            "\n\n\r\n\rGET / HTTP/1.1",
            "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\rGET /",
        ] {
            let verdict = Sniffer::new(ALL).feed(line.as_bytes());
            assert_eq!(verdict, Verdict::Blocked(Kind::Http), "{line:?}");
        }
    }

    #[test]
    fn what_only_resembles_http_passes() {
        for line in [
            "OPTIONS sip:user@example.org SIP/2.0",
            "OPTIONS rtsp://example.org/ RTSP/1.0",
            "OPTIONS * RTSP/1.0",
            "GET key",
            "KEYS *\r\n",
            "GETX\r\n",
            "get /",
            "GET  /",
            "GET\t/",
            "GE /",
            "UPDATEREDIRECTREF",
            "CONNECT\naccept-version:1.2",
            "EHLO example.org",
            "\r\n\r\nSSH-2.0",
            // No room is left for a request line.
            "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
            "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET /",
        ] {
            let verdict = Sniffer::new(ALL).feed(line.as_bytes());
            assert_eq!(verdict, Verdict::Pass, "{line:?}");
        }
    }

    #[test]
    fn only_what_is_blocked_is_held_back() {
        let http = Block {
            http: true,
            ..Block::default()
        };
        assert_eq!(Sniffer::new(http).feed(b"\x16\x03\x01"), Verdict::Pass);
        assert_eq!(Sniffer::new(http).feed(b"G"), Verdict::NeedMore);
        let none = Sniffer::new(Block::default());
        for bytes in [&b""[..], b"GET ", b"\x04\x01"] {
            assert_eq!(none.feed(bytes), Verdict::Pass);
        }
    }

    fn first_bytes() -> impl Strategy<Value = Vec<u8>> {
        let start = prop_oneof![
            "[\r\n]{0,30}",
            "[\r\n]{0,12}[A-Z-]{2,18} ?(/|\\* ?|[hH]T?tP?|[a-z]:)?",
            "(\r\n)?(GET|CONNEC|CONNECT|PRI) ?\\*? ?H?T?T?P?",
            "[\u{3}-\u{6}\u{16}][\u{0}-\u{6}]?[\u{0}-\u{6}]?",
        ];
        (start, vec(any::<u8>(), 0..20))
            .prop_map(|(start, tail)| [start.as_bytes(), &tail].concat())
    }

    /// What completes the start of something blocked.
    const ENDS: [&[u8]; 11] = [
        b"\x01",
        b"\x04\x01",
        b"\x03\x01",
        b"GET /",
        b"ET /",
        b"T /",
        b" /",
        b" ",
        b"/",
        b"http",
        b" HTTP",
    ];

    proptest! {
        #[test]
        fn a_verdict_is_reached_within_the_limit_and_is_final(bytes in first_bytes()) {
            let sniffer = Sniffer::new(ALL);
            let mut verdict = Verdict::NeedMore;
            for len in 0..=bytes.len() {
                let now = sniffer.feed(&bytes[..len]);
                if verdict != Verdict::NeedMore {
                    prop_assert_eq!(now, verdict);
                }
                prop_assert!(now != Verdict::NeedMore || len < SNIFFED);
                verdict = now;
            }
        }

        #[test]
        fn nothing_is_held_that_cannot_become_something_blocked(bytes in first_bytes()) {
            let sniffer = Sniffer::new(ALL);
            if sniffer.feed(&bytes) == Verdict::NeedMore {
                let becomes = |more: &[u8]| sniffer.feed(&[&bytes, more].concat());
                // The end of `http` or ` HTTP`, from wherever it was cut.
                let mut ends = ENDS.into_iter().chain((1..5).map(|cut| &b" HTTP"[cut..]));
                prop_assert!(
                    ends.any(|more| matches!(becomes(more), Verdict::Blocked(_))),
                    "{:?}",
                    bytes
                );
            }
        }
    }
}
