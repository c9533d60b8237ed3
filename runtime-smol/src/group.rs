//! Tasks that belong together and end together.

use std::future::{Future, poll_fn};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use event_listener::Event;
use slab::Slab;
use smol::{Executor, Task};
use tracing::Dispatch;
use tracing::instrument::{WithDispatch, WithSubscriber as _};

use crate::executor::{self, Handle};

/// Owns tasks. Whatever an instance spawns goes into its group, so that dropping the group ends all
/// of it and closes its sockets.
///
/// Every task logs to the group's dispatcher. A panic ends its own task alone and is reported
/// through [`panicked`](Self::panicked). A finished task leaves nothing behind.
#[derive(Debug)]
pub struct Group {
    inner: Arc<Inner>,
    log: Dispatch,
}

#[derive(Debug)]
struct Inner {
    /// `None` once closed.
    tasks: Mutex<Option<Slab<Task<()>>>>,
    /// Tasks whose future is not dropped yet; lags behind `tasks` when the group was closed.
    living: AtomicUsize,
    panicked: AtomicBool,
    changed: Event,
}

impl Group {
    /// An empty group whose tasks log to `log`.
    #[must_use]
    pub fn new(log: Dispatch) -> Self {
        let inner = Inner {
            tasks: Mutex::new(Some(Slab::new())),
            living: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            changed: Event::new(),
        };
        Self {
            inner: Arc::new(inner),
            log,
        }
    }

    /// Runs `future` until it ends or the group is closed, on `executor` at first: it may
    /// [step aside](executor::step_aside). In a closed group it is dropped at once.
    pub fn spawn(
        &self,
        executor: &Executor<'static>,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut tasks = self.inner.tasks();
        let Some(slab) = tasks.as_mut() else {
            drop(tasks);
            return;
        };
        let slot = slab.vacant_entry();
        self.inner.living.fetch_add(1, Ordering::Relaxed);
        let member = Member {
            group: Arc::clone(&self.inner),
            key: slot.key(),
        };
        // Boxed: moved into the task below it would have its room twice. Of one type, so that there
        // is one kind of task.
        let future: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(future);
        let future = future.with_subscriber(self.log.clone());
        // The lock is held until the task is in its slot: one that ends at once waits for that.
        slot.insert(executor.spawn(member.run(future)));
    }

    /// The number of tasks that are not over yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.living.load(Ordering::Acquire)
    }

    /// Whether all tasks are over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cancels all tasks and accepts no more. Their futures, and so their sockets, are dropped by
    /// the executors; [`idle`](Self::idle) waits for that.
    pub fn close(&self) {
        // Dropped outside the lock: a cancelled future may be dropped right here and then takes it.
        let tasks = self.inner.tasks().take();
        drop(tasks);
    }

    /// Waits until no task is left: the end of a drain.
    pub async fn idle(&self) {
        self.inner
            .wait(|inner| inner.living.load(Ordering::Acquire) == 0)
            .await;
    }

    /// Waits until a task has panicked; at once if one has.
    pub async fn panicked(&self) {
        self.inner
            .wait(|inner| inner.panicked.load(Ordering::Acquire))
            .await;
    }

    /// Whether a task has panicked.
    #[must_use]
    pub fn has_panicked(&self) -> bool {
        self.inner.panicked.load(Ordering::Acquire)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn tasks(&self) -> MutexGuard<'_, Option<Slab<Task<()>>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait(&self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let changed = self.changed.listen();
            if done(self) {
                return;
            }
            changed.await;
        }
    }
}

/// What a task runs.
type Job = WithDispatch<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// How a task ended on its executor.
enum Step {
    Over,
    Panicked,
    /// It goes on there.
    Aside(Handle),
}

/// A task's place in its group, given up when its future is dropped.
struct Member {
    group: Arc<Inner>,
    key: usize,
}

