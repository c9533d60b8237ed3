//! The threads: one drives control work, some drive relays.
//!
//! A saturated relay must not delay a ping, and async-io never yields by itself; so accept loops,
//! sessions and dials have an executor and a thread of their own, and relays have the others.
//!
//! Each of those has an executor of its own, too. One that threads share wakes a second thread for
//! every task that it runs, in case there are more, and each of those wake-ups ends a wait for events
//! somewhere: most of the system calls of a small message.

use std::cell::RefCell;
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

/// Stack of a relay thread, in bytes. Relays are small futures; rustls in a debug build needs most
/// of it.
const STACK: usize = 256 * 1024;

/// The most threads for relays; more are never of use and would only cost memory.
const THREADS: usize = 256;

/// A handle to an executor. Tasks are spawned through a [`Group`](crate::group::Group).
pub type Handle = Arc<Executor<'static>>;

/// The executors for relays, one for each thread.
#[derive(Clone, Debug)]
pub struct Relays {
    executors: Arc<[Handle]>,
    turn: Arc<AtomicUsize>,
}

thread_local! {
    /// The executor that this thread drives.
    static HERE: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

impl Relays {
    fn new(executors: impl Into<Arc<[Handle]>>) -> Self {
        Self {
            executors: executors.into(),
            turn: Arc::default(),
        }
    }

    /// An executor for one more task: on a relay thread its own, so that what follows from a task
    /// stays where it is; elsewhere each in turn.
    #[must_use]
    pub fn pick(&self) -> Handle {
        let here = HERE.with_borrow(Clone::clone);
        let own = here.filter(|here| self.executors.iter().any(|own| Arc::ptr_eq(own, here)));
        own.unwrap_or_else(|| {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let index = turn.checked_rem(self.executors.len()).unwrap_or_default();
            self.executors.get(index).cloned().unwrap_or_default()
        })
    }
}

/// The executors and threads of the process.
///
/// Dropping it ends the relay threads and waits for them.
#[derive(Debug)]
pub struct Runtime {
    control: Handle,
    relays: Relays,
    stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Runtime {
    /// Starts `threads` threads for relays (1 to 256; other numbers are moved into that range). With
    /// one thread on a machine with one core, relays share the control thread instead.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_cores(threads, cores)
    }

    fn with_cores(threads: usize, cores: usize) -> io::Result<Self> {
        let control = Handle::default();
        if threads <= 1 && cores <= 1 {
            return Ok(Self {
                relays: Relays::new([Arc::clone(&control)]),
                control,
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

    /// The executor for accept loops, sessions and dials. It runs while [`block_on`](Self::block_on)
    /// does.
    #[must_use]
    pub fn control(&self) -> Handle {
        Arc::clone(&self.control)
    }

    /// The executors for relays.
    #[must_use]
    pub fn relays(&self) -> Relays {
        self.relays.clone()
    }

    /// Drives `main` and the control executor on this thread until `main` is done.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        // Boxed: each layer around it would hold it once more, on a stack that never shrinks.
        let main = Box::pin(main);
        async_io::block_on(self.control.run(when_woken(main)))
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
    HERE.set(Some(Arc::clone(executor)));
    loop {
        let run = || async_io::block_on(executor.run(stopped.recv()));
        if catch_unwind(AssertUnwindSafe(run)).is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn thread_of(runtime: &Runtime, handle: &Handle) -> Option<String> {
        let name = async { thread::current().name().map(str::to_owned) };
        runtime.block_on(handle.spawn(name))
    }

    #[test]
    fn relays_run_on_their_threads_and_control_on_this_one() {
        let runtime = Runtime::with_cores(2, 4).unwrap();
        let relay = thread_of(&runtime, &runtime.relays().pick()).unwrap();
        assert!(relay.starts_with("relay-"), "{relay}");
        let here = thread::current().name().map(str::to_owned);
        assert_eq!(thread_of(&runtime, &runtime.control()), here);
    }

    #[test]
    fn tasks_take_turns_on_the_threads_and_what_follows_from_one_stays_there() {
        let runtime = Runtime::with_cores(2, 4).unwrap();
        let relays = runtime.relays();
        let (first, second) = (relays.pick(), relays.pick());
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&first, &relays.pick()));
        for executor in [first, second] {
            let relays = relays.clone();
            let picked = runtime.block_on(executor.spawn(async move { relays.pick() }));
            assert!(Arc::ptr_eq(&picked, &executor));
        }
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
        let here = thread::current().name().map(str::to_owned);
        assert_eq!(thread_of(&runtime, &runtime.relays().pick()), here);
        assert!(Runtime::with_cores(1, 2).unwrap().threads.len() == 1);
    }

    #[test]
    fn a_panic_outside_of_a_group_leaves_the_thread_alive() {
        let runtime = Runtime::with_cores(1, 2).unwrap();
        let relay = runtime.relays().pick();
        relay.spawn(async { panic!("planted") }).detach();
        assert!(thread_of(&runtime, &relay).is_some());
    }

    #[test]
    fn tls_fits_the_stack_of_a_relay_thread() {
        let runtime = Runtime::with_cores(1, 2).unwrap();
        let (client, server) =
            runtime.block_on(runtime.relays().pick().spawn(crate::relay::testing::tls()));
        assert!(client.peer_addr().is_ok() && server.peer_addr().is_ok());
    }

    #[test]
    fn dropping_the_runtime_ends_the_threads_and_their_tasks() {
        let runtime = Runtime::with_cores(2, 4).unwrap();
        let relays = runtime.relays().pick();
        let (held, gate) = bounded::<()>(1);
        let waiting = async move { gate.recv().await.is_ok() };
        relays.spawn(waiting).detach();
        drop(runtime);
        assert_eq!(Arc::strong_count(&relays), 1);
        drop(relays);
        assert!(held.is_closed());
    }
}
