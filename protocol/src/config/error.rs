//! Why a configuration was refused, in the one line that the command line promises.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;

/// A value that cannot be used (`config.md` §1): which one, what is wrong and what would be right.
///
/// `parameter` is a name of `config.md` §3, an `NP_…` variable, or for the structure of the URL one
/// of `url`, `scheme`, `host`, `port`, `target`. No part contains a line break or the tunnel key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {problem}; {allowed}")]
pub struct ConfigError {
    /// The name of what is wrong.
    pub parameter: String,
    /// What is wrong with it.
    pub problem: String,
    /// What is allowed.
    pub allowed: String,
}

impl ConfigError {
    pub(super) fn new(
        parameter: &str,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self {
            parameter: parameter.to_owned(),
            problem: problem.into(),
            allowed: allowed.into(),
        }
    }

    /// `value` is not one of `allowed`.
    pub(super) fn bad_value(parameter: &str, value: &str, allowed: impl Into<String>) -> Self {
        Self::new(parameter, format!("{} is not valid", quote(value)), allowed)
    }
}

/// The most characters of a value that a message repeats.
const QUOTED: usize = 40;

/// `text` in back quotes, on one line, cut when long.
pub(super) fn quote(text: &str) -> String {
    let mut shown = String::from("`");
    shown.extend(text.chars().take(QUOTED).flat_map(char::escape_debug));
    if text.chars().nth(QUOTED).is_some() {
        shown.push('…');
    }
    shown.push('`');
    shown
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;

    #[test]
    fn an_error_is_one_line_of_three_parts() {
        let error = ConfigError::bad_value("log", "a\nb", "x or y");
        assert_eq!(error.to_string(), "log: `a\\nb` is not valid; x or y");
    }

    #[test]
    fn long_values_are_cut() {
        let long = "x".repeat(4000);
        assert_eq!(quote(&long).chars().count(), QUOTED + 3);
    }
}
