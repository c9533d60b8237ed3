//! Runs one tunnel in the foreground; what it shares with the master: preparation and signals.

use std::fmt::Display;
use std::process;
use std::thread;

use async_signal::{Signal, Signals};
use protocol::config::{self, Environment, LogLevel};
use runtime_smol::{Runtime, Tunnel};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smol::future;
use smol::stream::StreamExt as _;
use tracing::{Dispatch, dispatcher};

/// Runs until the tunnel is stopped by a signal or ends by itself.
///
/// # Errors
/// One line: what could not be started, or why the tunnel ended.
pub(crate) fn tunnel(config: config::Tunnel, warnings: &[String]) -> Result<(), String> {
    let (runtime, log) = prepare(config.log, &config.env, warnings)?;
    runtime.block_on(supervise(&runtime, config, log))
}

async fn supervise(runtime: &Runtime, config: config::Tunnel, log: Dispatch) -> Result<(), String> {
    let mut interrupts = Interrupts::new()?;
    let starting = async { Some(Tunnel::start(runtime, config, log).await) };
    let Some(started) = future::or(starting, interrupts.stop()).await else {
        return Ok(());
    };
    let tunnel = started.map_err(line)?;
    let ended = async { tunnel.wait().await.map_err(line) };
    future::or(ended, interrupts.obeyed_by(&tunnel)).await
}

/// Raises limits, logs `warnings`, and starts the threads.
///
/// # Errors
/// The system refuses a thread.
pub(crate) fn prepare(
    level: LogLevel,
    env: &Environment,
    warnings: &[String],
) -> Result<(Runtime, Dispatch), String> {
    raise_descriptor_limit();
    let log = runtime_smol::log::stdout(level);
    dispatcher::with_default(&log, || {
        for warning in warnings {
            tracing::warn!("{warning}");
        }
    });
    let threads = env.threads.unwrap_or_else(default_threads);
    let runtime = Runtime::new(threads).map_err(|error| format!("threads: {error}"))?;
    Ok((runtime, log))
}

/// What runs until it is told to stop.
pub(crate) trait Obedient {
    /// Reads certificates again.
    fn reload(&self);
    /// Begins a graceful stop.
    fn stop(&self);
}

impl Obedient for Tunnel {
    fn reload(&self) {
        Self::reload(self);
    }

    fn stop(&self) {
        Self::stop(self);
    }
}

/// The signals that the program obeys.
pub(crate) struct Interrupts(Signals);

impl Interrupts {
    /// Receives them from now on.
    ///
    /// # Errors
    /// The system does not let it.
    pub(crate) fn new() -> Result<Self, String> {
        Signals::new([Signal::Term, Signal::Int, Signal::Hup])
            .map(Self)
            .map_err(|error| format!("cannot receive signals: {error}"))
    }

    /// Waits for one that stops what has not started yet.
    pub(crate) async fn stop<T>(&mut self) -> Option<T> {
        while self.next().await == Signal::Hup {}
        None
    }

    /// Has `running` obey them. Never ends by itself: the end of what runs is awaited beside it.
    pub(crate) async fn obeyed_by<T>(&mut self, running: &impl Obedient) -> T {
        let mut stopping = false;
        loop {
            if self.next().await == Signal::Hup {
                running.reload();
            } else if stopping {
                // "At once" is meant: no relay, thread or destructor is waited for, only that what
                // was logged is printed.
                runtime_smol::log::flush();
                process::exit(STOPPED_AT_ONCE);
            } else {
                stopping = true;
                running.stop();
            }
        }
    }

    async fn next(&mut self) -> Signal {
        match self.0.next().await {
            Some(Ok(signal)) => signal,
            // Signals that cannot be received any more do not end the tunnel.
            Some(Err(_)) | None => future::pending().await,
        }
    }
}

/// What shells report for a program that an interrupt ended.
const STOPPED_AT_ONCE: i32 = 130;

fn line(error: impl Display) -> String {
    error.to_string()
}

/// Sockets are this program's stock: it takes as many descriptors as it may have.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum;
    // Refused only by systems whose hard limit is not attainable; the soft one then stays.
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).ok();
}

fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(4))
}
