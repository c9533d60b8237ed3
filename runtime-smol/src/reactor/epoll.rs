//! The reactor of a thread, and the sockets and timers that it tells of.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::slots::{Key, Slots, URGENT};
use super::timers::{Due, Timers};
use super::{Ready, Sure, Tick, Way};

/// Events that one wait takes; what is left comes with the next.
const EVENTS: usize = 64;

/// The longest wait: more than 24 days is more than `epoll_pwait` takes.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What a socket tells at first, each time that it changes.
const TO_READ: EventFlags = EventFlags::IN
    .union(EventFlags::RDHUP)
    .union(URGENT)
    .union(EventFlags::ET);

/// The same once somebody waits to write. Until then it would be told in vain, of a UDP socket with each
/// datagram that has left.
const TO_READ_AND_WRITE: EventFlags = TO_READ.union(EventFlags::OUT);

/// Its thread is polling: who wakes it is seen.
const AWAKE: u8 = 0;
/// It was woken, so it does not sleep.
const WOKEN: u8 = 1;
/// It waits for events, of which the bell is one.
const ASLEEP: u8 = 2;

thread_local! {
    static REACTOR: RefCell<Option<Arc<Reactor>>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Reactor {
    epoll: OwnedFd,
    bell: OwnedFd,
    sleep: AtomicU8,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: Slots,
    timers: Timers,
}

impl Reactor {
    fn new() -> io::Result<Arc<Self>> {
        let this = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            sleep: AtomicU8::new(AWAKE),
            state: Mutex::default(),
        };
        let data = EventData::new_u64(Key::BELL.0);
        let ring = EventFlags::IN | EventFlags::ET;
        epoll::add(&this.epoll, &this.bell, data, ring)?;
        Ok(Arc::new(this))
    }

    /// This thread's, if it has one.
    fn here() -> Option<Arc<Self>> {
        REACTOR.with_borrow(Option::clone)
    }

    /// Whether it is this thread's; false also if the thread has none.
    fn is_here(&self) -> bool {
        REACTOR.with_borrow(|here| here.as_deref().is_some_and(|here| std::ptr::eq(here, self)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for events and timers, or only looks, and wakes whom they concern. `woken` is room for
    /// that, empty before and after.
    fn turn(&self, wait: bool, woken: &mut Vec<Waker>) {
        let timeout = if wait {
            self.state().timers.next().map(|next| next.min(LONGEST))
        } else {
            Some(Duration::ZERO)
        };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut room = [const { MaybeUninit::uninit() }; EVENTS];
        let waited = epoll::wait(&self.epoll, &mut room[..], timeout.as_ref());
        self.sleep.swap(AWAKE, Ordering::AcqRel);
        let mut state = self.state();
        // It fails only when a signal or a debugger comes.
        if let Ok((events, _)) = waited {
            for event in events {
                let key = Key(event.data.u64());
                state.slots.event(key, event.flags, woken);
            }
        }
        state.timers.expire(woken);
        drop(state);
        woken.drain(..).for_each(Waker::wake);
    }
}

/// Rings the bell only if nobody would hear otherwise.
impl Wake for Reactor {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.sleep.swap(WOKEN, Ordering::AcqRel) == ASLEEP {
            // It fails when it was rung 2^64 times. Nobody has to read it: each ring is an event.
            rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).unwrap_or_default();
        }
    }
}

/// What drives a thread's tasks, sockets and timers.
#[derive(Debug)]
pub(crate) struct Driver(Option<Arc<Reactor>>);

impl Driver {
    /// One for one thread at a time. If the system has no room for it, async-io does the work.
    pub(crate) fn new() -> Self {
        Self(Reactor::new().ok())
    }

    /// Drives `future` on this thread until it is done, and waits for the sockets and timers that are
    /// this driver's. What waits for async-io is woken by the thread that async-io has for that.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let Some(reactor) = &self.0 else {
            return async_io::block_on(future);
        };
        let _entered = Entered::new(reactor);
        let waker = Waker::from(Arc::clone(reactor));
        let mut cx = Context::from_waker(&waker);
        let mut woken = Vec::new();
        let mut future = pin!(future);
        loop {
            reactor.sleep.swap(AWAKE, Ordering::AcqRel);
            if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
                // If this is not the outermost one, some of that was for others.
                reactor.sleep.swap(WOKEN, Ordering::AcqRel);
                return done;
            }
            let sleep = &reactor.sleep;
            let slept = sleep.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
            reactor.turn(slept.is_ok(), &mut woken);
        }
    }
}

/// This thread has a reactor, and has the one from before again afterwards.
struct Entered(Option<Arc<Reactor>>);

