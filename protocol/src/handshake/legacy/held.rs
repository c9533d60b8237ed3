//! Bytes on a data connection that has its id and no launch yet (`wire.md` §1, §3).
//!
//! They are users' bytes that overtook their launch, or the handshake of a client that restarted:
//! its address has a session already, so it got an id where it expected nothing. Only a complete
//! handshake with the right key is taken for one; and it is judged when its turn comes
//! ([`roster::Output::Judge`](crate::roster::Output::Judge)), not at once, so that nobody tries many
//! keys here.

use alloc::vec::Vec;

use super::server::{AwaitLegacy, LegacyStep};
use super::{LegacyKeys, Spoken};
use crate::demux::{CLIENT_HELLO, PREFACE_MAGIC, REQUEST};
use crate::handshake::HandshakeError;
use crate::limits;
use crate::time::{Duration, Instant};

const HEAD_END: &[u8] = b"\r\n\r\n";
const LINE_END: &[u8] = b"\n";

/// Who is at the other end of a numbered connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peer {
    /// A server, which was dialled: nothing on the connection can be a handshake.
    #[default]
    Server,
    /// A client that is ingress: what it says may be its users', whatever it looks like.
    Ingress,
    /// A client that is egress: before a launch it has nothing to say.
    Egress,
}

/// What a connection sent before its launch: at most [`limits::EARLY_BYTES`].
#[derive(Clone, Debug, Default)]
pub struct Held {
    peer: Peer,
    bytes: Vec<u8>,
    /// The length of what looks like a handshake, once it is complete.
    shown: Option<usize>,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Seen {
    /// Maybe users' bytes: keep them for the launch.
    Early,
    /// The same, but they begin with a complete request head or line: say
    /// [`roster::Input::Shown`](crate::roster::Input::Shown). Seen once.
    Shown,
    /// The beginning of something that is no user's: close the connection.
    Foreign,
}

/// What that head or line was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Judged {
    /// A client that restarted, and has the key: close the connection and drop the session.
    Returned,
    /// Maybe a user's after all: keep it for the launch.
    Users,
    /// Neither: say `answer`, which may be empty, and close the connection. When
    /// [`HandshakeError::counts_for_ban`] says so, the address is charged
    /// ([`endpoint::Input::WrongKey`](crate::endpoint::Input::WrongKey)).
    Refused {
        /// What to say, as at the door.
        answer: Vec<u8>,
        /// For the log.
        why: HandshakeError,
    },
}

impl Held {
    /// Nothing, of that peer.
    #[must_use]
    pub const fn of(peer: Peer) -> Self {
        Self {
            peer,
            bytes: Vec::new(),
            shown: None,
        }
    }

    /// How many more bytes may be read; 0: wait for the launch.
    #[must_use]
    pub fn room(&self) -> usize {
        limits::EARLY_BYTES - self.bytes.len()
    }

    /// Whether nothing came yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next bytes, of which at most [`room`](Self::room) are kept.
    pub fn feed(&mut self, bytes: &[u8]) -> Seen {
        let before = self.bytes.len();
        let kept = bytes.get(..self.room()).unwrap_or(bytes);
        self.bytes.extend_from_slice(kept);
        if self.peer == Peer::Server || self.shown.is_some() {
            return Seen::Early;
        }
        // Where users speak first, they may well speak TLS.
        let foreign = self.bytes.starts_with(CLIENT_HELLO) || self.bytes.starts_with(PREFACE_MAGIC);
        if foreign && self.peer == Peer::Egress {
            return Seen::Foreign;
        }
        self.shown = self.find_end(before);
        match self.shown {
            Some(_) => Seen::Shown,
            None => Seen::Early,
        }
    }

    /// Its turn has come.
    pub fn judge(&self, keys: &LegacyKeys) -> Judged {
        let shown = self.shown.and_then(|end| self.bytes.get(..end));
        let Some(shown) = shown else {
            return Judged::Users;
        };
        let spoken = match shown.starts_with(REQUEST) {
            true => Spoken::Http,
            false => Spoken::Classic,
        };
        // It is all there, so nothing waits.
        let wait = AwaitLegacy::new(spoken, keys, Instant::default(), Duration::ZERO);
        let (answer, why) = match wait.and_then(|wait| wait.handle_bytes(shown)) {
            Ok(LegacyStep::Verified(_)) => return Judged::Returned,
            Ok(LegacyStep::NeedsInput(wait)) => (Vec::new(), wait.handle_eof()),
            Ok(LegacyStep::Refused { answer, why }) => (answer, why),
            Err(why) => (Vec::new(), why),
        };
        match self.peer {
            Peer::Egress => Judged::Refused { answer, why },
            Peer::Ingress | Peer::Server => Judged::Users,
        }
    }

    /// The users' bytes, for the relay.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Where the head or line ends, if it does in what came after `before`.
    fn find_end(&self, before: usize) -> Option<usize> {
        let (end, most) = match self.bytes.starts_with(REQUEST) {
            true => (HEAD_END, limits::HTTP_HEAD),
            false => (LINE_END, limits::CLASSIC_LINE),
        };
        // It may have begun in the piece before.
        let from = before.saturating_sub(end.len() - 1);
        let fresh = self.bytes.get(from..most.min(self.bytes.len()))?;
        let at = fresh.windows(end.len()).position(|it| it == end)?;
        Some(from + at + end.len())
    }
}
