//! One session's data connections by id: launches that a signal announces, and the certificate
//! check (`wire.md` §3, §5). Only for sessions whose [capabilities](crate::dialect::Capabilities)
//! say [`LaunchBy::Signal`](crate::dialect::LaunchBy::Signal).
//!
//! Both ends keep one, beside the session: at ingress it writes the launch of every connection that a
//! user takes, at egress it brings together connection and launch, whichever comes first.
//!
//! ```text
//!   ingress   Numbered ── Taken ──▶ Send(Launch)          egress   Numbered ── Launch ──▶ Serve
//!                └─ Verify, or the time for ours ──▶ Close, Claim      └─ Early ── 5 s ──▶ Close
//! ```
//!
//! Users' bytes, and the end of stream that follows a `verify`, often overtake the signal that
//! explains them: the driver keeps them ([`Held`](crate::handshake::legacy::Held)), says
//! [`Input::Early`] once, and waits for [`Output::Serve`] or [`Output::Close`]. What may be the
//! handshake of a client that restarted is judged if no launch comes for a while, and few at a time:
//! [`Input::Shown`], [`Output::Judge`].

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::dialect::Check;
use crate::guesses::Guesses;
use crate::id::ConnId;
use crate::limits;
use crate::terms::{DataId, Fingerprint};
use crate::time::{Instant, earliest};
use crate::wire::launch::Launch;
use crate::wire::signal::Signal;

/// What a roster is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Whether this end is ingress. Launches of the peer count for nothing then.
    pub ingress: bool,
    /// The session's certificate check.
    pub check: Option<Check>,
}

/// What happens to a session's data connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The id of a data connection was written, or read: it is idle.
    Numbered {
        /// The connection.
        conn: ConnId,
        /// Its id.
        id: DataId,
        /// The leaf certificate that the server shows on it, as this end sees it.
        leaf: Option<Fingerprint>,
    },
    /// The peer launched a user.
    Launch {
        /// On which connection.
        id: DataId,
        /// For whom.
        launch: Launch,
    },
    /// The peer shows what certificate it sees.
    Verify {
        /// On which connection.
        id: DataId,
        /// `None` if it cannot tell.
        fp: Option<Fingerprint>,
    },
    /// A connection without a launch showed bytes, or its end. An ingress gives it to no user.
    Early(ConnId),
    /// What an [early](Self::Early) connection showed is a complete request head or line
    /// ([`Seen::Shown`](crate::handshake::legacy::Seen::Shown)).
    Shown(ConnId),
    /// Ingress gives this connection to a user.
    Taken {
        /// The connection.
        conn: ConnId,
        /// For whom.
        launch: Launch,
    },
    /// This connection is closed, or what was [served](Output::Serve) on it has ended.
    Gone(ConnId),
    /// The pool has no use for this idle connection. It stays if something is under way on it.
    Spare(ConnId),
    /// The peer wants idle connections closed.
    Flushed,
}

/// What the roster wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell the peer.
    Send(Signal),
    /// Egress: dial a target for this user and relay on this connection, what was kept of it first.
    /// Say [`Input::Gone`] when that has ended.
    Serve {
        /// The connection; it is in use now.
        conn: ConnId,
        /// For whom.
        launch: Launch,
    },
    /// Judge what this connection [showed](Input::Shown).
    Judge(ConnId),
    /// The connection serves the certificate check: it is idle no longer, and no user may take it.
    /// It stays open until the peer ends it or [`Output::Close`] says so.
    Claim(ConnId),
    /// Close this connection, wherever it is kept, and end what is served on it: a `classic` peer whose
    /// own relay ended may launch another user on it (`wire.md` §5).
    Close(ConnId),
    /// A signal named a connection that never came, or too many wait: for the log.
    Missing(DataId),
    /// The peer sees the certificate that this end sees.
    Matched,
    /// It does not: somebody is in the middle. End the session.
    Mismatched(DataId),
}

/// The data connections of one session.
#[derive(Debug)]
pub struct Roster {
    config: Config,
    conns: BTreeMap<ConnId, Entry>,
    by_id: BTreeMap<DataId, ConnId>,
    /// Signals whose connection is not here yet.
    parked: BTreeMap<DataId, (Instant, Parked)>,
    /// When each early connection, claimed one and parked signal is given up.
    deadlines: BTreeSet<(Instant, Subject)>,
    /// Early connections that are to be judged.
    shown: Guesses,
    /// Ours was sent, or there is none to send.
    checked: bool,
    heard_check: bool,
    next_check: Instant,
    looks: u32,
    outputs: VecDeque<Output>,
    now: Instant,
}

