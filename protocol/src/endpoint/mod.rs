//! The server's door: who may be in handshake, which sessions exist, whose data connections are
//! accepted (`wire.md` §2.2, §2.3, §6).
//!
//! A connection at the tunnel port is *half-open* from [`Input::Accepted`] until it turns into a
//! control connection ([`Output::Welcome`]), a data connection ([`Output::Data`]) or ends.
//!
//! Sessions are told apart by name, and their data connections by a signed preface; or, for peers
//! that cannot sign, by the client's address, one session each ([`Input::Addressed`]). Of such a
//! session silent connections are data connections ([`Input::Silent`]); each gets an id
//! ([`Output::Numbered`]), but the first may be the control channel ([`Output::Control`]).

mod addressed;
mod bans;
mod expiring;
mod half_open;
mod words;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use core::net::IpAddr;

use crate::demux::Expected;
use crate::dialect::ControlOn;
use crate::guesses::Guesses;
use crate::id::{ConnId, LinkId, Mint};
use crate::limits;
use crate::proof::DataSecret;
use crate::replay::Window;
use crate::rng::{Rng, Seed};
use crate::terms::{DataTls, InstanceId, SessionId};
use crate::time::{Instant, earliest};
use crate::wire::preface::Preface;

pub use self::words::{Ending, Input, Notice, Output, Refusal};
use addressed::{ByAddress, Numbering};
use bans::{Bans, Verdict};
use expiring::{Expiring, subject};
use half_open::HalfOpen;

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
    sessions: BTreeMap<LinkId, Box<Entry>>,
    by_name: BTreeMap<SessionId, LinkId>,
    by_address: ByAddress,
    /// Which session each idle data connection belongs to.
    idle: BTreeMap<ConnId, LinkId>,
    /// Wrong proofs whose answer waits; they stay half-open, which bounds them.
    refusals: Guesses,
    outputs: VecDeque<Output>,
    now: Instant,
}

struct Entry {
    from: IpAddr,
    told_by: ToldBy,
    heard: Instant,
    idle: usize,
    /// It was told that it has no room.
    was_full: bool,
}

/// How a session's data connections are told.
enum ToldBy {
    Name {
        name: SessionId,
        instance: InstanceId,
        data_secret: DataSecret,
        window: Window,
    },
    Address(Numbering),
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match &self.told_by {
            ToldBy::Name { name, instance, .. } => {
                write!(f, "Entry({name}, {instance}, {})", self.from)
            }
            ToldBy::Address(numbering) => write!(f, "Entry({}, {numbering:?})", self.from),
        }
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
            by_address: ByAddress::default(),
            idle: BTreeMap::new(),
            refusals: Guesses::default(),
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
            Input::Addressed { conn, control } => self.on_addressed(conn, control),
            Input::Silent { conn, tls } => self.on_silent(conn, tls),
            Input::Returned(link) => {
                if self.sessions.contains_key(&link) {
                    self.end(link, Ending::Returned);
                }
            }
            Input::WrongKey(link) => {
                if let Some(from) = self.sessions.get(&link).map(|entry| entry.from) {
                    self.charge(from);
                }
            }
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
        while let Some((_, link)) = self.first_control_due().filter(|(due, _)| *due <= self.now) {
            self.end(link, Ending::NoControl);
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
        let control = self.first_control_due().map(|(due, _)| due);
        earliest(earliest(self.refusals.next_due(), control), forget)
    }

