//! From a configuration to a running instance: facts, listeners, certificates, the hub.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use protocol::config::{
    ConfigError, Facts, HostPort, KeyText, Mode, Role, Running, Tunnel as Config,
};
use protocol::key::TunnelKey;
use protocol::rng::{Rng, Seed};
use protocol::terms::{DataTls, Flow};
use protocol::wire::classic::BadKey;
use smol::channel::{Receiver, Sender, bounded};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber as _;

use super::client::Client;
use super::hub::{self, Msg};
use super::keys::Keys;
use super::server::Server;
use super::shared::Shared;
use super::slots::Slots;
use super::targets::Targets;
use super::users::Listeners;
use super::{Tunnel, TunnelError, report, single};
use crate::executor::Runtime;
use crate::group::Group;
use crate::limiter::Limiter;
use crate::net::{
    Acceptor, Dialer, ListenError, Resolver, address, is_local, listen_both, listen_tcp,
    listen_udp, place, tune_edge, tune_tunnel,
};
use crate::random;
use crate::relay::Settings;
use crate::stats::Stats;
use crate::tls::{Identity, IdentityError, ServerTls, VerifyError, Watch, check_roots};

/// Why an instance could not be started: one line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The mode that was decided needs what the URL does not have.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// `proto` names `classic`, which the key does not work with.
    #[error("proto: {0}")]
    Classic(#[from] BadKey),
    /// Cannot listen.
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// A certificate or its key is missing or bad.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// The `ca` file is missing or bad.
    #[error("{0}")]
    Roots(#[from] VerifyError),
    /// A certificate that TLS cannot use.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    /// `dial` is not an address of this machine.
    #[error("dial: {0} is not an address of this machine")]
    Foreign(std::net::IpAddr),
    /// The system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(std::io::Error),
}

impl Tunnel {
    /// Starts an instance. Its tasks log to `log`. On return it listens.
    ///
    /// # Errors
    /// It cannot be started as configured.
    pub async fn start(
        runtime: &Runtime,
        config: Config,
        log: Dispatch,
    ) -> Result<Self, StartError> {
        Self::resume(runtime, config, log, Stats::default()).await
    }

    /// As [`start`](Self::start), with the counters of earlier runs: see [`Stats::resumed`].
    ///
    /// # Errors
    /// It cannot be started as configured.
    pub async fn resume(
        runtime: &Runtime,
        config: Config,
        log: Dispatch,
        stats: Stats,
    ) -> Result<Self, StartError> {
        // Boxed: starting is rare and its future large.
        Box::pin(start(runtime, config, log.clone(), stats).with_subscriber(log)).await
    }
}

async fn start(
    runtime: &Runtime,
    config: Config,
    log: Dispatch,
    stats: Stats,
) -> Result<Tunnel, StartError> {
    if let Some(source) = config.dial.filter(|&source| !is_local(source)) {
        return Err(StartError::Foreign(source));
    }
    let mut rng = Rng::new(random::seed().map_err(StartError::Random)?);
    let dialer = Dialer::new(Resolver::new(config.dns), config.dial);
    let running = decide(&config, dialer.resolver()).await;
    config.check_running(running)?;
    let shared = Arc::new(share(
        runtime,
        config,
        running,
        dialer,
        rng.seed(),
        log,
        stats,
    ));
    let (hub, inbox) = bounded(hub::INBOX);
    let (reload, reloads) = bounded(1);
    let (end, done) = bounded(1);
    let run = hub_of(&shared, &hub, inbox, reloads, rng).await?;
    tracing::info!("{}", shared.config.spelled_out(KeyText::Masked));
    shared.spawn_control(async move {
        // Nobody waits for the result when the instance was dropped.
        drop(end.send(run.await).await);
    });
    report::start(&shared);
    Ok(Tunnel {
        shared,
        hub,
        reload,
        done,
    })
}

type Run = std::pin::Pin<Box<dyn Future<Output = Result<(), TunnelError>> + Send>>;

/// Listens, reads certificates, and makes the hub that runs the instance.
async fn hub_of(
    shared: &Arc<Shared>,
    hub: &Sender<Msg>,
    inbox: Receiver<Msg>,
    reloads: Receiver<()>,
    mut rng: Rng,
) -> Result<Run, StartError> {
    let config = &shared.config;
    let resolver = shared.dialer.resolver();
    let flow = match shared.running {
        Running::ServerReverse => Flow::Reverse,
        Running::ServerForward => Flow::Forward,
        Running::SingleEnd => {
            let (identity, watching) = identity(config)?;
            let tls = identity
                .as_ref()
                .map(ServerTls::users)
                .transpose()?
                .map(Arc::new);
            let listeners = listen(config, resolver, &config.tunnel).await?;
            watch(shared, hub, watching, reloads);
            return Ok(Box::pin(single::run(
                Arc::clone(shared),
                listeners,
                tls,
                inbox,
            )));
        }
        Running::DualEnd => {
            if let Some(ca) = &config.ca {
                check_roots(Path::new(ca))?;
            }
            let keys = keys(shared, &config.key, config.tunnel.port)?;
            let client = Client::new(Arc::clone(shared), hub.clone(), keys, rng);
            return Ok(Box::pin(client.run(inbox)));
        }
    };
    let (identity, watching) = identity(config)?;
    let identity = identity.map_or_else(Identity::self_signed, Ok)?;
    let address = address(resolver, &config.tunnel.host, config.tunnel.port).await?;
    let acceptor = Acceptor::new(listen_tcp(address)?, tune_tunnel);
    let users = match (flow, config.targets.first()) {
        (Flow::Reverse, Some(target)) => Some(listen(config, resolver, target).await?),
        (Flow::Reverse, None) | (Flow::Forward, _) => None,
    };
    let (mut key, mut port) = (config.key.clone(), config.tunnel.port);
    if let Ok(address) = acceptor.local_addr() {
        tracing::info!(%address, "tunnel port open");
        if config.default_key {
            // The port may be one that the system picked.
            port = address.port();
            key = TunnelKey::default_for(port);
        }
    }
    let tls = ServerTls::tunnel(&identity)?;
    watch(shared, hub, watching, reloads);
    let ports = (acceptor, users);
    let server = Server::new(
        Arc::clone(shared),
        hub.clone(),
        flow,
        (tls, identity),
        keys(shared, &key, port)?,
        ports,
        rng.seed(),
    );
    Ok(Box::pin(server.run(inbox)))
}

/// The keys, the derived one being made: what waits for it may be cancelled, the work is not.
fn keys(shared: &Shared, key: &TunnelKey, port: u16) -> Result<Keys, BadKey> {
    let config = &shared.config;
    let default_port = config.default_key.then_some(port);
    let keys = Keys::of(key, default_port, config.proto)?;
    let making = keys.native.clone();
    shared.spawn_control(async move { drop(making.get().await) });
    Ok(keys)
}

/// Decides the run mode, and says how if the URL left it open.
async fn decide(config: &Config, resolver: &Resolver) -> Running {
    if let Some(running) = Running::explicit(config.role, config.mode) {
        return warn_of_guessable_key(config, running);
    }
    debug_assert_eq!(config.mode, Mode::Auto);
    let asked = match (config.role, config.targets.first()) {
        (Role::Server, Some(target)) => target,
        (Role::Server, None) | (Role::Client, _) => &config.tunnel,
    };
    // A name that does not resolve is not this machine's.
    let facts = match address(resolver, &asked.host, asked.port).await {
        Ok(address) if is_local(address.ip()) => {
            let place = place(address, config.tcp, config.udp);
            Facts {
                local: true,
                listenable: place.can_listen(),
                listening: place.something_listens(),
            }
        }
        Ok(_) | Err(_) => Facts {
            local: false,
            listenable: false,
            listening: false,
        },
    };
    let decision = config.decide(facts);
    tracing::info!("{decision}");
    warn_of_guessable_key(config, decision.running)
}

fn warn_of_guessable_key(config: &Config, running: Running) -> Running {
    if config.has_guessable_key(running) {
        tracing::warn!(
            "the url has no key: the default one is computed from the port, anyone can do that"
        );
    }
    running
}

fn share(
    runtime: &Runtime,
    config: Config,
    running: Running,
    dialer: Dialer,
    seed: Seed,
    log: Dispatch,
    stats: Stats,
) -> Shared {
    let stats = Arc::new(stats);
    let settings = Settings {
        stats: Arc::clone(&stats),
        rx: config.rate.map(Limiter::new),
        tx: config.rate.map(Limiter::new),
        tcp_idle: config.read,
        udp_idle: config.env.udp_read_timeout,
        buffer: config.env.tcp_data_buf_size,
    };
    Shared {
        running,
        stats,
        settings,
        targets: Targets::new(&config, dialer.clone(), seed),
        dialer,
        slots: Slots::new(most_relays(&config)),
        parting: Slots::new(None),
        stopping: AtomicBool::new(false),
        group: Group::new(log),
        control: runtime.control(),
        config,
    }
}

/// `slot`, but no more tasks that wait on peers than `NP_SEMAPHORE_LIMIT`.
fn most_relays(config: &Config) -> Option<u32> {
    let tasks = u32::try_from(config.env.semaphore_limit).unwrap_or(u32::MAX);
    Some(config.slot.map_or(tasks, |slot| slot.min(tasks)))
}

/// Listens for users on `target`, TCP and UDP as the URL carries them.
pub(super) async fn listen(
    config: &Config,
    resolver: &Resolver,
    target: &HostPort,
) -> Result<Listeners, ListenError> {
    let address = address(resolver, &target.host, target.port).await?;
    let (tcp, udp) = match (config.tcp, config.udp) {
        (true, true) => {
            let (tcp, udp) = listen_both(address)?;
            (Some(tcp), Some(udp))
        }
        (true, false) => (Some(listen_tcp(address)?), None),
        (false, _) => (None, Some(listen_udp(address)?)),
    };
    let tcp = tcp.map(|listener| Acceptor::new(listener, tune_edge));
    let bound = match (&tcp, &udp) {
        (Some(tcp), _) => tcp.local_addr(),
        (None, Some(udp)) => udp.get_ref().local_addr(),
        (None, None) => Ok(address),
    };
    if let Ok(address) = bound {
        tracing::info!(%address, tcp = tcp.is_some(), udp = udp.is_some(), "user port open");
    }
    Ok(Listeners { tcp, udp })
}

/// The certificate that the URL asks for, `None` for `tls=0`; and the watch over its files.
fn identity(config: &Config) -> Result<(Option<Identity>, Option<Watch>), IdentityError> {
    match config.tls {
        DataTls::Plain => Ok((None, None)),
        DataTls::Pinned => Ok((Some(Identity::self_signed()?), None)),
        DataTls::Verified => {
            let path = |text: &Option<String>| PathBuf::from(text.clone().unwrap_or_default());
            let (crt, key) = (path(&config.crt), path(&config.crt_key));
            let watch = Watch::open(crt, key, config.env.reload_interval)?;
            Ok((Some(watch.current().clone()), Some(watch)))
        }
    }
}

/// Watches the certificate files, if there are any.
fn watch(shared: &Arc<Shared>, hub: &Sender<Msg>, watch: Option<Watch>, reloads: Receiver<()>) {
    let Some(mut watch) = watch else { return };
    let hub = hub.clone();
    shared.spawn_control(async move {
        loop {
            let next = watch.changed(&reloads).await;
            if hub.send(Msg::Certificate(next)).await.is_err() {
                return;
            }
        }
    });
}
