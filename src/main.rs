//! `nodepass`: one binary, three jobs, chosen by the URL it is given.
//!
//! Exit codes are part of the interface (`config.md` §1): 0 after a graceful stop, 1 if the work
//! could not be started or broke down, 2 if what was asked for makes no sense.

mod check;
mod cli;
#[cfg(feature = "master")]
mod control;
#[cfg(not(feature = "master"))]
#[path = "no_control.rs"]
mod control;
mod report;
mod run;

use std::env;
use std::process::ExitCode;

use protocol::config::{self, Config, Parsed};

use crate::cli::Command;
use crate::report::{FAILURE, MISUSE};

/// The allocator of glibc keeps what a burst of users needed: it gives back the end of its heap only,
/// and there is always a living connection near it. This one gives back every page that is free. Its
/// settings are in `.cargo/config.toml`.
#[cfg(all(feature = "jemalloc", target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = env::args_os().skip(1);
    match cli::command(arguments, variable("NP_URL")) {
        Ok(Command::Usage) => report::usage(),
        Ok(Command::Help) => report::output(cli::HELP),
        Ok(Command::Version) => report::output(cli::VERSION),
        Ok(Command::Key(path)) => control::print_key(path.as_deref()),
        Ok(Command::Check(url)) => with_parsed(&url, |parsed| {
            report::warnings(&parsed.warnings);
            report::output(&check::describe(&parsed.config))
        }),
        Ok(Command::Run(url)) => with_parsed(&url, run),
        Err(error) => report::error(&error, MISUSE),
    }
}

fn with_parsed(url: &str, go_on: impl FnOnce(Parsed) -> ExitCode) -> ExitCode {
    match config::parse(url, &variable) {
        Ok(parsed) => go_on(parsed),
        Err(error) => report::error(&error, MISUSE),
    }
}

fn run(Parsed { config, warnings }: Parsed) -> ExitCode {
    let code = match config {
        Config::Tunnel(tunnel) => match run::tunnel(tunnel, &warnings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => report::error(&problem, FAILURE),
        },
        Config::Master(config) => control::run(&config, &warnings),
    };
    runtime_smol::log::flush();
    code
}

/// An environment variable; one that is not UTF-8 is kept recognisably wrong instead of absent.
fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|text| text.to_string_lossy().into_owned())
}
