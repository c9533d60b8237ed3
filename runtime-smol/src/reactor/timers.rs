//! Who is to be woken when.

use std::collections::BTreeMap;
use std::mem;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// The timers of one reactor.
#[derive(Debug, Default)]
pub(super) struct Timers {
    sleepers: BTreeMap<Due, Waker>,
    latest: u64,
}

/// When a timer is due, and which one it is of those that are due then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due(Instant, u64);

impl Timers {
    /// Has the task woken at `at`, once.
    pub(super) fn insert(&mut self, at: Instant, cx: &Context<'_>) -> Due {
        self.latest = self.latest.wrapping_add(1);
        let due = Due(at, self.latest);
        self.sleepers.insert(due, cx.waker().clone());
        due
    }

    /// Has this task woken instead of the one that is returned; `None` if the timer has fired.
    pub(super) fn update(&mut self, due: Due, cx: &Context<'_>) -> Option<Option<Waker>> {
        let sleeper = self.sleepers.get_mut(&due)?;
        let same = sleeper.will_wake(cx.waker());
        Some((!same).then(|| mem::replace(sleeper, cx.waker().clone())))
    }

    /// Has nobody woken.
    pub(super) fn remove(&mut self, due: Due) -> Option<Waker> {
        self.sleepers.remove(&due)
    }

    /// How long until the next one is due.
    pub(super) fn next(&self) -> Option<Duration> {
        let (due, _) = self.sleepers.first_key_value()?;
        Some(due.0.saturating_duration_since(Instant::now()))
    }

    /// Those whose time has come.
    pub(super) fn expire(&mut self, woken: &mut Vec<Waker>) {
        if self.sleepers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(first) = self.sleepers.first_entry()
            && first.key().0 <= now
        {
            woken.push(first.remove());
        }
    }
}
