use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::endpoint::{Config, Endpoint, Input, Notice, Output};
use crate::dialect::ControlOn;
use crate::id::{ConnId, LinkId};
use crate::limits;
use crate::proof::DataSecret;
use crate::rng::Seed;
use crate::terms::{DataId, DataTls, InstanceId, SessionId};
use crate::testing::contract::{Machine, check_after_mutation};
use crate::testing::script::Script;
use crate::time::Instant;
use crate::wire::preface::Preface;

/// Bytes: the configuration, then steps: connections that come and what they say, right and
/// forged, sessions and connections that end, time.
///
/// # Panics
/// If the contract is broken, a limit is exceeded, an answer is for a connection that is not
/// half-open, a data connection is admitted without a valid tag, twice, for a session that is gone,
/// above `max` or above `max_total`, one that was silent is kept that has room or too many of them are, or a ban closes out an address that has a session or had one
/// lately.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut now = Instant::default();
    let tls = if script.bool() { DataTls::Plain } else { DataTls::Pinned };
    let max = usize::from(script.u8());
    let config = Config { tls, max, max_total: max + max / 2 };
    let mut run = Run {
        endpoint: Endpoint::new(config, Seed([1; 32]), now),
        config,
        half_open: BTreeMap::new(),
        sessions: BTreeMap::new(),
        idle: BTreeMap::new(),
        asked: None,
        silent: None,
        control: None,
        spare: BTreeSet::new(),
        full: BTreeSet::new(),
        from: BTreeMap::new(),
        numbers: BTreeMap::new(),
        addressed: BTreeSet::new(),
        admitted: BTreeSet::new(),
        banned: BTreeMap::new(),
        exempt: BTreeMap::new(),
        now,
    };
    while !script.is_empty() {
        let repeat = if script.u8() > 250 { 70 } else { 0 };
        for _ in 0..repeat {
            run.step(&mut script.clone(), &mut now);
        }
        run.step(&mut script, &mut now);
        check_after_mutation(&mut run, now);
        run.check();
    }
}

struct Run {
    endpoint: Endpoint,
    config: Config,
    /// Addresses here and below are those that bans are about.
    half_open: BTreeMap<ConnId, IpAddr>,
    sessions: BTreeMap<LinkId, (SessionId, IpAddr)>,
    idle: BTreeMap<ConnId, LinkId>,
    /// The preface that was just sent, and whether it is good.
    asked: Option<(Preface, bool)>,
    /// The connection that was just silent, its address, and whether inside TLS.
    silent: Option<(ConnId, bool)>,
    /// The handshake that just came, and whether its connection goes on.
    control: Option<ControlOn>,
    /// Those that were silent and had no room.
    spare: BTreeSet<ConnId>,
    /// Sessions that were said to be full.
    full: BTreeSet<LinkId>,
    /// Where each half-open connection came from, in full.
    from: BTreeMap<ConnId, IpAddr>,
    /// Of sessions by address: where it is, whether its control channel is yet to come, its ids.
    numbers: BTreeMap<LinkId, (IpAddr, bool, BTreeSet<DataId>)>,
    /// Where there was such a session at some time.
    addressed: BTreeSet<IpAddr>,
    admitted: BTreeSet<(SessionId, u64)>,
    /// Until when.
    banned: BTreeMap<IpAddr, Instant>,
    /// Until when, for a session that ended.
    exempt: BTreeMap<IpAddr, Instant>,
    now: Instant,
}

impl Run {
    fn step(&mut self, script: &mut Script<'_>, now: &mut Instant) {
        let input = match script.u32_below(12) {
            0..3 => self.accept(script),
            3 => self.hello(script),
            9 => self.addressed(script),
            10 => self.silent(script),
            4 | 5 => self.preface(script),
            6 => {
                let Some(conn) = pick(&self.half_open, script) else { return };
                if script.bool() {
                    Input::WrongProof(conn)
                } else {
                    self.half_open.remove(&conn);
                    Input::Ended(conn)
                }
            }
            7 => {
                let conn = pick(&self.idle, script).unwrap_or(ConnId::from_number(0));
                self.idle.remove(&conn);
                Input::NotIdle(conn)
            }
            8 => match pick(&self.sessions, script) {
                Some(link) if script.bool() => Input::Heard(link),
                Some(link) if script.u8() > 200 => Input::Returned(link),
                Some(link) if script.u8() > 200 => Input::WrongKey(link),
                Some(link) => {
                    self.end(link);
                    Input::SessionEnded(link)
                }
                None => Input::WrongProof(ConnId::from_number(script.u8().into())),
            },
            _ => {
                *now = now.after(script.duration());
                self.now = *now;
                self.endpoint.handle_timeout(*now);
                return self.drain();
            }
        };
        self.endpoint.handle_input(*now, input);
        self.drain();
        self.asked = None;
        self.silent = None;
        self.control = None;
    }

