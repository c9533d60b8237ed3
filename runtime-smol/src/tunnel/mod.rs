//! One tunnel instance: a server, a dual-end client, or a client alone.
//!
//! ```text
//!   door ──▶          ┌──────────┐ ◀── users
//!   control tasks ──▶ │   hub    │ ◀── idle data connections ──▶ launch / egress ──▶ relay
//!   connect ──▶       └──────────┘
//! ```
//!
//! A hub is one task that owns the machines of its end and is told everything through one bounded
//! inbox. It only queues: what takes time is done by tasks, all of them in the instance's
//! [`Group`](crate::group::Group), which closes their sockets when the instance ends.

mod client;
mod connect;
mod control;
mod data;
mod door;
mod egress;
mod gate;
mod hub;
mod idle;
mod keys;
mod launch;
mod leash;
mod numbered;
mod report;
mod rotation;
mod served;
mod server;
mod shared;
mod single;
mod slots;
mod start;
mod targets;
mod user;
mod users;
mod waiting;

use std::sync::Arc;

use protocol::wire::signal::Signal;
use smol::channel::{Receiver, Sender};

pub use self::start::StartError;

use self::hub::Msg;
use self::shared::Shared;
use crate::net::ListenError;
use crate::stats::Snapshot;

/// A running instance. Dropping it ends it at once and closes its sockets.
#[derive(Debug)]
pub struct Tunnel {
    shared: Arc<Shared>,
    hub: Sender<Msg>,
    reload: Sender<()>,
    done: Receiver<Result<(), TunnelError>>,
}

/// Why a running instance ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The server made this client ingress, and its target address cannot be listened on.
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// What the server wants does not fit this client's URL.
    #[error("{0}")]
    Unfit(&'static str),
    /// A bug: a part of the instance panicked. Others in the process are not affected.
    #[error("internal failure, please report it")]
    Panicked,
}

impl Tunnel {
    /// What it has counted.
    #[must_use]
    pub fn stats(&self) -> Snapshot {
        self.shared.stats.snapshot()
    }

    /// Sets its traffic counters to zero; nothing else is touched.
    pub fn reset_traffic(&self) {
        self.shared.stats.reset_traffic();
    }

    /// The run mode in force as `mode` numbers it: 1 or 2.
    #[must_use]
    pub fn mode(&self) -> u8 {
        self.shared.running.mode()
    }

    /// Re-reads certificate files now.
    pub fn reload(&self) {
        // One request waits at most: a second one would read the same files.
        self.reload.try_send(()).ok();
    }

    /// Begins a graceful stop: nothing new is taken, relays may go on for `NP_SHUTDOWN_TIMEOUT`.
    pub fn stop(&self) {
        if let Err(error) = self.hub.try_send(Msg::Stop)
            && error.is_full()
        {
            // The hub is busy: have a task wait for it.
            let hub = self.hub.clone();
            self.shared.spawn_control(async move {
                drop(hub.send(Msg::Stop).await);
            });
        }
    }

    /// Waits for the end: of a graceful stop, or by a failure.
    ///
    /// # Errors
    /// Why the instance could not go on.
    pub async fn wait(&self) -> Result<(), TunnelError> {
        let panicked = async {
            self.shared.group.panicked().await;
            Err(TunnelError::Panicked)
        };
        let done = async { self.done.recv().await.unwrap_or(Err(TunnelError::Panicked)) };
        let ended = smol::future::or(done, panicked).await;
        self.shared.end().await;
        ended
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.shared.group.close();
    }
}

/// The last signal of a graceful stop.
fn goodbye() -> Signal {
    Signal::Bye {
        reason: "shutdown".to_owned(),
        retry_ms: 0,
    }
}
