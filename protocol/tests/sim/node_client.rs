//! A client: one session at a time, its pool, and its users if it is ingress.

mod attempt;
mod outputs;
mod rosters;

use std::collections::BTreeMap;
use std::net::IpAddr;

use protocol::dialect::{ControlOn, DataBy};
use protocol::handshake::Established;
use protocol::handshake::probe::{Outcome, Probe, Then};
use protocol::id::{ConnId, LinkId, Mint, UserId};
use protocol::ingress::{self, Ingress};
use protocol::limits;
use protocol::pool::{self, Pool};
use protocol::proof::{DataSecret, PreKey};
use protocol::reconnect::{self, Reconnect};
use protocol::rng::Rng;
use protocol::roster::Roster;
use protocol::session::{self, Session};
use protocol::terms::{DataId, Fingerprint, Flow, InstanceId};
use protocol::time::{Duration, Instant, earliest};
use protocol::wire::preface::Preface;

use crate::carrier::{Carrier, Ctx};
use crate::net::{Read, Sock, Told};
use crate::node_server::bye;
use crate::oracle::{Ended, Event};
use crate::plan::{Node, Plan};
use crate::ring;
use attempt::Attempt;

/// How long a dial and a handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Its server's; any but that of ordinary HTTPS.
const PORT: u16 = 10101;

pub(crate) struct Client {
    node: Node,
    address: IpAddr,
    key: PreKey,
    instance: InstanceId,
    rng: Rng,
    reconnect: Reconnect,
    /// Which generation the next attempt is for.
    probe: Probe,
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

struct Link {
    id: LinkId,
    /// `None` until a data connection becomes it.
    control: Option<Control>,
    pool: Pool,
    established: Established,
    seq: u64,
    data_secret: DataSecret,
    dials: BTreeMap<Sock, Dial>,
    /// Its numbered connections, as soon as there is a control channel.
    roster: Option<Roster>,
    /// Those that came before.
    early: Vec<Numbered>,
    retry_after: Option<Duration>,
    /// One end said goodbye.
    leaving: bool,
}

struct Control {
    sock: Sock,
    session: Session,
}

/// A data connection that is being opened.
struct Dial {
    conn: ConnId,
    due: Instant,
    /// What came of its id.
    id: Vec<u8>,
}

/// One that has an id.
struct Numbered {
    sock: Sock,
    conn: ConnId,
    id: DataId,
    leaf: Option<Fingerprint>,
}

impl Client {
    pub(crate) fn new(plan: &Plan, number: usize, mut rng: Rng, now: Instant) -> Self {
        let config = ingress::Config {
            wait: plan.wait,
            report_interval: plan.report_interval,
        };
        Self {
            node: Node::Client(number),
            address: plan.address(number),
            key: PreKey::from_bytes([7; 32]),
            instance: InstanceId([number as u8; 16]),
            reconnect: Reconnect::new(rng.seed(), now),
            rng,
            probe: Probe::new(plan.speak[number]),
            attempt: None,
            links: 0,
            mint: Mint::default(),
            link: None,
            ingress: Ingress::new(config, now),
            carrier: Carrier::new(None, plan.flow == Flow::Reverse),
            said: None,
            stopped: false,
        }
    }

    pub(crate) fn crash(self, ctx: &mut Ctx<'_>) {
        self.carrier.crash(ctx);
    }

    /// Whether the session is up and the pool is where it should be.
    pub(crate) fn is_well(&self, plan: &Plan) -> bool {
        let is_well = |link: &Link| {
            let known = link.roster.as_ref().map_or(0, Roster::len);
            let enough = link.pool.idle() >= plan.pool_min.min(plan.pool_max);
            // As at the server.
            let fits = known <= self.carrier.numbered(link.id) + 1;
            enough && link.control.is_some() && fits
        };
        self.link.as_ref().is_some_and(is_well)
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
        self.say_bye(ctx);
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
        due = earliest(due, self.attempt.as_ref().map(Attempt::due));
        if let Some(link) = &self.link {
            let control = link.control.as_ref();
            due = earliest(due, control.and_then(|it| it.session.poll_timeout()));
            due = earliest(due, link.pool.poll_timeout());
            due = earliest(due, link.roster.as_ref().and_then(Roster::poll_timeout));
            due = earliest(due, link.dials.values().map(|it| it.due).min());
        }
        due
    }

    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        self.on_attempt_due(ctx);
        if let Some(link) = &mut self.link {
            let late: Vec<Sock> = link
                .dials
                .iter()
                .filter(|(_, it)| it.due <= now)
                .map(|(&sock, _)| sock)
                .collect();
            for sock in late {
                ctx.net.abort(sock);
                self.dial_failed(ctx, sock);
            }
        }
        self.settle(ctx);
        if let Some(control) = self.link.as_mut().and_then(|it| it.control.as_mut()) {
            ring!(control.session, now);
        }
        self.settle(ctx);
        if let Some(roster) = self.link.as_mut().and_then(|it| it.roster.as_mut()) {
            ring!(roster, now);
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
        if self.attempt.as_ref().is_some_and(|it| it.sock == sock) {
            return self.on_attempt_connected(ctx);
        }
        let Some(link) = &mut self.link else {
            return ctx.net.abort(sock);
        };
        let data = link.established.dialect.capabilities.data;
        match (data, link.dials.get_mut(&sock)) {
            (_, None) => ctx.net.abort(sock),
            (DataBy::Address(_), Some(dial)) => dial.due = ctx.now.after(limits::ID_WAIT),
            (DataBy::Preface, Some(_)) => self.sign(ctx, sock),
        }
    }

