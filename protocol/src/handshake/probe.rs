//! Which generation a client tries next (`wire.md` §1).
//!
//! ```text
//!              an answer that starts `HTTP/`
//!   TLS ─────────────────────────────────────▶ plain GET        classic line
//!    ▲                                            │                  ▲
//!    └──────────── three failures in a row ───────┴──────────────────┘
//! ```
//!
//! TLS comes first and offers `native` and `https` at once. What worked is remembered, and never
//! left for something weaker.

use core::fmt;

use super::legacy::Spoken;
use crate::config::Generations;
use crate::limits;
use crate::terms::Generation;
use crate::wire::http::Answer;

/// How to make one attempt. All of them begin with a new TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// TLS, offering ALPN [`nodepass/1`](crate::proof::ALPN) if `native`, then
    /// [`http/1.1`](ALPN_HTTP) if `https`. What was negotiated says how it goes on: see
    /// [`inside_tls`](Self::inside_tls).
    Tls {
        /// Offer the native handshake.
        native: bool,
        /// Offer the GET inside TLS.
        https: bool,
    },
    /// The GET in the clear; on port 443 inside ordinary HTTPS, verified with the system's roots.
    Http,
    /// The XOR-ed line.
    Classic,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls {
                native: true,
                https: true,
            } => "native or https",
            Self::Tls { native: true, .. } => "native",
            Self::Tls { .. } => "https",
            Self::Http => "http",
            Self::Classic => "classic",
        })
    }
}

/// The second protocol that a client offers in TLS.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// The port at which a GET goes inside ordinary HTTPS (`wire.md` §3).
pub const HTTPS_PORT: u16 = 443;

/// How an attempt begins on its TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With TLS, offering [`Attempt::alpn`] and taking any certificate for now.
    Tls,
    /// With this handshake, in the clear.
    Clear(Spoken),
}

/// What is spoken inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// The native handshake.
    Native,
    /// The handshake of a legacy generation.
    Legacy {
        /// Which.
        spoken: Spoken,
        /// Only if the certificate's chain and name are good.
        verified: bool,
    },
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a session of this generation.
    Up(Generation),
    /// With the first bytes of an answer to a ClientHello that are [`answers_http`].
    AnsweredHttp,
    /// In any other way: an end of stream, a time-out, a refusal, other bytes.
    Failed,
}

/// When to make the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Then {
    /// When the session is over.
    Later,
    /// At once: the last one showed what to try.
    Now,
    /// After a back-off.
    BackOff,
}

/// The memory of one client.
#[derive(Clone, Debug)]
pub struct Probe {
    allowed: Generations,
    /// The strongest that worked so far.
    floor: Option<Generation>,
    attempt: Attempt,
    failures: u32,
}

/// Whether what came in answer to a ClientHello is an HTTP answer in the clear. More than 5 bytes
/// are never needed; with fewer it is not yet.
#[must_use]
pub fn answers_http(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(Answer::MAGIC)
}

impl Attempt {
    /// The application protocols to offer in TLS, best first.
    #[must_use]
    pub const fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Tls {
                native: true,
                https: true,
            } => &[crate::proof::ALPN, ALPN_HTTP],
            Self::Tls { native: true, .. } => &[crate::proof::ALPN],
            Self::Tls { https: true, .. } => &[ALPN_HTTP],
            Self::Tls { .. } | Self::Http | Self::Classic => &[],
        }
    }

    /// How it begins at a server of this port.
    #[must_use]
    pub const fn begin(self, port: u16) -> Begin {
        match self {
            Self::Tls { .. } => Begin::Tls,
            Self::Http if port == HTTPS_PORT => Begin::Tls,
            Self::Http => Begin::Clear(Spoken::Http),
            Self::Classic => Begin::Clear(Spoken::Classic),
        }
    }

    /// What to speak after TLS at a server of this port, which chose `alpn`, if `proto` is the
    /// client's; `None`: close the connection, the attempt failed.
    ///
    /// A server that is not native may show any certificate. But port 443 promises ordinary HTTPS to
    /// those who do not name `https` (`wire.md` §3, §4): no token is shown to a stranger there. A 2.0
    /// server always chooses a protocol; one that chooses none there is a front end, and what stands
    /// behind it speaks `http`.
    #[must_use]
    pub fn inside_tls(self, alpn: Option<&[u8]>, port: u16, proto: Generations) -> Option<Inside> {
        let at_443 = port == HTTPS_PORT;
        let ordinary = Inside::Legacy {
            spoken: Spoken::Http,
            verified: true,
        };
        let (native, https) = match self {
            Self::Tls { native, https } => (native, https),
            Self::Http => return at_443.then_some(ordinary),
            Self::Classic => return None,
        };
        match alpn {
            Some(crate::proof::ALPN) => native.then_some(Inside::Native),
            None if at_443 && proto.allows(Generation::Http) => Some(ordinary),
            Some(ALPN_HTTP) | None => https.then_some(Inside::Legacy {
                spoken: Spoken::Https,
                verified: at_443 && !proto.names(Generation::Https),
            }),
            Some(_) => None,
        }
    }
}

