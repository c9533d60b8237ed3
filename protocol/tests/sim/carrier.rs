//! The data connections of one node, from idle to the end of their relay, at either end.

mod numbered;
mod pump;

use std::collections::{BTreeMap, VecDeque};

use protocol::handshake::legacy::{Held, LegacyKeys};
use protocol::id::{ConnId, LinkId};
use protocol::launching::Launching;
use protocol::limits;
use protocol::terms::Transport;
use protocol::time::{Duration, Instant};
use protocol::wire::launch::{Launch, Status};

use crate::net::{Net, Sock};
use crate::oracle::{Ended, Oracle, Way};
use crate::plan::Plan;

/// How long a closed connection is read, so that the peer gets what was written last.
const LINGER: Duration = Duration::from_secs(5);

/// What a node works with.
pub(crate) struct Ctx<'a> {
    pub(crate) now: Instant,
    pub(crate) net: &'a mut Net,
    pub(crate) oracle: &'a mut Oracle,
    pub(crate) plan: &'a Plan,
}

impl Ctx<'_> {
    /// The connection that a signal announced the user on failed at ingress.
    fn end_broken_off(&mut self, user: usize, excused: bool) {
        // What crosses a launch was on its way before, so it comes soon.
        let lost = !self.net.is_faulty() && !self.oracle.is_fresh(user, self.now);
        assert!(!lost, "the launch of user {user} was lost");
        self.oracle.end_broken_off(self.plan, user, excused);
    }
}

/// What the node's machines have to know.
#[derive(Debug)]
pub(crate) enum News {
    /// A launch came on an idle connection.
    Taken(LinkId, ConnId),
    /// An idle connection ended.
    Lost(LinkId, ConnId),
    /// An idle connection was withdrawn.
    Withdrawn(LinkId, ConnId),
    /// A launch was withdrawn.
    Again(usize),
    /// A numbered connection without a launch showed bytes, or its end.
    Early(LinkId, ConnId),
    /// A numbered connection is gone, or what was served on it has ended.
    Gone(LinkId, ConnId),
    /// What it showed is a complete request head or line.
    Shown(LinkId, ConnId),
    /// The client of this session restarted.
    Returned(LinkId),
    /// A wrong key came on a connection of this session.
    WrongKey(LinkId),
}

#[derive(Debug)]
struct Use {
    link: LinkId,
    conn: ConnId,
    state: State,
    /// The session died unclean: when to give up waiting for the peer.
    orphan: Option<Instant>,
    /// Its launch is a signal.
    numbered: bool,
}

#[derive(Debug)]
enum State {
    IdleIngress,
    IdleEgress(Vec<u8>),
    Numbered(Waiting),
    Launching(usize, Launching),
    Dialing {
        user: usize,
        ready: Instant,
        kept: Vec<u8>,
    },
    Ingress(Relay),
    Egress(Relay),
    Linger(Instant),
}

/// A numbered connection without a launch.
#[derive(Debug)]
struct Waiting {
    held: Held,
    /// It showed bytes, or its end.
    early: bool,
    /// The certificate check has it.
    claimed: bool,
    /// It was reset; whether a fault did that.
    reset: Option<bool>,
}

/// A relay, seen from one end: what goes out, and whether each way has ended.
#[derive(Debug)]
struct Relay {
    user: usize,
    out: Vec<u8>,
    out_ended: bool,
    in_ended: bool,
}

#[derive(Default)]
pub(crate) struct Carrier {
    /// At a server: how it knows a client that restarted.
    returning: Option<LegacyKeys>,
    /// Whether peers launch users here.
    is_egress: bool,
    uses: BTreeMap<Sock, Use>,
    /// How much of each user's or target's bytes was read.
    taken: BTreeMap<usize, usize>,
    /// Users who wait, with what they sent already.
    waiting: BTreeMap<usize, (Vec<u8>, bool)>,
    pub(crate) news: VecDeque<News>,
}

