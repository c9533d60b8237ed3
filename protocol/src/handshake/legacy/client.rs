//! The client's half: a GET or a line out, the tunnel's parameters in.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::{LegacyKeys, Spoken, first_line};
use crate::config::Sni;
use crate::handshake::{Established, HandshakeError, Step};
use crate::limits;
use crate::proof::Side;
use crate::terms::{DataTls, Flow};
use crate::time::{Duration, Instant};
use crate::wire::http::{Answer, BadHead, Head, Params, Whole, encode_request};
use crate::wire::line::LineDecoder;
use crate::wire::native::RefuseReason;

/// What a client says and insists on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyConfig {
    /// The server's name in a request: `sni`, or the URL's host, or `none`.
    pub host: String,
    /// `tls` of the client's URL: the least accepted.
    pub least_tls: DataTls,
}

impl LegacyConfig {
    /// What a client with this `sni` and this host in its URL says: an address is no name.
    #[must_use]
    pub fn new(sni: &Sni, host: &str, least_tls: DataTls) -> Self {
        let host = match sni {
            Sni::Name(name) => name,
            Sni::Host if host.parse::<IpAddr>().is_err() && !host.is_empty() => host,
            Sni::Host | Sni::None => "none",
        };
        let host = host.into();
        Self { host, least_tls }
    }
}

/// Where a client begins.
#[derive(Debug)]
pub struct LegacyHandshake;

impl LegacyHandshake {
    /// Appends the request to `out`.
    ///
    /// # Errors
    /// [`HandshakeError::ClassicKey`], if the key does not work with what is spoken.
    pub fn start(
        spoken: Spoken,
        config: &LegacyConfig,
        keys: &LegacyKeys,
        now: Instant,
        timeout: Duration,
        out: &mut Vec<u8>,
    ) -> Result<AwaitAnswer, HandshakeError> {
        let wait = match spoken {
            Spoken::Http | Spoken::Https => {
                encode_request(&config.host, &keys.token, out);
                Wait::Head(Head::default())
            }
            Spoken::Classic => {
                keys.classic.as_ref().map_err(|bad| *bad)?.encode_hello(out);
                Wait::Line(LineDecoder::new(limits::CLASSIC_LINE))
            }
        };
        Ok(AwaitAnswer {
            wait,
            spoken,
            keys: keys.clone(),
            least_tls: config.least_tls,
            deadline: now.after(timeout),
        })
    }
}

/// The request is on its way.
#[derive(Debug)]
#[must_use]
pub struct AwaitAnswer {
    wait: Wait,
    spoken: Spoken,
    keys: LegacyKeys,
    least_tls: DataTls,
    deadline: Instant,
}

#[derive(Debug)]
enum Wait {
    Head(Head),
    /// A body of this length, or until the end of the stream.
    Body(Option<usize>, Vec<u8>),
    Line(LineDecoder),
}

impl AwaitAnswer {
    /// The next bytes from the server.
    ///
    /// # Errors
    /// [`HandshakeError`]: close the connection.
    pub fn handle_bytes(mut self, bytes: &[u8]) -> Result<Step<Self, Established>, HandshakeError> {
        match self.wait {
            Wait::Line(ref mut line) => {
                let (first, rest) = first_line(bytes);
                line.feed(first).map_err(|_| HandshakeError::TooLong)?;
                match line.poll_line() {
                    None => Ok(Step::NeedsInput(self)),
                    Some(line) => self.conclude_line(&line, rest).map(Step::Done),
                }
            }
            Wait::Head(ref mut head) => {
                let begun = head.so_far().iter().chain(bytes).zip(Answer::MAGIC);
                if begun.into_iter().any(|(got, expected)| got != expected) {
                    return Err(HandshakeError::NotHttp);
                }
                match head.feed(bytes)? {
                    None => Ok(Step::NeedsInput(self)),
                    Some(Whole { head, rest }) => self.on_head(&head, rest),
                }
            }
            Wait::Body(len, ref mut body) => {
                body.extend_from_slice(bytes);
                match len {
                    Some(len) if body.len() >= len => self.conclude_body().map(Step::Done),
                    None if body.len() > limits::HTTP_BODY => Err(HandshakeError::TooLong),
                    Some(_) | None => Ok(Step::NeedsInput(self)),
                }
            }
        }
    }

    /// The server closed the connection, which may be how its answer ends.
    ///
    /// # Errors
    /// [`HandshakeError::Eof`], or what is wrong with the answer.
    pub fn handle_eof(self) -> Result<Established, HandshakeError> {
        match self.wait {
            Wait::Body(None, _) => self.conclude_body(),
            Wait::Head(_) | Wait::Body(Some(_), _) | Wait::Line(_) => Err(HandshakeError::Eof),
        }
    }

    /// The time is `now`.
    ///
    /// # Errors
    /// [`HandshakeError::TimedOut`] from the deadline on.
    pub fn handle_timeout(self, now: Instant) -> Result<Self, HandshakeError> {
        if now < self.deadline {
            Ok(self)
        } else {
            Err(HandshakeError::TimedOut)
        }
    }

    /// When the server's answer is due.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    fn on_head(
        mut self,
        head: &[u8],
        rest: Vec<u8>,
    ) -> Result<Step<Self, Established>, HandshakeError> {
        let answer = Answer::parse(head)?;
        match answer.status {
            200 => {}
            401 => return Err(HandshakeError::Refused(RefuseReason::Auth)),
            status => return Err(HandshakeError::HttpStatus(status)),
        }
        self.wait = Wait::Body(answer.body, Vec::new());
        self.handle_bytes(&rest)
    }

    fn conclude_body(self) -> Result<Established, HandshakeError> {
        let Wait::Body(len, body) = &self.wait else {
            return Err(HandshakeError::NotHttp);
        };
        let len = len.unwrap_or(body.len());
        let params = Params::parse(body.get(..len).unwrap_or_default())?;
        self.establish(params, Vec::new())
    }

    fn conclude_line(self, line: &[u8], rest: &[u8]) -> Result<Established, HandshakeError> {
        let cipher = self.keys.classic.as_ref().map_err(|bad| *bad)?;
        let (flow, tls) = cipher
            .decode_answer(line)
            .ok_or(HandshakeError::NotClassic)?;
        let max = limits::CLASSIC_MAX;
        let params = Params { flow, max, tls };
        self.establish(params, rest.to_vec())
    }

    fn establish(self, params: Params, rest: Vec<u8>) -> Result<Established, HandshakeError> {
        let Params { flow, max, tls } = params;
        if tls < self.least_tls {
            return Err(HandshakeError::TlsTooLow {
                least: self.least_tls,
                offered: tls,
            });
        }
        // It waits for a fingerprint that it cannot take.
        if (self.spoken, flow, tls) == (Spoken::Http, Flow::Reverse, DataTls::Verified) {
            return Err(HandshakeError::ServesNobody);
        }
        Ok(Established {
            session: None,
            flow,
            max,
            tls,
            fingerprints: Vec::new(),
            dialect: self.keys.dialect(self.spoken, tls, Side::Client)?,
            rest,
        })
    }
}

impl From<BadHead> for HandshakeError {
    fn from(bad: BadHead) -> Self {
        match bad {
            BadHead::TooLong => Self::HeadTooLong,
            BadHead::Malformed => Self::NotHttp,
        }
    }
}
