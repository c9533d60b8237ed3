//! One run: nodes, network and plan on one clock, in an order that depends on the seed alone.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};

use protocol::config::Generations;
use protocol::handshake::legacy::{LegacyConfig, LegacyHandshake, LegacyKeys, Spoken};
use protocol::handshake::probe::ALPN_HTTP;
use protocol::handshake::{ClientHandshake, ClientHandshakeConfig};
use protocol::key::TunnelKey;
use protocol::proof::{ALPN, PreKey};
use protocol::rng::{Rng, Seed};
use protocol::terms::{DataTls, Generation, InstanceId};
use protocol::time::{Duration, Instant, earliest};
use protocol::wire::signal::Signal;

use crate::carrier::Ctx;
use crate::net::{Layer, Net, Sock, Told};
use crate::node_client::Client;
use crate::node_server::{Server, bye};
use crate::oracle::{Ended, Event, Oracle};
use crate::plan::{CHECK_AFTER, Fault, Node, Plan};

/// More steps than any run needs: beyond, something spins.
const STEPS: usize = 2_000_000;
/// How long everything may take to end after the goodbye.
const SHUTDOWN: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, Hash)]
enum Cue {
    User(usize),
    Leaves(usize),
    Fault(Fault),
    ServerBack,
    Heal,
    Check,
    Shutdown,
}

/// How a run went, for those who compare runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) trace: u64,
    pub(crate) steps: usize,
    pub(crate) users: BTreeMap<Ended, usize>,
    pub(crate) events: BTreeMap<Event, usize>,
}

pub(crate) struct World<'a> {
    plan: &'a Plan,
    net: Net,
    oracle: Oracle,
    rng: Rng,
    server: Option<Server>,
    clients: Vec<Client>,
    attacks: BTreeMap<Sock, Fault>,
    cues: BTreeMap<(Instant, usize), Cue>,
    cued: usize,
    trace: DefaultHasher,
    verbose: bool,
}

/// What a node needs of the world around it.
macro_rules! ctx {
    ($world:ident) => {
        &mut Ctx {
            now: $world.net.now,
            net: &mut $world.net,
            oracle: &mut $world.oracle,
            plan: $world.plan,
        }
    };
}

impl<'a> World<'a> {
    pub(crate) fn new(plan: &'a Plan, verbose: bool) -> Self {
        let mut seed = [1; 32];
        seed[..8].copy_from_slice(&plan.seed.to_be_bytes());
        let mut rng = Rng::new(Seed(seed));
        let now = Instant::default();
        let net = Rng::new(rng.seed());
        let server = Server::new(plan, &mut rng, now);
        let client = |number| Client::new(plan, number, Rng::new(rng.seed()), now);
        let clients = (0..plan.clients).map(client).collect();
        let mut world = Self {
            plan,
            net: Net::new(plan, net),
            oracle: Oracle::default(),
            rng,
            server: Some(server),
            clients,
            attacks: BTreeMap::new(),
            cues: BTreeMap::new(),
            cued: 0,
            trace: DefaultHasher::new(),
            verbose,
        };
        for (number, user) in plan.users.iter().enumerate() {
            world.cue(user.at, Cue::User(number));
        }
        for &(at, fault) in &plan.faults {
            world.cue(at, Cue::Fault(fault));
        }
        world.cue(plan.heal, Cue::Heal);
        let checked = plan.healed().after(CHECK_AFTER);
        world.cue(checked, Cue::Check);
        world.cue(checked, Cue::Shutdown);
        world
    }

    pub(crate) fn run(mut self) -> Summary {
        let end = self.plan.healed().after(SHUTDOWN);
        let mut steps = 0;
        while let Some(at) = self.next().filter(|&at| at <= end) {
            self.net.now = self.net.now.max(at);
            self.step();
            steps += 1;
            assert!(steps < STEPS, "it never comes to rest");
        }
        self.net.now = end;
        self.check_empty();
        self.net.now = end.after(Duration::from_secs(24 * 60 * 60));
        for at in 0..=self.clients.len() {
            self.wake(at);
        }
        self.check_empty();
        self.oracle.check_final(self.plan);
        Summary {
            trace: self.trace.finish(),
            steps,
            users: self.oracle.tally(),
            events: self.oracle.events,
        }
    }

    fn next(&self) -> Option<Instant> {
        let cue = self.cues.first_key_value().map(|(&(at, _), _)| at);
        earliest(earliest(self.net.next(), cue), self.nodes_due())
    }

    fn nodes_due(&self) -> Option<Instant> {
        let server = self.server.as_ref().and_then(Server::poll_timeout);
        let clients = self.clients.iter().filter_map(Client::poll_timeout).min();
        earliest(server, clients)
    }

