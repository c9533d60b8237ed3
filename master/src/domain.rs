//! What all parts of the master share.

use std::env;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::rng::Rng;
use runtime_smol::net::{Dialer, Resolver};
use smol::channel::{Receiver, bounded};

use crate::address::{Address, Inheritance};
use crate::control::Start;
use crate::error::Error;
use crate::events::Hub;
use crate::info::{Info, Sampler};
use crate::instances::{
    Command, INBOX, Instance, LAST_WORDS, Limits, Registry, Reserved, check_size,
};
use crate::key::{Key, hex};
use crate::metrics::{InstanceMetrics, Metrics};
use crate::object::{KEY_INSTANCE, Object, Status};
use crate::runner::Runner;
use crate::state::{Change, Document, Identity, Loaded, OpenError, Opened, Record, Store, Writer};

/// How long `tcping` uses a resolved name.
const NAMES: Duration = Duration::from_secs(60);

/// The master without its tasks.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) hub: Arc<Hub>,
    pub(crate) registry: Registry,
    pub(crate) store: Arc<Store>,
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) inheritance: Inheritance,
    pub(crate) limits: Limits,
    pub(crate) key: Key,
    pub(crate) dialer: Dialer,
    /// `tcping`s under way.
    pub(crate) pinging: AtomicU8,
    /// The master is being stopped.
    pub(crate) closing: AtomicBool,
    id: Arc<str>,
    alias: Mutex<Arc<str>>,
    /// Held while the key or the alias changes.
    identity: smol::lock::Mutex<()>,
    rng: Mutex<Rng>,
    pub(crate) sampler: Sampler,
    pub(crate) report_interval: Duration,
    restored: Mutex<Vec<(Arc<Instance>, Receiver<Command>)>>,
}

/// An instance to be made.
#[derive(Debug)]
pub(crate) struct New {
    reserved: Reserved,
    record: Arc<Record>,
}

impl Domain {
    /// Takes the state file.
    pub(crate) fn open(start: &Start<'_>) -> Result<(Self, Writer), OpenError> {
        let seed =
            runtime_smol::random::seed().map_err(|error| OpenError::Random(error.to_string()))?;
        let mut rng = Rng::new(seed);
        let inheritance = Inheritance::of(start.master, start.tls);
        let (opened, document) = take_state(start, &inheritance, &mut rng)?;
        let env = &start.master.env;
        let restored: Vec<_> = document
            .instances
            .iter()
            .map(|(order, record)| {
                let (inbox, commands) = bounded(INBOX);
                (
                    Arc::new(Instance::new(*order, Arc::clone(record), inbox)),
                    commands,
                )
            })
            .collect();
        let registry = Registry::default();
        for (instance, _) in &restored {
            registry.insert(Arc::clone(instance));
        }
        let Identity { id, key, alias, .. } = document.master.clone();
        let (store, writer) = opened.store(document);
        let domain = Self {
            hub: Arc::new(Hub::new()),
            registry,
            store,
            runner: Arc::clone(&start.runner),
            inheritance,
            limits: Limits {
                cooldown: env.service_cooldown,
                stop: env.shutdown_timeout.saturating_add(LAST_WORDS),
            },
            key: Key::new(key),
            dialer: Dialer::new(Resolver::new(NAMES), None),
            pinging: AtomicU8::new(0),
            closing: AtomicBool::new(false),
            id,
            alias: Mutex::new(alias),
            identity: smol::lock::Mutex::new(()),
            rng: Mutex::new(rng),
            sampler: Sampler::new(start.master, start.tls),
            report_interval: env.report_interval,
            restored: Mutex::new(restored),
        };
        Ok((domain, writer))
    }

