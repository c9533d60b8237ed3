//! Connections in handshake: bounded in all and per address (IPv6: per /64), the oldest goes first.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;

use super::expiring::subject;
use crate::id::ConnId;
use crate::limits;

/// Connections in handshake. Ids rise, so the lowest is the oldest.
#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    conns: BTreeMap<ConnId, IpAddr>,
    /// By [`subject`].
    by_address: BTreeMap<IpAddr, BTreeSet<ConnId>>,
    at_limit: bool,
}

/// What admitting a connection cost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admission {
    /// The connection that makes room.
    pub(super) evicted: Option<ConnId>,
    /// Whether this is the first eviction of an episode.
    pub(super) first_at_limit: bool,
}

impl HalfOpen {
    pub(super) fn len(&self) -> usize {
        self.conns.len()
    }

    /// One more, of at most `most` from its address.
    pub(super) fn insert(&mut self, conn: ConnId, from: IpAddr, most: usize) -> Admission {
        let evicted = self.make_room(from, most);
        self.conns.insert(conn, from);
        let same = self.by_address.entry(subject(from)).or_default();
        same.insert(conn);
        let first_at_limit = evicted.is_some() && !self.at_limit;
        self.at_limit |= evicted.is_some();
        Admission {
            evicted,
            first_at_limit,
        }
    }

    pub(super) fn remove(&mut self, conn: ConnId) -> Option<IpAddr> {
        let from = self.conns.remove(&conn)?;
        let subject = subject(from);
        if let Some(same) = self.by_address.get_mut(&subject) {
            same.remove(&conn);
            if same.is_empty() {
                self.by_address.remove(&subject);
            }
        }
        if self.conns.len() < limits::HALF_OPEN_PER_ADDRESS / 2 {
            self.at_limit = false;
        }
        Some(from)
    }

    pub(super) fn address(&self, conn: ConnId) -> Option<IpAddr> {
        self.conns.get(&conn).copied()
    }

    fn make_room(&mut self, from: IpAddr, most: usize) -> Option<ConnId> {
        let same = self.by_address.get(&subject(from));
        let oldest = match same.filter(|same| same.len() >= most) {
            Some(same) => same.first().copied(),
            None if self.conns.len() >= limits::HALF_OPEN => {
                self.conns.first_key_value().map(|(&conn, _)| conn)
            }
            None => None,
        }?;
        self.remove(oldest);
        Some(oldest)
    }
}