    /// Which silent connections from this address are data connections.
    #[must_use]
    pub fn expected(&self, from: IpAddr) -> Expected {
        match (self.by_address.get(from), self.config.tls) {
            (None, _) => Expected::Nothing,
            (Some(_), DataTls::Plain) => Expected::Plain,
            (Some(_), DataTls::Pinned | DataTls::Verified) => Expected::Tls,
        }
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
        let most = match self.expected(from) {
            Expected::Nothing => limits::HALF_OPEN_PER_ADDRESS,
            Expected::Plain | Expected::Tls => limits::HALF_OPEN_SILENT,
        };
        let admission = self.half_open.insert(conn, from, most);
        if let Some(oldest) = admission.evicted {
            self.refusals.remove(oldest);
            let close = Output::Close(oldest, Refusal::HalfOpen);
            self.outputs.push_back(close);
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
        self.charge(from);
        if self.is_exempt(from) {
            self.refusals.delay(self.now, conn);
        } else {
            self.half_open.remove(conn);
            self.outputs.push_back(Output::Refuse(conn));
        }
    }

    /// A wrong key came from there.
    fn charge(&mut self, from: IpAddr) {
        let exempt = self.is_exempt(from);
        let notice = match self.bans.failed(self.now, from, exempt) {
            Verdict::First => Notice::WrongKey(from),
            Verdict::NowBanned => Notice::Banned(from),
            Verdict::Counted | Verdict::AlreadyBanned => return,
        };
        self.outputs.push_back(Output::Notice(notice));
    }

    fn on_hello(&mut self, conn: ConnId, instance: InstanceId, data_secret: DataSecret) {
        let Some(from) = self.leaves_half_open(conn) else {
            return;
        };
        let same = |entry: &Entry| match &entry.told_by {
            ToldBy::Name { instance: it, .. } => *it == instance,
            ToldBy::Address(_) => false,
        };
        let older = self.sessions.iter().find(|(_, entry)| same(entry));
        self.make_room(older.map(|(&link, _)| link), Ending::SameInstance);
        let name = SessionId(self.rng.bytes());
        let told_by = ToldBy::Name {
            name,
            instance,
            data_secret,
            window: Window::default(),
        };
        let link = self.welcome(conn, from, name, told_by);
        self.by_name.insert(name, link);
    }

    fn on_addressed(&mut self, conn: ConnId, control: ControlOn) {
        let Some(from) = self.leaves_half_open(conn) else {
            return;
        };
        self.make_room(self.by_address.get(from), Ending::SameAddress);
        let name = SessionId(self.rng.bytes());
        let numbering = Numbering::new(&mut self.rng, conn, control, self.now);
        let link = self.welcome(conn, from, name, ToldBy::Address(numbering));
        self.by_address.insert(from, link);
    }

    /// Where it came from, if the connection may still become something.
    fn leaves_half_open(&mut self, conn: ConnId) -> Option<IpAddr> {
        if self.refusals.contains(conn) {
            return None;
        }
        self.half_open.remove(conn)
    }

    /// Ends the session that a new one replaces, or the longest silent one if there are too many.
    fn make_room(&mut self, older: Option<LinkId>, why: Ending) {
        if let Some(older) = older {
            self.end(older, why);
        } else if self.sessions.len() >= limits::SESSIONS {
            let longest = self.sessions.iter().min_by_key(|(_, entry)| entry.heard);
            if let Some((&longest, _)) = longest {
                self.end(longest, Ending::Longest);
            }
        }
    }

    fn welcome(
        &mut self,
        conn: ConnId,
        from: IpAddr,
        session: SessionId,
        told_by: ToldBy,
    ) -> LinkId {
        let link = LinkId::from_number(self.links.next());
        let entry = Entry {
            from,
            told_by,
            heard: self.now,
            idle: 0,
            was_full: false,
        };
        self.sessions.insert(link, Box::new(entry));
        self.outputs.push_back(Output::Welcome {
            conn,
            link,
            session,
        });
        link
    }

    fn on_silent(&mut self, conn: ConnId, tls: bool) {
        let from = self.half_open.address(conn);
        let Some(from) = from.filter(|_| !self.refusals.contains(conn)) else {
            return;
        };
        let output = match self.admit_silent(conn, from, tls) {
            // It may have something to say yet: a client that restarted must not wait for room.
            Err(Refusal::TooManyIdle) => return self.wait(conn),
            Ok(output) => output,
            Err(why) => Output::Close(conn, why),
        };
        self.half_open.remove(conn);
        self.outputs.push_back(output);
    }

    fn wait(&mut self, conn: ConnId) {
        if let Some(oldest) = self.half_open.make_spare(conn) {
            self.refusals.remove(oldest);
            let close = Output::Close(oldest, Refusal::TooManyIdle);
            self.outputs.push_back(close);
        }
        self.outputs.push_back(Output::Wait(conn));
    }

    fn admit_silent(&mut self, conn: ConnId, from: IpAddr, tls: bool) -> Result<Output, Refusal> {
        if tls != (self.config.tls != DataTls::Plain) {
            return Err(Refusal::WrongTls);
        }
        let in_all = self.idle.len();
        let link = self.by_address.get(from).ok_or(Refusal::UnknownSession)?;
        let entry = self
            .sessions
            .get_mut(&link)
            .ok_or(Refusal::UnknownSession)?;
        let ToldBy::Address(numbering) = &mut entry.told_by else {
            return Err(Refusal::UnknownSession);
        };
        if !numbering.is_later(conn) {
            return Err(Refusal::UnknownSession);
        }
        if numbering.control_due.take().is_some() {
            return Ok(Output::Control(conn, link));
        }
        if entry.idle >= self.config.max || in_all >= self.config.max_total {
            return Err(self.is_full(link));
        }
        let id = numbering.mint();
        entry.idle += 1;
        self.idle.insert(conn, link);
        Ok(Output::Numbered(conn, link, id))
    }

    fn on_preface(&mut self, conn: ConnId, preface: &Preface, exporter: Option<[u8; 32]>) {
        if self.leaves_half_open(conn).is_none() {
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
        let ToldBy::Name {
            data_secret,
            window,
            ..
        } = &mut entry.told_by
        else {
            return Err(Refusal::UnknownSession);
        };
        if !preface.verify(data_secret, exporter.as_ref()) {
            return Err(Refusal::WrongTag);
        }
        if !window.accept(preface.seq) {
            return Err(Refusal::Replayed);
        }
        if entry.idle >= self.config.max || self.idle.len() >= self.config.max_total {
            return Err(self.is_full(link));
        }
        entry.idle += 1;
        Ok(link)
    }

    /// Says so once a session.
    fn is_full(&mut self, link: LinkId) -> Refusal {
        if let Some(entry) = self.sessions.get_mut(&link)
            && !core::mem::replace(&mut entry.was_full, true)
        {
            let notice = Output::Notice(Notice::IdleLimit(link));
            self.outputs.push_back(notice);
        }
        Refusal::TooManyIdle
    }

    fn first_control_due(&self) -> Option<(Instant, LinkId)> {
        let due = self
            .sessions
            .iter()
            .filter_map(|(link, entry)| match &entry.told_by {
                ToldBy::Name { .. } => None,
                ToldBy::Address(numbering) => Some((numbering.control_due?, *link)),
            });
        due.min()
    }

    fn end(&mut self, link: LinkId, why: Ending) {
        self.forget(link);
        self.outputs.push_back(Output::EndSession(link, why));
    }

    fn forget(&mut self, link: LinkId) {
        if let Some(entry) = self.sessions.remove(&link) {
            match entry.told_by {
                ToldBy::Name { name, .. } => {
                    self.by_name.remove(&name);
                }
                ToldBy::Address(_) => self.by_address.remove(entry.from, link),
            }
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
        debug_assert_eq!(
            self.sessions.len(),
            self.by_name.len() + self.by_address.len()
        );
        debug_assert!(self.refusals.len() <= self.half_open.len());
    }
}

#[cfg(test)]
mod tests;