    /// The instances of the state file, once: each with what its actor needs.
    pub(crate) fn restored(&self) -> Vec<(Arc<Instance>, Receiver<Command>)> {
        std::mem::take(&mut *self.restored.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn list(&self) -> Vec<Object> {
        let mut all = vec![self.key_object()];
        self.registry.each(|instance| all.push(instance.object()));
        all
    }

    /// The instance that stands for the API key, under the master's display name.
    pub(crate) fn key_object(&self) -> Object {
        Object {
            id: KEY_INSTANCE.into(),
            alias: self.alias().clone(),
            kind: "",
            status: Status::None,
            url: self.key.get(),
            config: Arc::clone(&self.id),
            restart: false,
            meta: Arc::default(),
            mode: 0,
            ping: 0,
            pool: 0,
            tcps: 0,
            udps: 0,
            tcprx: 0,
            tcptx: 0,
            udprx: 0,
            udptx: 0,
        }
    }

    /// A new instance's configuration, under an id of its own.
    pub(crate) fn record(&self, address: Address, alias: &str) -> Result<New, Error> {
        let Address { url, config, kind } = address;
        let reserved = self.registry.reserve(|| hex::<4>(&mut self.rng()))?;
        let record = Arc::new(Record {
            id: Arc::clone(&reserved.id),
            alias: alias.into(),
            kind,
            url,
            config,
            restart: true,
            ..Record::default()
        });
        Ok(New { reserved, record })
    }

    /// Makes an instance, once it is on disk.
    pub(crate) async fn create(
        &self,
        New { reserved, record }: New,
    ) -> Result<(Arc<Instance>, Receiver<Command>, Object), Error> {
        let (inbox, commands) = bounded(INBOX);
        let instance = Arc::new(Instance::new(reserved.order, Arc::clone(&record), inbox));
        let object = instance.object();
        let saved = match check_size(&object) {
            Ok(_) => self.store.change(Change::Put(reserved.order, record)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = saved {
            self.registry.release(&reserved);
            return Err(error);
        }
        self.hub.commit(|draft| {
            self.registry.insert(Arc::clone(&instance));
            draft.create(object.clone());
        });
        Ok((instance, commands, object))
    }

    /// Makes another API key, refuses the old one, and sends away everyone who watches.
    pub(crate) async fn rotate_key(&self) -> Result<Object, Error> {
        let _turn = self.identity.lock().await;
        let key: Arc<str> = hex::<16>(&mut self.rng()).into();
        self.store.change(Change::Key(Arc::clone(&key))).await?;
        self.key.set(key);
        self.hub.dismiss();
        Ok(self.key_object())
    }

    pub(crate) async fn rename(&self, alias: Arc<str>) -> Result<Info, Error> {
        let _turn = self.identity.lock().await;
        if alias != *self.alias() {
            self.store.change(Change::Alias(Arc::clone(&alias))).await?;
            *self.alias() = alias;
        }
        Ok(self.info())
    }

    pub(crate) fn info(&self) -> Info {
        Info {
            alias: self.alias().to_string(),
            mid: self.id.to_string(),
            ..self.sampler.info()
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let (lines_lost, subscriptions_ended) = self.hub.losses();
        Metrics {
            instances: self.registry.map(|instance| {
                let shown = instance.lock();
                InstanceMetrics {
                    id: Arc::clone(&instance.id),
                    alias: Arc::clone(&shown.record.alias),
                    kind: shown.record.kind,
                    status: shown.status,
                    counted: shown.total(),
                    restarts: shown.starts.saturating_sub(1),
                }
            }),
            subscribers: self.hub.subscribers(),
            lines_lost,
            subscriptions_ended,
            memory: crate::info::resident(),
            uptime: self.sampler.uptime(),
        }
    }

    /// Has the counters that changed on disk.
    pub(crate) async fn save_counters(&self) {
        let changed = self.registry.map(|instance| {
            let shown = instance.lock();
            let now = shown.counters();
            (now != shown.saved).then(|| (Arc::clone(instance), now))
        });
        let changed: Vec<_> = changed.into_iter().flatten().collect();
        if changed.is_empty() {
            return;
        }
        let counters = changed.iter().map(|(instance, now)| (instance.order, *now));
        let saved = self
            .store
            .change(Change::Counters(counters.collect()))
            .await;
        // If it failed, the writer said so, and the next time is soon.
        if saved.is_ok() {
            for (instance, counters) in changed {
                instance.lock().saved = counters;
            }
        }
    }

    fn rng(&self) -> std::sync::MutexGuard<'_, Rng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alias(&self) -> std::sync::MutexGuard<'_, Arc<str>> {
        self.alias.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Locks, reads and completes the state file.
fn take_state(
    start: &Start<'_>,
    inheritance: &Inheritance,
    rng: &mut Rng,
) -> Result<(Opened, Document), OpenError> {
    let (opened, loaded) = Opened::open(start.state.clone())?;
    let (mut document, whole) = match loaded {
        Loaded::Nothing => (Document::new(Identity::default()), false),
        Loaded::Whole(document) => (document, true),
        Loaded::Backup(document, warning) => {
            tracing::warn!("state: {warning}");
            (document, false)
        }
    };
    let master = &mut document.master;
    let (nameless, keyless) = (master.id.is_empty(), master.key.is_empty());
    if nameless {
        master.id = hex::<8>(rng).into();
    }
    if keyless {
        master.key = hex::<16>(rng).into();
    }
    for record in document.instances.values_mut() {
        let Address { url, config, kind } = inheritance.restored(Arc::clone(&record.url));
        *record = Arc::new(Record {
            url,
            config,
            kind,
            ..(**record).clone()
        });
    }
    if nameless || keyless || !whole {
        opened.save(&document)?;
    }
    if keyless {
        tracing::info!("API Key created: {}", document.master.key);
    }
    if let Some(gob) = gob() {
        let path = gob.display();
        tracing::warn!("{path} is not read: instances are to be created again");
    }
    Ok((opened, document))
}

/// The state of NodePass 1.x beside this executable, if there is any.
fn gob() -> Option<PathBuf> {
    let executable = env::current_exe().ok()?;
    let directory = executable.parent()?;
    let places = ["gob/nodepass.gob", "nodepass.gob"].map(|name| directory.join(name));
    places.into_iter().find(|path| path.exists())
}
