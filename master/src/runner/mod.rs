//! What runs instances. The master decides when; this says how.

mod tunnels;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use protocol::config;
use runtime_smol::log::Sink;
use runtime_smol::stats::Snapshot;

pub use self::tunnels::Tunnels;

/// A future of a trait that is used as an object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Starts tunnels. Implemented over `runtime-smol` for the program, and by a script for tests.
pub trait Runner: fmt::Debug + Send + Sync + 'static {
    /// Starts one run. Cancelled by dropping the future, with everything that it opened.
    fn start(&self, order: Order) -> Boxed<'_, Result<Box<dyn Run>, Failure>>;
}

/// One run to be started.
pub struct Order {
    /// What to run.
    pub config: config::Tunnel,
    /// Counters to continue from.
    pub counted: Snapshot,
    /// Takes the lines of its log.
    pub sink: Arc<dyn Sink>,
}

/// One instance that runs. Dropping it ends it at once and closes its sockets.
pub trait Run: fmt::Debug + Send + Sync + 'static {
    /// The counters now.
    fn stats(&self) -> Snapshot;
    /// Sets the four traffic counters to zero.
    fn reset(&self);
    /// The run mode in force, 1 or 2.
    fn mode(&self) -> u8;
    /// Re-reads certificate files now.
    fn reload(&self);
    /// Begins a graceful stop.
    fn stop(&self);
    /// Waits for the end, by a stop or by a failure.
    fn wait(&self) -> Boxed<'_, Result<(), Failure>>;
}

/// Why an instance could not be started, or ended by itself: one line for its log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").finish_non_exhaustive()
    }
}
