//! A whole master: the domain, the API in front of it, and what starts and stops both.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::config;
use protocol::terms::DataTls;
use runtime_smol::Runtime;
use runtime_smol::group::Group;
use runtime_smol::net::{ListenError, Resolver, address, listen_tcp};
use runtime_smol::timer::Timer;
use runtime_smol::tls::IdentityError;
use smol::channel::{Receiver, Sender, bounded};
use smol::future;
use tracing::{Dispatch, dispatcher};

use crate::api::Api;
use crate::control::{Control, Start};
use crate::http::Http;
use crate::http::certificate::Shown;
use crate::runner::Tunnels;
use crate::state::{OpenError, state_path};

/// A running master. Dropping it ends it at once, with all its instances.
#[derive(Debug)]
pub struct Master {
    control: Control,
    http: Arc<Http>,
    /// The accept loop and the connections.
    group: Arc<Group>,
    log: Dispatch,
    reload: Sender<()>,
    /// Says when accepting has ended.
    accepting: Receiver<()>,
    patience: Duration,
    stop: AtomicBool,
}

/// What a master takes from the process, beside its URL.
pub struct Surroundings<'a> {
    /// Environment variables.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the process is root's.
    pub root: bool,
}

/// Why a master cannot be started. No instance was, and nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Cannot listen.
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// The state file cannot be had.
    #[error("{0}")]
    State(#[from] OpenError),
    /// No certificate can be made.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// A bug.
    #[error("internal failure, please report it")]
    Internal,
}

/// Why a running master ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the API accepts no connections any more")]
pub struct MasterError;

impl Master {
    /// Listens, takes the state file, and starts the instances that are to run. The master's own
    /// lines go to `log`.
    ///
    /// # Errors
    /// The address or the state file is another's, or cannot be used.
    pub async fn start(
        runtime: &Arc<Runtime>,
        config: &config::Master,
        surroundings: &Surroundings<'_>,
        log: Dispatch,
    ) -> Result<Self, StartError> {
        let resolver = Resolver::new(Duration::ZERO);
        let listen = &config.listen;
        let listener = listen_tcp(address(&resolver, &listen.host, listen.port).await?)?;
        let local = listener.get_ref().local_addr().ok();
        let shown = dispatcher::with_default(&log, || Shown::new(config))?;
        let given = config.state.as_ref().or(config.env.state_file.as_ref());
        let state = state_path(
            given.map(String::as_str),
            surroundings.env,
            surroundings.root,
        );
        let control = Control::start(Start {
            master: config,
            tls: shown.tls,
            state: state.ok_or(OpenError::Nowhere)?,
            runner: Arc::new(Tunnels::new(Arc::clone(runtime))),
            executor: runtime.control(),
            log: log.clone(),
        })?;
        let api = Api::new(control.clone(), &config.prefix);
        let http = Http::new(api, &config.prefix, shown.server.clone());
        let http = Arc::new(http.ok_or(StartError::Internal)?);
        let group = Arc::new(Group::new(log.clone()));
        let (reload, reloaded) = bounded(1);
        let (accepts, accepting) = bounded(1);
        announce(&log, config, shown.tls, local);
        let served = Arc::clone(&http);
        let follow = async move { future::or(shown.follow(reloaded), served.stopping()).await };
        group.spawn(&runtime.control(), follow);
        let serve = Arc::clone(&http).serve(listener, runtime.control(), Arc::downgrade(&group));
        group.spawn(&runtime.control(), async move {
            let _accepts: Sender<()> = accepts;
            serve.await;
        });
        control.launch();
        Ok(Self {
            control,
            http,
            group,
            log,
            reload,
            accepting,
            patience: config.env.shutdown_timeout,
            stop: AtomicBool::new(false),
        })
    }

    /// Re-reads the certificate files now, those of the instances too.
    pub fn reload(&self) {
        // One request waits at most: a second one would read the same files.
        self.reload.try_send(()).ok();
        self.control.reload();
    }

    /// Begins a graceful stop: no new connection is taken, requests at hand are answered, event
    /// streams get `shutdown`, relays may go on for `NP_SHUTDOWN_TIMEOUT`.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.http.stop();
    }

    /// Waits for the end of a graceful stop.
    ///
    /// # Errors
    /// The master ended because it could not accept connections any more.
    pub async fn wait(&self) -> Result<(), MasterError> {
        // Nothing is ever sent: what is waited for is the end of the accept loop.
        self.accepting.recv().await.ok();
        let asked = self.stop.load(Ordering::Acquire);
        self.stop();
        let answered = async {
            let too_late = async {
                Timer::after(self.patience).await;
            };
            future::or(self.group.idle(), too_late).await;
        };
        future::zip(self.control.stop(), answered).await;
        self.group.close();
        dispatcher::with_default(&self.log, || tracing::info!("master stopped"));
        if asked { Ok(()) } else { Err(MasterError) }
    }
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = &self.root;
        f.debug_struct("Surroundings")
            .field("root", root)
            .finish_non_exhaustive()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.group.close();
    }
}

fn announce(log: &Dispatch, config: &config::Master, tls: DataTls, local: Option<SocketAddr>) {
    let scheme = match tls {
        DataTls::Plain => "http",
        DataTls::Pinned | DataTls::Verified => "https",
    };
    let prefix = &config.prefix;
    let place = local.map_or_else(|| config.listen.to_string(), |local| local.to_string());
    dispatcher::with_default(log, || {
        tracing::info!("{}", config.spelled_out());
        tracing::info!(address = %place, "master port open");
        tracing::info!("the API is at {scheme}://{place}{prefix}/v1");
    });
}
