//! Bytes on a data connection that has its id and no launch yet (`wire.md` §1, §3).
//!
//! They are users' bytes that overtook their launch, or the handshake of a client that restarted:
//! its address has a session already, so it got an id where it expected nothing. Only a complete
//! handshake with the right key is taken for one.

use alloc::vec::Vec;

use super::LegacyKeys;
use super::server::{cipher, judge};
use crate::demux::CLIENT_HELLO;
use crate::limits;
use crate::wire::classic::Hello;
use crate::wire::http::{Head, Request, Whole};

const REQUEST: &[u8] = b"GET ";
const PREFACE: &[u8] = b"NPD1";

/// What a connection sent before its launch: at most [`limits::EARLY_BYTES`].
#[derive(Clone, Debug, Default)]
pub struct Held {
    bytes: Vec<u8>,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Seen {
    /// Maybe users' bytes: keep them for the launch.
    Early,
    /// A client that restarted, and has the key: close the connection and drop the session.
    Returned,
    /// The beginning of something that is no user's: close the connection.
    Foreign,
}

impl Held {
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

    /// The next bytes, of which at most [`room`](Self::room) are kept. A server says its keys in
    /// `returning`, a client says `None`: nobody dials it. `launches`: whether the peer is ingress,
    /// so that these may be users' bytes at all.
    pub fn feed(&mut self, bytes: &[u8], returning: Option<&LegacyKeys>, launches: bool) -> Seen {
        let kept = bytes.get(..self.room()).unwrap_or(bytes);
        self.bytes.extend_from_slice(kept);
        let Some(keys) = returning else {
            return Seen::Early;
        };
        if is_handshake(&self.bytes, keys) {
            return Seen::Returned;
        }
        // Where users speak first, they may well speak TLS.
        let foreign = self.bytes.starts_with(CLIENT_HELLO) || self.bytes.starts_with(PREFACE);
        match foreign && !launches {
            true => Seen::Foreign,
            false => Seen::Early,
        }
    }

    /// The users' bytes, for the relay.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

fn is_handshake(bytes: &[u8], keys: &LegacyKeys) -> bool {
    if bytes.starts_with(REQUEST) {
        let Ok(Some(Whole { head, .. })) = Head::default().feed(bytes) else {
            return false;
        };
        return Request::parse(&head).is_ok_and(|it| judge(&it, &keys.token).is_ok());
    }
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return false;
    };
    let line = bytes.get(..end).unwrap_or_default();
    end < limits::CLASSIC_LINE
        && cipher(keys).is_ok_and(|cipher| cipher.read_hello(line) == Hello::Right)
}
