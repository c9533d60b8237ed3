//! A client: one session at a time, its pool, and its users if it is ingress.

mod outputs;

use std::collections::BTreeMap;
use std::net::IpAddr;

use protocol::handshake::{
    AwaitWelcome, ClientHandshake, ClientHandshakeConfig, Established, Step,
};
use protocol::id::{ConnId, LinkId, Mint, UserId};
use protocol::ingress::{self, Ingress};
use protocol::pool::{self, Pool};
use protocol::proof::{DataSecret, PreKey};
use protocol::reconnect::{self, Reconnect};
use protocol::rng::Rng;
use protocol::session::{self, Session};
use protocol::terms::{DataTls, Flow, InstanceId};
use protocol::time::{Duration, Instant, earliest};
use protocol::wire::preface::Preface;

use crate::carrier::{Carrier, Ctx};
use crate::net::{Read, Sock, Told};
use crate::node_server::bye;
use crate::oracle::Ended;
use crate::plan::{Node, Plan};
use crate::ring;

/// How long a dial and a handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Client {
    node: Node,
    address: IpAddr,
    key: PreKey,
    instance: InstanceId,
    rng: Rng,
    reconnect: Reconnect,
    attempt: Option<Attempt>,
    links: u64,
    /// Names the data connections of all sessions.
    mint: Mint,
    link: Option<Link>,
    ingress: Ingress,
    carrier: Carrier,
    /// The last real preface, for an attacker to replay.
    pub(crate) said: Option<[u8; 44]>,
    stopped: bool,
}

struct Attempt {
    sock: Sock,
    wait: Option<AwaitWelcome>,
    deadline: Instant,
}

struct Link {
    id: LinkId,
    sock: Sock,
    session: Session,
    pool: Pool,
    established: Established,
    seq: u64,
    data_secret: DataSecret,
    dials: BTreeMap<Sock, (ConnId, Instant)>,
    retry_after: Option<Duration>,
    /// One end said goodbye.
    leaving: bool,
}

impl Client {
    pub(crate) fn new(plan: &Plan, number: usize, mut rng: Rng, now: Instant) -> Self {
        let config = ingress::Config {
            wait: plan.wait,
            report_interval: plan.report_interval,
        };
        Self {
            node: Node::Client(number),
            address: Plan::address(number),
            key: PreKey::from_bytes([7; 32]),
            instance: InstanceId([number as u8; 16]),
            reconnect: Reconnect::new(rng.seed(), now),
            rng,
            attempt: None,
            links: 0,
            mint: Mint::default(),
            link: None,
            ingress: Ingress::new(config, now),
            carrier: Carrier::default(),
            said: None,
            stopped: false,
        }
    }

    pub(crate) fn crash(self, ctx: &mut Ctx<'_>) {
        self.carrier.crash(ctx);
    }

    /// Whether the session is up and the pool is where it should be.
    pub(crate) fn is_well(&self, plan: &Plan) -> bool {
        let link = self.link.as_ref();
        link.is_some_and(|link| link.pool.idle() >= plan.pool_min.min(plan.pool_max))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.carrier.is_empty() && self.link.is_none() && self.ingress.idle() == 0
    }

    pub(crate) fn user(&mut self, ctx: &mut Ctx<'_>, user: usize) {
        self.carrier.user_waits(user);
        let input = ingress::Input::User(UserId::from_number(user as u64));
        self.ingress.handle_input(ctx.now, input);
        self.settle(ctx);
    }

    pub(crate) fn user_leaves(&mut self, ctx: &mut Ctx<'_>, user: usize) {
        if self.carrier.user_is_gone(user) {
            ctx.oracle.end(user, Ended::Left, false);
            let input = ingress::Input::UserGone(UserId::from_number(user as u64));
            self.ingress.handle_input(ctx.now, input);
            self.settle(ctx);
        }
    }

