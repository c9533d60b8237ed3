//! What a scripted peer is to be.

use std::net::SocketAddr;
use std::time::Duration;

use super::codec;
use super::interval;
use super::peer::Peer;
use crate::support::tunnel::Flow;

/// What the peer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// 1.10 to 1.14.
    Http,
    /// 2.0 beta.
    Https,
    /// 1.5.
    Classic,
}

impl Generation {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Http, Self::Https, Self::Classic];

    /// Its name in `proto`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Classic => "classic",
        }
    }

    /// Most bytes of a datagram that are read at once, or framed.
    pub(crate) const fn datagram(self) -> usize {
        match self {
            Self::Classic => 8192,
            Self::Http | Self::Https => 16_384,
        }
    }
}

/// What is odd about a real program. The default is what it always does; the rest a test asks for.
#[derive(Clone, Debug)]
pub(crate) struct Quirks {
    /// Server: which data connection is the control channel, counted from 1.
    pub(crate) control_at: usize,
    /// Server: how long it does not listen between the handshake and the data connections.
    pub(crate) deaf: Duration,
    /// Server: it restarts after its first answer, and does not know that client then.
    pub(crate) forgets: bool,
    /// Server: the id is written this long after the connection may be launched.
    pub(crate) late_id: Duration,
    /// Ingress: every second user's bytes are on the way this long before the launch.
    pub(crate) overtake: Duration,
    /// How many pings come at once.
    pub(crate) burst: usize,
    /// `tls` 1 and 2: after how many intervals it sends `verify`.
    pub(crate) verify_after: u32,
    /// It says that it saw another certificate.
    pub(crate) wrong_fp: bool,
    /// Classic ingress: a data connection goes back into the pool after its relay.
    pub(crate) reuse: bool,
    /// Client: the time between connecting and the first byte of the handshake.
    pub(crate) slow_start: Duration,
    /// Client: it does not come back after its session.
    pub(crate) once: bool,
}

/// A peer that can be started again and again.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// What it speaks.
    pub(crate) generation: Generation,
    /// Server: who accepts users.
    pub(crate) flow: Flow,
    /// Server: the mode of the data connections.
    pub(crate) tls: u8,
    /// Without one it is computed from the port.
    pub(crate) key: Option<String>,
    /// Where the server listens and the client dials.
    pub(crate) tunnel: SocketAddr,
    /// Server: the `Host` of a good request. A client that dials an address without `sni` writes
    /// `none`.
    pub(crate) host: &'static str,
    /// Where it accepts users, or its target.
    pub(crate) local: SocketAddr,
    /// The interval of its pings.
    pub(crate) interval: Duration,
    /// Client: how many idle data connections it holds.
    pub(crate) min: usize,
    /// What it does oddly.
    pub(crate) quirks: Quirks,
    /// Server with `tls=2`: certificate and key as PEM.
    pub(crate) pem: Option<(String, String)>,
}

impl Script {
    /// A peer with the usual oddities.
    pub(crate) fn new(generation: Generation, tunnel: SocketAddr, local: SocketAddr) -> Self {
        Self {
            generation,
            flow: Flow::Reverse,
            tls: 0,
            key: None,
            tunnel,
            host: "none",
            local,
            interval: interval(),
            min: 4,
            quirks: Quirks {
                control_at: 3,
                deaf: Duration::from_millis(40),
                forgets: false,
                late_id: Duration::ZERO,
                overtake: Duration::from_millis(20),
                burst: 1,
                verify_after: if generation == Generation::Https {
                    1
                } else {
                    2
                },
                wrong_fp: false,
                reuse: false,
                slow_start: Duration::ZERO,
                once: false,
            },
            pem: None,
        }
    }

    /// The key in force.
    pub(crate) fn key(&self) -> String {
        let default = || codec::default_key(self.generation, self.tunnel.port());
        self.key.clone().unwrap_or_else(default)
    }

    /// How long the other side may be silent: three intervals, four in `classic`. Never less than
    /// a busy machine may need to run a thread.
    pub(crate) fn patience(&self) -> Duration {
        let intervals = if self.generation == Generation::Classic {
            4
        } else {
            3
        };
        (self.interval * intervals).max(Duration::from_secs(3))
    }

    /// Starts it as a server.
    pub(crate) fn serve(&self) -> Peer {
        Peer::start(self.clone(), super::server::run)
    }

    /// Starts it as a client.
    pub(crate) fn dial(&self) -> Peer {
        Peer::start(self.clone(), super::client::run)
    }
}
