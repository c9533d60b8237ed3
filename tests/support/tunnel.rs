//! A server and a client of ours, around a target.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::binary::{Launch, Process};
use super::certificates::Authority;
use super::cutter::Cutter;
use super::kernel::{descriptors, established, until_listening};
use super::ports::Port;
use super::scratch::Scratch;
use super::until::{pause, until};

/// Which end accepts users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The server.
    Reverse,
    /// The client.
    Forward,
}

/// One end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The `server://` one.
    Server,
    /// The `client://` one.
    Client,
}

/// The key of a tunnel unless a test chooses others.
pub(crate) const KEY: &str = "a-key-for-tests";

/// Makes a module of six tests from a function: both flows, `tls` 0, 1 and 2.
macro_rules! in_every_mode {
    ($($test:ident),+ $(,)?) => { $(
        mod $test {
            use crate::support::tunnel::Flow;
            #[test]
            fn reverse_tls0() { super::$test(Flow::Reverse, 0); }
            #[test]
            fn reverse_tls1() { super::$test(Flow::Reverse, 1); }
            #[test]
            fn reverse_tls2() { super::$test(Flow::Reverse, 2); }
            #[test]
            fn forward_tls0() { super::$test(Flow::Forward, 0); }
            #[test]
            fn forward_tls1() { super::$test(Flow::Forward, 1); }
            #[test]
            fn forward_tls2() { super::$test(Flow::Forward, 2); }
        }
    )+ };
}
pub(crate) use in_every_mode;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    flow: Flow,
    tls: u8,
    targets: String,
    server_key: String,
    client_key: String,
    server_params: String,
    client_params: String,
    min: u16,
    env: Vec<(String, String)>,
    env_of_ends: [Vec<(String, String)>; 2],
    users_on: IpAddr,
    through_cutter: bool,
    second_driver: Option<End>,
    under: Option<(End, Vec<String>)>,
}

impl Setup {
    /// A tunnel to `target`, with `min=4` so that the many tests at once stay small.
    pub(crate) fn new(flow: Flow, tls: u8, target: SocketAddr) -> Self {
        Self {
            flow,
            tls,
            targets: target.to_string(),
            server_key: KEY.to_owned(),
            client_key: KEY.to_owned(),
            server_params: String::new(),
            client_params: String::new(),
            min: 4,
            env: Vec::new(),
            env_of_ends: Default::default(),
            users_on: Ipv4Addr::LOCALHOST.into(),
            through_cutter: false,
            second_driver: None,
            under: None,
        }
    }

    /// One more target.
    pub(crate) fn target(mut self, target: SocketAddr) -> Self {
        self.targets = format!("{},{target}", self.targets);
        self
    }

    /// More parameters of the server, `name=value`.
    pub(crate) fn server(mut self, params: &str) -> Self {
        self.server_params = format!("&{params}{}", self.server_params);
        self
    }

    /// More parameters of the client.
    pub(crate) fn client(mut self, params: &str) -> Self {
        self.client_params = format!("&{params}{}", self.client_params);
        self
    }

    /// Accepts users on `ip` instead of 127.0.0.1.
    pub(crate) const fn users_on(mut self, ip: IpAddr) -> Self {
        self.users_on = ip;
        self
    }

    /// `min` of the client.
    pub(crate) const fn min(mut self, min: u16) -> Self {
        self.min = min;
        self
    }

    /// More parameters of the end that accepts users.
    pub(crate) fn ingress(self, params: &str) -> Self {
        match self.flow {
            Flow::Reverse => self.server(params),
            Flow::Forward => self.client(params),
        }
    }

    /// More parameters of the end that dials the target.
    pub(crate) fn egress(self, params: &str) -> Self {
        match self.flow {
            Flow::Reverse => self.client(params),
            Flow::Forward => self.server(params),
        }
    }

    /// Different keys at the two ends.
    pub(crate) fn keys(mut self, server: &str, client: &str) -> Self {
        server.clone_into(&mut self.server_key);
        client.clone_into(&mut self.client_key);
        self
    }

