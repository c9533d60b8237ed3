//! Datagrams of one user on their way from the socket's task to the relay's.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use protocol::wire::datagram::{self, HEADER};

/// What a datagram counts at least, so that empty ones are bounded too.
const LEAST: usize = 64;
/// Bytes that may wait for one relay, frames included.
pub(crate) const PER_USER: usize = 4 * 1024 * 1024;
/// Bytes that may wait for all relays of the process.
const PER_PROCESS: usize = 64 * 1024 * 1024;

/// A number of bytes shared by many queues.
#[derive(Debug)]
pub(crate) struct Quota {
    used: AtomicUsize,
    limit: usize,
}

impl Quota {
    const fn new(limit: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    /// The process's.
    pub(crate) fn process() -> Arc<Self> {
        static PROCESS: LazyLock<Arc<Quota>> = LazyLock::new(|| Arc::new(Quota::new(PER_PROCESS)));
        Arc::clone(&PROCESS)
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = self.used.fetch_add(bytes, Relaxed).saturating_add(bytes) <= self.limit;
        if !fits {
            self.give(bytes);
        }
        fits
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Taken,
    /// Dropped; `first` of this queue.
    Dropped {
        first: bool,
    },
}

/// Why a queue gives nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The session had no datagram for too long.
    Idle,
    /// The socket's task ended.
    Stopped,
}

/// A bounded queue of datagrams, kept as frames in one piece: the relay takes all of them at once
/// and can write them to a stream as they are.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    quota: Arc<Quota>,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    frames: Vec<u8>,
    /// What they count.
    waiting: usize,
    /// What those count that the relay took and has not finished with.
    in_hand: usize,
    waker: Option<Waker>,
    closed: Option<Closed>,
    complained: bool,
}

impl Queue {
    pub(crate) fn new(quota: Arc<Quota>, limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            quota,
            limit,
        }
    }

    /// Adds a datagram, or drops it when there is no room.
    pub(crate) fn push(&self, datagram: &[u8]) -> Pushed {
        let mut state = self.state();
        let size = (HEADER + datagram.len()).max(LEAST);
        let used = state.in_hand + state.waiting;
        let fits = state.closed.is_none() && used + size <= self.limit && self.quota.take(size);
        if fits && datagram::encode(datagram, &mut state.frames).is_ok() {
            state.waiting += size;
            let waker = state.waker.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
            return Pushed::Taken;
        }
        if fits {
            self.quota.give(size);
        }
        let first = !std::mem::replace(&mut state.complained, true);
        Pushed::Dropped { first }
    }

    /// Moves everything into `frames`, which is empty. What was taken before is done with.
    pub(crate) fn poll_take(
        &self,
        cx: &Context<'_>,
        frames: &mut Vec<u8>,
    ) -> Poll<Result<(), Closed>> {
        let mut state = self.state();
        self.quota.give(state.in_hand);
        state.in_hand = std::mem::take(&mut state.waiting);
        if state.in_hand > 0 {
            std::mem::swap(frames, &mut state.frames);
            return Poll::Ready(Ok(()));
        }
        if let Some(closed) = state.closed {
            return Poll::Ready(Err(closed));
        }
        if !state
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes no more datagrams. Those that wait are still given out.
    pub(crate) fn close(&self, why: Closed) {
        let mut state = self.state();
        state.closed = state.closed.or(Some(why));
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let state = self.state();
        self.quota.give(state.in_hand + state.waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(queue: &Queue) -> Poll<Result<Vec<u8>, Closed>> {
        let mut frames = Vec::new();
        let taken = queue.poll_take(&Context::from_waker(Waker::noop()), &mut frames);
        taken.map_ok(|()| frames)
    }

    #[test]
    fn datagrams_come_out_as_frames_in_order_and_the_end_after_them() {
        let queue = Queue::new(Quota::process(), PER_USER);
        assert!(take(&queue).is_pending());
        for datagram in [&b"one"[..], b"", b"three"] {
            assert_eq!(queue.push(datagram), Pushed::Taken);
        }
        queue.close(Closed::Idle);
        queue.close(Closed::Stopped);
        assert_eq!(queue.push(b"late"), Pushed::Dropped { first: true });
        assert_eq!(
            take(&queue),
            Poll::Ready(Ok(b"\0\x03one\0\0\0\x05three".to_vec()))
        );
        assert_eq!(take(&queue), Poll::Ready(Err(Closed::Idle)));
    }

    #[test]
    fn a_queue_is_bounded_with_what_its_relay_has_in_hand() {
        let queue = Queue::new(Quota::process(), LEAST + HEADER + 100);
        assert_eq!(queue.push(b""), Pushed::Taken);
        assert!(take(&queue).is_ready());
        assert_eq!(queue.push(&[0; 100]), Pushed::Taken);
        assert_eq!(queue.push(b""), Pushed::Dropped { first: true });
        assert_eq!(queue.push(b""), Pushed::Dropped { first: false });
        assert!(take(&queue).is_ready());
        assert_eq!(queue.push(b""), Pushed::Taken);
    }

    #[test]
    fn all_queues_together_are_bounded_and_give_back_what_they_held() {
        let quota = Arc::new(Quota::new(200));
        let queues: Vec<_> = (0..2)
            .map(|_| Queue::new(Arc::clone(&quota), 1000))
            .collect();
        assert_eq!(queues[0].push(&[0; 120]), Pushed::Taken);
        assert_eq!(queues[1].push(&[0; 120]), Pushed::Dropped { first: true });
        assert!(take(&queues[0]).is_ready());
        assert_eq!(queues[1].push(&[0; 70]), Pushed::Taken);
        drop(queues);
        assert_eq!(quota.used.load(Relaxed), 0);
    }
}
