//! The server's door: who may be in handshake, which sessions exist, whose data connections are
//! accepted (`wire.md` §2.2, §2.3, §6).
//!
//! A connection at the tunnel port is *half-open* from [`Input::Accepted`] until it turns into a
//! control connection ([`Output::Welcome`]), a data connection ([`Output::Data`]) or ends.

mod bans;
mod expiring;
mod half_open;
mod refusals;

use alloc::collections::{BTreeMap, VecDeque};
use core::net::IpAddr;

use crate::id::{ConnId, LinkId, Mint};
use crate::limits;
use crate::proof::DataSecret;
use crate::replay::Window;
use crate::rng::{Rng, Seed};
use crate::terms::{DataTls, InstanceId, SessionId};
use crate::time::{Instant, earliest};
use crate::wire::preface::Preface;

use bans::{Bans, Verdict};
use expiring::{Expiring, subject};
use half_open::HalfOpen;
use refusals::Refusals;

/// What happens at the tunnel port.
#[derive(Clone, Debug)]
pub enum Input {
    /// A connection was accepted; its id comes from [`Endpoint::next_conn`].
    Accepted {
        /// The new connection.
        conn: ConnId,
        /// The peer's address.
        from: IpAddr,
    },
    /// A half-open connection ended, ran into its deadline or sent garbage.
    Ended(ConnId),
    /// A half-open connection sent a well-formed but wrong proof or token.
    WrongProof(ConnId),
    /// A half-open connection sent a `hello` whose proof is right.
    Hello {
        /// The control connection.
        conn: ConnId,
        /// The client's name for itself.
        instance: InstanceId,
        /// `D`, the secret of this session's data connections.
        data_secret: DataSecret,
    },
    /// A half-open connection sent a data preface.
    Preface {
        /// The data connection.
        conn: ConnId,
        /// What it sent.
        preface: Preface,
        /// `X` of its own TLS, `None` without TLS. Good for nothing without `D`, so no secret.
        exporter: Option<[u8; 32]>,
    },
    /// A data connection is no longer idle: a user took it, or it ended.
    NotIdle(ConnId),
    /// A session sent a line.
    Heard(LinkId),
    /// A session ended.
    SessionEnded(LinkId),
}

/// What the endpoint wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Close this half-open connection, without a word; see [`Refusal::TooManyIdle`].
    Close(ConnId, Refusal),
    /// Answer `refuse` with the reason `auth`, then close.
    Refuse(ConnId),
    /// Answer `welcome`: the session is up.
    Welcome {
        /// The control connection.
        conn: ConnId,
        /// The new session.
        link: LinkId,
        /// Its name on the wire.
        session: SessionId,
    },
    /// The data connection belongs to this session and is idle.
    Data(ConnId, LinkId),
    /// End this session: another takes its place.
    EndSession(LinkId, Replaced),
    /// Worth a line in the log.
    Notice(Notice),
}

/// Why a half-open connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its address is banned.
    #[error("address banned after wrong keys")]
    Banned,
    /// Newer connections need its place.
    #[error("too many connections in handshake")]
    HalfOpen,
    /// No session of that name.
    #[error("data connection of an unknown session")]
    UnknownSession,
    /// The tag does not match.
    #[error("data connection with a wrong tag")]
    WrongTag,
    /// Its sequence number was seen before.
    #[error("data connection replayed")]
    Replayed,
    /// It came plain where TLS is required, or the other way round.
    #[error("data connection with the wrong tls mode")]
    WrongTls,
    /// Its session has `max` idle ones already, or all sessions have `max_total`, as far as this
    /// end knows: a launch on another one may still be on its way, and a launch on this one, too.
    /// If this end is egress, it withdraws the connection (`0x07`) instead of closing it without a
    /// word, so that no user is lost.
    #[error("too many idle data connections")]
    TooManyIdle,
}

/// Why a session makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Replaced {
    /// The same client instance opened another.
    #[error("replaced by a new session of the same client")]
    SameInstance,
    /// [`limits::SESSIONS`] exist, and this one was silent longest.
    #[error("dropped for a new session, 64 exist")]
    Longest,
}

/// What an operator wants to know, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The first wrong key from this address for a while.
    WrongKey(IpAddr),
    /// This address is banned for [`limits::BAN_TIME`].
    Banned(IpAddr),
    /// Connections in handshake are at their limit. Said once until they were below half of it.
    HalfOpenLimit,
}