    fn step(&mut self) {
        let now = self.net.now;
        if self.net.next().is_some_and(|at| at <= now) {
            for (node, told) in self.net.step() {
                self.note(&(node, told));
                self.tell(node, told);
            }
        } else if self
            .cues
            .first_key_value()
            .is_some_and(|(&(at, _), _)| at <= now)
        {
            if let Some((_, cue)) = self.cues.pop_first() {
                self.note(&cue);
                self.act(cue);
            }
        } else {
            for at in 0..=self.clients.len() {
                self.wake(at);
            }
        }
    }

    fn wake(&mut self, at: usize) {
        let now = self.net.now;
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if at == 0 {
            let Some(server) = &mut self.server else {
                return;
            };
            if is_due(server.poll_timeout()) {
                server.handle_timeout(ctx!(self));
                self.note(&"server");
            }
        } else if is_due(self.clients[at - 1].poll_timeout()) {
            self.clients[at - 1].handle_timeout(ctx!(self));
            self.note(&at);
        }
    }

    fn tell(&mut self, node: Node, told: Told) {
        match node {
            Node::Server => {
                if let Some(server) = &mut self.server {
                    server.told(ctx!(self), told);
                }
            }
            Node::Client(number) => self.clients[number].told(ctx!(self), told),
            Node::Attacker => self.attack_goes_on(told),
        }
    }

    fn act(&mut self, cue: Cue) {
        match cue {
            Cue::User(user) => {
                self.oracle.came(user, self.net.now);
                if let Some(after) = self.plan.users[user].leaves {
                    self.cue(self.net.now.after(after), Cue::Leaves(user));
                }
                match (self.plan.users[user].node, &mut self.server) {
                    (Node::Client(number), _) => self.clients[number].user(ctx!(self), user),
                    (_, Some(server)) => server.user(ctx!(self), user),
                    (_, None) => self.oracle.end(user, Ended::Crashed, true),
                }
            }
            Cue::Leaves(user) => match (self.plan.users[user].node, &mut self.server) {
                (Node::Client(number), _) => self.clients[number].user_leaves(ctx!(self), user),
                (_, Some(server)) => server.user_leaves(ctx!(self), user),
                (_, None) => {}
            },
            Cue::Fault(fault) => self.fault(fault),
            Cue::ServerBack => self.server_back(),
            Cue::Heal => {
                self.net.heal();
                for sock in core::mem::take(&mut self.attacks).into_keys() {
                    self.net.abort(sock);
                }
                self.server_back();
            }
            Cue::Check => self.check_live(),
            Cue::Shutdown => {
                for client in &mut self.clients {
                    client.leave(ctx!(self), true);
                }
            }
        }
    }

    fn server_back(&mut self) {
        if self.server.is_none() {
            self.net.server_up = true;
            self.server = Some(Server::new(self.plan, &mut self.rng, self.net.now));
        }
    }

    fn fault(&mut self, fault: Fault) {
        let now = self.net.now;
        match fault {
            Fault::Reset => self.net.reset_one(),
            Fault::HalfOpen => self.net.half_open_one(),
            Fault::Stall(span) => self.net.stall_one(now.after(span)),
            Fault::Blackhole(span) => self.net.blackhole(now.after(span)),
            Fault::RefuseDials(span) => self.net.refuse_dials(now.after(span)),
            Fault::CrashServer { silent, down } => {
                if let Some(server) = self.server.take() {
                    self.net.crash(Node::Server, silent);
                    self.net.server_up = false;
                    server.crash(ctx!(self));
                    self.cue(now.after(down), Cue::ServerBack);
                }
            }
            Fault::CrashClient { client, silent } => {
                self.net.crash(Node::Client(client), silent);
                let fresh = Client::new(self.plan, client, Rng::new(self.rng.seed()), now);
                let old = core::mem::replace(&mut self.clients[client], fresh);
                old.crash(ctx!(self));
            }
            Fault::Flush => {
                if let Some(server) = &mut self.server {
                    server.say(ctx!(self), &Signal::Flush);
                }
            }
            Fault::ServerBye => {
                if let Some(server) = &mut self.server {
                    server.say(ctx!(self), &bye(300));
                }
            }
            Fault::ClientBye { client } => self.clients[client].leave(ctx!(self), false),
            Fault::WrongKey { .. } | Fault::Garbage | Fault::Replay | Fault::Silence => {
                let is_neighbour = fault == Fault::WrongKey { neighbour: true };
                let stranger = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
                let from = if is_neighbour {
                    self.plan.address(0)
                } else {
                    stranger
                };
                let layer = self.layer_of_attack(fault);
                let sock = self.net.dial_to_speak(Node::Attacker, from, layer);
                self.net.blame_attacker(sock);
                self.attacks.insert(sock, fault);
            }
        }
    }