impl Carrier {
    pub(crate) fn new(returning: Option<LegacyKeys>, is_egress: bool) -> Self {
        Self {
            returning,
            is_egress,
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.uses.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn idle(&self, link: LinkId) -> usize {
        let idle = |it: &&Use| {
            let waits = match &it.state {
                State::Numbered(it) => !it.claimed && (self.is_egress || !it.early),
                state => is_idle(state),
            };
            it.link == link && waits
        };
        self.uses.values().filter(idle).count()
    }

    pub(crate) fn is_launching(&self, link: LinkId) -> bool {
        let launching = |it: &Use| it.link == link && matches!(it.state, State::Launching(..));
        self.uses.values().any(launching)
    }

    /// All that a session's roster may have to know of.
    pub(crate) fn numbered(&self, link: LinkId) -> usize {
        let of_link = |it: &&Use| it.link == link && it.numbered;
        self.uses.values().filter(of_link).count()
    }

    pub(crate) fn add_idle(&mut self, sock: Sock, link: LinkId, conn: ConnId) {
        let state = if self.is_egress {
            State::IdleEgress(Vec::new())
        } else {
            State::IdleIngress
        };
        self.add(sock, link, conn, state);
    }

    fn add(&mut self, sock: Sock, link: LinkId, conn: ConnId, state: State) {
        let it = Use {
            link,
            conn,
            numbered: matches!(state, State::Numbered(_)),
            state,
            orphan: None,
        };
        assert!(self.uses.insert(sock, it).is_none());
    }

    pub(crate) fn linger(&mut self, ctx: &Ctx<'_>, sock: Sock) {
        let none = (LinkId::from_number(0), ConnId::from_number(0));
        let state = State::Linger(ctx.now.after(LINGER));
        let it = Use {
            link: none.0,
            conn: none.1,
            state,
            orphan: None,
            numbered: false,
        };
        self.uses.insert(sock, it);
    }

    pub(crate) fn user_waits(&mut self, user: usize) {
        self.waiting.insert(user, (Vec::new(), false));
    }

    /// Whether it waited until now.
    pub(crate) fn user_is_gone(&mut self, user: usize) -> bool {
        self.waiting.remove(&user).is_some()
    }

    pub(crate) fn launch(&mut self, ctx: &mut Ctx<'_>, user: usize, conn: ConnId, link: LinkId) {
        let is_it = |it: &Use| it.conn == conn && it.link == link && is_idle(&it.state);
        let found = self.uses.iter_mut().find(|(_, it)| is_it(it));
        let (&sock, it) = found.expect("a launch on an idle connection");
        let (kept, eof) = self
            .waiting
            .remove(&user)
            .expect("a launch of a waiting user");
        let launch = launch_of(user);
        ctx.oracle.launched(sock, user, ctx.now);
        it.state = State::Launching(user, Launching::new(ctx.now, &launch, kept, eof));
        self.pump(ctx, sock);
    }

    /// Our own machine closes an idle connection; egress says so first.
    pub(crate) fn close_idle(&mut self, ctx: &mut Ctx<'_>, link: Option<LinkId>, conn: ConnId) {
        let is_it = |it: &Use| {
            let waits = is_idle(&it.state) || matches!(it.state, State::Numbered(_));
            it.conn == conn && waits && link.is_none_or(|link| link == it.link)
        };
        if let Some((&sock, _)) = self.uses.iter().find(|(_, it)| is_it(it)) {
            self.close_idle_sock(ctx, sock);
        }
    }

    /// The session is over: its idle connections go, its relays stay.
    pub(crate) fn session_over(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: LinkId,
        clean: bool,
    ) -> Vec<ConnId> {
        let idle = |it: &&Use| {
            it.link == link && (it.numbered || is_idle(&it.state)) && !is_busy(&it.state)
        };
        let closed = self.uses.values().filter(idle).map(|it| it.conn).collect();
        let of_link = |(sock, it): (&Sock, &Use)| (it.link == link).then_some(*sock);
        let socks: Vec<Sock> = self.uses.iter().filter_map(of_link).collect();
        for sock in socks {
            self.close_idle_sock(ctx, sock);
            if let Some(it) = self.uses.get_mut(&sock)
                && !clean
            {
                it.orphan = Some(ctx.now.after(limits::ORPHAN_SILENCE));
            }
        }
        closed
    }

    fn close_idle_sock(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(it) = self.uses.get_mut(&sock) else {
            return;
        };
        match it.state {
            State::IdleIngress | State::Numbered(_) => {
                ctx.net.close(sock);
                self.uses.remove(&sock);
            }
            State::IdleEgress(_) => {
                ctx.net.write(sock, &[Status::Withdrawn.as_byte()]);
                ctx.net.shutdown(sock);
                it.state = State::Linger(ctx.now.after(LINGER));
                // A launch that is here already is read away.
                self.pump(ctx, sock);
            }
            _ => {}
        }
    }

    pub(crate) fn owns(&self, sock: Sock) -> bool {
        self.uses.contains_key(&sock)
    }

    pub(crate) fn reset(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(mut it) = self.uses.remove(&sock) else {
            return;
        };
        let tainted = ctx.net.is_tainted(sock);
        match it.state {
            State::Numbered(ref mut waiting) => {
                waiting.reset = Some(tainted);
                if !core::mem::replace(&mut waiting.early, true) {
                    self.news.push_back(News::Early(it.link, it.conn));
                }
                self.uses.insert(sock, it);
            }
            State::Ingress(Relay { user, .. }) if it.numbered => {
                ctx.end_broken_off(user, tainted);
            }
            State::IdleIngress | State::IdleEgress(_) => {
                self.news.push_back(News::Lost(it.link, it.conn));
            }
            State::Launching(user, _) | State::Ingress(Relay { user, .. }) => {
                ctx.oracle.end(user, Ended::Cut, tainted);
            }
            State::Dialing { user, .. } | State::Egress(Relay { user, .. }) => {
                ctx.oracle.target_is_cut(user, tainted);
                self.over(&it);
            }
            State::Linger(_) => {}
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let due = |it: &Use| match &it.state {
            State::Launching(_, launching) => Some(launching.deadline()),
            State::Dialing { ready, .. } => Some(*ready),
            State::Linger(until) => Some(*until),
            State::Ingress(_) | State::Egress(_) => it.orphan,
            State::IdleIngress | State::IdleEgress(_) | State::Numbered(_) => None,
        };
        self.uses.values().filter_map(due).min()
    }

    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        let socks: Vec<Sock> = self.uses.keys().copied().collect();
        for sock in socks {
            let it = &self.uses[&sock];
            let orphaned = it.orphan.is_some_and(|due| due <= ctx.now);
            match &it.state {
                State::Launching(user, launching)
                    if launching.handle_timeout(ctx.now).is_some() =>
                {
                    let tainted = ctx.net.is_tainted(sock);
                    ctx.oracle.end(*user, Ended::Cut, tainted);
                    self.abort(ctx, sock);
                }
                State::Dialing { ready, .. } if *ready <= ctx.now => self.answer(ctx, sock),
                State::Linger(until) if *until <= ctx.now => {
                    ctx.net.close(sock);
                    self.uses.remove(&sock);
                }
                State::Ingress(Relay { user, .. }) if orphaned => {
                    ctx.oracle.end(*user, Ended::Cut, true);
                    self.abort(ctx, sock);
                }
                State::Egress(_) if orphaned => self.abort(ctx, sock),
                _ => {}
            }
        }
    }

    fn abort(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        ctx.net.abort(sock);
        if let Some(it) = self.uses.remove(&sock) {
            self.over(&it);
        }
    }

    /// Whoever waits for the end of what a signal launched hears of it.
    fn over(&mut self, it: &Use) {
        if it.numbered && is_busy(&it.state) {
            self.news.push_back(News::Gone(it.link, it.conn));
        }
    }

    /// The target of a launch is dialled.
    fn answer(&mut self, ctx: &mut Ctx<'_>, sock: Sock) {
        let Some(it) = self.uses.get_mut(&sock) else {
            return;
        };
        let State::Dialing { user, kept, .. } = &mut it.state else {
            return;
        };
        let (user, kept) = (*user, core::mem::take(kept));
        let refuses = ctx.plan.users[user].target_refuses;
        if it.numbered && refuses {
            self.news.push_back(News::Gone(it.link, it.conn));
            self.uses.remove(&sock);
            return ctx.net.close(sock);
        }
        let status = if refuses {
            Status::Refused
        } else {
            Status::Connected
        };
        if !it.numbered {
            ctx.net.write(sock, &[status.as_byte()]);
        }
        if refuses {
            ctx.net.shutdown(sock);
            it.state = State::Linger(ctx.now.after(LINGER));
        } else {
            ctx.oracle.got(ctx.plan, user, Way::Up, &kept);
            it.state = State::Egress(Relay {
                user,
                out: Vec::new(),
                out_ended: false,
                in_ended: false,
            });
        }
        self.pump(ctx, sock);
    }

    /// The process is gone, and its users with it.
    pub(crate) fn crash(self, ctx: &mut Ctx<'_>) {
        for user in self.waiting.into_keys() {
            ctx.oracle.end(user, Ended::Crashed, true);
        }
        for it in self.uses.into_values() {
            match it.state {
                State::Launching(user, _) | State::Ingress(Relay { user, .. }) => {
                    ctx.oracle.end(user, Ended::Crashed, true);
                }
                State::Dialing { user, .. } | State::Egress(Relay { user, .. }) => {
                    ctx.oracle.target_is_cut(user, true);
                }
                State::IdleIngress
                | State::IdleEgress(_)
                | State::Numbered(_)
                | State::Linger(_) => {}
            }
        }
    }
}

/// The launch of a user, who is known by its port.
pub(crate) fn launch_of(user: usize) -> Launch {
    Launch::new(Transport::Tcp, ([10, 0, 0, 1], user as u16).into())
}

fn is_idle(state: &State) -> bool {
    matches!(state, State::IdleIngress | State::IdleEgress(_))
}

/// Whether a user has the connection.
fn is_busy(state: &State) -> bool {
    let used = matches!(state, State::Launching(..) | State::Dialing { .. });
    used || matches!(state, State::Ingress(_) | State::Egress(_))
}
