//! The spelled-out form: the URL with every default written out (`config.md` §1, `rest.md` §2).

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::url::{MEGABIT, Scheme};
use super::value::Value as _;
use super::{Config, Master, Role, Tunnel, percent};

/// How the tunnel key appears in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyText {
    /// As it is: only for those who could read the URL in the first place.
    Revealed,
    /// `***`: for logs and screens.
    Masked,
}

impl Config {
    /// The URL of this configuration with every default spelled out. With the same environment,
    /// [`parse`](super::parse) reads the revealed form back to an equal configuration (if it is not
    /// above [`MAX_URL`](super::MAX_URL)). A key that the URL did not give is not made explicit.
    #[must_use]
    pub fn spelled_out(&self, key: KeyText) -> String {
        match self {
            Self::Tunnel(tunnel) => tunnel.spelled_out(key),
            Self::Master(master) => master.spelled_out(),
        }
    }

    /// Every parameter that applies, in the order of the specification, with the text of its value;
    /// empty where there is none.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Tunnel(tunnel) => tunnel.settings(),
            Self::Master(master) => master.settings(),
        }
    }
}

impl Tunnel {
    /// [`Config::spelled_out`] for a tunnel.
    #[must_use]
    pub fn spelled_out(&self, key: KeyText) -> String {
        let scheme = match self.role {
            Role::Server => Scheme::Server,
            Role::Client => Scheme::Client,
        };
        let key = match key {
            _ if self.default_key => String::new(),
            KeyText::Revealed => percent::encode(self.key.reveal(), "") + "@",
            KeyText::Masked => String::from("***@"),
        };
        let targets: Vec<_> = self
            .targets
            .iter()
            .map(|target| target.to_string())
            .collect();
        let address = format!("{key}{}/{}", self.tunnel, targets.join(","));
        join(scheme, &address, &self.settings())
    }

    /// [`Config::settings`] for a tunnel.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let server = self.role == Role::Server;
        let rate = self.rate.unwrap_or(0) / MEGABIT;
        let slot = self.slot.unwrap_or(0);
        // The table of the specification, each row with the roles it applies to.
        let table = [
            (true, "log", self.log.write()),
            (true, "tls", self.tls.write()),
            (true, "crt", self.crt.write()),
            (true, "key", self.crt_key.write()),
            (!server, "ca", self.ca.write()),
            (!server, "sni", self.sni.write()),
            (true, "proto", self.proto.write()),
            (!server, "min", self.min.to_string()),
            (server, "max", self.max.to_string()),
            (true, "mode", self.mode.write()),
            (server, "type", String::from("0")),
            (true, "lbs", self.lbs.write()),
            (true, "dns", self.dns.write()),
            (true, "dial", self.dial.write()),
            (true, "read", self.read.unwrap_or_default().write()),
            (true, "rate", rate.to_string()),
            (true, "slot", slot.to_string()),
            (true, "proxy", self.proxy.write()),
            (true, "block", self.block.write()),
            (true, "notcp", (!self.tcp).write()),
            (true, "noudp", (!self.udp).write()),
        ];
        let applying = table.into_iter().filter(|(applies, ..)| *applies);
        applying.map(|(_, name, text)| (name, text)).collect()
    }
}

impl Master {
    /// [`Config::spelled_out`] for a master, which has no key in its URL.
    #[must_use]
    pub fn spelled_out(&self) -> String {
        let address = format!("{}{}", self.listen, self.prefix);
        join(Scheme::Master, &address, &self.settings())
    }

    /// [`Config::settings`] for a master.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        Vec::from([
            ("log", self.log.write()),
            ("tls", self.tls.write()),
            ("crt", self.crt.write()),
            ("key", self.crt_key.write()),
            ("state", self.state.write()),
        ])
    }
}

fn join(scheme: Scheme, address: &str, settings: &[(&str, String)]) -> String {
    let given = settings.iter().filter(|(_, text)| !text.is_empty());
    let query: Vec<_> = given
        .map(|(name, text)| format!("{name}={}", percent::encode(text, "/:,")))
        .collect();
    format!("{scheme}://{address}?{}", query.join("&"))
}
