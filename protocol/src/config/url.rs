//! From the text of a URL to a checked configuration (`config.md` §2).

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use super::address::Fault;
use super::error::quote;
use super::params::Parameters;
use super::{
    Block, Config, ConfigError, Environment, Generations, HostPort, LogLevel, Master, Mode, Parsed,
    Role, Sni, Strategy, Tunnel, percent,
};
use crate::key::TunnelKey;
use crate::terms::DataTls;

/// The longest URL that is accepted, in bytes. It bounds keys, lists of targets and warnings too.
pub const MAX_URL: usize = 4096;

/// Reads the URL and, through `env`, the `NP_…` variables (which answers with the text of one that
/// is set), and checks everything that can be checked without touching the machine.
///
/// # Errors
/// The first thing that is wrong, by the name of the parameter or variable.
pub fn parse(url: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Parsed, ConfigError> {
    read(url, env).map_err(|error| conceal(error, url))
}

fn read(url: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Parsed, ConfigError> {
    let url = Url::split(url)?;
    let env = Environment::read(env)?;
    let mut parameters = Parameters::collect(url.query, url.scheme)?;
    let mut warnings = parameters.take_warnings();
    if url.password {
        warnings.push(PASSWORD.to_owned());
    }
    let config = match url.scheme {
        Scheme::Server => Config::Tunnel(tunnel(Role::Server, &url, &parameters, env)?),
        Scheme::Client => Config::Tunnel(tunnel(Role::Client, &url, &parameters, env)?),
        Scheme::Master => Config::Master(master(&url, &parameters, env)?),
    };
    Ok(Parsed { config, warnings })
}

/// The word before `://`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Server,
    Client,
    Master,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::Server, Self::Client, Self::Master];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Master => "master",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const PASSWORD: &str =
    "the part of the key after its first `:` is ignored; a `:` in a key is written %3A";

/// A URL taken apart, its address read, the rest still text.
struct Url<'a> {
    scheme: Scheme,
    key: Option<TunnelKey>,
    /// Whether the key, which is the URL's user name, is followed by a `:`.
    password: bool,
    address: HostPort,
    path: &'a str,
    query: &'a str,
}

impl<'a> Url<'a> {
    fn split(text: &'a str) -> Result<Self, ConfigError> {
        check_characters(text)?;
        let (scheme, rest) = scheme(text)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (key, password) = match user.split_once(':') {
            Some((key, _)) => (key, true),
            None => (user, false),
        };
        Ok(Self {
            scheme,
            key: decode_key(key)?,
            password,
            address: HostPort::read(address).map_err(address_error)?,
            path,
            query,
        })
    }
}

fn check_characters(text: &str) -> Result<(), ConfigError> {
    if text.len() > MAX_URL {
        let problem = format!("{} bytes long", text.len());
        return Err(malformed(&problem, "at most 4096 bytes"));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(malformed(
            "a space or control character",
            "%20 and the like in its place",
        ));
    }
    if text.contains('#') {
        return Err(malformed("a `#`", "%23 in its place"));
    }
    Ok(())
}

fn scheme(text: &str) -> Result<(Scheme, &str), ConfigError> {
    const ALLOWED: &str = "server://, client:// or master://";
    let Some((word, rest)) = text.split_once("://") else {
        return Err(ConfigError::new("scheme", "missing", ALLOWED));
    };
    let mut all = Scheme::ALL.into_iter();
    let known = all.find(|scheme| word.eq_ignore_ascii_case(scheme.as_str()));
    let scheme = known.ok_or_else(|| ConfigError::bad_value("scheme", word, ALLOWED))?;
    Ok((scheme, rest))
}

fn decode_key(encoded: &str) -> Result<Option<TunnelKey>, ConfigError> {
    // The text stays out of the message: it is the secret.
    let key = percent::decode(encoded).ok_or_else(|| {
        malformed(
            "a bad escape in the key",
            "UTF-8 text; `%` starts two hexadecimal digits",
        )
    })?;
    Ok((!key.is_empty()).then(|| TunnelKey::new(key)))
}

fn malformed(problem: &str, allowed: &str) -> ConfigError {
    ConfigError::new("url", problem, allowed)
}

