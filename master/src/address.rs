//! Instance URLs: what is allowed, what the master hands down, and when two are the same
//! (`rest.md` §2.1 and §3).

use std::sync::Arc;

use protocol::config::{self, Config, ConfigError, Environment, KeyText, MAX_URL, Master, Role};
use protocol::terms::DataTls;

use crate::error::Error;

/// A URL that can be run, in the forms that an instance shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// As given, scheme lower-cased, with inherited parameters at its end.
    pub(crate) url: Arc<str>,
    /// With every default spelled out.
    pub(crate) config: Arc<str>,
    /// `client` or `server`; empty for one that was stored and cannot be read any more.
    pub(crate) kind: &'static str,
}

/// Whether two URLs ask for the same: the order of parameters does not matter.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    sorted(one) == sorted(other)
}

/// What the master hands down to its instances.
#[derive(Clone, Debug)]
pub(crate) struct Inheritance {
    /// `name=value` as URLs have it: `log`, and of TLS what is in force.
    log: String,
    tls: Option<String>,
    files: Vec<String>,
    environment: Environment,
}

impl Inheritance {
    /// Of a master whose TLS code in force is `tls`, whatever its URL asks for.
    pub(crate) fn of(master: &Master, tls: DataTls) -> Self {
        let spelled = master.spelled_out();
        let query = spelled.split_once('?').map_or("", |(_, query)| query);
        let piece = |name: &str| find(query, name).map(str::to_owned);
        let files = match tls {
            DataTls::Verified => [piece("crt"), piece("key")],
            DataTls::Plain | DataTls::Pinned => [None, None],
        };
        Self {
            log: piece("log").unwrap_or_default(),
            tls: (tls != DataTls::Plain).then(|| format!("tls={}", code(tls))),
            files: files.into_iter().flatten().collect(),
            environment: master.env.clone(),
        }
    }

    /// Checks a URL as a caller gave it and completes it.
    ///
    /// # Errors
    /// [`Error::UrlFormat`], [`Error::UrlScheme`], [`Error::UrlParameter`], in this order.
    pub(crate) fn address(&self, given: &str) -> Result<Address, Error> {
        let (scheme, rest) = split(given)?;
        let url = self.hand_down(format!("{scheme}://{rest}"));
        let tunnel = self.tunnel(&url).map_err(|error| {
            let structure = url
                .split_once('?')
                .map_or(&*url, |(structure, _)| structure);
            if is_structural(&error)
                || config::parse(structure, &|_| None).is_err_and(bad_structure)
            {
                Error::UrlFormat
            } else {
                Error::UrlParameter(error)
            }
        })?;
        Ok(Address {
            config: tunnel.0.spelled_out(KeyText::Revealed).into(),
            kind: kind(tunnel.0.role),
            url: url.into(),
        })
    }

    /// The forms of a URL that was stored. One that cannot be run any more is kept as it is.
    pub(crate) fn restored(&self, url: Arc<str>) -> Address {
        match self.tunnel(&url) {
            Ok((tunnel, _)) => Address {
                config: tunnel.spelled_out(KeyText::Revealed).into(),
                kind: kind(tunnel.role),
                url,
            },
            Err(_) => Address {
                config: Arc::clone(&url),
                kind: "",
                url,
            },
        }
    }

    /// What a complete URL says, and the warnings about it.
    ///
    /// # Errors
    /// It cannot be run.
    pub(crate) fn tunnel(&self, url: &str) -> Result<(config::Tunnel, Vec<String>), ConfigError> {
        let parsed = config::parse(url, &|_| None)?;
        match parsed.config {
            Config::Tunnel(tunnel) => {
                let env = self.environment.clone();
                Ok((config::Tunnel { env, ..tunnel }, parsed.warnings))
            }
            Config::Master(_) => Err(ConfigError {
                parameter: "scheme".to_owned(),
                problem: "`master` is not valid".to_owned(),
                allowed: "server:// or client://".to_owned(),
            }),
        }
    }

