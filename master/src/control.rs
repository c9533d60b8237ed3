//! The master without HTTP: what a request may ask of it.
//!
//! Operations on one instance are serialised; different instances never wait for each other. What
//! an operation changed is on disk before it returns.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::config;
use protocol::terms::DataTls;
use runtime_smol::executor::Handle;
use runtime_smol::timer::Timer;
use serde::Deserialize;
use smol::channel::{Sender, bounded};
use smol::future::FutureExt as _;
use tracing::{Dispatch, dispatcher};

use crate::domain::Domain;
use crate::error::{ALIAS, Error};
use crate::events::Subscription;
use crate::info::Info;
use crate::instances::{Command, Instance, LAST_WORDS, Wish};
use crate::metrics::Metrics;
use crate::object::{KEY_INSTANCE, Meta, Object, Peer};
use crate::runner::Runner;
use crate::state::OpenError;
use crate::tasks::{Tasks, sampling, saving, telemetry};
use crate::tcping::tcping;

/// The most instances of one master.
pub const MAX_INSTANCES: usize = 4096;

/// What a master is started with.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its URL.
    pub master: &'a config::Master,
    /// The TLS code in force, whatever the URL asks for.
    pub tls: DataTls,
    /// The state file; see [`state_path`](crate::state::state_path).
    pub state: PathBuf,
    /// What runs instances.
    pub runner: Arc<dyn Runner>,
    /// Where its tasks run.
    pub executor: Handle,
    /// Where its own lines go.
    pub log: Dispatch,
}

/// The master's domain. A clone is the same; when the last one is dropped, all tasks end at once.
#[derive(Clone, Debug)]
pub struct Control {
    domain: Arc<Domain>,
    tasks: Arc<Tasks>,
}

/// The body of `POST /instances`.
#[derive(Clone, Debug, Deserialize)]
pub struct Create {
    /// The URL to run.
    pub url: Option<String>,
    /// Its display name.
    pub alias: Option<String>,
}

/// The body of `PATCH /instances/{id}`. Unknown members are ignored, `null` means not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Patch {
    /// Empty: ignored.
    pub alias: Option<String>,
    /// The start policy.
    pub restart: Option<bool>,
    /// `start stop restart reset`.
    pub action: Option<String>,
    /// Replaces the peer, the tags, or both.
    pub meta: Option<MetaPatch>,
}

/// What is given replaces the whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MetaPatch {
    /// The whole peer.
    pub peer: Option<Peer>,
    /// All tags.
    pub tags: Option<std::collections::BTreeMap<String, String>>,
}

/// The body of `PUT /instances/{id}`.
#[derive(Clone, Debug, Deserialize)]
pub struct Replace {
    /// The new URL.
    pub url: Option<String>,
}

/// What `tcping` found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tcping {
    /// As given.
    pub target: String,
    /// Whether it answered.
    pub connected: bool,
    /// Milliseconds.
    pub latency: u64,
    /// Why not.
    pub error: Option<String>,
}

impl Control {
    /// Takes the state file and shows its instances, none of them running. The key is made, and
    /// logged, if there is none.
    ///
    /// # Errors
    /// The state file cannot be had. Nothing was changed on disk.
    pub fn start(start: Start<'_>) -> Result<Self, OpenError> {
        let opened = dispatcher::with_default(&start.log, || Domain::open(&start))?;
        let (domain, writer) = opened;
        let domain = Arc::new(domain);
        let tasks = Arc::new(Tasks::new(start.executor, start.log));
        tasks.write(writer);
        tasks.spawn(telemetry(Arc::clone(&domain)));
        tasks.spawn(sampling(Arc::clone(&domain)));
        tasks.spawn(saving(Arc::clone(&domain)));
        for (instance, inbox) in domain.restored() {
            tasks.act(&domain, instance, inbox);
        }
        Ok(Self { domain, tasks })
    }

