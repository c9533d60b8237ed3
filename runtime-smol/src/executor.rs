//! The threads: one drives control work, some drive relays.
//!
//! Accept loops, sessions and dials run on the control thread, and so does everything that comes of
//! them, at first: handing a user from one thread to the next costs more than all that a short
//! connection needs besides. But a saturated relay must not delay a ping, and a task is never made to
//! yield; so whatever turns out to be much work [steps aside](step_aside), to one of the relay
//! threads, and stays there.
//!
//! Each of those has an executor of its own. One that threads share wakes a second thread for
//! every task that it runs, in case there are more, and each of those wake-ups ends a wait for events
//! somewhere. And each has a [reactor](crate::reactor) of its own, which tells of its sockets and timers.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{Builder, JoinHandle};

use smol::Executor;
use smol::channel::{Receiver, Sender, bounded};

use crate::reactor::Driver;

/// Stack of a relay thread, in bytes. Relays are small futures; rustls in a debug build needs most
/// of it.
const STACK: usize = 256 * 1024;

/// The most threads for relays; more are never of use and would only cost memory.
const THREADS: usize = 256;

/// A handle to an executor. Tasks are spawned through a [`Group`](crate::group::Group).
pub type Handle = Arc<Executor<'static>>;

/// The executors of the relay threads.
#[derive(Clone, Debug)]
struct Relays {
    executors: Arc<[Handle]>,
    turn: Arc<AtomicUsize>,
}

impl Relays {
    fn new(executors: impl Into<Arc<[Handle]>>) -> Self {
        Self {
            executors: executors.into(),
            turn: Arc::default(),
        }
    }

    /// Each in turn; `None` if there are none.
    fn next(&self) -> Option<Handle> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let index = turn.checked_rem(self.executors.len())?;
        self.executors.get(index).cloned()
    }
}

/// What this thread drives.
enum Here {
    /// Nothing of ours.
    Elsewhere,
    /// The control executor. Tasks may step aside to these.
    Control(Relays),
    /// The executor of a relay thread.
    Relay(Handle),
}

thread_local! {
    static HERE: RefCell<Here> = const { RefCell::new(Here::Elsewhere) };
    /// The task that is polled wants to step aside.
    static ASIDE: Cell<bool> = const { Cell::new(false) };
}

/// The executor of this thread, if it is a relay thread: what follows from a task stays where it is.
#[must_use]
pub fn of_this_relay_thread() -> Option<Handle> {
    HERE.with_borrow(|here| match here {
        Here::Relay(own) => Some(Arc::clone(own)),
        Here::Elsewhere | Here::Control(_) => None,
    })
}

/// The task that is polled is much work: its [`Group`](crate::group::Group) moves it to a relay thread
/// as soon as it waits for something, and polls it there. On a relay thread nothing happens.
pub fn step_aside() {
    ASIDE.set(true);
}

