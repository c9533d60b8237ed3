//! What is known of each registered socket, and who waits for it.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use rustix::event::epoll::EventFlags;

use super::{Ready, Sure, Tick, Way};

/// What the system says of urgent data.
pub(super) const URGENT: EventFlags = EventFlags::PRI;

/// The sockets of one reactor. A tree, so that what a burst of them needed does not stay.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: BTreeMap<Key, Slot>,
    latest: u64,
    /// Who waits for room in sockets that many tasks write to.
    crowd: Vec<(Key, Waker)>,
}

/// A socket's number, which the system is told and tells again with each event. No other socket of the
/// reactor has the same: an event may come when its socket is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(pub(super) u64);

impl Key {
    /// No socket's: that of the reactor's bell.
    pub(super) const BELL: Self = Self(0);
}

#[derive(Debug, Default)]
struct Slot {
    read: Side,
    write: Side,
    /// Urgent data came once.
    urgent: bool,
}

#[derive(Debug, Default)]
struct Side {
    known: Known,
    tick: Tick,
    waiter: Option<Waker>,
}

/// What the system said of one way last, and what was seen since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    /// Nothing yet: an event comes if it is ready.
    #[default]
    Nothing,
    Ready,
    /// It is ready, and is still when less comes than asked for: what is left then, the end of the stream
    /// or what follows urgent data, was part of this event.
    ReadyForMore,
    /// Another event comes when it is ready again.
    UsedUp,
}

impl Slots {
    /// Room for one more socket.
    pub(super) fn insert(&mut self) -> Key {
        self.latest += 1;
        let key = Key(self.latest);
        self.slots.insert(key, Slot::default());
        key
    }

    /// Forgets a socket: who waited for it.
    pub(super) fn remove(&mut self, key: Key, waiting: &mut Vec<Waker>) {
        if let Some(slot) = self.slots.remove(&key) {
            waiting.extend(slot.read.waiter);
            waiting.extend(slot.write.waiter);
            self.disperse(key, waiting);
        }
    }

    /// Whether a socket is ready, as far as is known; if not, the task is woken when it is, and the one
    /// that waited before, which is returned, is not.
    pub(super) fn poll(
        &mut self,
        key: Key,
        way: Way,
        sure: Sure,
        cx: &Context<'_>,
    ) -> (Ready, Option<Waker>) {
        let Some(side) = self.side(key, way) else {
            return (Poll::Ready(Tick::default()), None);
        };
        match (side.known, sure) {
            (Known::Ready | Known::ReadyForMore, _) | (Known::Nothing, Sure::Perhaps) => {
                (Poll::Ready(side.tick), None)
            }
            (Known::UsedUp, _) | (Known::Nothing, Sure::Certain) => {
                let waits = side.waiter.as_ref();
                let before = match waits.is_some_and(|waker| waker.will_wake(cx.waker())) {
                    true => None,
                    false => side.waiter.replace(cx.waker().clone()),
                };
                (Poll::Pending, before)
            }
        }
    }

    /// Whether there is room to write; if not, the task is one of those that are woken when there is.
    pub(super) fn poll_crowded(&mut self, key: Key, cx: &Context<'_>) -> Ready {
        let Some(side) = self.side(key, Way::Write) else {
            return Poll::Ready(Tick::default());
        };
        if let Known::Ready | Known::ReadyForMore = side.known {
            return Poll::Ready(side.tick);
        }
        let waits = |(of, waker): &(Key, Waker)| *of == key && waker.will_wake(cx.waker());
        if !self.crowd.iter().any(waits) {
            self.crowd.push((key, cx.waker().clone()));
        }
        Poll::Pending
    }

    /// The latest event.
    pub(super) fn tick(&mut self, key: Key, way: Way) -> Tick {
        let side = self.side(key, way);
        side.map_or_else(Tick::default, |side| side.tick)
    }

    /// Whether urgent data came once.
    pub(super) fn had_urgent_data(&self, key: Key) -> bool {
        self.slots.get(&key).is_some_and(|slot| slot.urgent)
    }

    /// There is nothing more for now, and `tick` was the latest event before.
    pub(super) fn used_up(&mut self, key: Key, way: Way, tick: Tick, sure: Sure) {
        if let Some(side) = self.side(key, way)
            && side.tick == tick
            && (sure == Sure::Certain || side.known != Known::ReadyForMore)
        {
            side.known = Known::UsedUp;
        }
    }

    /// The system tells of a socket: who is to be woken.
    pub(super) fn event(&mut self, key: Key, flags: EventFlags, woken: &mut Vec<Waker>) {
        const READ: EventFlags = EventFlags::IN.union(EventFlags::ERR);
        const READ_MORE: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(URGENT);
        const WRITE: EventFlags = EventFlags::OUT.union(EventFlags::ERR);
        const WRITE_MORE: EventFlags = EventFlags::HUP;
        if flags.intersects(URGENT)
            && let Some(slot) = self.slots.get_mut(&key)
        {
            slot.urgent = true;
        }
        for (way, ready, more) in [
            (Way::Read, READ, READ_MORE),
            (Way::Write, WRITE, WRITE_MORE),
        ] {
            if flags.intersects(ready.union(more))
                && let Some(side) = self.side(key, way)
            {
                side.tick = Tick(side.tick.0.wrapping_add(1));
                side.known = if flags.intersects(more) {
                    Known::ReadyForMore
                } else {
                    Known::Ready
                };
                woken.extend(side.waiter.take());
                if way == Way::Write {
                    self.disperse(key, woken);
                }
            }
        }
    }

