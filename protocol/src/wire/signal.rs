//! What the two ends of a session say to each other after the handshake, whatever the generation.

use alloc::string::String;
use alloc::vec::Vec;

use crate::limits;
use crate::terms::{DataId, Fingerprint};
use crate::wire::launch::Launch;

/// One signal on a control connection (`wire.md` §2.2, §3, §5). No generation has words for all of
/// them: see [`Codec::encode`](crate::wire::codec::Codec::encode).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Are you there? Answered with [`Signal::Pong`].
    Ping {
        /// Repeated by the answer; `None` where pings are not numbered.
        seq: Option<u64>,
    },
    /// The answer to [`Signal::Ping`].
    Pong {
        /// That of the ping.
        seq: Option<u64>,
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
    /// Ingress took the data connection `id` for a user.
    Launch {
        /// Which data connection.
        id: DataId,
        /// For whom.
        launch: Launch,
    },
    /// A look at one data connection's certificate, by both ends.
    Verify {
        /// Which data connection; it is of no other use.
        id: DataId,
        /// What the sender sees there, or shows; `None` if it cannot tell.
        fp: Option<Fingerprint>,
    },
}

/// A control line that is dropped. The session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignal {
    /// Longer than the generation allows.
    #[error("control line longer than {} bytes", limits::CONTROL_LINE)]
    TooLong,
    /// Not what the generation's lines look like.
    #[error("control line is not a signal")]
    Malformed,
    /// A known action whose fields are missing, of another kind, or too many.
    #[error("control line `{0}` has bad fields")]
    Fields(&'static str),
}
