//! What happens in one run, all of it from one seed or from the bytes of a fuzzer.

mod draw;

use std::net::{IpAddr, Ipv4Addr};

use protocol::config::Generations;
use protocol::limits;
use protocol::rng::{Rng, Seed};
use protocol::terms::{DataTls, Flow, Generation};
use protocol::testing::script::Script;
use protocol::time::{Duration, Instant};

use draw::Draw;

/// The most users and faults of a script.
const STEPS: usize = 64;

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    Server,
    Client(usize),
    Attacker,
}

/// One user, and the target it is connected with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) at: Instant,
    /// Where it comes: the ingress.
    pub(crate) node: Node,
    pub(crate) up: usize,
    pub(crate) down: usize,
    /// Whether the target speaks before the user has ended.
    pub(crate) target_speaks_first: bool,
    /// How long the target takes to answer.
    pub(crate) target_delay: Duration,
    pub(crate) target_refuses: bool,
    /// How long the user waits for a connection at most, if it leaves before ingress gives up.
    pub(crate) leaves: Option<Duration>,
}

impl User {
    fn draw(at: Instant, nodes: &[Node], rng: &mut impl Draw) -> Self {
        let node = nodes[rng.below(nodes.len() as u32) as usize];
        let most = if rng.below(10) == 0 { 40_000 } else { 300 };
        Self {
            at,
            node,
            up: rng.below(most) as usize,
            down: rng.below(most) as usize,
            target_speaks_first: rng.below(2) == 0,
            target_delay: Duration::from_millis(rng.below(300).into()),
            target_refuses: rng.below(12) == 0,
            leaves: (rng.below(10) == 0).then(|| Duration::from_millis(rng.below(2000).into())),
        }
    }
}

/// Something that goes wrong, or is done by an operator or an attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    Reset,
    HalfOpen,
    Stall(Duration),
    Blackhole(Duration),
    RefuseDials(Duration),
    CrashServer { silent: bool, down: Duration },
    CrashClient { client: usize, silent: bool },
    Flush,
    ServerBye,
    ClientBye { client: usize },
    WrongKey { neighbour: bool },
    Garbage,
    Replay,
    Silence,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) flow: Flow,
    pub(crate) tls: DataTls,
    pub(crate) clients: usize,
    /// What each client may speak.
    pub(crate) speak: Vec<Generations>,
    /// Whether the first client, a legacy one, and the second, a native one, have one address.
    pub(crate) neighbours: bool,
    pub(crate) pool_min: usize,
    pub(crate) pool_max: usize,
    pub(crate) report_interval: Duration,
    pub(crate) wait: Duration,
    /// The longest way of a byte, in milliseconds.
    pub(crate) delay: u32,
    /// Whether streams are cut into small pieces.
    pub(crate) pieces: bool,
    pub(crate) window: usize,
    /// How long a client may take, in milliseconds, before it says its first word.
    pub(crate) dawdles: u32,
    /// How many of 100 TLS connections have somebody in the middle.
    pub(crate) mitm: u32,
    pub(crate) users: Vec<User>,
    pub(crate) faults: Vec<(Instant, Fault)>,
    /// When the faults end.
    pub(crate) heal: Instant,
    /// How long after that everything works again.
    pub(crate) recovery: Duration,
}

impl Plan {
    pub(crate) fn from_seed(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut rng = Rng::new(Seed(bytes));
        let mut plan = Self::world(seed, &mut rng);
        plan.mix_generations(&mut rng);
        let safety = plan.heal.since_origin().as_millis() as u32;
        plan.add_users(&mut rng, safety);
        plan.add_faults(&mut rng, safety);
        plan.add_probes();
        plan
    }

    /// Any bytes are a run with some users and faults; only the network's whims come from a seed.
    pub(crate) fn from_script(bytes: &[u8]) -> Self {
        let mut script = Script::new(bytes);
        let seed = script.u16();
        let mut plan = Self::world(seed.into(), &mut script);
        plan.mix_generations(&mut script);
        let nodes = plan.ingress_nodes();
        let mut at = 0;
        for _ in 0..STEPS {
            if script.is_empty() {
                break;
            }
            at += u32::from(script.u8()) << script.below(6);
            match script.below(28) {
                kind @ 0..14 => {
                    let fault = plan.fault(kind, &mut script);
                    plan.faults.push((millis(at), fault));
                }
                _ => plan.users.push(User::draw(millis(at), &nodes, &mut script)),
            }
        }
        plan.heal = millis(at);
        plan.add_probes();
        plan
    }

