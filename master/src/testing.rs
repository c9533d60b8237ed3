//! What tests of the domain share: a runner that opens no socket, and a master in a directory of
//! its own.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use event_listener::Event as Signal;
use protocol::config::{Config, parse};
use protocol::terms::DataTls;
use runtime_smol::log::{Level, Line, Sink};
use runtime_smol::stats::{Snapshot, Stats};
use smol::Executor;
use tracing::Dispatch;

use crate::control::{Control, Create, Start};
use crate::events::{Event, Kind, Subscription};
use crate::object::{Object, Status};
use crate::runner::{Boxed, Failure, Order, Run, Runner};
use crate::state::OpenError;

/// What the runs of one instance do. Instances are told apart by the port of their target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    /// How many of the next starts fail.
    pub(crate) failing_starts: usize,
    /// Starts take for ever.
    pub(crate) hanging_start: bool,
    /// Starting panics.
    pub(crate) panicking_start: bool,
    /// A graceful stop takes for ever.
    pub(crate) stubborn: bool,
    /// Reading counters panics.
    pub(crate) panicking_stop: bool,
}

/// Runs nothing and keeps the books.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) manners: BTreeMap<u16, Manners>,
    /// Runs that are alive, by instance.
    pub(crate) alive: BTreeMap<u16, Vec<Arc<Life>>>,
    /// The most that were alive at once of any instance.
    pub(crate) most: usize,
    /// Starts that were asked for.
    pub(crate) starts: usize,
}

pub(crate) struct Life {
    pub(crate) stats: Stats,
    sink: Arc<dyn Sink>,
    stop: AtomicBool,
    fail: AtomicBool,
    changed: Signal,
}

impl Fake {
    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap()
    }

    pub(crate) fn behave(&self, instance: u16, manners: Manners) {
        self.books().manners.insert(instance, manners);
    }

    /// The run of an instance, if it has one.
    pub(crate) fn run_of(&self, instance: u16) -> Option<Arc<Life>> {
        self.books().alive.get(&instance)?.last().cloned()
    }

    pub(crate) fn alive(&self) -> usize {
        self.books().alive.values().map(Vec::len).sum()
    }
}

impl Life {
    /// The run logs a line; a record of telemetry if it is `CHECK_POINT`.
    pub(crate) fn say(&self, message: &str) {
        self.sink.line(&Line {
            time: "2026-01-02 03:04:05.678".to_owned(),
            level: if message == "CHECK_POINT" {
                Level::Event
            } else {
                Level::Info
            },
            message: message.to_owned(),
        });
    }

    /// The run ends by itself.
    pub(crate) fn fail(&self) {
        self.fail.store(true, Ordering::Release);
        self.changed.notify(usize::MAX);
    }
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Life").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct FakeRun {
    runner: Fake,
    instance: u16,
    life: Arc<Life>,
    manners: Manners,
}

impl Runner for Fake {
    fn start(&self, order: Order) -> Boxed<'_, Result<Box<dyn Run>, Failure>> {
        Box::pin(async move {
            let instance = order.config.targets[0].port;
            let manners = {
                let mut books = self.books();
                books.starts += 1;
                let manners = books.manners.entry(instance).or_default();
                let now = manners.clone();
                manners.failing_starts = now.failing_starts.saturating_sub(1);
                now
            };
            assert!(!manners.panicking_start, "planted");
            if manners.hanging_start {
                smol::future::pending::<()>().await;
            }
            smol::future::yield_now().await;
            if manners.failing_starts > 0 {
                return Err(Failure("planted".to_owned()));
            }
            let life = Arc::new(Life {
                stats: Stats::resumed(&order.counted),
                sink: order.sink,
                stop: AtomicBool::new(false),
                fail: AtomicBool::new(false),
                changed: Signal::new(),
            });
            let mut books = self.books();
            let lives = books.alive.entry(instance).or_default();
            lives.push(Arc::clone(&life));
            let alive = lives.len();
            books.most = books.most.max(alive);
            drop(books);
            let runner = self.clone();
            let run: Box<dyn Run> = Box::new(FakeRun {
                runner,
                instance,
                life,
                manners,
            });
            Ok(run)
        })
    }
}

impl Run for FakeRun {
    fn stats(&self) -> Snapshot {
        self.life.stats.snapshot()
    }

