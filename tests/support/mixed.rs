//! One end of ours and a scripted peer of another generation, around a target.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::binary::{Launch, Process};
use super::legacy::{Generation, Peer, Script, interval};
use super::ports::Port;
use super::tunnel::{End, Flow};
use super::until::secs;

/// A row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    /// Which end is ours.
    pub(crate) ours: End,
    /// What the other one speaks.
    pub(crate) generation: Generation,
    /// Who accepts users.
    pub(crate) flow: Flow,
    /// `tls`, of whichever end is the server.
    pub(crate) tls: u8,
    /// The key of both, as it is written in a URL.
    pub(crate) key: Option<&'static str>,
    /// More parameters of ours.
    pub(crate) params: String,
    /// `min` of the client, whichever end it is.
    pub(crate) min: usize,
    /// Where both ends listen.
    pub(crate) ip: IpAddr,
    /// Environment variables of ours.
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Mix {
    /// Reverse, `tls=0`, with a key.
    pub(crate) fn new(ours: End, generation: Generation) -> Self {
        Self {
            ours,
            generation,
            flow: Flow::Reverse,
            tls: 0,
            key: Some("a-key-for-tests"),
            params: String::new(),
            min: 4,
            ip: Ipv4Addr::LOCALHOST.into(),
            env: Vec::new(),
        }
    }

    /// With an environment variable of ours.
    pub(crate) fn env(mut self, name: &'static str, value: impl ToString) -> Self {
        self.env.push((name, value.to_string()));
        self
    }

    /// With this flow and `tls`.
    pub(crate) fn with(mut self, flow: Flow, tls: u8) -> Self {
        (self.flow, self.tls) = (flow, tls);
        self
    }

    /// With more parameters of ours, each with a `&` before it.
    pub(crate) fn params(mut self, params: &str) -> Self {
        self.params.push_str(params);
        self
    }

    /// Both flows, `tls` 0 and 1, with a key and without.
    pub(crate) fn table(ours: End, generation: Generation) -> Vec<Self> {
        let mut rows = Vec::new();
        for flow in [Flow::Reverse, Flow::Forward] {
            for tls in [0, 1] {
                for key in [Some("k%C3%A9y-50%25"), None] {
                    rows.push(Self {
                        key,
                        ..Self::new(ours, generation).with(flow, tls)
                    });
                }
            }
        }
        rows
    }

    /// Every generation with both of our ends.
    pub(crate) fn every() -> Vec<Self> {
        let rows = Generation::ALL.into_iter().flat_map(|generation| {
            [End::Client, End::Server].map(|ours| Self::new(ours, generation))
        });
        rows.collect()
    }

    /// Starts both ends, the server first.
    pub(crate) fn start(&self, target: SocketAddr) -> Mixed {
        self.start_as(target, |_| {})
    }

    /// Starts both ends, the scripted one changed by `odd`.
    pub(crate) fn start_as(&self, target: SocketAddr, odd: impl FnOnce(&mut Script)) -> Mixed {
        let [tunnel, users] = [self.ip; 2].map(Port::reserve_on);
        let (at_server, at_client) = match self.flow {
            Flow::Reverse => (users.addr(), target),
            Flow::Forward => (target, users.addr()),
        };
        let local = if self.ours == End::Server {
            at_client
        } else {
            at_server
        };
        let mut script = Script {
            flow: self.flow,
            tls: self.tls,
            key: self.key.map(decoded),
            min: self.min,
            ..Script::new(self.generation, tunnel.addr(), local)
        };
        odd(&mut script);
        let launch = self.launch(&tunnel, at_server, at_client);
        let (ours, peer) = match self.ours {
            End::Server => (launch.start(), script.dial()),
            End::Client => {
                let peer = script.serve();
                (launch.start(), peer)
            }
        };
        Mixed {
            ours,
            peer,
            launch,
            script,
            end: self.ours,
            tunnel,
            users,
        }
    }

    /// How our end is started.
    pub(crate) fn launch(
        &self,
        tunnel: &Port,
        at_server: SocketAddr,
        at_client: SocketAddr,
    ) -> Launch {
        let key = self.key.map_or_else(String::new, |key| format!("{key}@"));
        let (addr, tls, params, min) = (tunnel.addr(), self.tls, &self.params, self.min);
        let mode = if self.flow == Flow::Reverse { 1 } else { 2 };
        // A client goes down to `classic` only if it is named.
        let named = self.generation == Generation::Classic && !params.contains("proto=");
        let proto = if named { "&proto=classic" } else { "" };
        let url = match self.ours {
            End::Server => {
                format!("server://{key}{addr}/{at_server}?mode={mode}&tls={tls}{params}")
            }
            End::Client => {
                format!("client://{key}{addr}/{at_client}?mode=2&min={min}{proto}{params}")
            }
        };
        let interval = format!("{}ms", interval().as_millis());
        let launch = Launch::new([url]).env("NP_REPORT_INTERVAL", interval);
        self.env
            .iter()
            .fold(launch, |launch, (name, value)| launch.env(name, value))
    }
}

/// The key of a URL as it is used.
fn decoded(key: &str) -> String {
    key.replace("%C3%A9", "é").replace("%25", "%")
}

/// Both ends, running.
#[derive(Debug)]
pub(crate) struct Mixed {
    /// Our end.
    pub(crate) ours: Process,
    /// The other one.
    pub(crate) peer: Peer,
    /// How the other one is started.
    pub(crate) script: Script,
    /// The tunnel address.
    pub(crate) tunnel: Port,
    launch: Launch,
    end: End,
    users: Port,
}

impl Mixed {
    /// Where users connect.
    pub(crate) const fn users(&self) -> SocketAddr {
        self.users.addr()
    }

    /// Kills our end and starts it again at once.
    pub(crate) fn restart_ours(&mut self) {
        self.ours.kill();
        self.ours = self.launch.start();
    }

    /// The peer stops and starts again.
    pub(crate) fn restart_peer(&mut self) {
        self.peer.stop();
        self.peer = match self.end {
            End::Server => self.script.dial(),
            End::Client => self.script.serve(),
        };
    }

    /// The session that there was first lives, and our end has kept to the rules.
    pub(crate) fn one_session(&self) {
        assert!(
            self.peer.is_up() && self.peer.sessions() == 1,
            "a session broke"
        );
        self.fair_play();
    }

    /// Warnings of our end about sessions of a generation.
    pub(crate) fn warnings(&self, generation: Generation) -> Vec<String> {
        let lines = self.ours.lines_with(&["WARN", generation.name()]);
        lines
            .into_iter()
            .filter(|line| !line.contains("://") && !line.contains("no session"))
            .collect()
    }

    /// Every broken rule so far is a failed test now, not at the end.
    pub(crate) fn fair_play(&self) {
        assert!(self.peer.fouls().is_empty(), "{:?}", self.peer.fouls());
    }
}

/// How long a session may take to come up. A set-up of the field takes two intervals and more.
pub(crate) fn patience() -> Duration {
    interval() * 6 + secs(20)
}