    /// Appends what the URL lacks; what the caller wrote keeps its order and spelling.
    fn hand_down(&self, mut url: String) -> String {
        append(&mut url, &self.log);
        if let Some(tls) = self.tls.as_ref().filter(|_| url.starts_with("server://")) {
            append(&mut url, tls);
            if value(&url, "tls") == Some("2") {
                for file in &self.files {
                    append(&mut url, file);
                }
            }
        }
        url
    }
}

/// The number of a TLS mode.
pub(crate) const fn code(tls: DataTls) -> u8 {
    match tls {
        DataTls::Plain => 0,
        DataTls::Pinned => 1,
        DataTls::Verified => 2,
    }
}

const fn kind(role: Role) -> &'static str {
    match role {
        Role::Server => "server",
        Role::Client => "client",
    }
}

/// The scheme in lower case, and what follows its `://`.
fn split(given: &str) -> Result<(&'static str, &str), Error> {
    let odd = |char: char| char.is_control() || char.is_whitespace() || char == '#';
    if given.len() > MAX_URL || given.contains(odd) {
        return Err(Error::UrlFormat);
    }
    let (scheme, rest) = given.split_once("://").ok_or(Error::UrlFormat)?;
    let plain = |char: char| char.is_ascii_alphanumeric() || "+-.".contains(char);
    if !scheme.starts_with(|char: char| char.is_ascii_alphabetic()) || !scheme.chars().all(plain) {
        return Err(Error::UrlFormat);
    }
    let known = ["server", "client"];
    let known = known
        .into_iter()
        .find(|known| scheme.eq_ignore_ascii_case(known));
    Ok((known.ok_or(Error::UrlScheme)?, rest))
}

/// Whether the URL is no URL, as opposed to one with a bad parameter.
fn is_structural(error: &ConfigError) -> bool {
    matches!(
        error.parameter.as_str(),
        "url" | "scheme" | "host" | "port" | "target"
    )
}

fn bad_structure(error: ConfigError) -> bool {
    is_structural(&error)
}

/// Adds the parameter `piece` unless the URL has a value for it.
fn append(url: &mut String, piece: &str) {
    let name = piece.split('=').next().unwrap_or_default();
    if value(url, name).is_none() {
        url.push(match url.split_once('?') {
            None => '?',
            Some(_) => '&',
        });
        url.push_str(piece);
    }
}

/// The first value of a parameter; one without a value is as if absent.
fn value<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = url.split_once('?')?;
    let (_, value) = find(query, name)?.split_once('=')?;
    Some(value)
}

/// The first `name=value` with a value.
fn find<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find(|piece| {
        let (own, value) = piece.split_once('=').unwrap_or((piece, ""));
        own == name && !value.is_empty()
    })
}

