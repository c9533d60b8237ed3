//! Signals on a control connection, in the spelling of one session's generation.

use alloc::vec::Vec;

use super::signal::{BadSignal, Signal};
use super::{classic, http};
use crate::limits;

/// How signals become lines and back; made by the handshake, used by the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Codec {
    /// JSON lines (`wire.md` §2.2).
    Native,
    /// base64 of XOR-ed JSON lines (`wire.md` §3).
    Http(http::SignalCodec),
    /// XOR-ed URL references (`wire.md` §5).
    Classic(classic::Cipher),
}

impl Codec {
    /// The longest line, its `\n` included, in bytes.
    #[must_use]
    pub const fn max_line(&self) -> usize {
        match self {
            Self::Native | Self::Http(_) => limits::CONTROL_LINE,
            Self::Classic(_) => limits::CLASSIC_LINE,
        }
    }

    /// Appends the line, `\n` included; nothing, if this generation has no words for the signal:
    /// such a peer does without.
    pub fn encode(&self, signal: &Signal, out: &mut Vec<u8>) {
        match self {
            Self::Native => signal.encode_line(out),
            Self::Http(codec) => codec.encode(signal, out),
            Self::Classic(cipher) => cipher.encode_signal(signal, out),
        }
    }

    /// Reads a line without its `\n`. `Ok(None)`: an action unknown here, which is ignored.
    ///
    /// # Errors
    /// [`BadSignal`], if the line must be dropped.
    pub fn decode(&self, line: &[u8]) -> Result<Option<Signal>, BadSignal> {
        match self {
            Self::Native => Signal::decode_line(line),
            Self::Http(codec) => codec.decode(line),
            Self::Classic(cipher) => cipher.decode_signal(line),
        }
    }
}
