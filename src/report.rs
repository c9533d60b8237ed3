//! What the command line prints, and the exit codes that go with it.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::cli;

/// The work could not be started, or broke down.
pub(crate) const FAILURE: u8 = 1;
/// The command line, the URL or the environment makes no sense.
pub(crate) const MISUSE: u8 = 2;

/// Prints `text` to standard output.
pub(crate) fn output(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILURE),
    }
}

/// Prints one line, `error: …`.
pub(crate) fn error(problem: &dyn Display, code: u8) -> ExitCode {
    complain(&format!("error: {problem}\n"));
    ExitCode::from(code)
}

/// Prints one line, `warning: …`, for each.
pub(crate) fn warnings(lines: &[String]) {
    for line in lines {
        complain(&format!("warning: {line}\n"));
    }
}

/// Prints how the program is called, for one that was called without saying what to do.
pub(crate) fn usage() -> ExitCode {
    complain(cli::USAGE);
    ExitCode::from(MISUSE)
}

fn complain(text: &str) {
    // Nobody is left to tell if standard error is closed; the exit code still says it.
    io::stderr().write_all(text.as_bytes()).ok();
}
