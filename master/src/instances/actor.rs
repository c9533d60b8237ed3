//! What serialises the operations on one instance: the task that owns its lifecycle.

use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use protocol::config::LogLevel;
use runtime_smol::clock::{Clock, Deadline};
use runtime_smol::log::{Sink, dispatch};
use smol::channel::{Receiver, Sender};
use smol::future::{self, FutureExt as _};
use tracing::{Dispatch, dispatcher};

use super::change::{Action, Wish, check_size};
use super::lifecycle::{Input, Lifecycle, Output};
use super::log::InstanceLog;
use super::{Instance, Shown};
use crate::address::{Address, is_same};
use crate::domain::Domain;
use crate::error::Error;
use crate::object::{Counters, Object, Status};
use crate::runner::{Failure, Order, Run};
use crate::state::{Change, Record};

/// How long a run may take to end where a caller waits for it: `PUT` and `DELETE` answer within 4 s,
/// saving included.
pub(crate) const QUICK: Duration = Duration::from_secs(2);

/// Where the answer to a command goes. The caller may be gone: the command is carried out.
pub(crate) type Reply<T> = Sender<Result<T, Error>>;

/// What an instance can be told.
pub(crate) enum Command {
    /// Run.
    Start,
    /// Change what does not touch a run, then act.
    Patch(Box<Wish>, Reply<Object>),
    /// Run something else.
    Replace(Address, Reply<Object>),
    /// Be gone.
    Delete(Reply<()>),
    /// Read certificates again.
    Reload,
    /// End, with the master: gracefully, and for good.
    Close(Sender<()>),
}

/// Runs the actor of an instance until it is deleted or the master ends. A panic makes the
/// instance's status `error`; then there is another actor for it.
pub(crate) async fn supervise(
    domain: Arc<Domain>,
    instance: Arc<Instance>,
    inbox: Receiver<Command>,
) {
    let inbox = Inbox(inbox);
    let mut machine = Lifecycle::new(domain.limits);
    loop {
        let actor = Actor::new(&domain, &instance, inbox.0.clone(), machine);
        if AssertUnwindSafe(actor.run()).catch_unwind().await.is_ok() {
            return;
        }
        tracing::error!(
            "instance {} failed internally, please report it",
            instance.id
        );
        let run = domain.hub.commit(|draft| {
            let mut shown = instance.lock();
            let run = shown.end_run();
            if shown.status != Status::Error {
                shown.status = Status::Error;
                draft.update(shown.object());
            }
            run
        });
        drop(run);
        machine = Lifecycle::failed(domain.limits, Clock::new().now());
    }
}

/// Whose commands are given up at the end, so that nobody waits for an answer to them.
struct Inbox(Receiver<Command>);

impl Drop for Inbox {
    fn drop(&mut self) {
        self.0.close();
        while let Ok(command) = self.0.try_recv() {
            drop(command);
        }
    }
}

/// What the one job of an instance has come to, and the number of its start.
enum Outcome {
    Started(u64, Result<Arc<dyn Run>, Failure>),
    Ended(u64, Result<(), Failure>),
}

type Job = Pin<Box<dyn Future<Output = Outcome> + Send>>;

struct Actor {
    domain: Arc<Domain>,
    instance: Arc<Instance>,
    inbox: Receiver<Command>,
    machine: Lifecycle,
    /// The start of a run, or the run: there is never more than one.
    job: Option<Job>,
    clock: Clock,
    timer: Deadline,
    sink: Arc<dyn Sink>,
    /// The failure that the log knows of already.
    reported: Option<Failure>,
}

enum Wake {
    Job(Outcome),
    Timer,
    Command(Option<Command>),
}

impl Actor {
    fn new(
        domain: &Arc<Domain>,
        instance: &Arc<Instance>,
        inbox: Receiver<Command>,
        machine: Lifecycle,
    ) -> Self {
        Self {
            sink: Arc::new(InstanceLog::new(instance, Arc::clone(&domain.hub))),
            domain: Arc::clone(domain),
            instance: Arc::clone(instance),
            inbox,
            machine,
            job: None,
            clock: Clock::new(),
            timer: Deadline::never(),
            reported: None,
        }
    }

    async fn run(mut self) {
        loop {
            match self.wake(true).await {
                Wake::Command(Some(command)) => {
                    if self.obey(command).await.is_break() {
                        return;
                    }
                }
                Wake::Command(None) => return,
                Wake::Job(outcome) => self.settle(outcome),
                Wake::Timer => self.machine.handle_timeout(self.clock.now()),
            }
        }
    }