/// What the endpoint is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The server's mode for data connections.
    pub tls: DataTls,
    /// `max`: idle data connections per session.
    pub max: usize,
    /// Idle data connections of all sessions together; beyond, they are refused as beyond `max`.
    /// What the process can afford: half of its descriptors (`config.md` §1).
    pub max_total: usize,
}

/// The server's door.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    rng: Rng,
    conns: Mint,
    links: Mint,
    half_open: HalfOpen,
    bans: Bans,
    /// Where a session was lately: exempt from bans as if it were still up, so that a neighbour
    /// with a wrong key cannot lock out a client that restarts.
    lately: Expiring<()>,
    sessions: BTreeMap<LinkId, Entry>,
    by_name: BTreeMap<SessionId, LinkId>,
    /// Which session each idle data connection belongs to.
    idle: BTreeMap<ConnId, LinkId>,
    refusals: Refusals,
    outputs: VecDeque<Output>,
    now: Instant,
}

struct Entry {
    name: SessionId,
    instance: InstanceId,
    from: IpAddr,
    data_secret: DataSecret,
    window: Window,
    heard: Instant,
    idle: usize,
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Entry({}, {}, {})", self.name, self.instance, self.from)
    }
}

impl Endpoint {
    /// A door without sessions.
    #[must_use]
    pub fn new(config: Config, seed: Seed, now: Instant) -> Self {
        Self {
            config,
            rng: Rng::new(seed),
            conns: Mint::default(),
            links: Mint::default(),
            half_open: HalfOpen::default(),
            bans: Bans::new(),
            lately: Expiring::new(limits::BAN_TABLE),
            sessions: BTreeMap::new(),
            by_name: BTreeMap::new(),
            idle: BTreeMap::new(),
            refusals: Refusals::default(),
            outputs: VecDeque::new(),
            now,
        }
    }

    /// A name for a connection that the driver accepted.
    pub const fn next_conn(&mut self) -> ConnId {
        ConnId::from_number(self.conns.next())
    }

