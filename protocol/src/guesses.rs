//! Keys that are answered, or looked at, slowly: whoever sits beside a live session must not try many
//! (`wire.md` §2.2, "Bans").

use alloc::collections::{BTreeSet, VecDeque};

use crate::id::ConnId;
use crate::limits;
use crate::time::Instant;

/// Connections that showed a key whose turn comes later: each after [`limits::REFUSAL_DELAY`], and at
/// most [`limits::REFUSALS_DELAYED`] in any time of that length. The rest wait; whoever keeps the
/// connections bounds them.
#[derive(Debug, Default)]
pub(crate) struct Guesses {
    /// From when on each may have its turn.
    waiting: BTreeSet<(Instant, ConnId)>,
    /// When the last [`limits::REFUSALS_DELAYED`] had theirs.
    turns: VecDeque<Instant>,
}

impl Guesses {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn delay(&mut self, now: Instant, conn: ConnId) {
        self.waiting
            .insert((now.after(limits::REFUSAL_DELAY), conn));
    }

    /// Whether its turn is yet to come.
    pub(crate) fn contains(&self, conn: ConnId) -> bool {
        self.waiting.iter().any(|&(_, waiting)| waiting == conn)
    }

    pub(crate) fn remove(&mut self, conn: ConnId) {
        self.waiting.retain(|&(_, waiting)| waiting != conn);
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        let &(due, _) = self.waiting.first()?;
        let full = self.turns.len() >= limits::REFUSALS_DELAYED;
        let oldest = self.turns.front().filter(|_| full);
        Some(oldest.map_or(due, |oldest| due.max(oldest.after(limits::REFUSAL_DELAY))))
    }

    /// The next one whose turn is now.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<ConnId> {
        self.next_due().filter(|&due| due <= now)?;
        let (_, conn) = self.waiting.pop_first()?;
        if self.turns.len() >= limits::REFUSALS_DELAYED {
            self.turns.pop_front();
        }
        self.turns.push_back(now);
        Some(conn)
    }
}
