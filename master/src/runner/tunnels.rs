//! The runner of the program: tunnels of the smol runtime in this process.

use std::sync::Arc;

use runtime_smol::log::dispatch;
use runtime_smol::stats::{Snapshot, Stats};
use runtime_smol::{Runtime, Tunnel};

use super::{Boxed, Failure, Order, Run, Runner};

/// Runs instances on one runtime.
#[derive(Debug)]
pub struct Tunnels {
    runtime: Arc<Runtime>,
}

impl Tunnels {
    /// Instances run on the threads of `runtime`.
    #[must_use]
    pub const fn new(runtime: Arc<Runtime>) -> Self {
        Self { runtime }
    }
}

impl Runner for Tunnels {
    fn start(&self, order: Order) -> Boxed<'_, Result<Box<dyn Run>, Failure>> {
        let Order {
            config,
            counted,
            sink,
        } = order;
        Box::pin(async move {
            let log = dispatch(config.log, sink);
            let stats = Stats::resumed(&counted);
            let started = Tunnel::resume(&self.runtime, config, log, stats).await;
            let tunnel = started.map_err(|error| Failure(error.to_string()))?;
            let run: Box<dyn Run> = Box::new(tunnel);
            Ok(run)
        })
    }
}

impl Run for Tunnel {
    fn stats(&self) -> Snapshot {
        Self::stats(self)
    }

    fn reset(&self) {
        self.reset_traffic();
    }

    fn mode(&self) -> u8 {
        Self::mode(self)
    }

    fn reload(&self) {
        Self::reload(self);
    }

    fn stop(&self) {
        Self::stop(self);
    }

    fn wait(&self) -> Boxed<'_, Result<(), Failure>> {
        Box::pin(async {
            Self::wait(self)
                .await
                .map_err(|error| Failure(error.to_string()))
        })
    }
}
