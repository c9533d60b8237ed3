//! The server: its door, its sessions, and its users if it is ingress.

mod outputs;

use std::collections::BTreeMap;
use std::net::IpAddr;

use protocol::endpoint::{self, Endpoint};
use protocol::handshake::{AwaitHello, ServerStep, VerifiedHello};
use protocol::id::{ConnId, LinkId, UserId};
use protocol::ingress::{self, Ingress};
use protocol::proof::{DataSecret, PreKey};
use protocol::rng::Rng;
use protocol::session::{self, Session};
use protocol::terms::SessionId;
use protocol::time::{Duration, Instant, earliest};
use protocol::wire::preface::{self, Preface};
use protocol::wire::signal::Signal;

use crate::carrier::{Carrier, Ctx};
use crate::net::{Read, Sock, Told};
use crate::oracle::Ended;
use crate::plan::Plan;
use crate::ring;

/// From accept to a finished handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

pub(crate) struct Server {
    key: PreKey,
    endpoint: Endpoint,
    ingress: Ingress,
    half_open: BTreeMap<Sock, HalfOpen>,
    sessions: BTreeMap<LinkId, Link>,
    carrier: Carrier,
}

struct HalfOpen {
    conn: ConnId,
    deadline: Instant,
    state: State,
}

enum State {
    Hello(AwaitHello),
    Preface(Vec<u8>),
    Verified(VerifiedHello),
    /// What to say when the door says no.
    Refused(Vec<u8>),
    Asked(Preface),
}

struct Link {
    sock: Sock,
    session: Session,
    name: SessionId,
    /// We said goodbye: what still comes is withdrawn.
    leaving: bool,
}

impl Server {
    pub(crate) fn new(plan: &Plan, rng: &mut Rng, now: Instant) -> Self {
        let config = endpoint::Config {
            tls: plan.tls,
            max: plan.pool_max,
            max_total: usize::MAX,
        };
        let users = ingress::Config {
            wait: plan.wait,
            report_interval: plan.report_interval,
        };
        Self {
            key: PreKey::from_bytes([7; 32]),
            endpoint: Endpoint::new(config, rng.seed(), now),
            ingress: Ingress::new(users, now),
            half_open: BTreeMap::new(),
            sessions: BTreeMap::new(),
            carrier: Carrier::default(),
        }
    }

    pub(crate) fn crash(self, ctx: &mut Ctx<'_>) {
        self.carrier.crash(ctx);
    }