/// The same for what is much work from now on: the task goes on elsewhere.
pub async fn stepped_aside() {
    let mut asked = false;
    poll_fn(|cx| {
        if asked || of_this_relay_thread().is_some() {
            return Poll::Ready(());
        }
        asked = true;
        step_aside();
        // In case that nobody moves it.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Polls a task; where it is to go on if it wants to step aside.
pub(crate) fn watching<T>(poll: impl FnOnce() -> Poll<T>) -> (Poll<T>, Option<Handle>) {
    ASIDE.set(false);
    let polled = poll();
    if !ASIDE.take() || polled.is_ready() {
        return (polled, None);
    }
    let aside = HERE.with_borrow(|here| match here {
        Here::Control(relays) => relays.next(),
        Here::Elsewhere | Here::Relay(_) => None,
    });
    (polled, aside)
}

/// The executors and threads of the process.
///
/// Dropping it ends the relay threads and waits for them.
#[derive(Debug)]
pub struct Runtime {
    control: Handle,
    driver: Driver,
    relays: Relays,
    stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Runtime {
    /// Starts `threads` threads for relays (1 to 256; other numbers are moved into that range). With
    /// one thread on a machine with one core, all relays stay on the control thread instead.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_cores(threads, cores)
    }

    fn with_cores(threads: usize, cores: usize) -> io::Result<Self> {
        let (control, driver) = (Handle::default(), Driver::new());
        if threads <= 1 && cores <= 1 {
            return Ok(Self {
                relays: Relays::new([]),
                control,
                driver,
                stop: None,
                threads: Vec::new(),
            });
        }
        let (stop, stopped) = bounded(1);
        let executors: Vec<_> = (0..threads.clamp(1, THREADS))
            .map(|_| Handle::default())
            .collect();
        let mut runtime = Self {
            control,
            driver,
            relays: Relays::new(executors.clone()),
            stop: Some(stop),
            threads: Vec::new(),
        };
        for (number, executor) in executors.into_iter().enumerate() {
            let stopped = stopped.clone();
            let thread = Builder::new()
                .name(format!("relay-{number}"))
                .stack_size(STACK)
                .spawn(move || drive(&executor, &stopped))?;
            runtime.threads.push(thread);
        }
        Ok(runtime)
    }

    /// The executor on which every task begins. It runs while [`block_on`](Self::block_on) does.
    #[must_use]
    pub fn control(&self) -> Handle {
        Arc::clone(&self.control)
    }

    /// Drives `main` and the control executor on this thread until `main` is done.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        // Boxed: each layer around it would hold it once more, on a stack that never shrinks.
        let main = Box::pin(main);
        let before = HERE.replace(Here::Control(self.relays.clone()));
        let done = self.driver.block_on(self.control.run(when_woken(main)));
        HERE.set(before);
        done
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            // The thread catches panics itself, so there is no payload to look at.
            drop(thread.join());
        }
    }
}

/// Polls `main` only when it is woken itself: an executor polls what it is run with before each of its
/// tasks, and `main` waits for signals, which it asks the system for each time.
async fn when_woken<T>(main: impl Future<Output = T>) -> T {
    let bell = Arc::new(Bell {
        rung: AtomicBool::new(true),
        sleeper: Mutex::new(Waker::noop().clone()),
    });
    let waker = Waker::from(Arc::clone(&bell));
    let mut main = pin!(main);
    poll_fn(|cx| {
        bell.sleeper().clone_from(cx.waker());
        if bell.rung.swap(false, Ordering::AcqRel) {
            main.as_mut().poll(&mut Context::from_waker(&waker))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Wakes its sleeper and remembers that it rang.
struct Bell {
    rung: AtomicBool,
    sleeper: Mutex<Waker>,
}

impl Bell {
    fn sleeper(&self) -> MutexGuard<'_, Waker> {
        self.sleeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.sleeper().wake_by_ref();
    }
}

/// Runs relays until the runtime is dropped. Groups catch the panics of their tasks; one that still
/// arrives here must not take the thread from the other relays.
fn drive(executor: &Handle, stopped: &Receiver<()>) {
    HERE.set(Here::Relay(Arc::clone(executor)));
    let driver = Driver::new();
    loop {
        let run = || driver.block_on(executor.run(stopped.recv()));
        if catch_unwind(AssertUnwindSafe(run)).is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tracing::Dispatch;

    use super::*;
    use crate::group::Group;

    fn name() -> Option<String> {
        thread::current().name().map(str::to_owned)
    }

    /// Where a task begins, and where it is after it has stepped aside.
    fn journey(runtime: &Runtime) -> (Option<String>, Option<String>) {
        let group = Group::new(Dispatch::none());
        let (tell, told) = bounded(1);
        let task = async move {
            let before = name();
            stepped_aside().await;
            tell.send((before, name())).await.unwrap();
        };
        group.spawn(&runtime.control(), task);
        runtime.block_on(told.recv()).unwrap()
    }

    #[test]
    fn a_task_begins_on_the_control_thread_and_steps_aside_to_each_relay_thread_in_turn() {
        let runtime = Runtime::with_cores(2, 4).unwrap();
        let (before, first) = journey(&runtime);
        assert_eq!(before, name());
        assert_eq!(first.as_deref(), Some("relay-0"));
        assert_eq!(journey(&runtime).1.as_deref(), Some("relay-1"));
    }

    #[test]
    fn what_follows_from_a_task_stays_on_its_relay_thread() {
        let runtime = Runtime::with_cores(2, 4).unwrap();
        let group = Group::new(Dispatch::none());
        let (tell, told) = bounded(1);
        assert!(of_this_relay_thread().is_none());
        group.spawn(&runtime.control(), async move {
            assert!(of_this_relay_thread().is_none());
            stepped_aside().await;
            let here = of_this_relay_thread().unwrap();
            let follows = here.spawn(async { name() }).await;
            stepped_aside().await;
            tell.send((name(), follows)).await.unwrap();
        });
        let (own, follows) = runtime.block_on(told.recv()).unwrap();
        assert!(own.is_some() && own == follows);
    }

    #[test]
    fn main_is_polled_only_when_it_is_woken_and_ends_when_it_is_ready() {
        let runtime = Runtime::with_cores(1, 2).unwrap();
        let (ring, rung) = bounded::<()>(1);
        let task = runtime.control().spawn(async move {
            for _ in 0..100 {
                smol::future::yield_now().await;
            }
            ring.send(()).await
        });
        let mut polls = 0;
        let mut waiting = pin!(rung.recv());
        let answer = runtime.block_on(poll_fn(|cx| {
            polls += 1;
            waiting.as_mut().poll(cx)
        }));
        assert!(answer.is_ok());
        assert!(polls <= 3, "{polls} polls");
        drop(task);
    }

    #[test]
    fn one_thread_on_one_core_is_shared() {
        let runtime = Runtime::with_cores(1, 1).unwrap();
        assert_eq!(journey(&runtime), (name(), name()));
        assert!(Runtime::with_cores(1, 2).unwrap().threads.len() == 1);
    }

    #[test]
    fn a_panic_outside_of_a_group_leaves_the_thread_alive() {
        let runtime = Runtime::with_cores(1, 2).unwrap();
        let relay = runtime.relays.next().unwrap();
        relay.spawn(async { panic!("planted") }).detach();
        assert!(runtime.block_on(relay.spawn(async { name() })).is_some());
    }

    #[test]
    fn tls_fits_the_stack_of_a_relay_thread() {
        let runtime = Runtime::with_cores(1, 2).unwrap();
        let relay = runtime.relays.next().unwrap();
        let (client, server) = runtime.block_on(relay.spawn(crate::relay::testing::tls()));
        assert!(client.peer_addr().is_ok() && server.peer_addr().is_ok());
    }

    #[test]
    fn dropping_the_runtime_ends_the_threads_and_their_tasks() {
        let runtime = Runtime::with_cores(2, 4).unwrap();
        let relay = runtime.relays.next().unwrap();
        let (held, gate) = bounded::<()>(1);
        let waiting = async move { gate.recv().await.is_ok() };
        relay.spawn(waiting).detach();
        drop(runtime);
        assert_eq!(Arc::strong_count(&relay), 1);
        drop(relay);
        assert!(held.is_closed());
    }
}
