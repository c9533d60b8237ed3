//! Wrong proofs whose answer waits, so that a neighbour of a live session guesses slowly
//! (`wire.md` §2.2, "Bans").

use alloc::collections::{BTreeSet, VecDeque};

use crate::id::ConnId;
use crate::limits;
use crate::time::Instant;

/// Half-open connections that are refused later: each after [`limits::REFUSAL_DELAY`], and at most
/// [`limits::REFUSALS_DELAYED`] in any time of that length. The rest wait for their turn; they
/// stay half-open, which bounds them.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// By when they may be answered.
    waiting: BTreeSet<(Instant, ConnId)>,
    /// When the last [`limits::REFUSALS_DELAYED`] were answered.
    answered: VecDeque<Instant>,
}

impl Refusals {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn delay(&mut self, now: Instant, conn: ConnId) {
        self.waiting
            .insert((now.after(limits::REFUSAL_DELAY), conn));
    }

    /// Whether its answer waits: whatever else it sends comes too late.
    pub(super) fn contains(&self, conn: ConnId) -> bool {
        self.waiting.iter().any(|&(_, waiting)| waiting == conn)
    }

    pub(super) fn remove(&mut self, conn: ConnId) {
        self.waiting.retain(|&(_, waiting)| waiting != conn);
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let &(due, _) = self.waiting.first()?;
        let full = self.answered.len() >= limits::REFUSALS_DELAYED;
        let oldest = self.answered.front().filter(|_| full);
        Some(oldest.map_or(due, |oldest| due.max(oldest.after(limits::REFUSAL_DELAY))))
    }

    /// The next one to answer now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<ConnId> {
        self.next_due().filter(|&due| due <= now)?;
        let (_, conn) = self.waiting.pop_first()?;
        if self.answered.len() >= limits::REFUSALS_DELAYED {
            self.answered.pop_front();
        }
        self.answered.push_back(now);
        Some(conn)
    }
}
