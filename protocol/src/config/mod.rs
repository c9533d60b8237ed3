//! What a URL and the environment say, as types (`config.md`), and how they are read and printed.
//!
//! ```text
//! text ── url ──► scheme, key, address, path ─┐
//!             └─► params ──► values, checked ─┴─► Config ── print ──► the spelled-out URL
//! NP_… ── environment ──► Environment ────────────┘   └──── mode ───► what it runs as
//! ```

mod address;
mod duration;
mod environment;
mod error;
mod mode;
mod params;
mod percent;
mod print;
mod url;
mod value;

pub use error::ConfigError;
pub use mode::{Decision, Facts, Running, decide};
pub use print::KeyText;
pub use url::{MAX_URL, parse};

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use crate::key::TunnelKey;
use crate::terms::{DataTls, Generation};

/// A URL that was understood, and what is odd about it without being an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The configuration in force.
    pub config: Config,
    /// One line each: parameters given twice or unknown, a password. For the log, at WARN.
    pub warnings: Vec<String>,
}

/// Which of the three jobs the binary is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// `server://` or `client://`.
    Tunnel(Tunnel),
    /// `master://`.
    Master(Master),
}

/// Which end of a tunnel this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `server://`: listens on the tunnel address.
    Server,
    /// `client://`: dials it, or is alone.
    Client,
}

/// One end of a tunnel, or a client alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Server or client.
    pub role: Role,
    /// The tunnel key; the default one of the port if the URL has none.
    pub key: TunnelKey,
    /// Whether `key` is that default, which anyone can compute (and which the `classic` generation
    /// derives differently: [`TunnelKey::classic_default_for`]).
    pub default_key: bool,
    /// The tunnel address.
    pub tunnel: HostPort,
    /// The target addresses, at least one.
    pub targets: Vec<HostPort>,
    /// `log`.
    pub log: LogLevel,
    /// `tls`: of the data connections (server), the least accepted (dual-end client), of the
    /// listener (single-end client).
    pub tls: DataTls,
    /// `crt`: path of a PEM certificate chain.
    pub crt: Option<String>,
    /// `key`: path of its PEM private key.
    pub crt_key: Option<String>,
    /// `ca`: path of PEM roots to verify a `tls=2` server with.
    pub ca: Option<String>,
    /// `sni`.
    pub sni: Sni,
    /// `proto`.
    pub proto: Generations,
    /// `min`: least idle data connections.
    pub min: u32,
    /// `max`: most idle data connections per session.
    pub max: u32,
    /// `mode`.
    pub mode: Mode,
    /// `lbs`.
    pub lbs: Strategy,
    /// `dns`: how long a resolved name is used; zero: resolve every time.
    pub dns: Duration,
    /// `dial`: source address for dialling targets.
    pub dial: Option<IpAddr>,
    /// `read`: a relay ends after this long without data; `None`: never.
    pub read: Option<Duration>,
    /// `rate` in bytes per second, each direction by itself; `None`: no limit.
    pub rate: Option<u64>,
    /// `slot`: most relays; `None`: no limit.
    pub slot: Option<u32>,
    /// `proxy`.
    pub proxy: Option<ProxyVersion>,
    /// `block`.
    pub block: Block,
    /// `notcp=1` makes it false.
    pub tcp: bool,
    /// `noudp=1` makes it false.
    pub udp: bool,
    /// `NP_…`.
    pub env: Environment,
}

/// The master's own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// The listen address.
    pub listen: HostPort,
    /// The prefix with its leading slash and without trailing ones, `/api` by default.
    pub prefix: String,
    /// `log`.
    pub log: LogLevel,
    /// `tls`.
    pub tls: DataTls,
    /// `crt`.
    pub crt: Option<String>,
    /// `key`.
    pub crt_key: Option<String>,
    /// `state`, else `NP_STATE_FILE`.
    pub state: Option<String>,
    /// `NP_…`.
    pub env: Environment,
}

/// A host and a port as written in a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// IPv4, IPv6 without brackets, a name, or empty.
    pub host: String,
    /// 0 only where we listen.
    pub port: u16,
}

