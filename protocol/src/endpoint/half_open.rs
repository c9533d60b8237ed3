//! Connections in handshake: bounded in all and per address (IPv6: per /64). The oldest goes first, but
//! before all others those that their session has no room for.

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
    /// Those that wait for bytes, or for room in their session.
    spare: BTreeSet<ConnId>,
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
        let evicted = self.first_to_go(from, most);
        let was_spare = evicted.is_some_and(|it| self.spare.contains(&it));
        evicted.map(|it| self.remove(it));
        self.conns.insert(conn, from);
        let same = self.by_address.entry(subject(from)).or_default();
        same.insert(conn);
        let at_limit = evicted.is_some() && !was_spare;
        let first_at_limit = at_limit && !self.at_limit;
        self.at_limit |= at_limit;
        Admission {
            evicted,
            first_at_limit,
        }
    }

    /// There is no room in its session. Of more than [`limits::HALF_OPEN_SPARE`] such connections of
    /// one address the oldest goes; this one is the last to be.
    pub(super) fn make_spare(&mut self, conn: ConnId) -> Option<ConnId> {
        let subject = subject(self.address(conn)?);
        self.spare.insert(conn);
        let same = self.by_address.get(&subject)?;
        let spare = same.intersection(&self.spare);
        let too_many = spare.clone().count() > limits::HALF_OPEN_SPARE;
        let oldest = spare.copied().find(|&it| it != conn && too_many)?;
        self.remove(oldest);
        Some(oldest)
    }

    pub(super) fn remove(&mut self, conn: ConnId) -> Option<IpAddr> {
        let from = self.conns.remove(&conn)?;
        self.spare.remove(&conn);
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

    /// Who makes room for one more, of at most `most` from its address.
    fn first_to_go(&self, from: IpAddr, most: usize) -> Option<ConnId> {
        let same = self.by_address.get(&subject(from));
        match same.filter(|same| same.len() >= most) {
            Some(same) => {
                let spare = same.intersection(&self.spare).next();
                spare.or_else(|| same.first()).copied()
            }
            None if self.conns.len() >= limits::HALF_OPEN => {
                let oldest = self.conns.first_key_value().map(|(conn, _)| conn);
                self.spare.first().or(oldest).copied()
            }
            None => None,
        }
    }
}
