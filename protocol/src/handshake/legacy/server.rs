//! The server's half: a GET or a line in, the tunnel's parameters out.

use alloc::vec::Vec;

use super::{LegacyKeys, Spoken, first_line};
use crate::config::Generations;
use crate::dialect::Dialect;
use crate::handshake::HandshakeError;
use crate::limits;
use crate::proof::{Proof, Side};
use crate::terms::Generation;
use crate::time::{Duration, Instant};
use crate::wire::classic::{BadKey, Cipher, Hello};
use crate::wire::http::{Head, Params, Request, encode_error};
use crate::wire::line::LineDecoder;

/// A connection that speaks a legacy generation and has not said all yet.
#[derive(Debug)]
#[must_use]
pub struct AwaitLegacy {
    wait: Wait,
    spoken: Spoken,
    keys: LegacyKeys,
    deadline: Instant,
}

#[derive(Debug)]
enum Wait {
    Head(Head),
    Line(LineDecoder),
}

/// What some bytes led to.
#[derive(Debug)]
#[must_use]
pub enum LegacyStep {
    /// The request is not complete.
    NeedsInput(AwaitLegacy),
    /// The client has the key. Answer with [`VerifiedLegacy::answer`].
    Verified(VerifiedLegacy),
    /// Send `answer`, which may be empty, then close. When [`HandshakeError::counts_for_ban`] says
    /// so, the address is charged.
    Refused {
        /// What to say.
        answer: Vec<u8>,
        /// For the log.
        why: HandshakeError,
    },
}

/// A client that has the key, not answered yet.
#[derive(Debug)]
pub struct VerifiedLegacy {
    /// What it speaks.
    pub spoken: Spoken,
    /// Bytes behind the request: the session's first input where the
    /// [control channel](Self::dialect) is this connection, else nothing.
    pub rest: Vec<u8>,
    keys: LegacyKeys,
}

impl AwaitLegacy {
    /// A connection that turned out to speak `spoken`; the bytes that said so come again.
    ///
    /// # Errors
    /// [`HandshakeError::ClassicKey`]: close the connection without a word.
    pub fn new(
        spoken: Spoken,
        keys: &LegacyKeys,
        now: Instant,
        timeout: Duration,
    ) -> Result<Self, HandshakeError> {
        let wait = match spoken {
            Spoken::Http | Spoken::Https => Wait::Head(Head::default()),
            Spoken::Classic => {
                keys.check(Generations::only(Generation::Classic))?;
                Wait::Line(LineDecoder::new(limits::CLASSIC_LINE))
            }
        };
        Ok(Self {
            wait,
            spoken,
            keys: keys.clone(),
            deadline: now.after(timeout),
        })
    }

    /// The next bytes from the client.
    ///
    /// # Errors
    /// [`HandshakeError`]: close the connection without a word.
    pub fn handle_bytes(mut self, bytes: &[u8]) -> Result<LegacyStep, HandshakeError> {
        match self.wait {
            Wait::Head(ref mut head) => match head.feed(bytes)? {
                None => Ok(LegacyStep::NeedsInput(self)),
                Some(whole) => self.on_request(&whole.head),
            },
            Wait::Line(ref mut line) => {
                let (first, rest) = first_line(bytes);
                let too_long = line.feed(first).is_err();
                match line.poll_line() {
                    Some(line) => self.on_line(&line, rest),
                    None if too_long => Err(HandshakeError::NotClassic),
                    None => Ok(LegacyStep::NeedsInput(self)),
                }
            }
        }
    }

    /// The client closed the connection.
    #[must_use]
    pub fn handle_eof(self) -> HandshakeError {
        HandshakeError::Eof
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

    /// When the client's request is due.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    fn on_request(self, head: &[u8]) -> Result<LegacyStep, HandshakeError> {
        match judge(&Request::parse(head)?, &self.keys.token) {
            Ok(()) => Ok(self.verified(Vec::new())),
            Err((status, why)) => {
                let mut answer = Vec::new();
                encode_error(status, &mut answer);
                Ok(LegacyStep::Refused { answer, why })
            }
        }
    }

    fn on_line(self, line: &[u8], rest: &[u8]) -> Result<LegacyStep, HandshakeError> {
        match cipher(&self.keys)?.read_hello(line) {
            Hello::Right => Ok(self.verified(rest.to_vec())),
            Hello::Wrong => Ok(LegacyStep::Refused {
                answer: Vec::new(),
                why: HandshakeError::WrongProof,
            }),
            Hello::Noise => Err(HandshakeError::NotClassic),
        }
    }

    fn verified(self, rest: Vec<u8>) -> LegacyStep {
        LegacyStep::Verified(VerifiedLegacy {
            spoken: self.spoken,
            rest,
            keys: self.keys,
        })
    }
}

impl VerifiedLegacy {
    /// The generation that it speaks, for the log.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.spoken.generation()
    }

    /// How the session will speak.
    ///
    /// # Errors
    /// Never: the key was good enough for the handshake.
    pub fn dialect(&self, params: &Params) -> Result<Dialect, HandshakeError> {
        Ok(self.keys.dialect(self.spoken, params.tls, Side::Server)?)
    }

    /// Appends the answer. Unless the control channel is this connection, it is closed afterwards.
    ///
    /// # Errors
    /// As [`dialect`](Self::dialect).
    pub fn answer(&self, params: &Params, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        match self.spoken {
            Spoken::Http | Spoken::Https => params.encode_answer(out),
            Spoken::Classic => cipher(&self.keys)?.encode_answer(params.flow, params.tls, out),
        }
        Ok(())
    }
}

/// What is wrong with a request, and the status to say so.
pub(super) fn judge(request: &Request, expected: &Proof) -> Result<(), (u16, HandshakeError)> {
    if request.path != "/" {
        return Err((404, HandshakeError::NotThisPath));
    }
    if request.method != "GET" {
        return Err((405, HandshakeError::NotThisMethod));
    }
    match &request.token {
        Some(token) if token == expected => Ok(()),
        Some(_) => Err((401, HandshakeError::WrongProof)),
        None => Err((401, HandshakeError::NoToken)),
    }
}

pub(super) fn cipher(keys: &LegacyKeys) -> Result<&Cipher, BadKey> {
    keys.classic.as_ref().map_err(|bad| *bad)
}
