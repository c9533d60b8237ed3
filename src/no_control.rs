//! In place of the master role in a binary that was built without it.

use std::process::ExitCode;

use protocol::config;

use crate::report::{self, MISUSE};

/// Says that there is no such role.
pub(crate) fn run(_: &config::Master, _: &[String]) -> ExitCode {
    let problem = "scheme: this binary was built without master://; server:// or client://";
    report::error(&problem, MISUSE)
}

/// Says that there is no such role.
pub(crate) fn print_key(_: Option<&str>) -> ExitCode {
    let problem = "command: this binary was built without a master, so there is no API key; \
                   a URL, check, --help or --version";
    report::error(&problem, MISUSE)
}
