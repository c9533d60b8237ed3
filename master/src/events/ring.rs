//! What was published lately, for those who reconnect.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Class, Event};

/// Events that are kept.
pub(super) const EVENTS: usize = 1024;
/// Bytes of log lines that are kept.
pub(super) const BYTES: usize = 128 * 1024;

/// The newest events. Of telemetry, the newest of each instance is enough.
#[derive(Debug, Default)]
pub(super) struct Ring {
    entries: BTreeMap<u64, (Event, Class)>,
    telemetry: BTreeMap<Arc<str>, u64>,
    bytes: usize,
    /// The newest event that is not kept any more.
    floor: u64,
}

impl Ring {
    /// An empty one; what came before the event `next` cannot be replayed.
    pub(super) const fn new(next: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            telemetry: BTreeMap::new(),
            bytes: 0,
            floor: next.saturating_sub(1),
        }
    }

    pub(super) fn push(&mut self, number: u64, event: Event, class: Class) {
        if class == Class::Telemetry {
            let id = event.id().cloned().unwrap_or_default();
            if let Some(older) = self.telemetry.insert(id, number) {
                self.entries.remove(&older);
            }
        }
        self.bytes += event.logs.len();
        self.entries.insert(number, (event, class));
        while self.entries.len() > EVENTS || self.bytes > BYTES {
            let Some((oldest, (event, class))) = self.entries.pop_first() else {
                break;
            };
            self.floor = oldest;
            self.bytes -= event.logs.len();
            if class == Class::Telemetry
                && let Some(id) = event.id()
            {
                self.telemetry.remove(id);
            }
        }
    }

    /// What came after the event `last`; `None` if that is not known any more.
    pub(super) fn since(
        &self,
        last: u64,
        next: u64,
    ) -> Option<impl Iterator<Item = (u64, &Event, Class)>> {
        let known = last >= self.floor && last < next;
        let after = last.saturating_add(1);
        known.then(|| {
            let missed = self.entries.range(after..);
            missed.map(|(number, (event, class))| (*number, event, *class))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::testing::{event, log};
    use super::*;

    fn since(ring: &Ring, last: u64, next: u64) -> Option<Vec<u64>> {
        Some(ring.since(last, next)?.map(|(number, ..)| number).collect())
    }

    #[test]
    fn what_was_missed_is_replayed_if_all_of_it_is_known() {
        let mut ring = Ring::new(100);
        for number in 100..104 {
            ring.push(number, event(number, Kind::Create, "a"), Class::Vital);
        }
        assert_eq!(since(&ring, 99, 104), Some(vec![100, 101, 102, 103]));
        assert_eq!(since(&ring, 102, 104), Some(vec![103]));
        assert_eq!(since(&ring, 103, 104), Some(vec![]));
        assert_eq!(since(&ring, 98, 104), None, "before this master");
        assert_eq!(since(&ring, 104, 104), None, "of another master");
        assert_eq!(since(&ring, u64::MAX, 104), None);
    }

    #[test]
    fn it_is_bounded_in_events_and_in_bytes() {
        let mut ring = Ring::new(1);
        let most = EVENTS as u64;
        for number in 1..=most + 5 {
            ring.push(number, event(number, Kind::Create, "a"), Class::Vital);
        }
        assert_eq!(since(&ring, 4, most + 6), None);
        assert_eq!(since(&ring, 5, most + 6).map(|all| all.len()), Some(EVENTS));
        let mut ring = Ring::new(1);
        for number in 1..=9 {
            ring.push(number, log(number, "a", BYTES / 4), Class::Log);
        }
        assert_eq!(since(&ring, 4, 10), None);
        assert_eq!(since(&ring, 5, 10).map(|all| all.len()), Some(4));
    }

    #[test]
    fn telemetry_that_was_overtaken_is_not_missed() {
        let mut ring = Ring::new(1);
        for number in 1..=5 {
            ring.push(number, event(number, Kind::Update, "a"), Class::Telemetry);
        }
        assert_eq!(since(&ring, 0, 6), Some(vec![5]));
    }
}