impl Member {
    async fn run(self, mut job: Job) {
        let step = poll_fn(|cx| {
            let poll = || match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut job).poll(cx))) {
                Ok(polled) => polled.map(|()| Step::Over),
                Err(_) => Poll::Ready(Step::Panicked),
            };
            match executor::watching(poll) {
                (_, Some(aside)) => Poll::Ready(Step::Aside(aside)),
                (polled, None) => polled,
            }
        });
        match step.await {
            Step::Over => {}
            Step::Panicked => {
                self.group.panicked.store(true, Ordering::Release);
                self.group.changed.notify(usize::MAX);
                drop(job);
            }
            Step::Aside(to) => self.step_aside(&to, job),
        }
    }

    /// Goes on on another executor, in the same place.
    fn step_aside(self, to: &Executor<'static>, job: Job) {
        let group = Arc::clone(&self.group);
        let mut tasks = group.tasks();
        let Some(task) = tasks.as_mut().and_then(|tasks| tasks.get_mut(self.key)) else {
            // The group was closed. Dropped outside the lock, which the drop may take.
            drop(tasks);
            return drop((self, job));
        };
        // This one is ending by itself: there is nothing to cancel.
        mem::replace(task, to.spawn(self.run(job))).detach();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let own = self
            .group
            .tasks()
            .as_mut()
            .and_then(|tasks| tasks.try_remove(self.key));
        if let Some(own) = own {
            // The task is ending by itself: there is nothing to cancel.
            own.detach();
        }
        if self.group.living.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.group.changed.notify(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use smol::channel::bounded;
    use smol::future::{pending, yield_now};

    use super::*;
    use crate::executor::Runtime;

    fn group() -> Group {
        Group::new(Dispatch::none())
    }

    fn run<T>(executor: &Executor<'static>, main: impl Future<Output = T>) -> T {
        smol::block_on(executor.run(main))
    }

    #[test]
    fn finished_tasks_leave_nothing_behind() {
        let (executor, group) = (Executor::new(), group());
        run(&executor, async {
            for _ in 0..1000 {
                group.spawn(&executor, yield_now());
                group.idle().await;
            }
        });
        let tasks = group.inner.tasks();
        let slab = tasks.as_ref().unwrap();
        assert_eq!(
            (slab.len(), slab.capacity() <= 4, group.len()),
            (0, true, 0)
        );
    }

    #[test]
    fn closing_drops_the_futures_of_all_tasks() {
        let (executor, group) = (Executor::new(), group());
        let (held, watch) = bounded::<()>(1);
        for _ in 0..3 {
            let held = held.clone();
            group.spawn(&executor, async move {
                let _held = held;
                pending::<()>().await;
            });
        }
        drop(held);
        run(&executor, async {
            yield_now().await;
            assert_eq!(group.len(), 3);
            group.close();
            group.idle().await;
        });
        assert!(watch.is_closed());
        group.spawn(&executor, pending());
        assert!(group.is_empty(), "a closed group takes no task");
    }

    #[test]
    fn dropping_a_group_ends_its_tasks() {
        let (executor, group) = (Executor::new(), group());
        let (held, watch) = bounded::<()>(1);
        group.spawn(&executor, async move {
            let _held = held;
            pending::<()>().await;
        });
        drop(group);
        assert!(run(&executor, watch.recv()).is_err());
    }

    #[test]
    fn a_panic_is_reported_and_ends_its_own_task_alone() {
        let (executor, group) = (Executor::new(), group());
        let (tell, told) = bounded(1);
        group.spawn(&executor, async { panic!("planted") });
        group.spawn(&executor, async move {
            yield_now().await;
            tell.send(7).await.unwrap();
        });
        run(&executor, async {
            assert_eq!(told.recv().await, Ok(7));
            group.panicked().await;
            group.idle().await;
        });
        assert!(group.has_panicked());
    }

    #[test]
    fn a_task_that_stepped_aside_is_in_its_group_as_before() {
        let runtime = Runtime::new(2).unwrap();
        let group = group();
        let (held, watch) = bounded::<()>(1);
        let (tell, told) = bounded(1);
        for end in ["over", "panicked", "closed"] {
            let (held, tell) = (held.clone(), tell.clone());
            group.spawn(&runtime.control(), async move {
                let _held = held;
                executor::stepped_aside().await;
                tell.send(()).await.unwrap();
                match end {
                    "over" => {}
                    "panicked" => panic!("planted"),
                    _ => pending().await,
                }
            });
        }
        drop(held);
        runtime.block_on(async {
            for _ in 0..3 {
                told.recv().await.unwrap();
            }
            group.panicked().await;
            group.close();
            group.idle().await;
        });
        assert!(watch.is_closed());
    }

    #[test]
    fn a_group_that_closes_while_its_task_steps_aside_ends_it() {
        let runtime = Runtime::new(2).unwrap();
        let group = Arc::new(group());
        let (held, watch) = bounded::<()>(1);
        let own = Arc::clone(&group);
        group.spawn(&runtime.control(), async move {
            let _held = held;
            executor::step_aside();
            own.close();
            pending::<()>().await;
        });
        runtime.block_on(group.idle());
        assert!(watch.is_closed());
    }

    #[test]
    fn the_overhead_of_a_task_is_small() {
        let member = size_of::<Member>() + size_of::<Dispatch>();
        assert!(member <= 48, "{member}");
    }
}
