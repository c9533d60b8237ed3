//! Who may hold a connection, and who has to go when all seats are taken (`rest.md` §1).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::Event;
use slab::Slab;

/// A limited number of connections.
#[derive(Debug)]
pub(crate) struct Seats {
    limit: usize,
    taken: Mutex<Slab<Arc<Seat>>>,
    /// Counts what happens, to tell earlier from later.
    moment: AtomicU64,
}

/// One connection's seat.
#[derive(Debug)]
struct Seat {
    opened: u64,
    /// Since when it waits for a request; 0 while it has one.
    idle: AtomicU64,
    /// The request at hand brought the right key.
    trusted: Arc<AtomicBool>,
    lost: AtomicBool,
    changed: Event,
}

/// A seat as its connection holds it; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    seats: Arc<Seats>,
    seat: Arc<Seat>,
    place: usize,
}

impl Seats {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            taken: Mutex::default(),
            moment: AtomicU64::new(1),
        })
    }

    /// A seat for a new connection. If there is none left, one that is idle loses its own, the one
    /// that is idle longest; else the oldest one without a valid key. `None`: all have one.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Held> {
        let mut taken = self.taken();
        if taken.len() >= self.limit {
            let place = Self::dispensable(&taken)?;
            let seat = taken.remove(place);
            seat.lost.store(true, Ordering::Release);
            seat.changed.notify(usize::MAX);
        }
        let now = self.now();
        let seat = Arc::new(Seat {
            opened: now,
            idle: AtomicU64::new(now),
            trusted: Arc::default(),
            lost: AtomicBool::new(false),
            changed: Event::new(),
        });
        let place = taken.insert(Arc::clone(&seat));
        let seats = Arc::clone(self);
        Some(Held { seats, seat, place })
    }

    fn dispensable(taken: &Slab<Arc<Seat>>) -> Option<usize> {
        let rank = |seat: &Seat| {
            let idle = seat.idle.load(Ordering::Relaxed);
            match (idle, seat.trusted.load(Ordering::Relaxed)) {
                (0, true) => None,
                (0, false) => Some((true, seat.opened)),
                (since, _) => Some((false, since)),
            }
        };
        let ranked = taken
            .iter()
            .filter_map(|(place, seat)| Some((rank(seat)?, place)));
        ranked.min().map(|(_, place)| place)
    }

    fn taken(&self) -> MutexGuard<'_, Slab<Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::Relaxed)
    }
}

impl Held {
    /// A request begins.
    pub(crate) fn busy(&self) {
        self.seat.idle.store(0, Ordering::Relaxed);
    }

    /// The request is answered.
    pub(crate) fn idle(&self) {
        self.seat.trusted.store(false, Ordering::Relaxed);
        self.seat.idle.store(self.seats.now(), Ordering::Relaxed);
    }

    /// To be set when the request brings the right key.
    pub(crate) fn trusted(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.seat.trusted)
    }

    /// Waits until the seat is given to somebody else.
    pub(crate) async fn lost(&self) {
        while !self.seat.lost.load(Ordering::Acquire) {
            let changed = self.seat.changed.listen();
            if !self.seat.lost.load(Ordering::Acquire) {
                changed.await;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        let own = taken.get(self.place);
        // A lost seat's place may be another's by now.
        if own.is_some_and(|seat| Arc::ptr_eq(seat, &self.seat)) {
            taken.remove(self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use smol::future::poll_once;

    use super::*;

    fn is_lost(held: &Held) -> bool {
        smol::block_on(poll_once(held.lost())).is_some()
    }

    fn trust(held: &Held) {
        held.busy();
        held.trusted().store(true, Ordering::Relaxed);
    }

    #[test]
    fn the_one_idle_longest_goes_first() {
        let seats = Seats::new(3);
        let [first, second, third] = [(); 3].map(|()| seats.take().unwrap());
        first.busy();
        first.idle();
        let _fourth = seats.take().unwrap();
        assert!(is_lost(&second) && !is_lost(&first) && !is_lost(&third));
    }

    #[test]
    fn then_the_oldest_without_a_key_and_never_one_with_it() {
        let seats = Seats::new(3);
        let [first, second, third] = [(); 3].map(|()| seats.take().unwrap());
        trust(&first);
        third.busy();
        second.busy();
        let fourth = seats.take().unwrap();
        assert!(is_lost(&second) && !is_lost(&third));
        trust(&third);
        trust(&fourth);
        assert!(seats.take().is_none());
        first.idle();
        let fifth = seats.take().unwrap();
        assert!(is_lost(&first) && !is_lost(&fifth));
    }

    #[test]
    fn seats_are_given_back_once() {
        let seats = Seats::new(1);
        let first = seats.take().unwrap();
        let second = seats.take().unwrap();
        drop(first);
        assert_eq!(seats.taken().len(), 1);
        drop(second);
        assert_eq!(seats.taken().len(), 0);
    }
}
