//! What the two ends of one session can say to each other and expect of each other: made by the
//! handshake, asked by everything after it.
//!
//! | capability | `native` | `https` | `http` | `classic` |
//! |---|---|---|---|---|
//! | launch | inline, answered | by id | by id | by id |
//! | data connections | signed preface | id, 4 bytes | id, 4 bytes | id, 8 digits |
//! | control channel | of the handshake | data connection zero | data connection zero | of the handshake |
//! | datagrams | framed | framed, 16 384 | one per write, 16 384 | one per write, 8192 |
//! | silence | 3 report intervals | 15 s | 15 s | 20 s |
//! | relays without data | go on | go on | go on | end after 20 s |
//! | certificate check | – | with `tls=1` | with `tls` ≥ 1 | – |

use core::time::Duration;

use crate::limits;
use crate::terms::Generation;
use crate::wire::codec::Codec;
use crate::wire::data_id::IdForm;
use crate::wire::datagram::Form;

/// How one session speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// For logs; what follows from it is in [`capabilities`](Self::capabilities).
    pub generation: Generation,
    /// What can be expected.
    pub capabilities: Capabilities,
    /// How signals are spelled.
    pub codec: Codec,
}

/// What a session can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How a user gets onto a data connection.
    pub launch: LaunchBy,
    /// How a data connection shows which session it is of.
    pub data: DataBy,
    /// Which connection carries the signals.
    pub control: ControlOn,
    /// How datagrams go on a data connection.
    pub datagrams: Form,
    /// Pings and silence.
    pub liveness: Liveness,
    /// How long a relay of this session may be without data, where the peer ends its own then and tells
    /// nobody; `None`: for ever.
    pub relay_idle: Option<Duration>,
    /// Whether both ends compare certificates of a data connection.
    pub check: Option<Check>,
}

/// How ingress tells egress of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchBy {
    /// On the data connection itself; egress answers with a status byte before the target's bytes.
    DataConnection,
    /// By a signal with the connection's id; the users' bytes follow at once, without an answer. A
    /// failure ends the connection.
    Signal,
}

/// How a data connection shows which session it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataBy {
    /// The client writes a signed preface.
    Preface,
    /// It comes from the client's address, and the server writes an id.
    Address(IdForm),
}

/// Which connection carries the signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlOn {
    /// That of the handshake.
    Handshake,
    /// The data connection with the id zero, the first one that the server takes.
    DataConnection,
}

/// When pings are due and when silence is death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Ping at least this often; the report interval, if that is shorter or this is `None`.
    pub ping: Option<Duration>,
    /// Silence that ends the session; `None`: three report intervals.
    pub silence: Option<Duration>,
}

/// How certificates of data connections are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Whether this end asks for a comparison. A peer at ingress may serve no user before.
    pub send: bool,
    /// Whether a peer that shows no fingerprint passes: the chain was verified instead.
    pub blind_passes: bool,
}

impl Dialect {
    /// How two of our own ends speak.
    #[must_use]
    pub const fn native() -> Self {
        Self {
            generation: Generation::Native,
            capabilities: Capabilities {
                launch: LaunchBy::DataConnection,
                data: DataBy::Preface,
                control: ControlOn::Handshake,
                datagrams: Form::NATIVE,
                liveness: Liveness {
                    ping: None,
                    silence: None,
                },
                relay_idle: None,
                check: None,
            },
            codec: Codec::Native,
        }
    }
}

impl ControlOn {
    /// How long a client waits for the control channel after the handshake, if that is not there at
    /// once: as long as for any id.
    #[must_use]
    pub const fn wait(self) -> Option<Duration> {
        match self {
            Self::Handshake => None,
            Self::DataConnection => Some(limits::ID_WAIT),
        }
    }
}

impl Liveness {
    /// The time between pings.
    #[must_use]
    pub fn ping_interval(self, report_interval: Duration) -> Duration {
        let interval = report_interval.max(Duration::from_millis(1));
        self.ping.map_or(interval, |most| interval.min(most))
    }

    /// The silence that ends the session.
    #[must_use]
    pub fn silence(self, report_interval: Duration) -> Duration {
        let interval = report_interval.max(Duration::from_millis(1));
        self.silence
            .unwrap_or_else(|| interval.saturating_mul(limits::SILENT_INTERVALS))
    }
}
