//! Runs one tunnel in the foreground and obeys signals.

use std::fmt::Display;
use std::process;
use std::thread;

use async_signal::{Signal, Signals};
use protocol::config;
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
    raise_descriptor_limit();
    let dispatch = runtime_smol::log::stdout(config.log);
    dispatcher::with_default(&dispatch, || {
        for warning in warnings {
            tracing::warn!("{warning}");
        }
    });
    let threads = config.env.threads.unwrap_or_else(default_threads);
    let runtime = Runtime::new(threads).map_err(|error| format!("threads: {error}"))?;
    runtime.block_on(supervise(&runtime, config, dispatch))
}

async fn supervise(
    runtime: &Runtime,
    config: config::Tunnel,
    dispatch: Dispatch,
) -> Result<(), String> {
    let mut signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup])
        .map_err(|error| format!("cannot receive signals: {error}"))?;
    let starting = async { Some(Tunnel::start(runtime, config, dispatch).await) };
    let interrupted = async {
        while next(&mut signals).await == Signal::Hup {}
        None
    };
    let Some(started) = future::or(starting, interrupted).await else {
        return Ok(());
    };
    let tunnel = started.map_err(line)?;
    let ended = async { tunnel.wait().await.map_err(line) };
    future::or(ended, obey(&mut signals, &tunnel)).await
}

/// Never ends by itself: the tunnel's end is awaited beside it.
async fn obey(signals: &mut Signals, tunnel: &Tunnel) -> Result<(), String> {
    let mut stopping = false;
    loop {
        if next(signals).await == Signal::Hup {
            tunnel.reload();
        } else if stopping {
            // "At once" is meant: no relay, thread or destructor is waited for.
            process::exit(STOPPED_AT_ONCE);
        } else {
            stopping = true;
            tunnel.stop();
        }
    }
}

/// What shells report for a program that an interrupt ended.
const STOPPED_AT_ONCE: i32 = 130;

async fn next(signals: &mut Signals) -> Signal {
    match signals.next().await {
        Some(Ok(signal)) => signal,
        // Signals that cannot be received any more do not end the tunnel.
        Some(Err(_)) | None => future::pending().await,
    }
}

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
