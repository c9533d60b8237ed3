//! `slot`: how many relays an instance may have, TCP and UDP together, and when none is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use event_listener::Event;

/// The relays of one instance, waiting users included.
#[derive(Clone, Debug)]
pub(super) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: Option<usize>,
    used: AtomicUsize,
    full: AtomicBool,
    freed: Event,
}

/// One relay's share; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<Inner>);

impl Slots {
    pub(super) fn new(limit: Option<u32>) -> Self {
        Self(Arc::new(Inner {
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            used: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            freed: Event::new(),
        }))
    }

    /// A slot, if one is free. Running out is logged once, until half of them are free again.
    pub(super) fn take(&self) -> Option<Slot> {
        let inner = &self.0;
        let used = inner.used.fetch_add(1, Ordering::AcqRel);
        let slot = Slot(Arc::clone(inner));
        match inner.limit {
            Some(limit) if used >= limit => {
                if !inner.full.swap(true, Ordering::Relaxed) {
                    tracing::warn!(slot = limit, "limit of relays reached, more are refused");
                }
                None
            }
            Some(limit) if used < limit / 2 => {
                inner.full.store(false, Ordering::Relaxed);
                Some(slot)
            }
            Some(_) | None => Some(slot),
        }
    }

    /// Waits until no slot is in use.
    pub(super) async fn all_free(&self) {
        while self.0.used.load(Ordering::Acquire) > 0 {
            let freed = self.0.freed.listen();
            if self.0.used.load(Ordering::Acquire) == 0 {
                return;
            }
            freed.await;
        }
    }

    /// Slots in use.
    pub(super) fn used(&self) -> usize {
        self.0.used.load(Ordering::Acquire)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.0.used.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.freed.notify(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_limited_and_come_back() {
        let slots = Slots::new(Some(2));
        let (first, second) = (slots.take(), slots.take());
        assert!(first.is_some() && second.is_some());
        assert!(slots.take().is_none());
        assert_eq!(slots.used(), 2);
        drop(first);
        assert!(slots.take().is_some());
        drop(second);
        smol::block_on(slots.all_free());
    }
}