    /// An environment variable for both ends.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// More of them for the server, and for the client.
    pub(crate) fn env_of_ends(
        mut self,
        server: &[(&str, String)],
        client: &[(&str, String)],
    ) -> Self {
        self.env_of_ends = [server, client].map(|list| {
            let owned = list
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()));
            owned.collect()
        });
        self
    }

    /// With the second driver as one end.
    pub(crate) const fn second_driver(mut self, end: End) -> Self {
        self.second_driver = Some(end);
        self
    }

    /// With one end started by another program, see [`Launch::under`].
    pub(crate) fn under(mut self, end: End, program: &[&str]) -> Self {
        self.under = Some((end, program.iter().map(|&it| it.to_owned()).collect()));
        self
    }

    /// With a [`Cutter`] between client and server.
    pub(crate) fn through_cutter(mut self) -> Self {
        self.through_cutter = true;
        self
    }

    /// Starts both ends, the server first, and waits for neither.
    pub(crate) fn launch(&self) -> Pair {
        let (tunnel, users) = (Port::reserve(), Port::reserve_on(self.users_on));
        let cutter = self.through_cutter.then(|| Cutter::before(tunnel.addr()));
        let entrance = cutter.as_ref().map_or_else(|| tunnel.addr(), Cutter::addr);
        let files = (self.tls == 2).then(|| {
            let (scratch, authority) = (Scratch::new(), Authority::new());
            authority.issue_into(&scratch);
            (scratch, authority)
        });
        let path = |name| {
            files
                .as_ref()
                .map(|(dir, _)| dir.path().join(name).display().to_string())
        };
        let certificate = match (path("crt.pem"), path("key.pem")) {
            (Some(crt), Some(key)) => format!("&crt={crt}&key={key}"),
            _ => String::new(),
        };
        let trust = path("ca.pem").map_or_else(String::new, |ca| format!("&ca={ca}"));
        let (mode, server_side, client_side) = match self.flow {
            Flow::Reverse => (1, users.addr().to_string(), self.targets.clone()),
            Flow::Forward => (2, self.targets.clone(), users.addr().to_string()),
        };
        let (tls, addr) = (self.tls, tunnel.addr());
        let [of_server, of_client] = &self.env_of_ends;
        let server_launch = self.with_env(
            of_server,
            Launch::new([format!(
                "server://{}@{addr}/{server_side}?mode={mode}&tls={tls}{certificate}{}",
                self.server_key, self.server_params
            )]),
        );
        let client_launch = self.with_env(
            of_client,
            Launch::new([format!(
                "client://{}@{entrance}/{client_side}?mode=2&min={}{trust}{}",
                self.client_key, self.min, self.client_params
            )]),
        );
        let (server_launch, client_launch) = match self.second_driver {
            Some(End::Server) => (server_launch.second_driver(), client_launch),
            Some(End::Client) => (server_launch, client_launch.second_driver()),
            None => (server_launch, client_launch),
        };
        let (server_launch, client_launch) = match &self.under {
            Some((End::Server, program)) => (server_launch.under(program.clone()), client_launch),
            Some((End::Client, program)) => (server_launch, client_launch.under(program.clone())),
            None => (server_launch, client_launch),
        };
        Pair {
            server: server_launch.start(),
            client: client_launch.start(),
            tunnel,
            users,
            cutter,
            server_launch,
            client_launch,
            files,
        }
    }

    /// Starts both ends and waits until users can connect. None does, so nothing reaches the
    /// target.
    pub(crate) fn start(&self) -> Pair {
        let pair = self.launch();
        until_listening(pair.users());
        until(
            "the first data connections",
            Duration::from_secs(20),
            || (established(pair.tunnel.addr()) >= 2).then_some(()),
        );
        pair
    }

    fn with_env(&self, of_end: &[(String, String)], launch: Launch) -> Launch {
        let set =
            |launch: Launch, (name, value): &(String, String)| launch.env(name, value.as_str());
        self.env.iter().chain(of_end).fold(launch, set)
    }
}

/// A running tunnel.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The `server://` end.
    pub(crate) server: Process,
    /// The `client://` end.
    pub(crate) client: Process,
    /// The tunnel address of the server.
    pub(crate) tunnel: Port,
    users: Port,
    cutter: Option<Cutter>,
    server_launch: Launch,
    client_launch: Launch,
    files: Option<(Scratch, Authority)>,
}

impl Pair {
    /// Where users connect.
    pub(crate) const fn users(&self) -> SocketAddr {
        self.users.addr()
    }

    /// The relay between client and server.
    pub(crate) fn cutter(&self) -> &Cutter {
        self.cutter.as_ref().expect("a setup through a cutter")
    }

    /// The server's certificate files and who issues them, with `tls=2`.
    pub(crate) fn files(&self) -> (&Scratch, &Authority) {
        let (scratch, authority) = self.files.as_ref().expect("a setup with tls=2");
        (scratch, authority)
    }

    /// Established connections at the tunnel address, the control connection included.
    pub(crate) fn connections(&self) -> usize {
        established(self.tunnel.addr())
    }

    /// Descriptors of an end beyond its tunnel connections, once both stay as they are for a while.
    pub(crate) fn other_descriptors(&self, end: End) -> usize {
        let pid = match end {
            End::Server => self.server.id(),
            End::Client => self.client.id(),
        };
        let look = || (self.connections(), descriptors(pid));
        until("an end at rest", Duration::from_secs(20), || {
            let (connections, all) = look();
            pause(Duration::from_millis(100));
            (look() == (connections, all)).then(|| all.saturating_sub(connections))
        })
    }

    /// Kills the server and starts it again at once.
    pub(crate) fn restart_server(&mut self) {
        self.server.kill();
        self.start_server();
    }

    /// Starts the server again after it has ended.
    pub(crate) fn start_server(&mut self) {
        self.server = self.server_launch.start();
    }

    /// Kills the client and starts it again at once.
    pub(crate) fn restart_client(&mut self) {
        self.client.kill();
        self.start_client();
    }

    /// Starts the client again after it has ended.
    pub(crate) fn start_client(&mut self) {
        self.client = self.client_launch.start();
    }
}
