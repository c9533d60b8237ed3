//! Waiting: for a condition, with a deadline, by looking at the real thing.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers, and fails the test if it does not within `limit`.
pub(crate) fn until<T>(what: &str, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
    poll(limit, probe).unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}

/// Asks `probe` until it answers or `limit` is over.
pub(crate) fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        pause(STEP);
    }
}

/// Fails the test if `probe` answers within `span`.
pub(crate) fn never<T>(what: &str, span: Duration, probe: impl FnMut() -> Option<T>) {
    assert!(
        poll(span, probe).is_none(),
        "happened within {span:?}: {what}"
    );
}

/// Does something up to three times, until it takes less than `limit`: a bound that is promised
/// may be missed on a busy machine, but not always. `act` says how long it took.
pub(crate) fn promptly(what: &str, limit: Duration, mut act: impl FnMut() -> Duration) {
    let mut times = Vec::new();
    while times.len() < 3 {
        times.push(act());
        if times.last().is_some_and(|time| *time < limit) {
            return;
        }
    }
    panic!("{what} took {times:?}, never less than {limit:?}");
}

/// Lets time pass where time itself is what is tested: a pace, a rate, an idle span. Never to wait
/// for something that can be looked at.
pub(crate) fn pause(span: Duration) {
    let end = Instant::now() + span;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        if left.is_zero() {
            break;
        }
        std::thread::park_timeout(left);
    }
}

/// A duration of whole seconds.
pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A duration of milliseconds.
pub(crate) const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
