//! The server: its door, its sessions, and its users if it is ingress.

mod door;
mod outputs;
mod rosters;

use std::collections::BTreeMap;

use protocol::dialect::Dialect;
use protocol::endpoint::{self, Endpoint};
use protocol::handshake::legacy::LegacyKeys;
use protocol::id::{LinkId, UserId};
use protocol::ingress::{self, Ingress};
use protocol::key::TunnelKey;
use protocol::proof::PreKey;
use protocol::rng::Rng;
use protocol::roster::Roster;
use protocol::session::{self, Session};
use protocol::terms::{Flow, SessionId};
use protocol::time::{Instant, earliest};
use protocol::wire::signal::Signal;

use crate::carrier::{Carrier, Ctx};
use crate::net::{Read, Sock, Told};
use crate::oracle::Ended;
use crate::plan::Plan;
use crate::ring;
use door::HalfOpen;

pub(crate) struct Server {
    key: PreKey,
    legacy_keys: LegacyKeys,
    endpoint: Endpoint,
    ingress: Ingress,
    half_open: BTreeMap<Sock, HalfOpen>,
    sessions: BTreeMap<LinkId, Link>,
    /// Sessions whose control channel is yet to come.
    announced: BTreeMap<LinkId, Dialect>,
    carrier: Carrier,
}

struct Link {
    sock: Sock,
    session: Session,
    name: SessionId,
    dialect: Dialect,
    /// Its data connections, where launches are signals.
    roster: Option<Roster>,
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
            legacy_keys: legacy_keys(),
            endpoint: Endpoint::new(config, rng.seed(), now),
            ingress: Ingress::new(users, now),
            half_open: BTreeMap::new(),
            sessions: BTreeMap::new(),
            announced: BTreeMap::new(),
            carrier: Carrier::new(Some(legacy_keys()), plan.flow == Flow::Forward),
        }
    }

    pub(crate) fn crash(self, ctx: &mut Ctx<'_>) {
        self.carrier.crash(ctx);
    }

    pub(crate) fn sessions(&self) -> usize {
        self.endpoint.sessions() - self.announced.len()
    }

    /// Whether no roster knows of more connections than there are.
    pub(crate) fn is_well(&self) -> bool {
        let fits = |(&link, it): (&LinkId, &Link)| {
            let known = it.roster.as_ref().map_or(0, Roster::len);
            // Both checks may be about the same connection, whose close overtakes the second one.
            known <= self.carrier.numbered(link) + 1
        };
        self.sessions.iter().all(fits)
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
            let Some(it) = self.sessions.get_mut(&link) else {
                continue;
            };
            let input = session::Input::Send(signal.clone());
            it.session.handle_input(ctx.now, input);
            flush_control(ctx, &mut it.session, it.sock);
            if it.roster.is_some() && matches!(signal, Signal::Bye { .. }) {
                // It has no word for that: the control channel just ends.
                self.end_link(ctx, link, true);
            } else if matches!(signal, Signal::Bye { .. }) {
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
        due = earliest(due, self.half_open.values().map(HalfOpen::due).min());
        let of_session = |it: &Link| {
            let roster = it.roster.as_ref().and_then(Roster::poll_timeout);
            earliest(it.session.poll_timeout(), roster)
        };
        earliest(due, self.sessions.values().filter_map(of_session).min())
    }

    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        let due = self.half_open.iter().filter(|(_, it)| it.due() <= now);
        let due: Vec<Sock> = due.map(|(&sock, _)| sock).collect();
        for sock in due {
            self.on_quiet(ctx, sock);
            self.settle(ctx);
        }
        let links: Vec<LinkId> = self.sessions.keys().copied().collect();
        for link in links {
            if let Some(it) = self.sessions.get_mut(&link) {
                ring!(it.session, now);
            }
            self.settle(ctx);
            if let Some(roster) = self
                .sessions
                .get_mut(&link)
                .and_then(|it| it.roster.as_mut())
            {
                ring!(roster, now);
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

/// The tunnel's key in the words of the legacy generations.
pub(crate) fn legacy_keys() -> LegacyKeys {
    LegacyKeys::new(&TunnelKey::new("simulated"), None)
}