impl Probe {
    /// A client that remembers nothing. `classic` is only tried if the set names it.
    #[must_use]
    pub fn new(allowed: Generations) -> Self {
        let mut probe = Self {
            allowed,
            floor: None,
            attempt: Attempt::Http,
            failures: 0,
        };
        probe.attempt = probe.first();
        probe
    }

    /// How to make the next attempt.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The attempt ended.
    pub fn handle_outcome(&mut self, outcome: Outcome) -> Then {
        match outcome {
            Outcome::Up(generation) => {
                self.failures = 0;
                self.floor = self.floor.max(Some(generation));
                self.attempt = self.attempt_at(generation);
                Then::Later
            }
            Outcome::AnsweredHttp
                if matches!(self.attempt, Attempt::Tls { .. }) && self.may(Generation::Http) =>
            {
                self.attempt = Attempt::Http;
                self.failures = 0;
                Then::Now
            }
            Outcome::AnsweredHttp | Outcome::Failed => {
                self.failures += 1;
                if self.failures >= limits::PROBE_AGAIN {
                    self.failures = 0;
                    self.attempt = self.after(self.attempt);
                }
                Then::BackOff
            }
        }
    }

    fn may(&self, generation: Generation) -> bool {
        let named = match generation {
            Generation::Classic => self.allowed.names(generation),
            Generation::Http | Generation::Https | Generation::Native => {
                self.allowed.allows(generation)
            }
        };
        named && self.floor.is_none_or(|floor| generation >= floor)
    }

    fn attempt_at(&self, generation: Generation) -> Attempt {
        match generation {
            Generation::Native | Generation::Https => Attempt::Tls {
                native: self.may(Generation::Native),
                https: self.may(Generation::Https),
            },
            Generation::Http => Attempt::Http,
            Generation::Classic => Attempt::Classic,
        }
    }

    /// The strongest.
    fn first(&self) -> Attempt {
        let mut strongest_first = Generation::ALL.into_iter().rev();
        let strongest = strongest_first.find(|&generation| self.may(generation));
        self.attempt_at(strongest.unwrap_or(Generation::Native))
    }