    /// A world without users and faults.
    fn world(seed: u64, draw: &mut impl Draw) -> Self {
        let flow = if draw.below(2) == 0 {
            Flow::Reverse
        } else {
            Flow::Forward
        };
        let clients = 1 + draw.below(3) as usize;
        let pool_min = 1 + draw.below(6) as usize;
        let safety = 20_000 + draw.below(40_000);
        Self {
            seed,
            flow,
            tls: if draw.below(3) == 0 {
                DataTls::Plain
            } else {
                DataTls::Pinned
            },
            clients,
            speak: vec![Generations::only(Generation::Native); clients],
            neighbours: false,
            pool_min,
            pool_max: pool_min + draw.below(24) as usize,
            report_interval: Duration::from_millis(1000 + u64::from(draw.below(4000))),
            wait: Duration::from_millis(1000 + u64::from(draw.below(5000))),
            delay: 1 << draw.below(8),
            pieces: draw.below(2) == 0,
            window: if draw.below(3) == 0 { 512 } else { 65_536 },
            dawdles: if draw.below(3) == 0 { 400 } else { 0 },
            mitm: if draw.below(8) == 0 { 30 } else { 0 },
            users: Vec::new(),
            faults: Vec::new(),
            heal: millis(safety),
            recovery: Duration::ZERO,
        }
    }

    /// One legacy client whose host is gone and comes back, on a calm day. Everything works again
    /// before the silence of the old session would have ended it.
    pub(crate) fn restart(seed: u64) -> Self {
        let mut plan = Self::from_seed(seed);
        let spoken = [Generation::Http, Generation::Https, Generation::Classic];
        let spoken = spoken[seed as usize % 3];
        // Silence in the clear means nothing where data connections are TLS, and the other way round.
        plan.tls = match spoken {
            Generation::Https => DataTls::Pinned,
            _ => DataTls::Plain,
        };
        plan.speak = vec![Generations::only(spoken)];
        (plan.clients, plan.neighbours, plan.mitm) = (1, false, 0);
        plan.dawdles = 400;
        plan.users.retain(|user| user.at >= plan.heal);
        plan.users.truncate(1);
        let crash = millis(10_000);
        let (client, silent) = (0, true);
        plan.faults = vec![(crash, Fault::CrashClient { client, silent })];
        plan.heal = crash;
        plan.recovery = limits::HTTP_SILENCE - CHECK_AFTER - Duration::from_secs(1);
        for user in &mut plan.users {
            user.at = plan.heal.after(plan.recovery);
            user.node = match plan.flow {
                Flow::Reverse => Node::Server,
                Flow::Forward => Node::Client(0),
            };
        }
        plan
    }