/// Keeps errors from repeating a part of the key: where it has a raw `/` or `?`, what stands before
/// that was taken for an address. Such a key is still followed by its `@`.
fn conceal(error: ConfigError, url: &str) -> ConfigError {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let key = rest.rsplit_once('@').map_or("", |(key, _)| key);
    let (mark, escape) = if key.contains('?') {
        ('?', "%3F")
    } else if key.contains('/') {
        ('/', "%2F")
    } else {
        return error;
    };
    if !["host", "port", "target"].contains(&error.parameter.as_str()) {
        return error;
    }
    malformed(
        &format!("a `{mark}` in the key, or a bad address"),
        &format!("{escape} in its place"),
    )
}

fn address_error(fault: Fault) -> ConfigError {
    match fault {
        Fault::Host(problem) => {
            ConfigError::new("host", problem, "IPv4, [IPv6], a name, or nothing")
        }
        Fault::Port(problem) => ConfigError::new("port", problem, "`:` and a number up to 65535"),
    }
}

fn targets(url: &Url<'_>) -> Result<Vec<HostPort>, ConfigError> {
    const ALLOWED: &str = "host:port after the tunnel address and a `/`";
    if url.path.is_empty() {
        return Err(ConfigError::new("target", "missing", ALLOWED));
    }
    let read = |text| {
        let target = HostPort::read(text).map_err(|fault| match fault {
            Fault::Host(problem) | Fault::Port(problem) => {
                ConfigError::new("target", format!("{}: {problem}", quote(text)), ALLOWED)
            }
        })?;
        if target.collides_with(&url.address) {
            let problem = format!("{target} is the tunnel address itself");
            return Err(ConfigError::new("target", problem, "another address"));
        }
        Ok(target)
    };
    url.path.split(',').map(read).collect()
}

/// Megabits per second, in bytes per second.
pub(super) const MEGABIT: u64 = 125_000;

fn tunnel(
    role: Role,
    url: &Url<'_>,
    parameters: &Parameters,
    env: Environment,
) -> Result<Tunnel, ConfigError> {
    parameters.check_type()?;
    let default_key = || TunnelKey::default_for(url.address.port);
    let read: Duration = parameters.get("read", Duration::ZERO)?;
    let rate = parameters.number("rate", 0, 0..=1_000_000)?;
    let slot = parameters.number("slot", 65_536, 0..=u32::MAX)?;
    let tunnel = Tunnel {
        role,
        default_key: url.key.is_none(),
        key: url.key.clone().unwrap_or_else(default_key),
        tunnel: url.address.clone(),
        targets: targets(url)?,
        log: parameters.get("log", LogLevel::Info)?,
        tls: parameters.get("tls", DataTls::Plain)?,
        crt: parameters.get("crt", None)?,
        crt_key: parameters.get("key", None)?,
        ca: parameters.get("ca", None)?,
        sni: parameters.get("sni", Sni::Host)?,
        proto: parameters.get("proto", Generations::AUTO)?,
        min: parameters.number("min", 64, 1..=65_535)?,
        max: parameters.number("max", 1024, 1..=1_000_000)?,
        mode: parameters.get("mode", Mode::Auto)?,
        lbs: parameters.get("lbs", Strategy::RoundRobin)?,
        dns: parameters.get("dns", Duration::from_secs(300))?,
        dial: parameters.get("dial", None)?,
        read: (!read.is_zero()).then_some(read),
        rate: (rate != 0).then_some(u64::from(rate) * MEGABIT),
        slot: (slot != 0).then_some(slot),
        proxy: parameters.get("proxy", None)?,
        block: parameters.get("block", Block::default())?,
        tcp: !parameters.get("notcp", false)?,
        udp: !parameters.get("noudp", false)?,
        env,
    };
    if !tunnel.tcp && !tunnel.udp {
        let problem = "nothing is left to carry";
        return Err(ConfigError::new(
            "noudp",
            problem,
            "notcp or noudp, not both",
        ));
    }
    tunnel.check_mode()?;
    Ok(tunnel)
}

fn master(url: &Url<'_>, parameters: &Parameters, env: Environment) -> Result<Master, ConfigError> {
    if url.key.is_some() {
        return Err(malformed(
            "a key in a master URL",
            "master://host:port[/prefix]",
        ));
    }
    let state: Option<String> = parameters.get("state", None)?;
    Ok(Master {
        listen: url.address.clone(),
        prefix: match url.path.trim_end_matches('/') {
            "" => "/api".to_owned(),
            prefix => format!("/{prefix}"),
        },
        log: parameters.get("log", LogLevel::Info)?,
        tls: parameters.get("tls", DataTls::Plain)?,
        crt: parameters.get("crt", None)?,
        crt_key: parameters.get("key", None)?,
        state: state.or_else(|| env.state_file.clone()),
        env,
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