    /// What to try after one that keeps failing. An answer leads from TLS to the plain GET, nothing
    /// else; to `classic` nothing leads but its name.
    fn after(&self, failed: Attempt) -> Attempt {
        match failed {
            Attempt::Tls { .. } | Attempt::Http if self.may(Generation::Classic) => {
                Attempt::Classic
            }
            Attempt::Tls { .. } | Attempt::Http | Attempt::Classic => self.first(),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;
    use Generation::{Classic, Http, Https, Native};

    const BOTH: Attempt = Attempt::Tls {
        native: true,
        https: true,
    };

    fn set(generations: &[Generation]) -> Generations {
        let (&first, others) = generations.split_first().unwrap();
        others
            .iter()
            .fold(Generations::only(first), |set, &g| set.with(g))
    }

    fn fail(probe: &mut Probe, times: usize) {
        for _ in 0..times {
            assert_eq!(probe.handle_outcome(Outcome::Failed), Then::BackOff);
        }
    }

    #[test]
    fn the_first_attempt_is_the_strongest_allowed() {
        for (allowed, attempt) in [
            (Generations::AUTO, BOTH),
            (
                set(&[Native]),
                Attempt::Tls {
                    native: true,
                    https: false,
                },
            ),
            (
                set(&[Https, Http]),
                Attempt::Tls {
                    native: false,
                    https: true,
                },
            ),
            (set(&[Http]), Attempt::Http),
            (set(&[Http, Classic]), Attempt::Http),
            (set(&[Classic]), Attempt::Classic),
        ] {
            assert_eq!(Probe::new(allowed).attempt(), attempt);
        }
    }

    #[test]
    fn only_an_http_answer_leads_to_the_plain_get() {
        let mut probe = Probe::new(Generations::AUTO);
        fail(&mut probe, 20);
        assert_eq!(probe.attempt(), BOTH);
        assert_eq!(probe.handle_outcome(Outcome::AnsweredHttp), Then::Now);
        assert_eq!(probe.attempt(), Attempt::Http);
        // A server still busy with the old session is met again in the same generation.
        fail(&mut probe, 2);
        assert_eq!(probe.attempt(), Attempt::Http);
        fail(&mut probe, 1);
        assert_eq!(probe.attempt(), BOTH);
    }

    #[test]
    fn an_http_answer_is_a_failure_where_http_is_not_allowed() {
        let mut probe = Probe::new(set(&[Native, Https]));
        assert_eq!(probe.handle_outcome(Outcome::AnsweredHttp), Then::BackOff);
        assert_eq!(probe.attempt(), BOTH);
    }

    #[test]
    fn what_worked_is_tried_first_and_never_left_for_less() {
        let mut probe = Probe::new(Generations::AUTO);
        assert_eq!(probe.handle_outcome(Outcome::Up(Https)), Then::Later);
        assert_eq!(probe.handle_outcome(Outcome::AnsweredHttp), Then::BackOff);
        fail(&mut probe, 10);
        assert_eq!(probe.attempt(), BOTH);
        assert_eq!(probe.handle_outcome(Outcome::Up(Native)), Then::Later);
        let native_only = Attempt::Tls {
            native: true,
            https: false,
        };
        fail(&mut probe, 10);
        assert_eq!(probe.attempt(), native_only);
        assert_eq!(probe.handle_outcome(Outcome::AnsweredHttp), Then::BackOff);
    }

    #[test]
    fn a_session_of_http_is_tried_thrice_before_something_stronger_is_looked_for() {
        let mut probe = Probe::new(Generations::AUTO);
        assert_eq!(probe.handle_outcome(Outcome::AnsweredHttp), Then::Now);
        assert_eq!(probe.handle_outcome(Outcome::Up(Http)), Then::Later);
        assert_eq!(probe.attempt(), Attempt::Http);
        fail(&mut probe, 3);
        assert_eq!(probe.attempt(), BOTH, "the server may have been replaced");
        assert_eq!(probe.handle_outcome(Outcome::AnsweredHttp), Then::Now);
        assert_eq!(probe.handle_outcome(Outcome::Up(Http)), Then::Later);
    }

    #[test]
    fn classic_is_tried_only_when_named() {
        let mut probe = Probe::new(set(&[Native, Classic]));
        fail(&mut probe, 3);
        assert_eq!(probe.attempt(), Attempt::Classic);
        fail(&mut probe, 3);
        assert!(matches!(probe.attempt(), Attempt::Tls { .. }));
        fail(&mut probe, 3);
        assert_eq!(probe.handle_outcome(Outcome::Up(Classic)), Then::Later);
        fail(&mut probe, 2);
        assert_eq!(probe.attempt(), Attempt::Classic);
    }

    #[test]
    fn what_was_negotiated_says_how_it_goes_on() {
        let native = Some(crate::proof::ALPN);
        let get = Some(ALPN_HTTP);
        let legacy = |spoken, verified| Some(Inside::Legacy { spoken, verified });
        let only_native = Probe::new(set(&[Native])).attempt();
        let auto = Generations::AUTO;
        let named = set(&[Native, Https]);
        for (attempt, alpn, port, proto, expected) in [
            (BOTH, native, 443, auto, Some(Inside::Native)),
            (BOTH, get, 1, auto, legacy(Spoken::Https, false)),
            (BOTH, None, 1, auto, legacy(Spoken::Https, false)),
            (BOTH, Some(&b"h2"[..]), 1, auto, None),
            (only_native, None, 1, set(&[Native]), None),
            (Attempt::Http, None, 1, auto, None),
            // At port 443 a token is shown to strangers only if `https` is named.
            (Attempt::Http, None, 443, auto, legacy(Spoken::Http, true)),
            (BOTH, None, 443, auto, legacy(Spoken::Http, true)),
            (BOTH, get, 443, auto, legacy(Spoken::Https, true)),
            (BOTH, None, 443, named, legacy(Spoken::Https, false)),
            (BOTH, get, 443, named, legacy(Spoken::Https, false)),
            (only_native, None, 443, set(&[Native]), None),
        ] {
            assert_eq!(attempt.inside_tls(alpn, port, proto), expected);
        }
        for (attempt, port, expected) in [
            (BOTH, 1, Begin::Tls),
            (Attempt::Http, 443, Begin::Tls),
            (Attempt::Http, 1, Begin::Clear(Spoken::Http)),
            (Attempt::Classic, 443, Begin::Clear(Spoken::Classic)),
        ] {
            assert_eq!(attempt.begin(port), expected);
        }
        assert_eq!(BOTH.to_string(), "native or https");
        assert_eq!(BOTH.alpn(), [crate::proof::ALPN, ALPN_HTTP]);
        assert_eq!(
            Probe::new(set(&[Native])).attempt().alpn(),
            [crate::proof::ALPN]
        );
        assert_eq!(
            Probe::new(set(&[Https, Http])).attempt().alpn(),
            [ALPN_HTTP]
        );
        assert_eq!(Attempt::Http.alpn(), [b""; 0]);
        assert!(answers_http(b"HTTP/1.0 400 Bad Request"));
        assert!(!answers_http(b"HTTP"));
        assert!(!answers_http(b"\0\0\0\0"));
    }
}
