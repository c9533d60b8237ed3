//! What runs beside requests: the instances' actors, the writer of the state file, and what happens
//! now and then.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use runtime_smol::executor::Handle;
use runtime_smol::group::Group;
use runtime_smol::timer::Timer;
use smol::channel::Receiver;
use tracing::Dispatch;

use crate::domain::Domain;
use crate::instances::{Command, Instance, supervise};
use crate::object::Status;
use crate::state::Writer;

/// The longest time that counters of running instances are not on disk.
const SAVING: Duration = Duration::from_secs(20);
/// The longest time between two looks at the machine.
const SAMPLING: Duration = Duration::from_secs(5);

/// The tasks of a master. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Tasks {
    executor: Handle,
    group: Group,
    /// The writer is apart: it is waited for.
    writer: Group,
}

impl Tasks {
    pub(crate) fn new(executor: Handle, log: Dispatch) -> Self {
        Self {
            executor,
            group: Group::new(log.clone()),
            writer: Group::new(log),
        }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.group.spawn(&self.executor, task);
    }

    /// Runs the state file's writer.
    pub(crate) fn write(&self, writer: Writer) {
        self.writer.spawn(&self.executor, writer.run());
    }

    /// Runs an instance's actor.
    pub(crate) fn act(
        &self,
        domain: &Arc<Domain>,
        instance: Arc<Instance>,
        inbox: Receiver<Command>,
    ) {
        self.spawn(supervise(Arc::clone(domain), instance, inbox));
    }

    /// Waits until the writer is done.
    pub(crate) async fn written(&self) {
        self.writer.idle().await;
    }

    pub(crate) fn close(&self) {
        self.group.close();
        self.writer.close();
    }
}

/// Tells those who watch what was counted, once each report interval.
pub(crate) async fn telemetry(domain: Arc<Domain>) {
    loop {
        Timer::after(domain.report_interval).await;
        let running = domain.registry.map(|instance| {
            let running = instance.lock().status == Status::Running;
            running.then(|| Arc::clone(instance))
        });
        for instance in running.into_iter().flatten() {
            domain.hub.commit(|draft| {
                let mut shown = instance.lock();
                if !shown.gone && shown.status == Status::Running && shown.has_news() {
                    draft.telemetry(shown.object());
                }
            });
        }
    }
}

/// Looks at the machine now and then.
pub(crate) async fn sampling(domain: Arc<Domain>) {
    let interval = domain.report_interval.min(SAMPLING);
    loop {
        Timer::after(interval).await;
        domain.sampler.sample();
    }
}

/// Saves counters now and then.
pub(crate) async fn saving(domain: Arc<Domain>) {
    loop {
        Timer::after(SAVING).await;
        domain.save_counters().await;
    }
}
