//! From arguments to what is to be done.

use std::ffi::OsString;

use protocol::config::ConfigError;

/// What `--help` prints.
pub(crate) const HELP: &str = include_str!("help.txt");
/// What `--version` prints.
pub(crate) const VERSION: &str = concat!("nodepass ", env!("CARGO_PKG_VERSION"), "\n");
/// What a call without arguments prints.
pub(crate) const USAGE: &str = include_str!("usage.txt");

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Nothing was asked for.
    Usage,
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// `key`: print the API key in this state file, or in the usual one.
    Key(Option<String>),
    /// `check`: print the configuration in force.
    Check(String),
    /// Run what the URL describes.
    Run(String),
}

/// Reads the arguments after the program's name. `url` is `NP_URL`, which stands in for the URL
/// among the arguments.
///
/// # Errors
/// Says in one line what makes no sense; arguments that may hold a key are not repeated.
pub(crate) fn command(
    arguments: impl Iterator<Item = OsString>,
    url: Option<String>,
) -> Result<Command, ConfigError> {
    let arguments: Result<Vec<_>, _> = arguments.map(OsString::into_string).collect();
    let Ok(arguments) = arguments else {
        return Err(misuse("arguments", "not UTF-8", "percent-encoded URLs"));
    };
    let url = url.filter(|url| !url.is_empty());
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => Ok(url.map_or(Command::Usage, Command::Run)),
        ["--help" | "-h"] => Ok(Command::Help),
        ["--version" | "-V"] => Ok(Command::Version),
        ["key"] => Ok(Command::Key(None)),
        ["key", path] => Ok(Command::Key(Some((*path).to_owned()))),
        ["check"] => url
            .map(Command::Check)
            .ok_or_else(|| misuse("url", "missing", "nodepass check '<url>', or NP_URL")),
        ["check", url] => Ok(Command::Check((*url).to_owned())),
        [option] if option.starts_with('-') => {
            let problem = format!("`{}` is unknown", option.escape_debug());
            Err(misuse("option", &problem, "--help or --version"))
        }
        [url] => Ok(Command::Run((*url).to_owned())),
        [..] => Err(misuse(
            "arguments",
            "too many",
            "one URL, in quotes; see --help",
        )),
    }
}

fn misuse(parameter: &str, problem: &str, allowed: &str) -> ConfigError {
    ConfigError {
        parameter: parameter.to_owned(),
        problem: problem.to_owned(),
        allowed: allowed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, url: Option<&str>) -> Result<Command, ConfigError> {
        let words = line.split_whitespace().map(OsString::from);
        command(words, url.map(str::to_owned))
    }

    #[test]
    fn commands_are_recognised() {
        let table = [
            ("", None, Command::Usage),
            ("", Some(""), Command::Usage),
            (
                "",
                Some("client://x"),
                Command::Run("client://x".to_owned()),
            ),
            (
                "server://y",
                Some("client://x"),
                Command::Run("server://y".to_owned()),
            ),
            ("anything", None, Command::Run("anything".to_owned())),
            ("--help", Some("client://x"), Command::Help),
            ("-h", None, Command::Help),
            ("--version", None, Command::Version),
            ("-V", None, Command::Version),
            ("key", None, Command::Key(None)),
            (
                "key /var/lib/x.json",
                None,
                Command::Key(Some("/var/lib/x.json".to_owned())),
            ),
            (
                "check server://y",
                Some("client://x"),
                Command::Check("server://y".to_owned()),
            ),
            (
                "check",
                Some("client://x"),
                Command::Check("client://x".to_owned()),
            ),
        ];
        for (line, url, expected) in table {
            assert_eq!(read(line, url), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        let table = [
            ("check", "url"),
            ("--verbose", "option"),
            ("-", "option"),
            ("server://y client://x", "arguments"),
            ("check server://y x", "arguments"),
            ("key a b", "arguments"),
            ("server://y --help", "arguments"),
        ];
        for (line, parameter) in table {
            assert_eq!(
                read(line, None).unwrap_err().parameter,
                parameter,
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_key_among_the_arguments_is_not_repeated() {
        let error = read("server://s3cret@:1/:2 log=info", None).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
