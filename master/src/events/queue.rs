//! What one subscriber is still to be told: bounded, however slowly it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Class, Event};

/// Bytes of log lines that wait for one subscriber; the oldest go first.
pub(super) const LOG_BYTES: usize = 256 * 1024;
/// Log lines that wait for one subscriber.
pub(super) const LOG_LINES: usize = 4096;
/// Events that must not be lost and wait for one subscriber: two for each of the most instances
/// there can be. One more ends the subscription; a reconnect gets a snapshot.
pub(super) const VITAL: usize = 2 * crate::control::MAX_INSTANCES;

/// How many characters at the start of a log line are its time.
const TIME: usize = "2006-01-02 15:04:05.000".len();

/// Events in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: BTreeMap<u64, Entry>,
    /// The waiting telemetry of each instance.
    telemetry: BTreeMap<Arc<str>, u64>,
    /// The waiting note about lost lines of each instance.
    gaps: BTreeMap<Arc<str>, u64>,
    logs: BTreeSet<u64>,
    log_bytes: usize,
    vital: usize,
}

#[derive(Debug)]
struct Entry {
    event: Event,
    class: Class,
    /// How many log lines were lost here, the one of `event` included; 0 for an event.
    lost: u64,
}

/// Too much that must not be lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds the event `number`, which is above all others. Says how many log lines had to go.
    ///
    /// # Errors
    /// There is no room for what must not be lost.
    pub(super) fn push(
        &mut self,
        number: u64,
        event: Event,
        class: Class,
    ) -> Result<u64, Overflow> {
        match class {
            Class::Vital if self.vital >= VITAL => return Err(Overflow),
            Class::Vital => self.vital += 1,
            Class::Telemetry => {
                let id = event.id().cloned().unwrap_or_default();
                if let Some(older) = self.telemetry.insert(id, number) {
                    self.entries.remove(&older);
                }
            }
            Class::Log => {
                self.log_bytes += event.logs.len();
                self.logs.insert(number);
            }
        }
        let lost = 0;
        self.entries.insert(number, Entry { event, class, lost });
        Ok(self.make_room())
    }

    /// Takes the next event.
    pub(super) fn pop(&mut self) -> Option<Event> {
        let (number, Entry { event, class, lost }) = self.entries.pop_first()?;
        let id = event.id().cloned().unwrap_or_default();
        if lost > 0 {
            self.gaps.remove(&id);
            return Some(note(event, lost));
        }
        match class {
            Class::Vital => self.vital -= 1,
            Class::Telemetry => {
                self.telemetry.remove(&id);
            }
            Class::Log => self.forget_line(number, &event),
        }
        Some(event)
    }

    /// Turns the oldest lines into notes that say how many they were.
    fn make_room(&mut self) -> u64 {
        let mut dropped = 0;
        while self.log_bytes > LOG_BYTES || self.logs.len() > LOG_LINES {
            let oldest = self.logs.first().copied();
            let Some((number, mut entry)) =
                oldest.and_then(|number| Some((number, self.entries.remove(&number)?)))
            else {
                break;
            };
            self.forget_line(number, &entry.event);
            let id = entry.event.id().cloned().unwrap_or_default();
            let earlier = self.gaps.insert(id, number);
            let earlier = earlier.and_then(|number| self.entries.remove(&number));
            entry.lost = 1 + earlier.map_or(0, |gap| gap.lost);
            self.entries.insert(number, entry);
            dropped += 1;
        }
        dropped
    }

    fn forget_line(&mut self, number: u64, event: &Event) {
        self.logs.remove(&number);
        self.log_bytes -= event.logs.len();
    }
}

/// A log line in place of `lost` others, of the time of the last of them.
fn note(event: Event, lost: u64) -> Event {
    let time = event.logs.get(..TIME).unwrap_or_default();
    let line =
        format!("{time}  \x1b[33mWARN\x1b[0m  {lost} log lines were lost, the reader is too slow");
    Event {
        logs: line.into(),
        ..event
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::testing::{event, log};
    use super::*;

    fn lines(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop())
            .map(|event| format!("{} {}", event.id().unwrap(), event.logs))
            .collect()
    }

    #[test]
    fn telemetry_collapses_to_the_newest() {
        let mut queue = Queue::default();
        for number in 1..=9 {
            let id = if number % 2 == 0 { "even" } else { "odd" };
            let update = event(number, Kind::Update, id);
            assert_eq!(queue.push(number, update, Class::Telemetry), Ok(0));
        }
        let numbers: Vec<_> = std::iter::from_fn(|| queue.pop()?.number).collect();
        assert_eq!(numbers, [8, 9]);
        assert!(queue.is_empty() && queue.telemetry.is_empty());
    }

    #[test]
    fn the_oldest_lines_go_first_and_a_line_says_how_many() {
        let mut queue = Queue::default();
        let lost: u64 = (1..=6)
            .map(|number| {
                queue
                    .push(number, log(number, "a", LOG_BYTES / 4), Class::Log)
                    .unwrap()
            })
            .sum();
        assert_eq!(lost, 2);
        let update = event(7, Kind::Update, "a");
        assert_eq!(queue.push(7, update, Class::Vital), Ok(0));
        assert!(queue.push(8, log(8, "b", LOG_BYTES / 4), Class::Log) == Ok(1));
        let lines = lines(&mut queue);
        let note = "a 2006-01-02 15:04:05.000  \x1b[33mWARN\x1b[0m  3 log lines were lost, the reader is too slow";
        assert_eq!(lines[0], note);
        assert_eq!(lines.len(), 6);
        assert_eq!(
            (queue.log_bytes, queue.logs.len(), queue.gaps.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn many_short_lines_are_bounded_too() {
        let mut queue = Queue::default();
        for number in 0..3 * LOG_LINES as u64 {
            queue
                .push(number, log(number, "a", 30), Class::Log)
                .unwrap();
        }
        assert_eq!(queue.entries.len(), LOG_LINES + 1);
    }

    #[test]
    fn what_must_not_be_lost_ends_the_queue_instead() {
        let mut queue = Queue::default();
        for number in 0..VITAL as u64 {
            assert_eq!(
                queue.push(number, event(number, Kind::Create, "a"), Class::Vital),
                Ok(0)
            );
        }
        let more = VITAL as u64;
        assert_eq!(
            queue.push(more, event(more, Kind::Delete, "a"), Class::Vital),
            Err(Overflow)
        );
        assert!(queue.pop().is_some());
        assert_eq!(
            queue.push(more, event(more, Kind::Delete, "a"), Class::Vital),
            Ok(0)
        );
    }
}
