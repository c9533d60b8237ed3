//! The threads that ask the system for names.
//!
//! `getaddrinfo` blocks, for tens of seconds when the name servers are down, so it must not borrow
//! the threads that others need. There are two in a process, started when there is work.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most threads.
const THREADS: usize = 2;
/// Most lookups that wait for a thread.
const QUEUE: usize = 1024;
/// A thread without work ends after this long.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The process's threads.
static POOL: Pool = Pool::new(IDLE);

/// Runs `job` on one of the process's lookup threads. If that is not possible, `job` is dropped
/// without being run.
pub(super) fn spawn(job: impl FnOnce() + Send + 'static) {
    POOL.spawn(Box::new(job));
}

/// Asks the system for the addresses of `host`, with port 0. Blocks.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place that may block: it runs on a lookup thread"
)]
pub(super) fn system(host: &str) -> io::Result<Vec<SocketAddr>> {
    (host, 0).to_socket_addrs().map(Iterator::collect)
}

struct Pool {
    state: Mutex<State>,
    work: Condvar,
    idle: Duration,
}

struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    waiting: usize,
}

impl Pool {
    const fn new(idle: Duration) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                threads: 0,
                waiting: 0,
            }),
            work: Condvar::new(),
            idle,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&'static self, job: Job) {
        let mut state = self.lock();
        if state.jobs.len() >= QUEUE {
            drop(state);
            return drop(job);
        }
        state.jobs.push_back(job);
        if state.jobs.len() <= state.waiting || state.threads >= THREADS {
            drop(state);
            return self.work.notify_one();
        }
        state.threads += 1;
        drop(state);
        let thread = std::thread::Builder::new().name("dns".to_owned());
        if thread.spawn(|| self.run()).is_err() {
            let mut state = self.lock();
            state.threads -= 1;
            // Nobody is left to do the work, so whoever waits for it must learn that.
            let orphans = if state.threads == 0 {
                std::mem::take(&mut state.jobs)
            } else {
                VecDeque::new()
            };
            drop(state);
            drop(orphans);
        }
    }

    fn run(&self) {
        while let Some(job) = self.next() {
            // The job's own guard tells whoever waits; the thread must live on.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    }

    /// The next job, or `None` after a time without one: the thread must end then.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.waiting += 1;
            let waited = self.work.wait_timeout(state, self.idle);
            let (back, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.waiting -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn two_threads_at_most_and_none_when_idle() {
        static POOL: Pool = Pool::new(Duration::from_millis(1));
        let (started, starts) = channel();
        let (go, gate) = channel::<()>();
        let gate = std::sync::Arc::new(Mutex::new(gate));
        for _ in 0..4 {
            let (started, gate) = (started.clone(), gate.clone());
            POOL.spawn(Box::new(move || {
                started.send(()).unwrap();
                gate.lock().unwrap().recv().unwrap();
            }));
        }
        starts.recv().unwrap();
        starts.recv().unwrap();
        let state = POOL.lock();
        assert_eq!((state.threads, state.jobs.len()), (2, 2));
        drop(state);
        (0..4).for_each(|_| go.send(()).unwrap());
        starts.recv().unwrap();
        starts.recv().unwrap();
        while POOL.lock().threads > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_does_not_fit_the_queue_is_dropped() {
        static POOL: Pool = Pool::new(IDLE);
        let (go, gate) = channel::<()>();
        let gate = std::sync::Arc::new(Mutex::new(gate));
        let (dropped, drops) = channel::<()>();
        let (started, starts) = channel();
        for _ in 0..THREADS {
            let (gate, started) = (gate.clone(), started.clone());
            POOL.spawn(Box::new(move || {
                started.send(()).unwrap();
                gate.lock().unwrap().recv().unwrap_err();
            }));
        }
        (0..THREADS).for_each(|_| starts.recv().unwrap());
        (0..QUEUE).for_each(|_| POOL.spawn(Box::new(|| ())));
        POOL.spawn(Box::new(move || drop(dropped)));
        assert!(drops.recv().is_err());
        assert_eq!(POOL.lock().jobs.len(), QUEUE);
        drop(go);
    }
}
