//! The threads: one drives control work, some drive relays.
//!
//! A saturated relay must not delay a ping, and async-io never yields by itself; so accept loops,
//! sessions and dials have an executor and a thread of their own, and relays have the others.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
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

/// The executors and threads of the process.
///
/// Dropping it ends the relay threads and waits for them.
#[derive(Debug)]
pub struct Runtime {
    control: Handle,
    relays: Handle,
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
                relays: Arc::clone(&control),
                control,
                stop: None,
                threads: Vec::new(),
            });
        }
        let (stop, stopped) = bounded(1);
        let mut runtime = Self {
            control,
            relays: Handle::default(),
            stop: Some(stop),
            threads: Vec::new(),
        };
        for number in 0..threads.clamp(1, THREADS) {
            let relays = Arc::clone(&runtime.relays);
            let stopped = stopped.clone();
            let thread = Builder::new()
                .name(format!("relay-{number}"))
                .stack_size(STACK)
                .spawn(move || drive(&relays, &stopped))?;
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

    /// The executor for relays.
    #[must_use]
    pub fn relays(&self) -> Handle {
        Arc::clone(&self.relays)
    }

    /// Drives `main` and the control executor on this thread until `main` is done.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        async_io::block_on(self.control.run(main))
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

/// Runs relays until the runtime is dropped. Groups catch the panics of their tasks; one that still
/// arrives here must not take the thread from the other relays.
fn drive(relays: &Executor<'_>, stopped: &Receiver<()>) {
    loop {
        let run = || async_io::block_on(relays.run(stopped.recv()));
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
        let relay = thread_of(&runtime, &runtime.relays()).unwrap();
        assert!(relay.starts_with("relay-"), "{relay}");
        let here = thread::current().name().map(str::to_owned);
        assert_eq!(thread_of(&runtime, &runtime.control()), here);
    }

    #[test]
    fn one_thread_on_one_core_is_shared() {
        let runtime = Runtime::with_cores(1, 1).unwrap();
        let here = thread::current().name().map(str::to_owned);
        assert_eq!(thread_of(&runtime, &runtime.relays()), here);
        assert!(Runtime::with_cores(1, 2).unwrap().threads.len() == 1);
    }

    #[test]
    fn a_panic_outside_of_a_group_leaves_the_thread_alive() {
        let runtime = Runtime::with_cores(1, 2).unwrap();
        runtime.relays().spawn(async { panic!("planted") }).detach();
        assert!(thread_of(&runtime, &runtime.relays()).is_some());
    }

    #[test]
    fn tls_fits_the_stack_of_a_relay_thread() {
        let runtime = Runtime::with_cores(1, 2).unwrap();
        let (client, server) =
            runtime.block_on(runtime.relays().spawn(crate::relay::testing::tls()));
        assert!(client.peer_addr().is_ok() && server.peer_addr().is_ok());
    }

    #[test]
    fn dropping_the_runtime_ends_the_threads_and_their_tasks() {
        let runtime = Runtime::with_cores(2, 4).unwrap();
        let relays = runtime.relays();
        let (held, gate) = bounded::<()>(1);
        let waiting = async move { gate.recv().await.is_ok() };
        relays.spawn(waiting).detach();
        drop(runtime);
        assert_eq!(Arc::strong_count(&relays), 1);
        drop(relays);
        assert!(held.is_closed());
    }
}
