//! How a session begins, as typestates, and which generation a client tries (`wire.md` §1, §2.2).
//!
//! Here is the native handshake; those of the field are in [`legacy`], and all end in the same
//! [`Established`]. [`probe`] is a client's memory of what a server speaks.
//!
//! ```text
//! client   ClientHandshake::start ──hello──▶ AwaitWelcome ──welcome──▶ Established
//! server   AwaitHello ──hello──▶ VerifiedHello ──welcome or refuse──▶
//! ```
//!
//! The exchange is linear, so the state is the type: a value that was consumed by its last step
//! cannot be used again. Both ends of a channel that somebody sits in the middle of have different
//! exporters, and then neither proof verifies. Until the peer's proof did, its line is read and
//! nothing else happens for it.

mod client;
pub mod legacy;
pub mod probe;
mod server;

use alloc::vec::Vec;

pub use self::client::{AwaitWelcome, ClientHandshake, ClientHandshakeConfig, Established};
pub use self::server::{AwaitHello, ServerStep, VerifiedHello, WelcomeParams};
use crate::limits;
use crate::terms::DataTls;
use crate::wire::classic::BadKey;
use crate::wire::http::BadParams;
use crate::wire::native::{BadLine, RefuseReason, VERSION};

/// What some bytes led to.
#[derive(Debug)]
#[must_use]
pub enum Step<S, D> {
    /// The line is not complete.
    NeedsInput(S),
    /// The handshake is over.
    Done(D),
}

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The server said no.
    #[error("the server refused the session: {0}")]
    Refused(RefuseReason),
    /// A well-formed proof that is not the expected one: another tunnel key, or somebody in the
    /// middle.
    #[error("the other end does not have this tunnel key, or the connection is intercepted")]
    WrongProof,
    /// The server's `tls` is below the client's.
    #[error("the server offers tls={}, this client's url accepts tls={} at the least",
            .offered.as_str(), .least.as_str())]
    TlsTooLow {
        /// What the client's URL says.
        least: DataTls,
        /// What the server said.
        offered: DataTls,
    },
    /// The key does not work with the `classic` generation.
    #[error(transparent)]
    ClassicKey(#[from] BadKey),
    /// Another answer than 200 or 401.
    #[error("the server answered with http status {0}")]
    HttpStatus(u16),
    /// Not an HTTP head, or not the body expected with it.
    #[error("the other end does not speak the http handshake")]
    NotHttp,
    /// A head above its limits.
    #[error("the other end's http head or body is too long")]
    HeadTooLong,
    /// A request for another path.
    #[error("a request for another path than `/`")]
    NotThisPath,
    /// A request with another method.
    #[error("a request with another method than GET")]
    NotThisMethod,
    /// A request without a token, or with something that is none.
    #[error("a request without a token")]
    NoToken,
    /// Not an XOR-ed line of the `classic` generation under this key.
    #[error("the other end does not speak the classic handshake with this key")]
    NotClassic,
    /// `type` of the server's answer is not 0.
    #[error("the server asks for a pool transport other than type=0, which is not offered")]
    PoolType,
    /// A 1.14 server with `tls=2` at ingress.
    #[error(
        "a 1.14 server with tls=2 serves nobody in a reverse tunnel: use tls=1 there,          or a server that speaks the native generation"
    )]
    ServesNobody,
    /// Something else than the expected line.
    #[error("the other end does not speak the native handshake")]
    Malformed,
    /// A line without an end.
    #[error(
        "the other end's handshake line is longer than {} bytes",
        limits::CONTROL_LINE
    )]
    TooLong,
    /// The peer speaks another version of the native generation.
    #[error("the other end speaks version {theirs} of the native protocol, this one {VERSION}")]
    Version {
        /// The peer's.
        theirs: u64,
    },
    /// The connection ended first.
    #[error("the other end closed the connection during the handshake")]
    Eof,
    /// The deadline passed first.
    #[error("the other end did not finish the handshake in time")]
    TimedOut,
}

impl HandshakeError {
    /// Whether a server counts this against the peer's address (`wire.md` §2.2, bans): only a
    /// well-formed but wrong proof, never noise.
    #[must_use]
    pub const fn counts_for_ban(&self) -> bool {
        matches!(self, Self::WrongProof)
    }
}

impl From<BadLine> for HandshakeError {
    fn from(bad: BadLine) -> Self {
        match bad {
            BadLine::TooLong => Self::TooLong,
            BadLine::Malformed => Self::Malformed,
            BadLine::Version { theirs } => Self::Version { theirs },
        }
    }
}

impl From<BadParams> for HandshakeError {
    fn from(bad: BadParams) -> Self {
        match bad {
            BadParams::Malformed => Self::NotHttp,
            BadParams::Transport => Self::PoolType,
        }
    }
}

/// One line that arrives in pieces, at most [`limits::CONTROL_LINE`] bytes.
#[derive(Debug, Default)]
struct FirstLine(Vec<u8>);

/// A line with its `\n`, and what came behind it.
struct Split {
    line: Vec<u8>,
    rest: Vec<u8>,
}

impl FirstLine {
    /// The line, once it is complete. Bytes that cannot begin one are noticed at once: a legacy
    /// server sends four and waits.
    fn feed(&mut self, bytes: &[u8]) -> Result<Option<Split>, HandshakeError> {
        if self.0.is_empty() && bytes.first().is_some_and(|&first| first != b'{') {
            return Err(HandshakeError::Malformed);
        }
        let room = limits::CONTROL_LINE.saturating_sub(self.0.len());
        let window = bytes.get(..room).unwrap_or(bytes);
        let end = window.iter().position(|&byte| byte == b'\n');
        let (head, rest) = bytes.split_at(end.map_or(window.len(), |end| end + 1));
        self.0.extend_from_slice(head);
        if end.is_some() {
            return Ok(Some(Split {
                line: core::mem::take(&mut self.0),
                rest: rest.to_vec(),
            }));
        }
        if self.0.len() >= limits::CONTROL_LINE {
            return Err(HandshakeError::TooLong);
        }
        Ok(None)
    }
}
