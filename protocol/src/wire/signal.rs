//! What the two ends of a session say to each other after the handshake, whatever the generation.

use alloc::string::String;
use alloc::vec::Vec;

use crate::limits;
use crate::terms::Fingerprint;

/// One signal on a control connection (`wire.md` §2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Are you there? Answered with [`Signal::Pong`].
    Ping {
        /// Repeated by the answer.
        seq: u64,
    },
    /// The answer to [`Signal::Ping`].
    Pong {
        /// That of the ping.
        seq: u64,
    },
    /// Ingress is short of `n` data connections right now.
    Demand {
        /// How many.
        n: u32,
    },
    /// The server's leaf certificates from now on, at most [`limits::FINGERPRINTS`].
    Cert {
        /// Replaces what was announced before.
        fp: Vec<Fingerprint>,
    },
    /// Close the idle data connections and refill.
    Flush,
    /// The graceful end: no new launches.
    Bye {
        /// For the log, at most [`limits::BYE_REASON`] bytes without control characters.
        reason: String,
        /// After how many milliseconds coming back makes sense; 0: at once.
        retry_ms: u64,
    },
}

/// A control line that is dropped. The session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignal {
    /// Longer than the generation allows.
    #[error("control line longer than {} bytes", limits::CONTROL_LINE)]
    TooLong,
    /// Not what the generation's lines look like.
    #[error("control line is not a JSON object with an action")]
    Malformed,
    /// A known action whose fields are missing, of another kind, or too many.
    #[error("control line `{0}` has bad fields")]
    Fields(&'static str),
}
