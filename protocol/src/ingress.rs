//! Users waiting ↔ idle data connections of all sessions, at the end that accepts users
//! (`wire.md` §2.2, §2.4, §2.5).
//!
//! Connections are taken oldest first, from sessions in turn: where an id makes them data connections,
//! the one that was silent longest is the least likely to be a late handshake. Sessions that were
//! silent for more than 1.5 report intervals only give one when no other can.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::mem::take;
use core::time::Duration;

use crate::id::{ConnId, LinkId, UserId};
use crate::limits;
use crate::time::{Instant, earliest};

/// A demand that did not help is repeated after this long.
const DEMAND_AGAIN: Duration = Duration::from_millis(500);
/// The least time between two demands: users of a burst are told of together.
const DEMAND_PAUSE: Duration = Duration::from_millis(10);

/// What ingress is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// `NP_POOL_GET_TIMEOUT`: how long a user waits for a connection.
    pub wait: Duration,
    /// `NP_REPORT_INTERVAL`, to tell a silent session.
    pub report_interval: Duration,
}

/// What happens around ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A session is up.
    SessionUp(LinkId),
    /// A session sent a line.
    Heard(LinkId),
    /// A session ended, or takes no new launches: its idle connections go.
    SessionGone(LinkId),
    /// A session's peer wants its idle connections closed.
    Flushed(LinkId),
    /// A data connection of that session is idle.
    Idle(LinkId, ConnId),
    /// An idle data connection ended, or was withdrawn.
    Lost(ConnId),
    /// A user is there.
    User(UserId),
    /// A launch was withdrawn: its user needs the next connection. If the queue is full, the last
    /// one in it makes room.
    Again(UserId),
    /// A waiting user is gone.
    UserGone(UserId),
}

/// What ingress wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Launch this user on this connection.
    Launch {
        /// Who.
        user: UserId,
        /// On which connection; it is in use now.
        conn: ConnId,
        /// Of which session.
        link: LinkId,
    },
    /// No connection came in time: close the user.
    Expired(UserId),
    /// [`limits::QUEUED_USERS`] wait: close this user.
    Refused(UserId),
    /// Tell that session's peer that this many are missing right now, in all.
    Demand(LinkId, u32),
    /// Close this idle connection.
    Close(ConnId),
}

/// Ingress of one tunnel.
#[derive(Debug)]
pub struct Ingress {
    config: Config,
    links: BTreeMap<LinkId, Link>,
    /// Which session each idle connection belongs to.
    conns: BTreeMap<ConnId, LinkId>,
    /// The session that gave the last connection.
    turn: Option<LinkId>,
    queue: VecDeque<UserId>,
    deadlines: BTreeSet<(Instant, UserId)>,
    waiting: BTreeMap<UserId, Instant>,
    /// How many missing connections were told last.
    demanded: usize,
    /// When that was.
    said: Option<Instant>,
    demand_due: Option<Instant>,
    outputs: VecDeque<Output>,
    now: Instant,
}

#[derive(Debug)]
struct Link {
    idle: BTreeSet<ConnId>,
    heard: Instant,
}