    /// One mutation; drain [`poll_output`](Self::poll_output) afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        self.advance(now);
        match input {
            Input::Accepted { conn, from } => self.on_accepted(conn, from.to_canonical()),
            Input::Ended(conn) => {
                self.half_open.remove(conn);
                self.refusals.remove(conn);
            }
            Input::WrongProof(conn) => self.on_wrong_proof(conn),
            Input::Hello {
                conn,
                instance,
                data_secret,
            } => {
                self.on_hello(conn, instance, data_secret);
            }
            Input::Preface {
                conn,
                preface,
                exporter,
            } => self.on_preface(conn, &preface, exporter),
            Input::NotIdle(conn) => {
                let link = self.idle.remove(&conn);
                if let Some(entry) = link.and_then(|link| self.sessions.get_mut(&link))
                    && !cfg!(feature = "bug-leak")
                {
                    entry.idle -= 1;
                }
            }
            Input::Heard(link) => {
                if let Some(entry) = self.sessions.get_mut(&link) {
                    entry.heard = self.now;
                }
            }
            Input::SessionEnded(link) => self.forget(link),
        }
    }

    /// Acts on deadlines that have passed; early or repeated calls change nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        while let Some(conn) = self.refusals.take_due(self.now) {
            self.half_open.remove(conn);
            self.outputs.push_back(Output::Refuse(conn));
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
        let forget = earliest(self.bans.next_expiry(), self.lately.next_expiry());
        earliest(self.refusals.next_due(), forget)
    }

    /// Sessions now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Connections in handshake now.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    fn on_accepted(&mut self, conn: ConnId, from: IpAddr) {
        if self.half_open.address(conn).is_some() {
            return;
        }
        if self.bans.is_banned(from) && !self.is_exempt(from) {
            return self.outputs.push_back(Output::Close(conn, Refusal::Banned));
        }
        let admission = self.half_open.insert(conn, from);
        if let Some(oldest) = admission.evicted {
            self.refusals.remove(oldest);
            self.outputs
                .push_back(Output::Close(oldest, Refusal::HalfOpen));
        }
        if admission.first_at_limit {
            self.outputs
                .push_back(Output::Notice(Notice::HalfOpenLimit));
        }
    }

    fn on_wrong_proof(&mut self, conn: ConnId) {
        let Some(from) = self.half_open.address(conn) else {
            return;
        };
        if self.refusals.contains(conn) {
            return;
        }
        let verdict = self.bans.failed(self.now, from);
        if verdict == Verdict::First {
            self.outputs
                .push_back(Output::Notice(Notice::WrongKey(from)));
        }
        if verdict == Verdict::NowBanned {
            self.outputs.push_back(Output::Notice(Notice::Banned(from)));
        }
        if self.is_exempt(from) {
            self.refusals.delay(self.now, conn);
        } else {
            self.half_open.remove(conn);
            self.outputs.push_back(Output::Refuse(conn));
        }
    }

    fn on_hello(&mut self, conn: ConnId, instance: InstanceId, data_secret: DataSecret) {
        if self.refusals.contains(conn) {
            return;
        }
        let Some(from) = self.half_open.remove(conn) else {
            return;
        };
        let older = self
            .sessions
            .iter()
            .find(|(_, entry)| entry.instance == instance);
        if let Some((&older, _)) = older {
            self.replace(older, Replaced::SameInstance);
        } else if self.sessions.len() >= limits::SESSIONS {
            let longest = self.sessions.iter().min_by_key(|(_, entry)| entry.heard);
            if let Some((&longest, _)) = longest {
                self.replace(longest, Replaced::Longest);
            }
        }
        let link = LinkId::from_number(self.links.next());
        let name = SessionId(self.rng.bytes());
        let heard = self.now;
        let window = Window::default();
        let entry = Entry {
            name,
            instance,
            from,
            data_secret,
            window,
            heard,
            idle: 0,
        };
        self.sessions.insert(link, entry);
        self.by_name.insert(name, link);
        self.outputs.push_back(Output::Welcome {
            conn,
            link,
            session: name,
        });
    }

    fn on_preface(&mut self, conn: ConnId, preface: &Preface, exporter: Option<[u8; 32]>) {
        if self.refusals.contains(conn) || self.half_open.remove(conn).is_none() {
            return;
        }
        let output = match self.admit(preface, exporter) {
            Ok(link) => {
                self.idle.insert(conn, link);
                Output::Data(conn, link)
            }
            Err(why) => Output::Close(conn, why),
        };
        self.outputs.push_back(output);
    }

    fn admit(&mut self, preface: &Preface, exporter: Option<[u8; 32]>) -> Result<LinkId, Refusal> {
        if exporter.is_some() != (self.config.tls != DataTls::Plain) {
            return Err(Refusal::WrongTls);
        }
        let link = *self
            .by_name
            .get(&preface.session)
            .ok_or(Refusal::UnknownSession)?;
        let entry = self
            .sessions
            .get_mut(&link)
            .ok_or(Refusal::UnknownSession)?;
        if !preface.verify(&entry.data_secret, exporter.as_ref()) {
            return Err(Refusal::WrongTag);
        }
        if !entry.window.accept(preface.seq) {
            return Err(Refusal::Replayed);
        }
        if entry.idle >= self.config.max || self.idle.len() >= self.config.max_total {
            return Err(Refusal::TooManyIdle);
        }
        entry.idle += 1;
        Ok(link)
    }

    fn replace(&mut self, link: LinkId, why: Replaced) {
        self.forget(link);
        self.outputs.push_back(Output::EndSession(link, why));
    }

    fn forget(&mut self, link: LinkId) {
        if let Some(entry) = self.sessions.remove(&link) {
            self.by_name.remove(&entry.name);
            self.idle.retain(|_, owner| *owner != link);
            let until = self.now.after(limits::BAN_TIME);
            self.lately.put(entry.from, until, ());
        }
    }

    /// Whether a ban of `from` would reach a session, or one that was up lately.
    fn is_exempt(&self, from: IpAddr) -> bool {
        let banned = subject(from);
        let mut sessions = self.sessions.values();
        self.lately.get(from).is_some() || sessions.any(|entry| subject(entry.from) == banned)
    }

    fn advance(&mut self, now: Instant) {
        debug_assert!(now >= self.now, "time goes forward");
        self.now = self.now.max(now);
        self.bans.expire(self.now);
        self.lately.expire(self.now);
        debug_assert!(self.half_open.len() <= limits::HALF_OPEN);
        debug_assert!(self.sessions.len() <= limits::SESSIONS);
        debug_assert_eq!(self.sessions.len(), self.by_name.len());
        debug_assert!(self.refusals.len() <= self.half_open.len());
    }
}

#[cfg(test)]
mod tests;