    /// Writes the preface of a native data connection, which is idle then.
    fn sign(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(link) = &mut self.link else { return };
        let Some(Dial { conn, .. }) = link.dials.remove(&sock) else {
            return;
        };
        link.seq += 1;
        let exporter = ctx.net.is_tls(sock).then(|| ctx.net.exporter(sock, b'X'));
        let session = link.established.session;
        let session = session.expect("a native session has a name");
        let preface = Preface::new(&link.data_secret, session, link.seq, exporter.as_ref());
        let bytes = preface.encode();
        assert_eq!(ctx.net.write(sock, &bytes), bytes.len());
        self.said = Some(bytes);
        self.carrier.add_idle(sock, link.id, conn);
        link.pool.handle_input(ctx.now, pool::Input::Opened(conn));
        if link.established.flow == Flow::Forward {
            let input = ingress::Input::Idle(link.id, conn);
            self.ingress.handle_input(ctx.now, input);
        }
    }

    fn on_gone(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        if self.attempt.take_if(|it| it.sock == sock).is_some() {
            self.on_failed(ctx, Outcome::Failed);
        } else if let Some(control) = self.control_at(sock) {
            let input = session::Input::ControlEof;
            control.session.handle_input(ctx.now, input);
        } else if self.carrier.owns(sock) {
            self.carrier.reset(ctx, sock);
        } else {
            self.dial_failed(ctx, sock);
        }
    }

    fn control_at(&mut self, sock: Sock) -> Option<&mut Control> {
        let control = self.link.as_mut()?.control.as_mut()?;
        (control.sock == sock).then_some(control)
    }

    fn dial_failed(&mut self, ctx: &Ctx<'_>, sock: Sock) {
        if let Some(link) = &mut self.link
            && let Some(Dial { conn, .. }) = link.dials.remove(&sock)
        {
            let input = pool::Input::DialFailed(conn);
            link.pool.handle_input(ctx.now, input);
        }
    }

    fn on_readable(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        if self.attempt.as_ref().is_some_and(|it| it.sock == sock) {
            return self.on_answer(ctx, sock);
        }
        if let Some(control) = self.control_at(sock) {
            let input = ctx.net.read(sock, 4096);
            let input = match &input {
                Read::Empty => return,
                Read::Bytes(bytes) => session::Input::Control(bytes),
                Read::Fin => session::Input::ControlEof,
            };
            return control.session.handle_input(ctx.now, input);
        }
        let dials = self.link.as_ref().map(|link| &link.dials);
        if dials.is_some_and(|dials| dials.contains_key(&sock)) {
            return self.read_id(ctx, sock);
        }
        self.carrier.pump(ctx, sock);
    }

    /// What the handshake on this connection led to: a session, unless its control channel is yet
    /// to come.
    fn begin_link(&mut self, ctx: &mut Ctx<'_>, sock: Sock, established: Established) {
        let native = established.session.is_some();
        let clean = ctx.net.exporter(sock, b'A') == ctx.net.exporter(sock.peer(), b'A');
        assert!(clean || !native, "a session through somebody in the middle");
        self.links += 1;
        let control = established.dialect.capabilities.control;
        let config = pool::Config {
            min: ctx.plan.pool_min,
            max: established.max as usize,
            min_interval: Duration::from_millis(100),
            max_interval: Duration::from_secs(1),
            control_wait: control.wait(),
        };
        self.link = Some(Link {
            id: LinkId::from_number(self.links),
            control: None,
            pool: Pool::new(config, self.mint.clone(), self.rng.seed(), ctx.now),
            data_secret: DataSecret::from_bytes(ctx.net.exporter(sock, b'D')),
            established,
            seq: 0,
            dials: BTreeMap::new(),
            roster: None,
            early: Vec::new(),
            retry_after: None,
            leaving: false,
        });
        match control {
            ControlOn::Handshake => self.begin_session(ctx, sock),
            ControlOn::DataConnection => ctx.net.close(sock),
        }
    }

    /// The control channel is there.
    fn begin_session(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(link) = &mut self.link else { return };
        let dialect = &link.established.dialect;
        self.reconnect.handle_input(ctx.now, reconnect::Input::Up);
        ctx.oracle.happened(Event::Up(dialect.generation));
        let up = Outcome::Up(dialect.generation);
        assert_eq!(self.probe.handle_outcome(up), Then::Later);
        let mut session = Session::new(dialect, ctx.plan.report_interval, ctx.now);
        let rest = core::mem::take(&mut link.established.rest);
        session.handle_input(ctx.now, session::Input::Control(&rest));
        link.control = Some(Control { sock, session });
        if link.established.flow == Flow::Forward {
            let up = ingress::Input::SessionUp(link.id);
            self.ingress.handle_input(ctx.now, up);
        }
        self.begin_roster(ctx);
    }

    /// Both ends know that this session is to end.
    fn say_bye(&mut self, ctx: &Ctx<'_>) {
        if let Some(link) = &mut self.link {
            if let Some(control) = &mut link.control {
                let input = session::Input::Send(bye(0));
                control.session.handle_input(ctx.now, input);
            }
            self.begin_leaving(ctx);
        }
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
        let Some(Control { sock, .. }) = link.control else {
            return self.on_failed(ctx, Outcome::Failed);
        };
        ctx.net.shutdown(sock);
        self.carrier.linger(ctx, sock);
        self.carrier.pump(ctx, sock);
        let ended = reconnect::Input::Ended(link.retry_after);
        self.reconnect.handle_input(ctx.now, ended);
    }
}