impl Ingress {
    /// Ingress without sessions and users.
    #[must_use]
    pub const fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            links: BTreeMap::new(),
            conns: BTreeMap::new(),
            turn: None,
            queue: VecDeque::new(),
            deadlines: BTreeSet::new(),
            waiting: BTreeMap::new(),
            demanded: 0,
            said: None,
            demand_due: None,
            outputs: VecDeque::new(),
            now,
        }
    }

    /// One mutation; drain [`poll_output`](Self::poll_output) afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        self.advance(now);
        match input {
            Input::SessionUp(link) => {
                self.links.entry(link).or_insert(Link {
                    idle: BTreeSet::new(),
                    heard: self.now,
                });
                self.demanded = 0;
            }
            Input::Heard(link) => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.heard = self.now;
                }
            }
            Input::SessionGone(link) => self.drop_link(link),
            Input::Flushed(link) => {
                let idle = self.links.get_mut(&link).map(|link| take(&mut link.idle));
                self.close(idle.unwrap_or_default());
            }
            Input::Idle(link, conn) => self.on_idle(link, conn),
            Input::Lost(conn) => {
                if let Some(link) = self.conns.remove(&conn) {
                    self.links.entry(link).and_modify(|link| {
                        link.idle.remove(&conn);
                    });
                }
            }
            Input::User(user) => self.enqueue(user, false),
            Input::Again(user) => self.enqueue(user, true),
            Input::UserGone(user) => self.forget(user),
        }
        self.serve();
    }

    /// Acts on deadlines that have passed; early or repeated calls change nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        while let Some(&(due, user)) = self.deadlines.first() {
            if due > self.now {
                break;
            }
            self.forget(user);
            self.outputs.push_back(Output::Expired(user));
        }
        if self.demand_due.is_some_and(|due| due <= self.now) {
            self.demand_due = None;
            if self
                .said
                .is_none_or(|said| self.now >= said.after(DEMAND_AGAIN))
            {
                self.demanded = 0;
            }
        }
        self.serve();
    }

    /// The next thing to do; `None` when all is done.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.outputs.is_empty() {
            return Some(self.now);
        }
        earliest(self.deadlines.first().map(|&(due, _)| due), self.demand_due)
    }

    /// Idle data connections now, of all sessions.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.conns.len()
    }

    fn on_idle(&mut self, link: LinkId, conn: ConnId) {
        let Some(entry) = self.links.get_mut(&link) else {
            return self.outputs.push_back(Output::Close(conn));
        };
        if self.conns.contains_key(&conn) {
            return;
        }
        entry.idle.insert(conn);
        self.conns.insert(conn, link);
    }

    fn drop_link(&mut self, link: LinkId) {
        let Some(gone) = self.links.remove(&link) else {
            return;
        };
        self.demanded = 0;
        self.close(gone.idle);
    }

    fn close(&mut self, idle: BTreeSet<ConnId>) {
        for conn in idle {
            self.conns.remove(&conn);
            self.outputs.push_back(Output::Close(conn));
        }
    }

    fn enqueue(&mut self, user: UserId, first: bool) {
        if self.waiting.contains_key(&user) {
            return;
        }
        if self.queue.len() >= limits::QUEUED_USERS {
            // Whoever was served already goes before the one who came last.
            let last = if first {
                self.queue.back().copied()
            } else {
                None
            };
            self.outputs
                .push_back(Output::Refused(last.unwrap_or(user)));
            match last {
                Some(last) => self.forget(last),
                None => return,
            }
        }
        let due = self.now.after(self.config.wait);
        self.deadlines.insert((due, user));
        self.waiting.insert(user, due);
        if first {
            self.queue.push_front(user);
        } else {
            self.queue.push_back(user);
        }
    }

    fn forget(&mut self, user: UserId) {
        if let Some(due) = self.waiting.remove(&user) {
            self.deadlines.remove(&(due, user));
            self.queue.retain(|&queued| queued != user);
        }
    }

    fn serve(&mut self) {
        while let Some(&user) = self.queue.front() {
            let Some((link, conn)) = self.take() else {
                break;
            };
            self.queue.pop_front();
            if let Some(due) = self.waiting.remove(&user) {
                self.deadlines.remove(&(due, user));
            }
            self.outputs.push_back(Output::Launch { user, conn, link });
        }
        self.demand();
    }

    fn take(&mut self) -> Option<(LinkId, ConnId)> {
        let link = self.next_link(true).or_else(|| self.next_link(false))?;
        let conn = self.links.get_mut(&link)?.idle.pop_first()?;
        self.conns.remove(&conn);
        self.turn = Some(link);
        Some((link, conn))
    }

    /// The next session in turn that has an idle connection, among the live or among all.
    fn next_link(&self, live_only: bool) -> Option<LinkId> {
        let usable = |(id, link): (&LinkId, &Link)| {
            (!link.idle.is_empty() && (!live_only || self.is_live(link))).then_some(*id)
        };
        let after = |id: &LinkId| self.turn.is_none_or(|turn| *id > turn);
        let later = self
            .links
            .iter()
            .filter(|(id, _)| after(id))
            .find_map(usable);
        later.or_else(|| self.links.iter().find_map(usable))
    }

    fn is_live(&self, link: &Link) -> bool {
        self.now.saturating_since(link.heard) <= self.config.report_interval.saturating_mul(3) / 2
    }

    /// Tells the live sessions' peers how many connections are missing, all sessions together:
    /// when it grows, but not for every user of a burst; and again while it lasts.
    fn demand(&mut self) {
        let short = self.queue.len();
        if short == 0 {
            self.demanded = 0;
            self.demand_due = None;
            return;
        }
        if short <= self.demanded {
            return;
        }
        if self
            .said
            .is_some_and(|said| self.now < said.after(DEMAND_PAUSE))
        {
            self.demand_due = earliest(
                self.demand_due,
                self.said.map(|said| said.after(DEMAND_PAUSE)),
            );
            return;
        }
        let live: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| self.is_live(link))
            .map(|(id, _)| *id)
            .collect();
        if live.is_empty() {
            return;
        }
        let (each, more) = (short / live.len(), short % live.len());
        for (place, link) in live.into_iter().enumerate() {
            let share = each + usize::from(place < more);
            if share > 0 {
                let share = u32::try_from(share).unwrap_or(u32::MAX);
                self.outputs.push_back(Output::Demand(link, share));
            }
        }
        self.demanded = short;
        self.said = Some(self.now);
        self.demand_due = Some(self.now.after(DEMAND_AGAIN));
    }

    fn advance(&mut self, now: Instant) {
        debug_assert!(now >= self.now, "time goes forward");
        self.now = self.now.max(now);
        debug_assert_eq!(self.queue.len(), self.waiting.len());
        debug_assert_eq!(self.queue.len(), self.deadlines.len());
        debug_assert_eq!(
            self.conns.len(),
            self.links
                .values()
                .map(|link| link.idle.len())
                .sum::<usize>()
        );
    }
}

#[cfg(test)]
mod tests;
