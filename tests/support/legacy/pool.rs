//! Idle data connections.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::conn::{Conn, Stir};
use super::journal::Journal;
use super::life::Life;

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    /// Its id, 8 digits.
    pub(crate) id: String,
    /// The connection.
    pub(crate) conn: Arc<Conn>,
    /// Set once its id has been written or read.
    pub(crate) announced: Arc<OnceLock<()>>,
    /// Whether a relay has used it before.
    pub(crate) used: bool,
}

/// All of a session's, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<VecDeque<Idle>>,
    ids: Mutex<HashSet<String>>,
}

impl Pool {
    /// One more. Whether its id is new in this session.
    pub(crate) fn add(&self, idle: Idle) -> bool {
        let new = idle.used || self.ids.lock().unwrap().insert(idle.id.clone());
        self.idle.lock().unwrap().push_back(idle);
        new
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.idle.lock().unwrap().len()
    }

    /// The oldest that is as an idle connection must be. Called by the ingress, whose other side
    /// has nothing to say on it.
    pub(crate) fn take(&self, life: &Life, journal: &Journal, limit: Duration) -> Option<Idle> {
        life.wait(limit, || {
            loop {
                let idle = self.idle.lock().unwrap().pop_front()?;
                match idle.announced.get().map(|()| idle.conn.stir()) {
                    None | Some(Stir::Nothing) => return Some(idle),
                    Some(Stir::End) => journal.note(format!("{} had ended", idle.id)),
                    // A client that comes back meets a server that is still busy with its old self.
                    Some(Stir::Bytes(bytes)) if is_handshake(&bytes) => {}
                    Some(Stir::Bytes(bytes)) => {
                        let bytes = bytes.escape_ascii();
                        journal.foul(format!("bytes on the idle connection {}: {bytes}", idle.id));
                    }
                }
                idle.conn.close();
            }
        })
    }

    /// The one with this id, which may not have been read yet.
    pub(crate) fn take_id(&self, id: &str, life: &Life, limit: Duration) -> Option<Idle> {
        life.wait(limit, || {
            let mut idle = self.idle.lock().unwrap();
            let at = idle.iter().position(|idle| idle.id == id)?;
            idle.remove(at)
        })
    }

    /// The oldest without looking at it, for `verify`.
    pub(crate) fn take_oldest(&self) -> Option<Idle> {
        self.idle.lock().unwrap().pop_front()
    }

    /// Closes all of them.
    pub(crate) fn flush(&self) {
        self.idle
            .lock()
            .unwrap()
            .drain(..)
            .for_each(|idle| idle.conn.close());
    }
}

/// Whether a client begins like this.
pub(crate) fn is_handshake(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GET ") || bytes.starts_with(&[0x16])
}
