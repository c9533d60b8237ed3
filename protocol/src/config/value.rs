//! The values of parameters: text to value, value to text, and what is allowed.

use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use super::{Block, Generations, LogLevel, Mode, ProxyVersion, Sni, Strategy, address, duration};
use crate::terms::{DataTls, Generation};

/// The value of a parameter. `read(write(x)) == Some(x)`.
pub(super) trait Value: Sized {
    /// What is allowed, for messages.
    const ALLOWED: &'static str;

    /// The value that decoded, non-empty text stands for.
    fn read(text: &str) -> Option<Self>;

    /// Text for the value; empty if the parameter is best left out.
    fn write(&self) -> String;
}

/// Reads decimal digits, nothing else.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl Value for LogLevel {
    const ALLOWED: &'static str = "none, debug, info, warn, error or event";

    fn read(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "none" => Self::None,
            "debug" | "trace" => Self::Debug,
            "info" => Self::Info,
            "warn" => Self::Warn,
            "error" => Self::Error,
            "event" => Self::Event,
            _ => return None,
        })
    }

    fn write(&self) -> String {
        let name = match self {
            Self::None => "none",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Event => "event",
        };
        name.to_owned()
    }
}

impl Value for DataTls {
    const ALLOWED: &'static str = "0 (plain), 1 (certificate made in memory) or 2 (crt and key)";

    fn read(text: &str) -> Option<Self> {
        Self::from_wire(text)
    }

    fn write(&self) -> String {
        self.as_str().to_owned()
    }
}

/// A path of a file. Whether the file is there is found out when it is read.
impl Value for Option<String> {
    const ALLOWED: &'static str = "the path of a file";

    fn read(text: &str) -> Option<Self> {
        (!text.chars().any(char::is_control)).then(|| Some(text.to_owned()))
    }

    fn write(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

impl Value for Sni {
    const ALLOWED: &'static str = "a host name, or none";

    fn read(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            name => address::is_name(name).then(|| Self::Name(name.to_owned())),
        }
    }

    fn write(&self) -> String {
        match self {
            Self::Host => String::new(),
            Self::None => "none".to_owned(),
            Self::Name(name) => name.clone(),
        }
    }
}

impl Value for Generations {
    const ALLOWED: &'static str = "auto, or a comma list of native, https, http and classic";

    fn read(text: &str) -> Option<Self> {
        if text == "auto" {
            return Some(Self::AUTO);
        }
        let mut names = text.split(',').map(|name| {
            let mut all = Generation::ALL.into_iter();
            all.find(|generation| generation.as_str() == name)
        });
        let first = Self::only(names.next()??);
        names.try_fold(first, |set, name| Some(set.with(name?)))
    }

    fn write(&self) -> String {
        if *self == Self::AUTO {
            return "auto".to_owned();
        }
        let named = Generation::ALL.into_iter().rev();
        let names: Vec<_> = named
            .filter(|generation| self.allows(*generation))
            .map(Generation::as_str)
            .collect();
        names.join(",")
    }
}

impl Value for Mode {
    const ALLOWED: &'static str = "0 (decide at start), 1 or 2";

    fn read(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Self::Auto),
            "1" => Some(Self::One),
            "2" => Some(Self::Two),
            _ => None,
        }
    }

    fn write(&self) -> String {
        let digit = match self {
            Self::Auto => "0",
            Self::One => "1",
            Self::Two => "2",
        };
        digit.to_owned()
    }
}

impl Value for Strategy {
    const ALLOWED: &'static str =
        "0 (round robin), 1 (lowest connect latency) or 2 (primary, then backups)";

    fn read(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Self::RoundRobin),
            "1" => Some(Self::LowestLatency),
            "2" => Some(Self::PrimaryBackup),
            _ => None,
        }
    }

    fn write(&self) -> String {
        let digit = match self {
            Self::RoundRobin => "0",
            Self::LowestLatency => "1",
            Self::PrimaryBackup => "2",
        };
        digit.to_owned()
    }
}

impl Value for Duration {
    const ALLOWED: &'static str = duration::ALLOWED;

    fn read(text: &str) -> Option<Self> {
        duration::read(text)
    }

    fn write(&self) -> String {
        duration::write(*self)
    }
}

/// A source address for dialling.
impl Value for Option<IpAddr> {
    const ALLOWED: &'static str = "auto, or an IP address of this machine";

    fn read(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(None),
            ip => ip.parse().ok().map(Some),
        }
    }

    fn write(&self) -> String {
        self.map_or_else(|| "auto".to_owned(), |ip| ip.to_string())
    }
}

impl Value for Option<ProxyVersion> {
    const ALLOWED: &'static str = "0 (none), 1 (PROXY v1) or 2 (PROXY v2)";

    fn read(text: &str) -> Option<Self> {
        match text {
            "0" => Some(None),
            "1" => Some(Some(ProxyVersion::V1)),
            "2" => Some(Some(ProxyVersion::V2)),
            _ => None,
        }
    }

    fn write(&self) -> String {
        let digit = match self {
            None => "0",
            Some(ProxyVersion::V1) => "1",
            Some(ProxyVersion::V2) => "2",
        };
        digit.to_owned()
    }
}

impl Value for Block {
    const ALLOWED: &'static str = "0, or the digits 1 (SOCKS), 2 (HTTP), 3 (TLS) together";

    fn read(text: &str) -> Option<Self> {
        let mut block = Self::default();
        if text == "0" {
            return Some(block);
        }
        for digit in text.chars() {
            match digit {
                '1' => block.socks = true,
                '2' => block.http = true,
                '3' => block.tls = true,
                _ => return None,
            }
        }
        Some(block)
    }

    fn write(&self) -> String {
        let digits = [(self.socks, '1'), (self.http, '2'), (self.tls, '3')];
        let set: String = digits.into_iter().filter(|d| d.0).map(|d| d.1).collect();
        if set.is_empty() { "0".to_owned() } else { set }
    }
}

impl Value for bool {
    const ALLOWED: &'static str = "0 or 1";

    fn read(text: &str) -> Option<Self> {
        match text {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        }
    }

    fn write(&self) -> String {
        u8::from(*self).to_string()
    }
}