    fn reset(&self) {
        self.life.stats.reset_traffic();
    }

    fn mode(&self) -> u8 {
        1
    }

    fn reload(&self) {}

    fn stop(&self) {
        assert!(!self.manners.panicking_stop, "planted");
        self.life.stop.store(true, Ordering::Release);
        self.life.changed.notify(usize::MAX);
    }

    fn wait(&self) -> Boxed<'_, Result<(), Failure>> {
        Box::pin(async {
            loop {
                let changed = self.life.changed.listen();
                if self.life.fail.load(Ordering::Acquire) {
                    return Err(Failure("planted".to_owned()));
                }
                if self.life.stop.load(Ordering::Acquire) && !self.manners.stubborn {
                    return Ok(());
                }
                changed.await;
            }
        })
    }
}

impl Drop for FakeRun {
    fn drop(&mut self) {
        let mut books = self.runner.books();
        let lives = books.alive.entry(self.instance).or_default();
        lives.retain(|life| !Arc::ptr_eq(life, &self.life));
    }
}

/// A directory that is gone when the last clone is.
#[derive(Clone, Debug)]
pub(crate) struct Directory(Arc<Temporary>);

#[derive(Debug)]
struct Temporary(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("nodepass-master-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(Arc::new(Temporary(path)))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state.json")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A master without HTTP.
pub(crate) struct Master {
    pub(crate) control: Control,
    pub(crate) runner: Fake,
    pub(crate) directory: Directory,
}

/// Starts a master in `directory` with the environment `env`.
pub(crate) fn try_master(
    executor: &Arc<Executor<'static>>,
    directory: &Directory,
    env: &[(&str, &str)],
) -> Result<Master, OpenError> {
    let runner = Fake::default();
    let read = |name: &str| {
        let found = env.iter().find(|(own, _)| *own == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let Config::Master(config) = parse("master://127.0.0.1:9090", &read).unwrap().config else {
        panic!("not a master");
    };
    let control = Control::start(Start {
        master: &config,
        tls: DataTls::Plain,
        state: directory.state(),
        runner: Arc::new(runner.clone()),
        executor: Arc::clone(executor),
        log: Dispatch::none(),
    })?;
    let directory = directory.clone();
    Ok(Master {
        control,
        runner,
        directory,
    })
}

/// As [`try_master`], where nothing can go wrong.
pub(crate) fn master(
    executor: &Arc<Executor<'static>>,
    directory: &Directory,
    env: &[(&str, &str)],
) -> Master {
    try_master(executor, directory, env).unwrap()
}

/// Runs `test` with a master in a directory of its own.
pub(crate) fn with_master<F: Future<Output = ()>>(test: impl FnOnce(Master) -> F) {
    run(|executor| test(master(&executor, &Directory::new(), &[])));
}

/// Runs `test` on an executor of its own.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Arc<Executor<'static>>) -> F) {
    let executor = Arc::new(Executor::new());
    let main = test(Arc::clone(&executor));
    async_io::block_on(executor.run(main));
}

/// The URL of instance `number`.
pub(crate) fn url(number: u16) -> String {
    format!("client://10.0.0.1:1/127.0.0.1:{number}")
}

impl Master {
    pub(crate) async fn create(&self, number: u16) -> Object {
        let new = Create {
            url: Some(url(number)),
            alias: Some(format!("number {number}")),
        };
        self.control.create(new).await.unwrap()
    }

    /// Waits until an instance has this status.
    pub(crate) async fn until(&self, id: &str, status: Status) -> Object {
        until(|| {
            self.control
                .get(id)
                .ok()
                .filter(|object| object.status == status)
        })
        .await
    }

    pub(crate) async fn running(&self, number: u16) -> Object {
        let object = self.create(number).await;
        self.until(&object.id, Status::Running).await
    }
}

/// Asks until there is an answer, by looking at the real thing.
pub(crate) async fn until<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6000 {
        if let Some(found) = probe() {
            return found;
        }
        async_io::Timer::after(Duration::from_millis(5)).await;
    }
    panic!("not within 30 s");
}

/// The next event that is not a snapshot's.
pub(crate) async fn next(stream: &mut Subscription) -> Event {
    loop {
        let event = stream.next().await.expect("the stream ended");
        if event.kind != Kind::Initial {
            return event;
        }
    }
}
