//! The instances: what each shows, and the actor behind it.
//!
//! Locks are taken in the order hub, registry, instance, and no run is dropped or told anything
//! while one is held: it may log, which takes them.

mod actor;
mod change;
mod lifecycle;
mod log;
mod registry;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime_smol::stats::Snapshot;
use smol::channel::Sender;

pub(crate) use self::actor::{Command, supervise};
pub(crate) use self::change::{Wish, check_size};
pub(crate) use self::lifecycle::{LAST_WORDS, Limits};
pub(crate) use self::registry::{Registry, Reserved};

use crate::object::{Counters, Object, Status};
use crate::runner::Run;
use crate::state::Record;

/// Commands that wait for one instance; who comes later waits to hand in its own.
pub(crate) const INBOX: usize = 4;

/// One instance, as everyone may look at it.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: Arc<str>,
    /// Its place in lists.
    pub(crate) order: u64,
    pub(crate) inbox: Sender<Command>,
    shown: Mutex<Shown>,
}

/// What can change.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) record: Arc<Record>,
    pub(crate) status: Status,
    /// Starts that succeeded.
    pub(crate) starts: u64,
    /// Deleted: no event may follow.
    pub(crate) gone: bool,
    /// What the file holds.
    pub(crate) saved: Counters,
    run: Option<Arc<dyn Run>>,
    /// The counters of the runs before; without gauges.
    before: Snapshot,
    /// What was told last.
    told: Snapshot,
}

impl Instance {
    /// One that is stopped.
    pub(crate) fn new(order: u64, record: Arc<Record>, inbox: Sender<Command>) -> Self {
        let Counters {
            tcprx,
            tcptx,
            udprx,
            udptx,
        } = record.counters;
        let before = Snapshot {
            tcp_rx: tcprx,
            tcp_tx: tcptx,
            udp_rx: udprx,
            udp_tx: udptx,
            ..Snapshot::default()
        };
        let shown = Shown {
            status: Status::Stopped,
            starts: 0,
            gone: false,
            saved: record.counters,
            run: None,
            before,
            told: before,
            record,
        };
        Self {
            id: Arc::clone(&shown.record.id),
            order,
            inbox,
            shown: Mutex::new(shown),
        }
    }

    pub(crate) fn object(&self) -> Object {
        self.lock().object()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    /// The instance as it is now.
    pub(crate) fn object(&self) -> Object {
        let live = self.total();
        let Counters {
            tcprx,
            tcptx,
            udprx,
            udptx,
        } = counters(&live);
        Object {
            id: Arc::clone(&self.record.id),
            alias: Arc::clone(&self.record.alias),
            kind: self.record.kind,
            status: self.status,
            url: Arc::clone(&self.record.url),
            config: Arc::clone(&self.record.config),
            restart: self.record.restart,
            meta: Arc::clone(&self.record.meta),
            mode: self.run.as_ref().map_or(0, |run| run.mode()),
            ping: live.ping,
            pool: live.idle,
            tcps: live.tcps,
            udps: live.udps,
            tcprx,
            tcptx,
            udprx,
            udptx,
        }
    }

    /// Everything counted, over all runs.
    pub(crate) fn total(&self) -> Snapshot {
        let Some(run) = &self.run else {
            return self.before;
        };
        let live = run.stats();
        // Traffic goes on from run to run; what went wrong is counted by each for itself.
        Snapshot {
            dial_failures: live.dial_failures.saturating_add(self.before.dial_failures),
            auth_failures: live.auth_failures.saturating_add(self.before.auth_failures),
            dropped: live.dropped.saturating_add(self.before.dropped),
            refused: live.refused.saturating_add(self.before.refused),
            ..live
        }
    }

    /// Bytes over all runs.
    pub(crate) fn counters(&self) -> Counters {
        counters(&self.total())
    }

    /// What a run is to continue from.
    pub(crate) fn before(&self) -> Snapshot {
        self.before
    }

    pub(crate) fn run(&self) -> Option<Arc<dyn Run>> {
        self.run.clone()
    }

    pub(crate) fn begin_run(&mut self, run: Arc<dyn Run>) {
        self.starts += 1;
        self.run = Some(run);
    }

    /// Keeps what the run counted. The caller drops it after the lock.
    #[must_use]
    pub(crate) fn end_run(&mut self) -> Option<Arc<dyn Run>> {
        self.before = Snapshot {
            tcps: 0,
            udps: 0,
            ping: 0,
            idle: 0,
            ..self.total()
        };
        self.run.take()
    }

    /// Traffic starts from zero; the run was told.
    pub(crate) fn reset_traffic(&mut self) {
        for counter in [
            &mut self.before.tcp_rx,
            &mut self.before.tcp_tx,
            &mut self.before.udp_rx,
            &mut self.before.udp_tx,
        ] {
            *counter = 0;
        }
    }

    /// Whether there is telemetry that was not told yet; it then counts as told.
    pub(crate) fn has_news(&mut self) -> bool {
        let now = self.total();
        self.run.is_some() && now != std::mem::replace(&mut self.told, now)
    }
}

fn counters(snapshot: &Snapshot) -> Counters {
    Counters {
        tcprx: snapshot.tcp_rx.min(Counters::MAX),
        tcptx: snapshot.tcp_tx.min(Counters::MAX),
        udprx: snapshot.udp_rx.min(Counters::MAX),
        udptx: snapshot.udp_tx.min(Counters::MAX),
    }
}
