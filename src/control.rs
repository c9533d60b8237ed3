//! The master role: runs in the foreground and obeys signals; prints its key.

use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;

use master::state::{OpenError, state_path, stored_key};
use master::{Master, Surroundings};
use protocol::config;
use runtime_smol::Runtime;
use smol::future;
use tracing::Dispatch;

use crate::report::{self, FAILURE};
use crate::run::{Interrupts, Obedient, prepare};
use crate::variable;

/// Runs until a signal stops it.
pub(crate) fn run(config: &config::Master, warnings: &[String]) -> ExitCode {
    let supervised = prepare(config.log, &config.env, warnings).and_then(|(runtime, log)| {
        let runtime = Arc::new(runtime);
        runtime.block_on(supervise(&runtime, config, log))
    });
    match supervised {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => report::error(&problem, FAILURE),
    }
}

async fn supervise(
    runtime: &Arc<Runtime>,
    config: &config::Master,
    log: Dispatch,
) -> Result<(), String> {
    let mut interrupts = Interrupts::new()?;
    let surroundings = Surroundings {
        env: &variable,
        root: is_root(),
    };
    let starting = async { Some(Master::start(runtime, config, &surroundings, log).await) };
    let Some(started) = future::or(starting, interrupts.stop()).await else {
        return Ok(());
    };
    let master = started.map_err(line)?;
    let ended = async { master.wait().await.map_err(line) };
    future::or(ended, interrupts.obeyed_by(&master)).await
}

impl Obedient for Master {
    fn reload(&self) {
        Self::reload(self);
    }

    fn stop(&self) {
        Self::stop(self);
    }
}

/// Prints the API key in the state file at `path`, or in the one that a master without `state`
/// would use.
pub(crate) fn print_key(path: Option<&str>) -> ExitCode {
    let from_env = variable("NP_STATE_FILE").filter(|path| !path.is_empty());
    let path = state_path(path.or(from_env.as_deref()), &variable, is_root());
    let key = path
        .ok_or_else(|| line(OpenError::Nowhere))
        .and_then(|path| stored_key(&path).map_err(|error| format!("key: {error}")));
    match key {
        Ok(key) => report::output(&format!("{key}\n")),
        Err(problem) => report::error(&problem, FAILURE),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn line(error: impl Display) -> String {
    error.to_string()
}
