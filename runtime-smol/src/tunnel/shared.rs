//! What all parts of an instance share.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::config::{Running, Tunnel};
use rustix::process::{Resource, getrlimit};
use smol::channel::{Sender, bounded};
use smol::future::FutureExt as _;

use super::TunnelError;
use super::slots::Slots;
use super::start;
use super::targets::Targets;
use super::users::Listeners;
use crate::executor::{self, Handle};
use crate::group::Group;
use crate::net::Dialer;
use crate::relay::Settings;
use crate::stats::Stats;
use crate::timer::Timer;

/// How long the last words of all sessions may take together.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(1500);

/// One instance's configuration, counters, limits and tasks.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Tunnel,
    pub(super) running: Running,
    pub(super) stats: Arc<Stats>,
    pub(super) settings: Settings,
    pub(super) dialer: Dialer,
    pub(super) targets: Targets,
    pub(super) slots: Slots,
    /// One for each session's task and for each idle connection that is withdrawn, so that a stop can
    /// wait for their last words.
    pub(super) parting: Slots,
    pub(super) group: Group,
    pub(super) control: Handle,
    /// Nothing new is taken in.
    pub(super) stopping: AtomicBool,
}

/// A task that runs while this is held.
#[derive(Debug)]
pub(super) struct Held {
    _leash: Sender<Infallible>,
}

impl Shared {
    /// Runs a task on the control executor until it ends or the instance does.
    pub(super) fn spawn_control(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.group.spawn(&self.control, future);
    }

    /// Runs a session's task: a stop waits for its end.
    pub(super) fn spawn_session(&self, future: impl Future<Output = ()> + Send + 'static) {
        let place = self.parting.take();
        self.spawn_control(async move {
            future.await;
            drop(place);
        });
    }

    /// Runs a task of one connection until it ends or the instance does: where its spawner runs, and
    /// on a relay thread as soon as it steps aside.
    pub(super) fn spawn_relay(&self, future: impl Future<Output = ()> + Send + 'static) {
        match executor::of_this_relay_thread() {
            Some(here) => self.group.spawn(&here, future),
            None => self.spawn_control(future),
        }
    }

    /// Runs a task on the control executor while the result is held.
    pub(super) fn hold(&self, future: impl Future<Output = ()> + Send + 'static) -> Held {
        let (leash, cut) = bounded::<Infallible>(1);
        self.spawn_control(async move {
            let cut = async { while cut.recv().await.is_ok() {} };
            future.or(cut).await;
        });
        Held { _leash: leash }
    }

    /// Idle data connections of one session: `max`, or what all of them may be, whichever is less.
    pub(super) fn most_idle(&self, max: u32) -> usize {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        max.min(self.most_idle_in_all())
    }

    /// Half of the descriptors this process may have.
    pub(super) fn most_idle_in_all(&self) -> usize {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        usize::try_from(limit / 2).unwrap_or(usize::MAX).max(1)
    }

    /// Listens for users on the target address.
    pub(super) async fn listen_for_users(&self) -> Result<Listeners, TunnelError> {
        let [target] = &self.config.targets[..] else {
            return Err(TunnelError::Unfit(
                "the server wants this client to accept users, so it needs exactly one target",
            ));
        };
        let resolver = self.dialer.resolver();
        Ok(start::listen(&self.config, resolver, target).await?)
    }

    /// Lets relays run out, up to `NP_SHUTDOWN_TIMEOUT`.
    pub(super) async fn drain(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let relays = self.slots.used();
        let timeout = self.config.env.shutdown_timeout;
        tracing::info!(relays, "stopping");
        let too_late = async {
            Timer::after(timeout).await;
        };
        self.slots.all_free().or(too_late).await;
    }

    /// Cancels all tasks and waits until they are gone: their relays then have been reset.
    pub(super) async fn end(&self) {
        self.group.close();
        let too_late = async {
            Timer::after(LAST_WORDS).await;
        };
        self.group.idle().or(too_late).await;
    }

    /// Whether nothing new is to be taken in.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Waits for the last words of the sessions' tasks, whose inboxes are closed, and for idle
    /// connections that are withdrawn.
    pub(super) async fn last_words(&self) {
        let too_late = async {
            Timer::after(LAST_WORDS).await;
        };
        self.parting.all_free().or(too_late).await;
    }
}