    pub(crate) fn sessions(&self) -> usize {
        self.endpoint.sessions()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let door = self.endpoint.sessions() + self.endpoint.half_open() + self.half_open.len();
        door == 0 && self.carrier.is_empty() && self.sessions.is_empty() && self.ingress.idle() == 0
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

    /// Says this to every session. After a goodbye it takes no launches; the client ends it.
    pub(crate) fn say(&mut self, ctx: &mut Ctx<'_>, signal: &Signal) {
        let links: Vec<LinkId> = self.sessions.keys().copied().collect();
        for link in links {
            let it = self.sessions.get_mut(&link).expect("a session");
            let input = session::Input::Send(signal.clone());
            it.session.handle_input(ctx.now, input);
            flush_control(ctx, &mut it.session, it.sock);
            if matches!(signal, Signal::Bye { .. }) {
                it.leaving = true;
                let gone = ingress::Input::SessionGone(link);
                self.ingress.handle_input(ctx.now, gone);
                for conn in self.carrier.session_over(ctx, link, true) {
                    let input = endpoint::Input::NotIdle(conn);
                    self.endpoint.handle_input(ctx.now, input);
                }
            }
            self.settle(ctx);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let mut due = earliest(self.endpoint.poll_timeout(), self.ingress.poll_timeout());
        due = earliest(due, self.carrier.poll_timeout());
        due = earliest(due, self.half_open.values().map(|it| it.deadline).min());
        let sessions = self
            .sessions
            .values()
            .filter_map(|it| it.session.poll_timeout());
        earliest(due, sessions.min())
    }

    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        let late = self.half_open.iter().filter(|(_, it)| it.deadline <= now);
        let late: Vec<Sock> = late.map(|(&sock, _)| sock).collect();
        for sock in late {
            self.drop_half_open(ctx, sock);
            self.settle(ctx);
        }
        let links: Vec<LinkId> = self.sessions.keys().copied().collect();
        for link in links {
            if let Some(it) = self.sessions.get_mut(&link) {
                ring!(it.session, now);
            }
            self.settle(ctx);
        }
        ring!(self.ingress, now);
        self.settle(ctx);
        ring!(self.endpoint, now);
        self.settle(ctx);
        self.carrier.handle_timeout(ctx);
        self.settle(ctx);
        let due = self.poll_timeout();
        assert!(due.is_none_or(|due| due > now), "the server stands still");
    }

    pub(crate) fn told(&mut self, ctx: &mut Ctx<'_>, told: Told) {
        match told {
            Told::Accepted(sock, from) => self.on_accepted(ctx, sock, from),
            Told::Connected(_) | Told::Failed(_) => {}
            Told::Reset(sock) => self.on_gone(ctx, sock),
            Told::Readable(sock) => self.on_readable(ctx, sock),
            Told::Writable(sock) => self.carrier.pump(ctx, sock),
        }
        self.settle(ctx);
    }

    fn on_accepted(&mut self, ctx: &Ctx<'_>, sock: Sock, from: IpAddr) {
        let conn = self.endpoint.next_conn();
        let deadline = ctx.now.after(HANDSHAKE);
        let state = State::Preface(Vec::new());
        self.half_open.insert(
            sock,
            HalfOpen {
                conn,
                deadline,
                state,
            },
        );
        let input = endpoint::Input::Accepted { conn, from };
        self.endpoint.handle_input(ctx.now, input);
    }

    fn on_gone(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        if let Some(it) = self.half_open.remove(&sock) {
            let input = endpoint::Input::Ended(it.conn);
            self.endpoint.handle_input(ctx.now, input);
        } else if let Some(it) = self.sessions.values_mut().find(|it| it.sock == sock) {
            it.session.handle_input(ctx.now, session::Input::ControlEof);
        } else {
            self.carrier.reset(ctx, sock);
        }
    }

    fn on_readable(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        if self.half_open.contains_key(&sock) {
            self.on_first_bytes(ctx, sock);
        } else if let Some(it) = self.sessions.values_mut().find(|it| it.sock == sock) {
            match ctx.net.read(sock, 4096) {
                Read::Empty => {}
                Read::Bytes(bytes) => {
                    it.session
                        .handle_input(ctx.now, session::Input::Control(&bytes));
                }
                Read::Fin => it.session.handle_input(ctx.now, session::Input::ControlEof),
            }
        } else {
            self.carrier.pump(ctx, sock);
        }
    }

    fn on_first_bytes(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(it) = self.half_open.get_mut(&sock) else {
            return;
        };
        // Not beyond the preface: what follows belongs to whoever reads next.
        let bytes = match ctx.net.read(sock, preface::LEN) {
            Read::Empty => return,
            Read::Bytes(bytes) => bytes,
            Read::Fin => return self.drop_half_open(ctx, sock),
        };
        let unread = State::Refused(Vec::new());
        let state = match core::mem::replace(&mut it.state, unread) {
            State::Preface(buffer)
                if buffer.is_empty() && bytes[0] == b'{' && ctx.net.is_tls(sock) =>
            {
                let exporter = ctx.net.exporter(sock, b'A');
                let wait = AwaitHello::new(&self.key, &exporter, ctx.now, HANDSHAKE);
                Self::on_hello(wait, &bytes)
            }
            State::Hello(wait) => Self::on_hello(wait, &bytes),
            State::Preface(mut buffer) => {
                // A write is cut into pieces, so a read may take bytes behind the preface.
                buffer.extend(bytes);
                Self::on_preface(buffer)
            }
            State::Verified(_) | State::Refused(_) | State::Asked(_) => None,
        };
        let Some(state) = state else {
            return self.drop_half_open(ctx, sock);
        };
        it.state = state;
        let conn = it.conn;
        let input = match &it.state {
            State::Verified(hello) => endpoint::Input::Hello {
                conn,
                instance: hello.instance,
                data_secret: DataSecret::from_bytes(ctx.net.exporter(sock, b'D')),
            },
            State::Refused(_) => endpoint::Input::WrongProof(conn),
            State::Asked(preface) => endpoint::Input::Preface {
                conn,
                preface: *preface,
                exporter: ctx.net.is_tls(sock).then(|| ctx.net.exporter(sock, b'X')),
            },
            State::Hello(_) | State::Preface(_) => return self.on_first_bytes(ctx, sock),
        };
        self.endpoint.handle_input(ctx.now, input);
    }

    fn on_hello(wait: AwaitHello, bytes: &[u8]) -> Option<State> {
        match wait.handle_bytes(bytes).ok()? {
            ServerStep::NeedsInput(wait) => Some(State::Hello(wait)),
            ServerStep::Verified(hello) => Some(State::Verified(hello)),
            ServerStep::Refused { line, why } => {
                assert!(why.counts_for_ban());
                Some(State::Refused(line))
            }
        }
    }

    fn on_preface(buffer: Vec<u8>) -> Option<State> {
        let magic = buffer.len().min(preface::MAGIC.len());
        if buffer[..magic] != preface::MAGIC[..magic] {
            return None;
        }
        match <&[u8; preface::LEN]>::try_from(&buffer[..]) {
            Ok(bytes) => Preface::decode(bytes).ok().map(State::Asked),
            Err(_) => (buffer.len() < preface::LEN).then_some(State::Preface(buffer)),
        }
    }

    fn drop_half_open(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        if let Some(it) = self.half_open.remove(&sock) {
            let input = endpoint::Input::Ended(it.conn);
            self.endpoint.handle_input(ctx.now, input);
            ctx.net.close(sock);
        }
    }

    fn end_link(&mut self, ctx: &mut Ctx<'_>, link: LinkId, clean: bool) {
        let Some(it) = self.sessions.remove(&link) else {
            return;
        };
        let input = endpoint::Input::SessionEnded(link);
        self.endpoint.handle_input(ctx.now, input);
        let input = ingress::Input::SessionGone(link);
        self.ingress.handle_input(ctx.now, input);
        drop(self.carrier.session_over(ctx, link, clean));
        ctx.net.shutdown(it.sock);
        self.carrier.linger(ctx, it.sock);
        self.carrier.pump(ctx, it.sock);
    }
}

/// Writes what a session has for its peer, and reads on if it had to wait with that.
pub(crate) fn flush_control(ctx: &mut Ctx<'_>, session: &mut Session, sock: Sock) {
    let written = ctx.net.write(sock, session.control_out());
    session.control_sent(written);
}

pub(crate) fn bye(retry_ms: u64) -> Signal {
    Signal::Bye {
        reason: "planned".into(),
        retry_ms,
    }
}