    fn attack_goes_on(&mut self, told: Told) {
        match told {
            Told::Connected(sock) => {
                let bytes = match self.attacks.get(&sock) {
                    Some(Fault::WrongKey { .. }) => self.wrong_hello(sock),
                    Some(Fault::Garbage) => self.rng.bytes::<64>().to_vec(),
                    Some(Fault::Replay) => {
                        let said = self.clients.iter().find_map(|client| client.said);
                        said.map_or(Vec::new(), |bytes| bytes.to_vec())
                    }
                    _ => Vec::new(),
                };
                self.net.write(sock, &bytes);
            }
            Told::Readable(sock) | Told::Reset(sock) | Told::Failed(sock) => {
                self.attacks.remove(&sock);
                self.net.abort(sock);
            }
            Told::Accepted(..) | Told::Writable(_) => {}
        }
    }

    /// What the first client speaks, if that is not our own generation.
    fn legacy(&self) -> Option<Spoken> {
        let speaks = |it| self.plan.speak[0] == Generations::only(it);
        match () {
            () if speaks(Generation::Http) => Some(Spoken::Http),
            () if speaks(Generation::Https) => Some(Spoken::Https),
            () if speaks(Generation::Classic) => Some(Spoken::Classic),
            () => None,
        }
    }

    fn layer_of_attack(&self, fault: Fault) -> Layer {
        match (fault, self.legacy()) {
            (Fault::Replay, _) if self.plan.tls == DataTls::Plain => Layer::Plain,
            (Fault::Replay, _) | (_, None) => Layer::Tls(Some(ALPN)),
            (_, Some(Spoken::Https)) => Layer::Tls(Some(ALPN_HTTP)),
            (_, Some(Spoken::Http | Spoken::Classic)) => Layer::Plain,
        }
    }

    fn wrong_hello(&self, sock: Sock) -> Vec<u8> {
        if let Some(spoken) = self.legacy() {
            let config = LegacyConfig {
                host: "none".into(),
                least_tls: DataTls::Plain,
            };
            let keys = LegacyKeys::new(&TunnelKey::new("a wrong key"), None);
            let (now, wait) = (self.net.now, Duration::from_secs(5));
            let mut out = Vec::new();
            let wait = LegacyHandshake::start(spoken, &config, &keys, now, wait, &mut out);
            assert!(wait.is_ok());
            return out;
        }
        let config = ClientHandshakeConfig {
            instance: InstanceId([9; 16]),
            agent: "attacker".into(),
            least_tls: DataTls::Plain,
        };
        let key = PreKey::from_bytes([8; 32]);
        let (now, wait) = (self.net.now, Duration::from_secs(5));
        let mut out = Vec::new();
        let exporter = self.net.exporter(sock, b'A');
        let _wait = ClientHandshake::start(&config, &key, &exporter, now, wait, &mut out);
        out
    }

    /// Some time after the last fault, everything works as if there had been none.
    fn check_live(&self) {
        let sessions = self.server.as_ref().map(Server::sessions);
        assert_eq!(
            sessions,
            Some(self.clients.len()),
            "not every session is back"
        );
        assert!(self.server.as_ref().is_some_and(Server::is_well));
        for (number, client) in self.clients.iter().enumerate() {
            assert!(
                client.is_well(self.plan),
                "client {number} is not well again"
            );
        }
        let probes = self.plan.ingress_nodes().len();
        for probe in (0..self.plan.users.len()).rev().take(probes) {
            let how = self.oracle.how(probe);
            assert_eq!(how, Some(Ended::Served), "probe {probe} after the faults");
        }
    }

    /// Nothing outlives the goodbye.
    fn check_empty(&self) {
        let server = self.server.as_ref();
        assert!(
            server.is_some_and(Server::is_empty),
            "the server holds on to something"
        );
        assert_eq!(
            self.net.open_ends(Node::Server),
            0,
            "the server leaks connections"
        );
        for (number, client) in self.clients.iter().enumerate() {
            assert!(client.is_empty(), "client {number} holds on to something");
            let open = self.net.open_ends(Node::Client(number));
            assert_eq!(open, 0, "client {number} leaks connections");
            assert_eq!(
                client.poll_timeout(),
                None,
                "client {number} has a deadline"
            );
        }
    }

    fn cue(&mut self, at: Instant, cue: Cue) {
        self.cued += 1;
        self.cues.insert((at, self.cued), cue);
    }

    fn note(&mut self, event: &(impl Hash + core::fmt::Debug)) {
        self.net.now.hash(&mut self.trace);
        event.hash(&mut self.trace);
        if self.verbose {
            println!("{:>12?} {event:?}", self.net.now.since_origin());
        }
    }
}