    fn accept(&mut self, script: &mut Script<'_>) -> Input {
        let conn = self.endpoint.next_conn();
        let from = match script.u8() % 6 {
            n @ 0..3 => Ipv4Addr::new(192, 0, 2, n).into(),
            3 => Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into(),
            n => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()).into(),
        };
        self.half_open.insert(conn, subject(from));
        self.from.insert(conn, from);
        Input::Accepted { conn, from }
    }

    fn hello(&self, script: &mut Script<'_>) -> Input {
        let conn = pick(&self.half_open, script).unwrap_or(ConnId::from_number(0));
        let instance = InstanceId([script.u8() % 80; 16]);
        Input::Hello { conn, instance, data_secret: secret() }
    }

    fn addressed(&mut self, script: &mut Script<'_>) -> Input {
        let conn = pick(&self.half_open, script).unwrap_or(ConnId::from_number(0));
        let control = if script.bool() { ControlOn::Handshake } else { ControlOn::DataConnection };
        self.control = Some(control);
        Input::Addressed { conn, control }
    }

    fn silent(&mut self, script: &mut Script<'_>) -> Input {
        let conn = pick(&self.half_open, script).unwrap_or(ConnId::from_number(0));
        let tls = (self.config.tls != DataTls::Plain) != (script.u8() > 240);
        self.silent = Some((conn, tls));
        Input::Silent { conn, tls }
    }

    /// A connection got an id of this session, or zero.
    fn silent_of(&mut self, conn: ConnId, link: LinkId) -> &mut (IpAddr, bool, BTreeSet<DataId>) {
        assert!(self.half_open.remove(&conn).is_some());
        assert_eq!(self.silent, Some((conn, self.config.tls != DataTls::Plain)));
        let from = self.from.get(&conn).map(IpAddr::to_canonical);
        let of = self.numbers.get_mut(&link);
        let of = of.unwrap_or_else(|| unreachable!("a session by address"));
        assert_eq!(Some(of.0), from, "the client's own address only");
        of
    }

    fn preface(&mut self, script: &mut Script<'_>) -> Input {
        let conn = pick(&self.half_open, script).unwrap_or(ConnId::from_number(0));
        let link = pick(&self.sessions, script);
        let session = link.and_then(|link| self.sessions.get(&link));
        let session = session.map_or(SessionId([0; 16]), |&(session, _)| session);
        let seq = script.u8().into();
        let exporter = (self.config.tls != DataTls::Plain).then_some([5; 32]);
        let mut preface = Preface::new(&secret(), session, seq, exporter.as_ref());
        let mut shown = exporter;
        match script.u32_below(16) {
            0 => preface.tag = script.array(),
            1 => preface.seq += 1,
            2 => preface.session = SessionId(script.array()),
            3 => shown = Some(script.array()),
            4 => shown = None,
            _ => {}
        }
        let is_good = shown == exporter
            && preface == Preface::new(&secret(), session, seq, exporter.as_ref())
            && link.is_some_and(|link| !self.numbers.contains_key(&link));
        self.asked = Some((preface, is_good));
        Input::Preface { conn, preface, exporter: shown }
    }

    fn drain(&mut self) {
        while self.poll_output_is_some() {}
    }

    fn end(&mut self, link: LinkId) {
        if let Some((_, from)) = self.sessions.remove(&link) {
            self.exempt.insert(from, self.now.after(limits::BAN_TIME));
        }
        self.idle.retain(|_, of| *of != link);
        self.numbers.remove(&link);
    }

    fn is_exempt(&self, from: IpAddr) -> bool {
        self.exempt.get(&from).is_some_and(|&until| self.now < until)
            || self.sessions.values().any(|&(_, of)| of == from)
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Close(conn, why) => {
                let from = self.half_open.remove(&conn);
                if why == crate::endpoint::Refusal::Banned {
                    let from = from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                    assert!(self.banned.get(&from).is_some_and(|&until| self.now < until));
                    assert!(!self.is_exempt(from));
                }
                assert!(from.is_some(), "only a half-open one is closed, once");
            }
            Output::Wait(conn) => {
                assert!(self.half_open.contains_key(&conn), "only a half-open one waits");
                assert_eq!(self.silent, Some((conn, self.config.tls != DataTls::Plain)));
                let from = self.from.get(&conn).map(IpAddr::to_canonical);
                let of = self.numbers.iter().find(|(_, of)| Some(of.0) == from);
                let idle = of.map(|(link, _)| self.idle.values().filter(|of| *of == link).count());
                let full = idle == Some(self.config.max);
                assert!(full || self.idle.len() == self.config.max_total, "there is room");
                self.spare.insert(conn);
            }
            Output::Refuse(conn) => assert!(self.half_open.remove(&conn).is_some()),
            Output::Welcome { conn, link, session } => {
                let from = self.half_open.remove(&conn);
                let from = from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                assert!(!from.is_unspecified(), "only a half-open one is welcome");
                assert!(self.sessions.insert(link, (session, from)).is_none());
                if let Some(control) = self.control.take() {
                    let from = self.from.get(&conn).map_or(from, IpAddr::to_canonical);
                    assert!(self.numbers.values().all(|of| of.0 != from), "one per address");
                    self.addressed.insert(subject(from));
                    let due = control == ControlOn::DataConnection;
                    self.numbers.insert(link, (from, due, BTreeSet::new()));
                }
            }
            Output::Data(conn, link) => {
                assert!(self.half_open.remove(&conn).is_some());
                let Some((preface, true)) = self.asked else { unreachable!("forged preface") };
                let session = self.sessions.get(&link).map(|&(session, _)| session);
                assert_eq!(session, Some(preface.session));
                assert!(self.admitted.insert((preface.session, preface.seq)), "replayed");
                self.idle.insert(conn, link);
            }
            Output::Control(conn, link) => {
                let due = core::mem::take(&mut self.silent_of(conn, link).1);
                assert!(due, "one control channel, where it is a data connection");
            }
            Output::Numbered(conn, link, id) => {
                let of = self.silent_of(conn, link);
                assert!(!of.1 && id != DataId::CONTROL && of.2.insert(id), "a new id");
                self.idle.insert(conn, link);
            }
            Output::EndSession(link, _) => {
                assert!(self.sessions.contains_key(&link));
                self.end(link);
            }
            Output::Notice(Notice::Banned(from)) => {
                self.banned.insert(subject(from), self.now.after(limits::BAN_TIME));
            }
            Output::Notice(Notice::IdleLimit(link)) => {
                assert!(self.sessions.contains_key(&link) && self.full.insert(link), "said once");
            }
            Output::Notice(Notice::WrongKey(_) | Notice::HalfOpenLimit) => {}
        }
    }

    fn check(&self) {
        assert_eq!(self.endpoint.half_open(), self.half_open.len());
        assert!(self.half_open.len() <= limits::HALF_OPEN);
        let mut per_address = BTreeMap::new();
        let mut spare = BTreeMap::new();
        for (conn, from) in &self.half_open {
            let waits = spare.entry(from).or_insert(0);
            *waits += usize::from(self.spare.contains(conn));
            assert!(*waits <= limits::HALF_OPEN_SPARE);
            let count = per_address.entry(from).or_insert(0);
            *count += 1;
            let most = match self.addressed.contains(from) {
                true => limits::HALF_OPEN_SILENT,
                false => limits::HALF_OPEN_PER_ADDRESS,
            };
            assert!(*count <= most);
        }
        assert_eq!(self.endpoint.sessions(), self.sessions.len());
        assert!(self.sessions.len() <= limits::SESSIONS);
        assert!(self.idle.len() <= self.config.max_total);
        for link in self.sessions.keys() {
            let idle: Vec<_> = self.idle.values().filter(|of| *of == link).collect();
            assert!(idle.len() <= self.config.max);
        }
    }
}

impl Machine for Run {
    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.endpoint.handle_timeout(now);
    }

    fn poll_output_is_some(&mut self) -> bool {
        let output = self.endpoint.poll_output();
        if let Some(output) = output {
            self.on_output(output);
        }
        output.is_some()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.endpoint.poll_timeout()
    }

    fn ended(&self) -> bool {
        false
    }
}

fn secret() -> DataSecret {
    DataSecret::from_bytes([9; 32])
}

fn subject(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

fn pick<K: Copy + Ord, V>(map: &BTreeMap<K, V>, script: &mut Script<'_>) -> Option<K> {
    let most = u32::try_from(map.len()).unwrap_or(u32::MAX).min(256);
    let nth = usize::try_from(script.u32_below(most)).unwrap_or(0);
    map.keys().nth(nth).copied()
}