    /// Does what is to be done now and waits for the next thing to happen.
    async fn wake(&mut self, listen: bool) -> Wake {
        self.act();
        self.timer.set(self.machine.poll_timeout());
        let Self {
            job, timer, inbox, ..
        } = self;
        let working = poll_fn(|cx| match job {
            Some(job) => job.as_mut().poll(cx).map(Wake::Job),
            None => Poll::Pending,
        });
        let waiting = poll_fn(|cx| timer.poll(cx).map(|()| Wake::Timer));
        let told = async {
            if !listen {
                future::pending::<()>().await;
            }
            Wake::Command(inbox.recv().await.ok())
        };
        working.or(waiting).or(told).await
    }

    fn act(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Begin(number) => self.job = Some(self.begin(number)),
                Output::Finish => {
                    let run = self.instance.lock().run();
                    if let Some(run) = run {
                        run.stop();
                    }
                }
                Output::Cut => {
                    self.job = None;
                    self.end_run();
                }
                Output::Show(status) => self.show(status),
            }
        }
    }

    fn show(&self, status: Status) {
        self.domain.hub.commit(|draft| {
            let mut shown = self.instance.lock();
            shown.status = status;
            draft.update(shown.object());
        });
    }

    /// The job that starts a run.
    fn begin(&self, number: u64) -> Job {
        let (url, counted) = {
            let shown = self.instance.lock();
            (Arc::clone(&shown.record.url), shown.before())
        };
        let (config, warnings) = match self.domain.inheritance.tunnel(&url) {
            Ok(read) => read,
            Err(error) => {
                let failure = Failure(error.to_string());
                return Box::pin(future::ready(Outcome::Started(number, Err(failure))));
            }
        };
        if self.reported.is_none() {
            let log = dispatch(config.log, Arc::clone(&self.sink));
            dispatcher::with_default(&log, || {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
            });
        }
        let order = Order {
            config,
            counted,
            sink: Arc::clone(&self.sink),
        };
        let runner = Arc::clone(&self.domain.runner);
        let starting = async move { runner.start(order).await.map(Arc::from) };
        Box::pin(async move { Outcome::Started(number, caught(starting).await) })
    }

    /// Tells the machine what the job has come to.
    fn settle(&mut self, outcome: Outcome) {
        self.job = None;
        let input = match outcome {
            Outcome::Started(number, Ok(run)) => {
                self.instance.lock().begin_run(Arc::clone(&run));
                let running = async move { run.wait().await };
                self.job = Some(Box::pin(async move {
                    Outcome::Ended(number, caught(running).await)
                }));
                Input::Started(number)
            }
            Outcome::Started(number, Err(failure)) => {
                self.report(failure);
                Input::Failed(number)
            }
            Outcome::Ended(number, result) => {
                self.end_run();
                // It worked for a while: this is news, even if it was the same before.
                self.reported = None;
                let result = result.map_err(|failure| self.report(failure));
                Input::Ended(number, result)
            }
        };
        self.machine.handle_input(self.clock.now(), input);
    }

    fn end_run(&self) {
        let run = self.instance.lock().end_run();
        drop(run);
    }

    /// One line for each failure, not one for each retry.
    fn report(&mut self, failure: Failure) {
        if self.reported.as_ref() != Some(&failure) {
            dispatcher::with_default(&self.log(), || tracing::error!("{failure}"));
            self.reported = Some(failure);
        }
    }

    /// Where lines about the instance go, at its own level.
    fn log(&self) -> Dispatch {
        let url = Arc::clone(&self.instance.lock().record.url);
        let read = self.domain.inheritance.tunnel(&url);
        let level = read.map_or(LogLevel::Info, |(config, _)| config.log);
        dispatch(level, Arc::clone(&self.sink))
    }

    async fn obey(&mut self, command: Command) -> ControlFlow<()> {
        let now = self.clock.now();
        match command {
            Command::Start => self.machine.handle_input(now, Input::Start),
            Command::Patch(wish, reply) => answer(&reply, self.patch(&wish).await),
            Command::Replace(address, reply) => answer(&reply, self.replace(address).await),
            Command::Delete(reply) => {
                let deleted = self.delete().await;
                let over = deleted.is_ok();
                answer(&reply, deleted);
                if over {
                    return ControlFlow::Break(());
                }
            }
            Command::Reload => {
                let run = self.instance.lock().run();
                if let Some(run) = run {
                    run.reload();
                }
            }
            Command::Close(told) => {
                self.stop_within(Duration::MAX).await;
                told.try_send(()).ok();
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    async fn patch(&mut self, wish: &Wish) -> Result<Object, Error> {
        let reset = wish.action == Some(Action::Reset);
        let (record, counters) = {
            let shown = self.instance.lock();
            (Arc::clone(&shown.record), shown.counters())
        };
        let next = wish.applied_to(&record);
        let reset = reset && counters != Counters::default();
        if reset || next != *record {
            let counters = if reset { Counters::default() } else { counters };
            let next = Record { counters, ..next };
            reconfigure(&self.domain, &self.instance, next, reset).await?;
        }
        let input = match wish.action {
            Some(Action::Start) => Some(Input::Start),
            Some(Action::Stop) => Some(Input::Stop(Duration::MAX)),
            Some(Action::Restart) => Some(Input::Restart),
            Some(Action::Reset) | None => None,
        };
        if let Some(input) = input {
            self.machine.handle_input(self.clock.now(), input);
            self.act();
        }
        Ok(self.instance.object())
    }

    async fn replace(&mut self, address: Address) -> Result<Object, Error> {
        let (record, counters) = {
            let shown = self.instance.lock();
            (Arc::clone(&shown.record), shown.counters())
        };
        if is_same(&record.url, &address.url) {
            return Err(Error::UrlConflict);
        }
        let next = Arc::new(Record {
            kind: address.kind,
            url: address.url,
            config: address.config,
            counters,
            ..(*record).clone()
        });
        save(&self.domain, &self.instance, &next).await?;
        self.stop_within(QUICK).await;
        self.reported = None;
        self.domain.hub.commit(|draft| {
            let mut shown = self.instance.lock();
            adopt(&mut shown, next);
            draft.update(shown.object());
        });
        self.machine.handle_input(self.clock.now(), Input::Restart);
        self.act();
        Ok(self.instance.object())
    }

    /// Once it is off the disk, nothing can bring it back.
    async fn delete(&mut self) -> Result<(), Error> {
        let change = Change::Remove(self.instance.order);
        self.domain.store.change(change).await?;
        self.stop_within(QUICK).await;
        // Who handed in a command after this one learns that there is no such instance.
        self.inbox.close();
        self.domain.hub.commit(|draft| {
            self.domain.registry.remove(&self.instance);
            let mut shown = self.instance.lock();
            shown.gone = true;
            draft.delete(shown.object());
        });
        Ok(())
    }

    /// Stops the run and waits for that; no command is taken meanwhile.
    async fn stop_within(&mut self, within: Duration) {
        let input = Input::Stop(within);
        self.machine.handle_input(self.clock.now(), input);
        self.act();
        while !self.machine.is_stopped() {
            match self.wake(false).await {
                Wake::Job(outcome) => self.settle(outcome),
                Wake::Timer => self.machine.handle_timeout(self.clock.now()),
                Wake::Command(_) => {}
            }
            self.act();
        }
    }
}

/// Saves and shows another configuration.
async fn reconfigure(
    domain: &Domain,
    instance: &Instance,
    next: Record,
    reset: bool,
) -> Result<(), Error> {
    let next = Arc::new(next);
    save(domain, instance, &next).await?;
    if reset {
        let run = instance.lock().run();
        if let Some(run) = run {
            run.reset();
        }
    }
    domain.hub.commit(|draft| {
        let mut shown = instance.lock();
        if reset {
            shown.reset_traffic();
        }
        adopt(&mut shown, next);
        draft.update(shown.object());
    });
    Ok(())
}

/// Has a configuration on disk before anyone sees it.
async fn save(domain: &Domain, instance: &Instance, next: &Arc<Record>) -> Result<(), Error> {
    let object = Object {
        alias: Arc::clone(&next.alias),
        meta: Arc::clone(&next.meta),
        url: Arc::clone(&next.url),
        config: Arc::clone(&next.config),
        ..instance.object()
    };
    check_size(&object)?;
    let change = Change::Put(instance.order, Arc::clone(next));
    domain.store.change(change).await
}

fn adopt(shown: &mut Shown, record: Arc<Record>) {
    shown.saved = record.counters;
    shown.record = record;
}

fn answer<T>(reply: &Reply<T>, result: Result<T, Error>) {
    // The caller may be gone.
    reply.try_send(result).ok();
}

/// A panic of a run is the failure of that run alone.
async fn caught<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let caught = AssertUnwindSafe(work).catch_unwind().await;
    caught.unwrap_or_else(|_| Err(Failure("internal failure, please report it".to_owned())))
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "Start",
            Self::Patch(..) => "Patch",
            Self::Replace(..) => "Replace",
            Self::Delete(_) => "Delete",
            Self::Reload => "Reload",
            Self::Close(_) => "Close",
        })
    }
}