impl Entered {
    fn new(reactor: &Arc<Reactor>) -> Self {
        Self(REACTOR.replace(Some(Arc::clone(reactor))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        REACTOR.set(self.0.take());
    }
}

/// A socket that a thread's reactor tells of.
#[derive(Debug)]
pub(crate) struct Registration {
    reactor: Arc<Reactor>,
    key: Key,
    /// The system tells when there is room to write.
    tells_of_room: AtomicBool,
}

impl Registration {
    /// Registers `socket` with this thread's reactor; `None` if the thread has none. `connecting`: it is
    /// waited for until it can be written. It must be dropped before the socket; closing that takes it from
    /// the system, unless there is a copy of the descriptor.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(crate) fn here(socket: BorrowedFd<'_>, connecting: bool) -> io::Result<Option<Self>> {
        let here = Reactor::here();
        here.map(|reactor| Self::new(reactor, socket, connecting))
            .transpose()
    }

    fn new(reactor: Arc<Reactor>, socket: BorrowedFd<'_>, write: bool) -> io::Result<Self> {
        let key = reactor.state().slots.insert();
        let this = Self {
            reactor,
            key,
            tells_of_room: AtomicBool::new(write),
        };
        let flags = if write { TO_READ_AND_WRITE } else { TO_READ };
        let data = EventData::new_u64(key.0);
        epoll::add(&this.reactor.epoll, socket, data, flags)?;
        Ok(this)
    }

    /// Has the system tell when there is room to write, now and from now on.
    ///
    /// # Errors
    /// Those of the reactor.
    pub(crate) fn tell_of_room(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if self.tells_of_room.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let data = EventData::new_u64(self.key.0);
        let told = epoll::modify(&self.reactor.epoll, socket, data, TO_READ_AND_WRITE);
        Ok(told?)
    }

    /// Takes `socket` from the system, where there is a copy of its descriptor.
    pub(crate) fn forget(self, socket: BorrowedFd<'_>) {
        epoll::delete(&self.reactor.epoll, socket).unwrap_or_default();
    }

    /// Has this thread's reactor tell of `socket` from now on, if it has one and does not already.
    pub(crate) fn follow(&mut self, socket: BorrowedFd<'_>) {
        if self.reactor.is_here() {
            return;
        }
        let moved = Reactor::here().map(|here| Self::new(here, socket, false));
        // If there is no room, the other thread tells of it as before.
        if let Some(Ok(moved)) = moved {
            let before = mem::replace(self, moved);
            // Who waited there must ask again here.
            let mut waiting = Vec::new();
            before
                .reactor
                .state()
                .slots
                .remove(before.key, &mut waiting);
            before.forget(socket);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether the socket is ready, as far as is known; if not, the task is woken when it is.
    pub(crate) fn poll(&self, way: Way, sure: Sure, cx: &Context<'_>) -> Ready {
        let (ready, before) = self.reactor.state().slots.poll(self.key, way, sure, cx);
        // Not under the lock: a waker may own a task, and that one other sockets.
        drop(before);
        ready
    }

    /// Whether there is room to write; if not, the task is woken when there is, and so are others that
    /// wait for the same.
    pub(crate) fn poll_crowded(&self, cx: &Context<'_>) -> Ready {
        self.reactor.state().slots.poll_crowded(self.key, cx)
    }

    /// The latest event.
    pub(crate) fn tick(&self, way: Way) -> Tick {
        self.reactor.state().slots.tick(self.key, way)
    }

    /// Whether urgent data came once.
    pub(crate) fn had_urgent_data(&self) -> bool {
        self.reactor.state().slots.had_urgent_data(self.key)
    }

    /// There is nothing more for now, and `tick` was the latest event before.
    pub(crate) fn used_up(&self, way: Way, tick: Tick, sure: Sure) {
        self.reactor
            .state()
            .slots
            .used_up(self.key, way, tick, sure);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut waiting = Vec::new();
        // Dropped after the lock, for the same reason.
        self.reactor.state().slots.remove(self.key, &mut waiting);
    }
}

/// A timer that a thread's reactor tells of.
#[derive(Debug)]
pub(crate) struct Alarm {
    reactor: Arc<Reactor>,
    due: Due,
}

impl Alarm {
    /// Has the task woken at `at` by this thread's reactor; `None` if the thread has none.
    pub(crate) fn here(at: Instant, cx: &Context<'_>) -> Option<Self> {
        let reactor = Reactor::here()?;
        let due = reactor.state().timers.insert(at, cx);
        Some(Self { reactor, due })
    }

    /// Has this task woken instead. False if that must be asked for anew: the timer has fired, or is
    /// another thread's.
    pub(crate) fn wake(&self, cx: &Context<'_>) -> bool {
        if !self.reactor.is_here() {
            return false;
        }
        let updated = self.reactor.state().timers.update(self.due, cx);
        updated.is_some()
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let waker = self.reactor.state().timers.remove(self.due);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use smol::Executor;
    use smol::channel::bounded;
    use smol::future::{or, poll_once, yield_now};
    use smol::io::AsyncReadExt as _;

    use super::*;
    use crate::relay::testing::{PATIENCE, connection};
    use crate::timer::Timer;

    #[test]
    fn who_waits_is_woken_also_after_a_panic() {
        let (driver, executor) = (Driver::new(), Executor::new());
        let (mut near, mut far) = driver.block_on(async { connection() });
        let (waits, waiting) = bounded::<()>(1);
        // A task is polled only when it is woken.
        let reading = executor.spawn(async move {
            let mut bytes = [0; 8];
            let mut reading = pin!(near.read(&mut bytes));
            assert!(poll_once(reading.as_mut()).await.is_none());
            waits.send(()).await.unwrap();
            reading.await
        });
        driver.block_on(executor.run(waiting.recv())).unwrap();
        driver.block_on(executor.run(yield_now()));
        let planted = || driver.block_on(async { panic!("planted") });
        assert!(catch_unwind(AssertUnwindSafe(planted)).is_err());
        assert!(Reactor::here().is_none());
        far.write_all(b"news").unwrap();
        let late = async {
            Timer::after(PATIENCE).await;
            panic!("it waits in vain")
        };
        let read = driver.block_on(executor.run(or(reading, late)));
        assert_eq!(read.unwrap(), 4);
    }
}