    /// Starts the instances that are to run when the master does.
    pub fn launch(&self) {
        self.each(
            |instance| instance.lock().record.restart,
            |_| Command::Start,
        );
    }

    /// Re-reads the certificate files of all instances.
    pub fn reload(&self) {
        self.each(|_| true, |_| Command::Reload);
    }

    /// Ends the master: every stream gets `shutdown`, all instances stop gracefully within
    /// `NP_SHUTDOWN_TIMEOUT`, their counters are saved, and the state file is given back.
    pub async fn stop(&self) {
        if self.domain.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        self.domain.hub.close();
        let (tell, told) = bounded(1);
        self.each(|_| true, |_| Command::Close(tell.clone()));
        drop(tell);
        let all = async { while told.recv().await.is_ok() {} };
        all.or(passed(self.domain.limits.stop + LAST_WORDS)).await;
        // A disk that does not answer must not keep the process.
        let saved = async {
            self.domain.save_counters().await;
            self.domain.store.close();
            self.tasks.written().await;
        };
        saved.or(passed(LAST_WORDS)).await;
        self.tasks.close();
    }

    /// All instances, the key instance first, then by creation.
    #[must_use]
    pub fn list(&self) -> Vec<Object> {
        self.domain.list()
    }

    /// One instance.
    ///
    /// # Errors
    /// [`Error::IdRequired`], [`Error::NotFound`].
    pub fn get(&self, id: &str) -> Result<Object, Error> {
        if id == KEY_INSTANCE {
            return Ok(self.domain.key_object());
        }
        Ok(self.find(id)?.object())
    }

    /// Makes an instance and has it started in the background.
    ///
    /// # Errors
    /// As `rest.md` §3 has them, in that order.
    pub async fn create(&self, new: Create) -> Result<Object, Error> {
        let url = new.url.filter(|url| !url.is_empty()).ok_or(Error::Body)?;
        let address = self.domain.inheritance.address(&url)?;
        let alias = new.alias.unwrap_or_default();
        if alias.len() > ALIAS {
            return Err(Error::Alias);
        }
        let record = self.domain.record(address, &alias)?;
        let domain = Arc::clone(&self.domain);
        let tasks = Arc::downgrade(&self.tasks);
        self.carry_out(async move {
            let created = domain.create(record).await?;
            let (instance, inbox, object) = created;
            // The inbox is empty, so there is room.
            instance.inbox.try_send(Command::Start).ok();
            match tasks.upgrade() {
                Some(tasks) => tasks.act(&domain, instance, inbox),
                None => return Err(Error::Closing),
            }
            Ok(object)
        })
        .await
    }

    /// Changes what is given; `start`, `stop` and `restart` go on in the background.
    ///
    /// # Errors
    /// As `rest.md` §3 has them; then nothing was changed.
    pub async fn patch(&self, id: &str, patch: Patch) -> Result<Object, Error> {
        if id == KEY_INSTANCE {
            return if patch.action.as_deref() == Some("restart") {
                let domain = Arc::clone(&self.domain);
                self.carry_out(async move { domain.rotate_key().await })
                    .await
            } else {
                Ok(self.domain.key_object())
            };
        }
        let instance = self.find(id)?;
        let wish = Box::new(Wish::check(patch)?);
        self.ask(&instance, |reply| Command::Patch(wish, reply))
            .await
    }

    /// Gives an instance another URL and (re)starts it.
    ///
    /// # Errors
    /// As `rest.md` §3 has them; then nothing was changed.
    pub async fn replace(&self, id: &str, new: Replace) -> Result<Object, Error> {
        if id == KEY_INSTANCE {
            return Err(Error::KeyInstance);
        }
        let instance = self.find(id)?;
        let url = new.url.filter(|url| !url.is_empty()).ok_or(Error::Body)?;
        let address = self.domain.inheritance.address(&url)?;
        self.ask(&instance, |reply| Command::Replace(address, reply))
            .await
    }

