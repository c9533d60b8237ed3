//! The parameters after the `?` (`config.md` §3): which exist, for whom, and their checked values.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem;
use core::ops::RangeInclusive;

use super::error::quote;
use super::url::Scheme;
use super::value::{self, Value};
use super::{ConfigError, percent};

const SERVER: u8 = 1;
const CLIENT: u8 = 2;
const MASTER: u8 = 4;
const TUNNEL: u8 = SERVER | CLIENT;
const ALL: u8 = TUNNEL | MASTER;

/// Every parameter and the schemes it applies to, in the order of the specification.
const TABLE: [(&str, u8); 22] = [
    ("log", ALL),
    ("tls", ALL),
    ("crt", ALL),
    ("key", ALL),
    ("ca", CLIENT),
    ("sni", CLIENT),
    ("proto", TUNNEL),
    ("min", CLIENT),
    ("max", SERVER),
    ("mode", TUNNEL),
    ("type", SERVER),
    ("lbs", TUNNEL),
    ("dns", TUNNEL),
    ("dial", TUNNEL),
    ("read", TUNNEL),
    ("rate", TUNNEL),
    ("slot", TUNNEL),
    ("proxy", TUNNEL),
    ("block", TUNNEL),
    ("notcp", TUNNEL),
    ("noudp", TUNNEL),
    ("state", MASTER),
];

/// The parameters of one URL that have a value and apply to its scheme.
pub(super) struct Parameters {
    values: BTreeMap<&'static str, String>,
    warnings: Vec<String>,
}

impl Parameters {
    /// Takes `name=value&…` apart. What cannot be used but does no harm becomes a warning.
    pub(super) fn collect(query: &str, scheme: Scheme) -> Result<Self, ConfigError> {
        let mut collected = Self {
            values: BTreeMap::new(),
            warnings: Vec::new(),
        };
        for piece in query.split('&') {
            let (name, encoded) = piece.split_once('=').unwrap_or((piece, ""));
            match lookup(name, scheme) {
                Known::Here(_) if encoded.is_empty() => {}
                Known::Here(name) => collected.insert(name, encoded)?,
                Known::Elsewhere => collected.warnings.push(format!(
                    "parameter {name} does not apply to {scheme}:// and is ignored"
                )),
                Known::Not if piece.is_empty() => {}
                Known::Not => collected.warnings.push(format!(
                    "unknown parameter {} is ignored; the nearest known one is {}",
                    quote(name),
                    nearest(name, scheme)
                )),
            }
        }
        Ok(collected)
    }

    fn insert(&mut self, name: &'static str, encoded: &str) -> Result<(), ConfigError> {
        if self.values.contains_key(name) {
            let warning = format!("parameter {name} is given twice; the first value counts");
            self.warnings.push(warning);
            return Ok(());
        }
        let decoded = percent::decode(encoded).ok_or_else(|| {
            ConfigError::bad_value(
                name,
                encoded,
                "UTF-8 text; `%` starts two hexadecimal digits",
            )
        })?;
        self.values.insert(name, decoded);
        Ok(())
    }

    /// The lines for the log, once.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        mem::take(&mut self.warnings)
    }

    /// The decoded value of `name`, if it is there.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value of `name`, or `default`.
    pub(super) fn get<T: Value>(&self, name: &str, default: T) -> Result<T, ConfigError> {
        self.text(name).map_or(Ok(default), |text| {
            T::read(text).ok_or_else(|| ConfigError::bad_value(name, text, T::ALLOWED))
        })
    }

    /// The number `name`, or `default`.
    pub(super) fn number(
        &self,
        name: &str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Result<u32, ConfigError> {
        let Some(text) = self.text(name) else {
            return Ok(default);
        };
        let number = value::number(text).and_then(|number| u32::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let allowed = format!("a number from {} to {}", range.start(), range.end());
                ConfigError::bad_value(name, text, allowed)
            })
    }

    /// `type`: only pools of TCP connections exist.
    pub(super) fn check_type(&self) -> Result<(), ConfigError> {
        let problem = match self.text("type") {
            None | Some("0") => return Ok(()),
            Some("1") => "1 (QUIC) is not offered yet".to_owned(),
            Some("2") => "2 (WebSocket) is not offered yet".to_owned(),
            Some("3") => "3 (HTTP/2) is not offered yet".to_owned(),
            Some(other) => format!("{} is not valid", quote(other)),
        };
        Err(ConfigError::new("type", problem, "0 (TCP)"))
    }
}

enum Known {
    Here(&'static str),
    Elsewhere,
    Not,
}

fn lookup(name: &str, scheme: Scheme) -> Known {
    match TABLE.iter().find(|(known, _)| *known == name) {
        Some((known, audience)) if audience & bit(scheme) != 0 => Known::Here(known),
        Some(_) => Known::Elsewhere,
        None => Known::Not,
    }
}

const fn bit(scheme: Scheme) -> u8 {
    match scheme {
        Scheme::Server => SERVER,
        Scheme::Client => CLIENT,
        Scheme::Master => MASTER,
    }
}

/// The parameter of `scheme` that takes the fewest edits to become from `name`.
fn nearest(name: &str, scheme: Scheme) -> &'static str {
    let here = TABLE
        .iter()
        .filter(|(_, audience)| audience & bit(scheme) != 0);
    let name = name.to_ascii_lowercase();
    here.map(|(known, _)| *known)
        .min_by_key(|known| edits(known, &name))
        .unwrap_or("log")
}

/// How many insertions, deletions and replacements of characters turn `from` into `to`.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=from.len()).collect();
    for (line, wanted) in to.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        for (above, have) in row.iter_mut().skip(1).zip(from.chars()) {
            let replaced = diagonal + usize::from(have != wanted);
            diagonal = *above;
            left = replaced.min(*above + 1).min(left + 1);
            *above = left;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or(to.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        let table = [
            ("log", "log", 0),
            ("log", "", 3),
            ("log", "lgo", 2),
            ("noudp", "nodup", 2),
            ("min", "mins", 1),
            ("rate", "rat", 1),
            ("tls", "ßtls", 1),
        ];
        for (from, to, expected) in table {
            assert_eq!(edits(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn the_nearest_name_is_one_that_applies() {
        let table = [
            ("LOG", Scheme::Master, "log"),
            ("logs", Scheme::Server, "log"),
            ("notpc", Scheme::Client, "notcp"),
            ("maxx", Scheme::Server, "max"),
            ("stat", Scheme::Master, "state"),
            ("slots", Scheme::Client, "slot"),
        ];
        for (name, scheme, expected) in table {
            assert_eq!(nearest(name, scheme), expected, "{name}");
        }
    }

    fn warnings(query: &str) -> Vec<String> {
        let mut collected = Parameters::collect(query, Scheme::Client).unwrap();
        collected.take_warnings()
    }

    #[test]
    fn odd_parameters_are_warned_about_and_ignored() {
        assert_eq!(
            warnings("lgo=debug"),
            ["unknown parameter `lgo` is ignored; the nearest known one is log"]
        );
        assert_eq!(
            warnings("log=info&log=debug"),
            ["parameter log is given twice; the first value counts"]
        );
        assert_eq!(
            warnings("max=nonsense"),
            ["parameter max does not apply to client:// and is ignored"]
        );
        assert!(warnings("").is_empty());
        assert!(warnings("&&log=&min&log=info&").is_empty());
    }

    #[test]
    fn the_first_value_counts_and_an_empty_one_is_none() {
        let collected = Parameters::collect("log=&log=de%62ug&log=warn", Scheme::Client).unwrap();
        assert_eq!(collected.text("log"), Some("debug"));
    }
}
