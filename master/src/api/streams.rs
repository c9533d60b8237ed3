//! Event streams, and how many there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::events::Subscription;

/// Event streams at once.
pub(crate) const STREAMS: usize = 64;

/// A number of things that there may be at once.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// One of them; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Quota {
    pub(crate) fn new(limit: usize) -> Self {
        let taken = Arc::default();
        Self { taken, limit }
    }

    /// One more, if there is one left.
    pub(crate) fn take(&self) -> Option<Permit> {
        let next = |taken| (taken < self.limit).then_some(taken + 1);
        let took = self
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        took.ok().map(|_| Permit(Arc::clone(&self.taken)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The events for one caller.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) subscription: Subscription,
    pub(crate) _permit: Permit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_given_back() {
        let quota = Quota::new(2);
        let first = quota.take();
        let second = quota.take();
        assert!(first.is_some() && second.is_some() && quota.take().is_none());
        drop(first);
        let third = quota.take();
        assert!(third.is_some() && quota.take().is_none());
    }
}