    /// Stops and removes an instance, for good.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::KeyInstance`], [`Error::State`].
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        if id == KEY_INSTANCE {
            return Err(Error::KeyInstance);
        }
        let instance = self.find(id)?;
        self.ask(&instance, Command::Delete).await
    }

    /// Watches all instances: a snapshot first, or what was missed since the event `last`.
    ///
    /// One who came with a key should be asked for it again after this: the key may have been
    /// changed in between.
    #[must_use]
    pub fn subscribe(&self, last: Option<u64>) -> Subscription {
        self.domain.hub.subscribe(last, || self.domain.list())
    }

    /// Whether `given` is the API key; compares in constant time.
    #[must_use]
    pub fn is_key(&self, given: &[u8]) -> bool {
        self.domain.key.is(given)
    }

    /// The master and its machine, as sampled last.
    #[must_use]
    pub fn info(&self) -> Info {
        self.domain.info()
    }

    /// Sets the master's display name.
    ///
    /// # Errors
    /// [`Error::MasterAlias`], [`Error::State`].
    pub async fn rename(&self, alias: &str) -> Result<Info, Error> {
        if alias.len() > ALIAS {
            return Err(Error::MasterAlias);
        }
        let (domain, alias) = (Arc::clone(&self.domain), Arc::from(alias));
        self.carry_out(async move { domain.rename(alias).await })
            .await
    }

    /// Whether something answers at `host:port`, and how fast.
    ///
    /// # Errors
    /// [`Error::TargetRequired`].
    pub async fn tcping(&self, target: &str) -> Result<Tcping, Error> {
        tcping(&self.domain.dialer, &self.domain.pinging, target).await
    }

    /// What there is to measure, for `/metrics`.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.domain.metrics()
    }

    fn find(&self, id: &str) -> Result<Arc<Instance>, Error> {
        if id.is_empty() {
            return Err(Error::IdRequired);
        }
        self.domain.registry.get(id).ok_or(Error::NotFound)
    }

    /// Has the instance's actor carry out a command.
    async fn ask<T>(
        &self,
        instance: &Instance,
        command: impl FnOnce(Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let gone = || match self.domain.closing.load(Ordering::Acquire) {
            true => Error::Closing,
            false if instance.lock().gone => Error::NotFound,
            false => Error::Internal,
        };
        let (reply, answer) = bounded(1);
        let command = command(reply);
        instance.inbox.send(command).await.map_err(|_| gone())?;
        answer.recv().await.unwrap_or_else(|_| Err(gone()))
    }

    /// Runs an operation to its end, even if who asked for it goes away meanwhile.
    async fn carry_out<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        if self.domain.closing.load(Ordering::Acquire) {
            return Err(Error::Closing);
        }
        let (tell, told) = bounded(1);
        self.tasks.spawn(async move {
            // The caller may be gone.
            tell.try_send(operation.await).ok();
        });
        let lost = || match self.domain.closing.load(Ordering::Acquire) {
            true => Error::Closing,
            false => Error::Internal,
        };
        told.recv().await.unwrap_or_else(|_| Err(lost()))
    }

    /// Sends a command to those that `which` picks. None waits for another.
    fn each(
        &self,
        which: impl Fn(&Arc<Instance>) -> bool,
        command: impl Fn(&Arc<Instance>) -> Command,
    ) {
        let picked = self
            .domain
            .registry
            .map(|instance| which(instance).then(|| Arc::clone(instance)));
        for instance in picked.into_iter().flatten() {
            let command = command(&instance);
            self.tasks.spawn(async move {
                // An instance that was deleted meanwhile needs no command.
                instance.inbox.send(command).await.ok();
            });
        }
    }
}

async fn passed(time: Duration) {
    Timer::after(time).await;
}

impl From<Meta> for MetaPatch {
    fn from(meta: Meta) -> Self {
        let Meta { peer, tags } = meta;
        Self {
            peer: Some(peer),
            tags: Some(tags),
        }
    }
}

#[cfg(test)]
mod tests;