/// `log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing at all.
    None,
    /// Everything, per-connection lines included (also `trace`).
    Debug,
    /// State changes a user cares about, and above.
    Info,
    /// Unusual but working, and above.
    Warn,
    /// Broken.
    Error,
    /// Telemetry records and errors only.
    Event,
}

/// `sni`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// Absent: the URL's host.
    Host,
    /// `none`: send none.
    None,
    /// This name.
    Name(String),
}

/// `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `0`: decide once, at start.
    Auto,
    /// `1`: reverse (server), single-end (client).
    One,
    /// `2`: forward (server), dual-end (client).
    Two,
}

/// `lbs`: the order in which several targets are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// `0`: in turn.
    RoundRobin,
    /// `1`: the lowest connect latency first.
    LowestLatency,
    /// `2`: the first, then its backups; back to the first when it answers again.
    PrimaryBackup,
}

/// `proxy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// `1`: the text header.
    V1,
    /// `2`: the binary header.
    V2,
}

/// `block`: which protocols users may not speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// `1`: SOCKS4 and SOCKS5.
    pub socks: bool,
    /// `2`: HTTP.
    pub http: bool,
    /// `3`: TLS.
    pub tls: bool,
}

/// `proto`: a set of generations.
///
/// `auto` allows all of them, but is not the list of all of them: a client tries `classic` only if
/// the URL names it (`wire.md` §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generations(u8);

impl Generations {
    /// `auto`: all of them allowed, none of them named.
    pub const AUTO: Self = Self(0b1_1111);

    /// The empty set plus `generation`.
    #[must_use]
    pub const fn only(generation: Generation) -> Self {
        Self(1 << generation as u8)
    }

    /// This set plus `generation`.
    #[must_use]
    pub const fn with(self, generation: Generation) -> Self {
        Self(self.0 | 1 << generation as u8)
    }

    /// Whether `generation` is allowed.
    #[must_use]
    pub const fn allows(self, generation: Generation) -> bool {
        self.0 & 1 << generation as u8 != 0
    }

    /// Whether `generation` is in a list that the URL spells out.
    #[must_use]
    pub const fn names(self, generation: Generation) -> bool {
        self.0 != Self::AUTO.0 && self.allows(generation)
    }
}

/// The `NP_…` variables that tunnels use (`config.md` §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Accept to finished handshake.
    pub handshake_timeout: Duration,
    /// Dialling a TCP target, all addresses and targets together.
    pub tcp_dial_timeout: Duration,
    /// Dialling a UDP target.
    pub udp_dial_timeout: Duration,
    /// A UDP session without datagrams.
    pub udp_read_timeout: Duration,
    /// A user waiting for an idle data connection.
    pub pool_get_timeout: Duration,
    /// Least time between dials of a pool while they fail, and over which its use is measured.
    pub min_pool_interval: Duration,
    /// How often the number of spare connections in a pool is looked at and lowered.
    pub max_pool_interval: Duration,
    /// Ping and telemetry.
    pub report_interval: Duration,
    /// Most that a failed server set-up waits before it is tried again: for a master, which does
    /// that. A server in the foreground ends, a client has a back-off of its own.
    pub service_cooldown: Duration,
    /// How long relays may go on at a graceful stop.
    pub shutdown_timeout: Duration,
    /// Least time between certificate re-reads; zero: every change.
    pub reload_interval: Duration,
    /// Relay buffer for streams, in bytes. Below [`TCP_BUFFER`](Self::TCP_BUFFER) it is meant for
    /// a machine with little memory and holds exactly; from there on a driver may use more.
    pub tcp_data_buf_size: usize,
    /// Relay buffer for datagrams, in bytes; never below [`DATAGRAM`](crate::limits::DATAGRAM),
    /// since a datagram is never cut. More than that has no effect.
    pub udp_data_buf_size: usize,
    /// Most tasks waiting on peers.
    pub semaphore_limit: usize,
    /// Executor threads; `None`: min(cores, 4).
    pub threads: Option<usize>,
    /// `NP_STATE_FILE`.
    pub state_file: Option<String>,
}