fn sorted(url: &str) -> (&str, Vec<&str>) {
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let mut pieces: Vec<_> = query.split('&').filter(|piece| !piece.is_empty()).collect();
    pieces.sort_unstable();
    (address, pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(url: &str) -> Master {
        match config::parse(url, &|_| None).unwrap().config {
            Config::Master(master) => master,
            Config::Tunnel(_) => panic!("not a master"),
        }
    }

    fn inheritance(url: &str) -> Inheritance {
        let master = master(url);
        let tls = master.tls;
        Inheritance::of(&master, tls)
    }

    fn plain() -> Inheritance {
        inheritance("master://:9090")
    }

    #[test]
    fn errors_come_in_the_documented_order() {
        let table = [
            ("nonsense", Error::UrlFormat),
            ("server://%zz", Error::UrlFormat),
            ("server://a b:1/c:2", Error::UrlFormat),
            ("server://a:1/c:2#x", Error::UrlFormat),
            ("server://a:1", Error::UrlFormat),
            ("server://a/b:1", Error::UrlFormat),
            ("server://a?tls=9", Error::UrlFormat),
            ("1x://a:1/b:2", Error::UrlFormat),
            ("http://x/y", Error::UrlScheme),
            ("ftp://a:1/b:2?tls=9", Error::UrlScheme),
            ("master://127.0.0.1:1/", Error::UrlScheme),
        ];
        for (url, expected) in table {
            assert_eq!(plain().address(url).unwrap_err(), expected, "{url}");
        }
        let long = format!("server://a:1/b:2?x={}", "y".repeat(MAX_URL));
        assert_eq!(plain().address(&long).unwrap_err(), Error::UrlFormat);
        let error = plain().address("server://a:1/b:2?tls=9").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("Invalid URL parameter: tls: "), "{text}");
        assert!(
            plain().address("server://a:1/b:2?tls=2").is_err(),
            "no certificate"
        );
    }

    #[test]
    fn what_the_caller_wrote_stays() {
        let table = [
            ("SERVER://:1/:2", "server://:1/:2?log=info"),
            (
                "client://k%40@:1/h:2?z=1&min=3",
                "client://k%40@:1/h:2?z=1&min=3&log=info",
            ),
            ("client://:1/h:2?log=debug", "client://:1/h:2?log=debug"),
            ("client://:1/h:2?log=", "client://:1/h:2?log=&log=info"),
        ];
        for (given, expected) in table {
            assert_eq!(&*plain().address(given).unwrap().url, expected);
        }
        let address = plain().address("server://:1/:2").unwrap();
        assert_eq!(address.kind, "server");
        assert!(address.config.starts_with("server://:1/:2?log=info&tls=0&"));
    }

    #[test]
    fn tls_is_handed_down_to_servers_alone() {
        let own = inheritance("master://:9090?tls=1&log=debug");
        let table = [
            ("server://:1/:2", "server://:1/:2?log=debug&tls=1"),
            ("server://:1/:2?tls=0", "server://:1/:2?tls=0&log=debug"),
            ("client://:1/h:2", "client://:1/h:2?log=debug"),
        ];
        for (given, expected) in table {
            assert_eq!(&*own.address(given).unwrap().url, expected);
        }
        let own = inheritance("master://:9090?tls=2&crt=/a%20b&key=/k");
        let table = [
            (
                "server://:1/:2",
                "server://:1/:2?log=info&tls=2&crt=/a%20b&key=/k",
            ),
            ("server://:1/:2?tls=1", "server://:1/:2?tls=1&log=info"),
            (
                "server://:1/:2?tls=2&crt=/own",
                "server://:1/:2?tls=2&crt=/own&log=info&key=/k",
            ),
            ("client://:1/h:2?tls=2", "client://:1/h:2?tls=2&log=info"),
        ];
        for (given, expected) in table {
            assert_eq!(&*own.address(given).unwrap().url, expected);
        }
    }

    #[test]
    fn the_code_in_force_counts_and_not_the_one_asked_for() {
        let master = master("master://:9090?tls=2&crt=/missing&key=/missing");
        let own = Inheritance::of(&master, DataTls::Pinned);
        let url = own.address("server://:1/:2").unwrap().url;
        assert_eq!(&*url, "server://:1/:2?log=info&tls=1");
    }

    #[test]
    fn the_order_of_parameters_makes_no_difference() {
        let own = plain();
        let url = |given| own.address(given).unwrap().url;
        let one = url("server://:1/:2?max=3&tls=1");
        assert!(is_same(&one, &url("server://:1/:2?tls=1&log=info&max=3")));
        assert!(!is_same(&one, &url("server://:1/:2?tls=1&max=4")));
        assert!(!is_same(&one, &url("server://:1/:3?max=3&tls=1")));
    }

    #[test]
    fn a_stored_url_that_cannot_be_read_is_kept() {
        let own = plain();
        let kept = own.restored("server://:1/:2?tls=77".into());
        assert_eq!((&*kept.url, kept.kind), ("server://:1/:2?tls=77", ""));
        let good = own.restored("client://:1/h:2".into());
        assert_eq!((&*good.url, good.kind), ("client://:1/h:2", "client"));
    }
}