    /// Says goodbye; for good, or to come back.
    pub(crate) fn leave(&mut self, ctx: &mut Ctx<'_>, for_good: bool) {
        self.stopped |= for_good;
        if let Some(link) = &mut self.link {
            let input = session::Input::Send(bye(0));
            link.session.handle_input(ctx.now, input);
            self.begin_leaving(ctx);
        }
        if for_good {
            self.reconnect.handle_input(ctx.now, reconnect::Input::Stop);
            if let Some(attempt) = self.attempt.take() {
                ctx.net.abort(attempt.sock);
            }
        }
        self.settle(ctx);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let mut due = earliest(self.reconnect.poll_timeout(), self.ingress.poll_timeout());
        due = earliest(due, self.carrier.poll_timeout());
        due = earliest(due, self.attempt.as_ref().map(|attempt| attempt.deadline));
        if let Some(link) = &self.link {
            due = earliest(due, link.session.poll_timeout());
            due = earliest(due, link.pool.poll_timeout());
            due = earliest(due, link.dials.values().map(|&(_, due)| due).min());
        }
        due
    }

    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        if let Some(attempt) = self.attempt.take_if(|attempt| attempt.deadline <= now) {
            ctx.net.abort(attempt.sock);
            self.reconnect.handle_input(now, reconnect::Input::Failed);
        }
        if let Some(link) = &mut self.link {
            let late: Vec<Sock> = link
                .dials
                .iter()
                .filter(|(_, (_, due))| *due <= now)
                .map(|(&sock, _)| sock)
                .collect();
            for sock in late {
                ctx.net.abort(sock);
                self.dial_failed(ctx, sock);
            }
        }
        self.settle(ctx);
        if let Some(link) = &mut self.link {
            ring!(link.session, now);
        }
        self.settle(ctx);
        if let Some(link) = &mut self.link {
            ring!(link.pool, now);
        }
        self.settle(ctx);
        ring!(self.ingress, now);
        self.settle(ctx);
        ring!(self.reconnect, now);
        self.carrier.handle_timeout(ctx);
        self.settle(ctx);
        let due = self.poll_timeout();
        assert!(
            due.is_none_or(|due| due > now),
            "{:?} stands still",
            self.node
        );
    }

    pub(crate) fn told(&mut self, ctx: &mut Ctx<'_>, told: Told) {
        match told {
            Told::Connected(sock) => self.on_connected(ctx, sock),
            Told::Accepted(..) => {}
            Told::Failed(sock) | Told::Reset(sock) => self.on_gone(ctx, sock),
            Told::Readable(sock) => self.on_readable(ctx, sock),
            Told::Writable(sock) => self.carrier.pump(ctx, sock),
        }
        self.settle(ctx);
    }

    fn on_connected(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        if let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.sock == sock) {
            let config = ClientHandshakeConfig {
                instance: self.instance,
                agent: "sim".into(),
                least_tls: DataTls::Plain,
            };
            let exporter = ctx.net.exporter(sock, b'A');
            let mut out = Vec::new();
            let left = attempt.deadline.saturating_since(ctx.now);
            let wait =
                ClientHandshake::start(&config, &self.key, &exporter, ctx.now, left, &mut out);
            attempt.wait = Some(wait);
            assert_eq!(ctx.net.write(sock, &out), out.len());
        } else if let Some(link) = &mut self.link
            && let Some((conn, _)) = link.dials.remove(&sock)
        {
            link.seq += 1;
            let exporter = ctx.net.is_tls(sock).then(|| ctx.net.exporter(sock, b'X'));
            let session = link.established.session;
            let preface = Preface::new(&link.data_secret, session, link.seq, exporter.as_ref());
            let bytes = preface.encode();
            assert_eq!(ctx.net.write(sock, &bytes), bytes.len());
            self.said = Some(bytes);
            let forward = link.established.flow == Flow::Forward;
            self.carrier.add_idle(sock, link.id, conn, forward);
            link.pool.handle_input(ctx.now, pool::Input::Opened(conn));
            if forward {
                let input = ingress::Input::Idle(link.id, conn);
                self.ingress.handle_input(ctx.now, input);
            }
        } else {
            ctx.net.abort(sock);
        }
    }

    fn on_gone(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        if self
            .attempt
            .take_if(|attempt| attempt.sock == sock)
            .is_some()
        {
            self.reconnect
                .handle_input(ctx.now, reconnect::Input::Failed);
        } else if let Some(link) = &mut self.link
            && link.sock == sock
        {
            link.session
                .handle_input(ctx.now, session::Input::ControlEof);
        } else if self.carrier.owns(sock) {
            self.carrier.reset(ctx, sock);
        } else {
            self.dial_failed(ctx, sock);
        }
    }

    fn dial_failed(&mut self, ctx: &Ctx<'_>, sock: Sock) {
        if let Some(link) = &mut self.link
            && let Some((conn, _)) = link.dials.remove(&sock)
        {
            link.pool
                .handle_input(ctx.now, pool::Input::DialFailed(conn));
        }
    }

    fn on_readable(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        if self
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.sock == sock)
        {
            return self.on_answer(ctx, sock);
        }
        match &mut self.link {
            Some(link) if link.sock == sock => {
                let input = ctx.net.read(sock, 4096);
                match &input {
                    Read::Empty => {}
                    Read::Bytes(bytes) => {
                        let input = session::Input::Control(bytes);
                        link.session.handle_input(ctx.now, input);
                    }
                    Read::Fin => link
                        .session
                        .handle_input(ctx.now, session::Input::ControlEof),
                }
            }
            _ => self.carrier.pump(ctx, sock),
        }
    }

    fn on_answer(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(mut attempt) = self.attempt.take() else {
            return;
        };
        let step = match (ctx.net.read(sock, 4096), attempt.wait.take()) {
            (Read::Bytes(bytes), Some(wait)) => wait.handle_bytes(&bytes),
            (Read::Empty, wait) => {
                attempt.wait = wait;
                self.attempt = Some(attempt);
                return;
            }
            (Read::Fin, Some(wait)) => Err(wait.handle_eof()),
            (_, None) => panic!("an answer before the question"),
        };
        match step {
            Ok(Step::NeedsInput(wait)) => {
                attempt.wait = Some(wait);
                self.attempt = Some(attempt);
            }
            Ok(Step::Done(established)) => self.begin_link(ctx, sock, established),
            Err(_) => {
                ctx.net.close(sock);
                self.reconnect
                    .handle_input(ctx.now, reconnect::Input::Failed);
            }
        }
    }

    fn begin_link(&mut self, ctx: &Ctx<'_>, sock: Sock, established: Established) {
        let clean = ctx.net.exporter(sock, b'A') == ctx.net.exporter(sock.peer(), b'A');
        assert!(clean, "a session through somebody in the middle");
        self.reconnect.handle_input(ctx.now, reconnect::Input::Up);
        self.links += 1;
        let id = LinkId::from_number(self.links);
        let config = pool::Config {
            min: ctx.plan.pool_min,
            max: established.max as usize,
            min_interval: Duration::from_millis(100),
            max_interval: Duration::from_secs(1),
        };
        let mut session = Session::new(ctx.plan.report_interval, ctx.now);
        let input = session::Input::Control(&established.rest);
        session.handle_input(ctx.now, input);
        if established.flow == Flow::Forward {
            self.ingress
                .handle_input(ctx.now, ingress::Input::SessionUp(id));
        }
        self.link = Some(Link {
            id,
            sock,
            session,
            pool: Pool::new(config, self.mint.clone(), self.rng.seed(), ctx.now),
            data_secret: DataSecret::from_bytes(ctx.net.exporter(sock, b'D')),
            established,
            seq: 0,
            dials: BTreeMap::new(),
            retry_after: None,
            leaving: false,
        });
    }

    /// No new launches. The control connection stays until the old ones are answered: the server
    /// must know the session of a preface that is still on its way.
    fn begin_leaving(&mut self, ctx: &Ctx<'_>) {
        if let Some(link) = &mut self.link {
            link.leaving = true;
            link.pool.handle_input(ctx.now, pool::Input::Drain);
            let gone = ingress::Input::SessionGone(link.id);
            self.ingress.handle_input(ctx.now, gone);
        }
    }

    fn end_link(&mut self, ctx: &mut Ctx<'_>, clean: bool) {
        let Some(link) = self.link.take() else {
            return;
        };
        self.mint = link.pool.mint();
        let gone = ingress::Input::SessionGone(link.id);
        self.ingress.handle_input(ctx.now, gone);
        drop(self.carrier.session_over(ctx, link.id, clean));
        for &sock in link.dials.keys() {
            ctx.net.abort(sock);
        }
        ctx.net.shutdown(link.sock);
        self.carrier.linger(ctx, link.sock);
        self.carrier.pump(ctx, link.sock);
        let ended = reconnect::Input::Ended(link.retry_after);
        self.reconnect.handle_input(ctx.now, ended);
    }
}