#[derive(Debug)]
struct Entry {
    id: DataId,
    leaf: Option<Fingerprint>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Early(Instant),
    Claimed(Instant),
    /// The peer's user is served.
    Serving,
}

#[derive(Debug)]
enum Parked {
    Launch(Launch),
    Verify(Option<Fingerprint>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Conn(ConnId),
    Signal(DataId),
}

impl Roster {
    /// The roster of a session whose control channel has just come up.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            conns: BTreeMap::new(),
            by_id: BTreeMap::new(),
            parked: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            shown: Guesses::default(),
            checked: !config.check.is_some_and(|check| check.send),
            heard_check: false,
            next_check: now.after(limits::CHECK_TICK),
            looks: 0,
            outputs: VecDeque::new(),
            now,
        }
    }

    /// One mutation; drain [`poll_output`](Self::poll_output) afterwards, before users are given
    /// connections.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        self.advance(now);
        match input {
            Input::Numbered { conn, id, leaf } => self.on_numbered(conn, id, leaf),
            // An ingress serves its own users only.
            Input::Launch { .. } if self.config.ingress => {}
            Input::Launch { id, launch } => self.on_signal(id, Parked::Launch(launch)),
            Input::Verify { id, fp } => {
                self.heard_check = true;
                self.on_signal(id, Parked::Verify(fp));
            }
            Input::Early(conn) => self.on_early(conn),
            Input::Shown(conn) => {
                let state = self.conns.get(&conn).map(|entry| entry.state);
                if matches!(state, Some(State::Early(_))) && !self.shown.contains(conn) {
                    self.shown.delay(self.now, conn);
                }
            }
            Input::Taken { conn, launch } => match self.remove(conn) {
                Some(Entry { id, .. }) => {
                    let launch = Signal::Launch { id, launch };
                    self.outputs.push_back(Output::Send(launch));
                }
                None => self.outputs.push_back(Output::Close(conn)),
            },
            Input::Gone(conn) => {
                self.remove(conn);
            }
            Input::Spare(conn) => {
                let state = self.conns.get(&conn).map(|entry| entry.state);
                if matches!(state, Some(State::Idle)) {
                    self.close(conn);
                }
            }
            Input::Flushed => {
                let idle = |(conn, entry): (&ConnId, &Entry)| {
                    (entry.state == State::Idle).then_some(*conn)
                };
                let idle: VecDeque<ConnId> = self.conns.iter().filter_map(idle).collect();
                idle.into_iter().for_each(|conn| self.close(conn));
            }
        }
    }

    /// Acts on deadlines that have passed; early or repeated calls change nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        while let Some(&(due, subject)) = self.deadlines.first() {
            if due > self.now {
                break;
            }
            match subject {
                Subject::Conn(conn) => self.close(conn),
                Subject::Signal(id) => {
                    self.unpark(id);
                    self.outputs.push_back(Output::Missing(id));
                }
            }
        }
        while let Some(conn) = self.shown.take_due(self.now) {
            self.outputs.push_back(Output::Judge(conn));
        }
        if !self.checked && self.next_check <= self.now {
            self.next_check = self.now.after(limits::CHECK_TICK);
            self.looks += 1;
            self.check();
        }
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
        let check = (!self.checked).then_some(self.next_check);
        let deadline = self.deadlines.first().map(|&(due, _)| due);
        earliest(earliest(deadline, self.shown.next_due()), check)
    }

    /// Connections that are not gone, and signals without a connection.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conns.len() + self.parked.len()
    }

    /// Whether there is neither.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn on_numbered(&mut self, conn: ConnId, id: DataId, leaf: Option<Fingerprint>) {
        // The server makes ids unique; who does not loses the connection.
        if self.conns.contains_key(&conn) || self.by_id.contains_key(&id) {
            return self.outputs.push_back(Output::Close(conn));
        }
        let state = State::Idle;
        self.conns.insert(conn, Entry { id, leaf, state });
        self.by_id.insert(id, conn);
        if let Some(parked) = self.unpark(id) {
            self.resolve(conn, parked);
        }
    }

    fn on_signal(&mut self, id: DataId, parked: Parked) {
        if let Some(&conn) = self.by_id.get(&id) {
            return self.resolve(conn, parked);
        }
        if self.parked.contains_key(&id) {
            return;
        }
        if self.parked.len() >= limits::PARKED {
            return self.outputs.push_back(Output::Missing(id));
        }
        let due = self.now.after(limits::ANNOUNCE_WAIT);
        self.deadlines.insert((due, Subject::Signal(id)));
        self.parked.insert(id, (due, parked));
    }

    /// A connection and the signal that names it are both there.
    fn resolve(&mut self, conn: ConnId, signal: Parked) {
        let Some(entry) = self.remove(conn) else {
            return;
        };
        match (signal, entry.state) {
            // Both ends chose the same connection, which must not happen, or the peer one that we
            // still use: it serves no user.
            (Parked::Launch(_), State::Claimed(_) | State::Serving) => {
                self.outputs.push_back(Output::Close(conn));
            }
            (Parked::Launch(launch), State::Idle | State::Early(_)) => {
                let state = State::Serving;
                self.by_id.insert(entry.id, conn);
                self.conns.insert(conn, Entry { state, ..entry });
                self.outputs.push_back(Output::Serve { conn, launch });
            }
            (Parked::Verify(fp), _) => {
                self.outputs.push_back(Output::Close(conn));
                let matches = self.matches(entry.leaf, fp);
                self.outputs.push_back(match matches {
                    true => Output::Matched,
                    false => Output::Mismatched(entry.id),
                });
            }
        }
    }

    fn matches(&self, ours: Option<Fingerprint>, theirs: Option<Fingerprint>) -> bool {
        match (self.config.check, theirs) {
            (None, _) => true,
            (Some(check), None) => check.blind_passes,
            (Some(_), Some(theirs)) => ours == Some(theirs),
        }
    }

    fn on_early(&mut self, conn: ConnId) {
        match self.conns.get(&conn).map(|entry| entry.state) {
            Some(State::Idle) => {
                let due = self.now.after(limits::ANNOUNCE_WAIT);
                self.wait(conn, State::Early(due), due);
            }
            // The peer has seen our `verify`, and is done with it.
            Some(State::Claimed(_)) => self.close(conn),
            Some(State::Early(_) | State::Serving) | None => {}
        }
    }

    /// Sends our `verify` about the newest idle connection: the peer takes its oldest, and must not
    /// take the same one. With a single one this waits for the peer's, or for the third look.
    fn check(&mut self) {
        let mut idle = self.conns.iter().rev().filter_map(|(conn, entry)| {
            let leaf = entry.leaf.filter(|_| entry.state == State::Idle)?;
            Some((*conn, entry.id, leaf))
        });
        let (newest, another) = (idle.next(), idle.next());
        let alone = another.is_none() && !self.heard_check && self.looks < 3;
        let Some((conn, id, leaf)) = newest.filter(|_| !alone) else {
            return;
        };
        self.checked = true;
        let due = self.now.after(limits::ANNOUNCE_WAIT);
        self.wait(conn, State::Claimed(due), due);
        self.outputs.push_back(Output::Claim(conn));
        let fp = Some(leaf);
        self.outputs
            .push_back(Output::Send(Signal::Verify { id, fp }));
    }

    fn wait(&mut self, conn: ConnId, state: State, due: Instant) {
        if let Some(entry) = self.conns.get_mut(&conn) {
            entry.state = state;
            self.deadlines.insert((due, Subject::Conn(conn)));
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.remove(conn);
        self.outputs.push_back(Output::Close(conn));
    }

    fn remove(&mut self, conn: ConnId) -> Option<Entry> {
        let entry = self.conns.remove(&conn)?;
        self.by_id.remove(&entry.id);
        match entry.state {
            State::Idle | State::Serving => {}
            State::Early(due) | State::Claimed(due) => {
                self.deadlines.remove(&(due, Subject::Conn(conn)));
                self.shown.remove(conn);
            }
        }
        Some(entry)
    }

    fn unpark(&mut self, id: DataId) -> Option<Parked> {
        let (due, parked) = self.parked.remove(&id)?;
        self.deadlines.remove(&(due, Subject::Signal(id)));
        Some(parked)
    }

    fn advance(&mut self, now: Instant) {
        debug_assert!(now >= self.now, "time goes forward");
        self.now = self.now.max(now);
        debug_assert_eq!(self.conns.len(), self.by_id.len());
        debug_assert!(self.parked.len() <= limits::PARKED);
        debug_assert!(self.deadlines.len() <= self.len());
        debug_assert!(self.shown.len() <= self.conns.len());
    }
}

#[cfg(test)]
mod tests;