    fn disperse(&mut self, key: Key, woken: &mut Vec<Waker>) {
        let leaving = self.crowd.extract_if(.., |(of, _)| *of == key);
        woken.extend(leaving.map(|(_, waker)| waker));
    }

    /// `None` if the socket is gone.
    fn side(&mut self, key: Key, way: Way) -> Option<&mut Side> {
        let slot = self.slots.get_mut(&key)?;
        Some(match way {
            Way::Read => &mut slot.read,
            Way::Write => &mut slot.write,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waker() -> (Arc<Count>, Waker) {
        let count = Arc::<Count>::default();
        (Arc::clone(&count), Waker::from(count))
    }

    fn tell(slots: &mut Slots, key: Key, flags: EventFlags) {
        let mut woken = Vec::new();
        slots.event(key, flags, &mut woken);
        woken.into_iter().for_each(Waker::wake);
    }

    fn is_ready(slots: &mut Slots, key: Key, way: Way, sure: Sure) -> bool {
        let cx = Context::from_waker(Waker::noop());
        slots.poll(key, way, sure, &cx).0.is_ready()
    }

    #[test]
    fn a_new_socket_is_tried_but_not_known_to_be_ready() {
        let mut slots = Slots::default();
        let key = slots.insert();
        for way in [Way::Read, Way::Write] {
            assert!(is_ready(&mut slots, key, way, Sure::Perhaps));
            assert!(!is_ready(&mut slots, key, way, Sure::Certain));
        }
        tell(&mut slots, key, EventFlags::OUT);
        assert!(is_ready(&mut slots, key, Way::Write, Sure::Certain));
        assert!(!is_ready(&mut slots, key, Way::Read, Sure::Certain));
    }

    #[test]
    fn who_waits_is_woken_once_and_by_its_own_event_alone() {
        let mut slots = Slots::default();
        let (key, other) = (slots.insert(), slots.insert());
        let (count, waker) = waker();
        let cx = Context::from_waker(&waker);
        assert!(
            slots
                .poll(key, Way::Read, Sure::Certain, &cx)
                .0
                .is_pending()
        );
        tell(&mut slots, other, EventFlags::IN);
        tell(&mut slots, key, EventFlags::OUT);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        tell(&mut slots, key, EventFlags::IN);
        tell(&mut slots, key, EventFlags::IN);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn news_that_came_meanwhile_are_not_forgotten() {
        let mut slots = Slots::default();
        let key = slots.insert();
        let before = slots.tick(key, Way::Read);
        tell(&mut slots, key, EventFlags::IN);
        for sure in [Sure::Certain, Sure::Perhaps] {
            slots.used_up(key, Way::Read, before, sure);
        }
        assert!(is_ready(&mut slots, key, Way::Read, Sure::Certain));
        let now = slots.tick(key, Way::Read);
        slots.used_up(key, Way::Read, now, Sure::Certain);
        assert!(!is_ready(&mut slots, key, Way::Read, Sure::Perhaps));
    }

    #[test]
    fn a_short_read_does_not_hide_what_came_behind_it() {
        let mut slots = Slots::default();
        let key = slots.insert();
        for (flags, more) in [
            (EventFlags::IN, false),
            (EventFlags::IN | EventFlags::RDHUP, true),
            (EventFlags::IN | EventFlags::HUP, true),
            (EventFlags::IN | URGENT, true),
            // A passing one: that of a datagram.
            (EventFlags::ERR, false),
        ] {
            tell(&mut slots, key, flags);
            let tick = slots.tick(key, Way::Read);
            slots.used_up(key, Way::Read, tick, Sure::Perhaps);
            assert_eq!(
                is_ready(&mut slots, key, Way::Read, Sure::Certain),
                more,
                "{flags:?}"
            );
        }
    }

    #[test]
    fn who_waited_for_a_socket_that_is_gone_is_woken_and_late_events_are_nobody_s() {
        let mut slots = Slots::default();
        let old = slots.insert();
        let (count, waker) = waker();
        let cx = Context::from_waker(&waker);
        assert!(
            slots
                .poll(old, Way::Read, Sure::Certain, &cx)
                .0
                .is_pending()
        );
        let mut waiting = Vec::new();
        slots.remove(old, &mut waiting);
        waiting.drain(..).for_each(Waker::wake);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        let new = slots.insert();
        for key in [old, Key::BELL] {
            tell(&mut slots, key, EventFlags::IN);
            slots.used_up(key, Way::Read, Tick::default(), Sure::Certain);
        }
        assert!(is_ready(&mut slots, new, Way::Read, Sure::Perhaps));
        assert!(!is_ready(&mut slots, new, Way::Read, Sure::Certain));
    }

    #[test]
    fn all_of_a_crowd_are_woken_when_there_is_room() {
        let mut slots = Slots::default();
        let (key, other) = (slots.insert(), slots.insert());
        let crowd = [(); 3].map(|()| waker());
        for (_, waker) in &crowd {
            for _ in 0..2 {
                let cx = Context::from_waker(waker);
                assert!(slots.poll_crowded(key, &cx).is_pending());
            }
        }
        assert_eq!(slots.crowd.len(), 3);
        tell(&mut slots, other, EventFlags::OUT);
        assert_eq!(slots.crowd.len(), 3);
        tell(&mut slots, key, EventFlags::OUT);
        for (count, waker) in &crowd {
            assert_eq!(count.0.load(Ordering::Relaxed), 1);
            let cx = Context::from_waker(waker);
            assert!(slots.poll_crowded(key, &cx).is_ready());
        }
        assert!(slots.crowd.is_empty());
    }
}