    pub(crate) fn address(&self, client: usize) -> IpAddr {
        let host = if self.neighbours {
            client.max(1)
        } else {
            client
        };
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + host as u8))
    }

    /// Whether a client speaks another generation than our own.
    pub(crate) fn has_legacy(&self) -> bool {
        let native = Generations::only(Generation::Native);
        self.speak.iter().any(|&speaks| speaks != native)
    }

    /// How long after the faults everything works again: the silence is noticed, one attempt may
    /// still hang, the next one waits for its back-off; an idle connection that is dead is noticed
    /// by keep-alive after 30 s; a ban outlasts that. A legacy client may have to find out that the
    /// control channel of its session went to a connection that is dead, or to a stranger's.
    fn recover(&self) -> Duration {
        let is_ban = |fault: &Fault| matches!(fault, Fault::WrongKey { neighbour: true });
        let banned = self.mitm > 0 || self.faults.iter().any(|(_, fault)| is_ban(fault));
        let ban = Duration::from_secs(if banned { 70 } else { 0 });
        let legacy = if self.has_legacy() {
            limits::ID_WAIT + limits::CLASSIC_SILENCE
        } else {
            Duration::ZERO
        };
        self.report_interval * 4 + Duration::from_secs(35) + ban + legacy
    }

    pub(crate) fn healed(&self) -> Instant {
        self.heal.after(self.recovery)
    }

    /// Half of the worlds have clients of one legacy generation beside native ones.
    fn mix_generations(&mut self, rng: &mut impl Draw) {
        let (legacy, weaker) = match rng.below(6) {
            0 => (Generation::Http, Generation::Classic),
            1 => (Generation::Https, Generation::Http),
            2 => (Generation::Classic, Generation::Classic),
            _ => return,
        };
        for speaks in &mut self.speak {
            if rng.below(3) > 0 {
                *speaks = Generations::only(legacy);
                // Such a client looks for the other one after some failures.
                if rng.below(4) == 0 {
                    *speaks = speaks.with(weaker);
                }
            }
        }
        // Without TLS, a native data connection whose first bytes are late is taken for one of the
        // neighbour's (`wire.md` §1).
        let native = Generations::only(Generation::Native);
        self.neighbours = self.tls == DataTls::Pinned
            && matches!(self.speak[..], [first, second, ..] if first != native && second == native);
    }

    pub(crate) fn ingress_nodes(&self) -> Vec<Node> {
        match self.flow {
            Flow::Reverse => vec![Node::Server],
            Flow::Forward => (0..self.clients).map(Node::Client).collect(),
        }
    }

    /// Whether nothing at all goes wrong: then every user is served.
    pub(crate) fn is_calm(&self) -> bool {
        self.faults.is_empty() && self.mitm == 0
    }

    fn add_users(&mut self, rng: &mut Rng, safety: u32) {
        let nodes = self.ingress_nodes();
        let busy = 1 + rng.below(60);
        let mut at = 500 + rng.below(2000);
        while at < safety && self.users.len() < 400 {
            let burst = if rng.below(10) == 0 { rng.below(20) } else { 1 };
            for _ in 0..burst {
                self.users.push(User::draw(millis(at), &nodes, rng));
            }
            at += rng.below(60_000 / busy);
        }
    }

    fn add_faults(&mut self, rng: &mut Rng, safety: u32) {
        // Some runs have no fault, some one kind, some many.
        let chance = [0, 10, 40, 80][rng.below(4) as usize];
        let on: Vec<u32> = (0..14).filter(|_| rng.below(100) < chance).collect();
        let pause = 200 + rng.below(8000);
        let mut at = rng.below(pause);
        while at < safety && !on.is_empty() {
            let kind = on[rng.below(on.len() as u32) as usize];
            let fault = self.fault(kind, rng);
            self.faults.push((millis(at), fault));
            at += 1 + rng.below(2 * pause);
        }
    }

    /// At each ingress a user who finds everything well again; once the faults are known.
    fn add_probes(&mut self) {
        self.recovery = self.recover();
        let at = self.healed();
        let probe = |node| User {
            at,
            node,
            up: 3000,
            down: 3000,
            target_speaks_first: false,
            target_delay: Duration::ZERO,
            target_refuses: false,
            leaves: None,
        };
        self.users
            .extend(self.ingress_nodes().into_iter().map(probe));
    }

    fn fault(&self, kind: u32, rng: &mut impl Draw) -> Fault {
        let client = rng.below(self.clients as u32) as usize;
        let span = Duration::from_millis(rng.below(12_000).into());
        let silent = rng.below(3) == 0;
        match kind {
            0 => Fault::Reset,
            1 => Fault::HalfOpen,
            2 => Fault::Stall(span * 2),
            3 => Fault::Blackhole(span),
            4 => Fault::RefuseDials(span),
            5 => Fault::CrashServer {
                silent,
                down: span / 4,
            },
            6 => Fault::CrashClient { client, silent },
            7 => Fault::Flush,
            8 => Fault::ServerBye,
            9 => Fault::ClientBye { client },
            10 => Fault::WrongKey {
                neighbour: rng.below(2) == 0,
            },
            11 => Fault::Garbage,
            12 => Fault::Replay,
            _ => Fault::Silence,
        }
    }
}

/// How long after the time of recovery its proof is asked for.
pub(crate) const CHECK_AFTER: Duration = Duration::from_secs(10);

pub(crate) fn millis(millis: u32) -> Instant {
    Instant::from_origin(Duration::from_millis(millis.into()))
}
