use alloc::collections::{BTreeMap, BTreeSet};

use crate::dialect::Check;
use crate::id::ConnId;
use crate::limits;
use crate::roster::{Config, Input, Output, Roster};
use crate::terms::{DataId, Fingerprint, Transport};
use crate::testing::contract::{Machine, check_after_mutation};
use crate::testing::script::Script;
use crate::time::Instant;
use crate::wire::launch::Launch;
use crate::wire::signal::Signal;

/// Bytes: the configuration, then steps: connections with their ids, signals of the peer, early
/// bytes, users, ends, time.
///
/// # Panics
/// If the contract is broken, a connection is served, claimed, judged or closed that is not there or twice,
/// one serves a user that it was not named for, an ingress serves a launch of its peer, our check is
/// sent twice, or anything is kept for ever.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut now = Instant::default();
    let check = script.bool().then(|| Check {
        send: script.bool(),
        blind_passes: script.bool(),
    });
    let config = Config { ingress: script.bool(), check };
    let mut run = Run {
        roster: Roster::new(config, now),
        config,
        conns: BTreeMap::new(),
        served: BTreeMap::new(),
        named: BTreeSet::new(),
        taken: None,
        conn: 0,
        shown: BTreeSet::new(),
        claimed: None,
    };
    while !script.is_empty() {
        run.step(&mut script, &mut now);
        check_after_mutation(&mut run, now);
        run.taken = None;
        let known = run.conns.len() + run.served.len();
        assert!(run.roster.len() <= known + limits::PARKED);
    }
    // Only connections that are idle or in use stay.
    now = now.after(limits::ANNOUNCE_WAIT);
    run.roster.handle_timeout(now);
    check_after_mutation(&mut run, now);
    assert!(run.roster.len() <= run.conns.len() + run.served.len());
}

struct Run {
    roster: Roster,
    config: Config,
    conns: BTreeMap<ConnId, DataId>,
    served: BTreeMap<ConnId, DataId>,
    /// Ids that a launch of the peer named.
    named: BTreeSet<DataId>,
    taken: Option<ConnId>,
    conn: u64,
    /// Early connections that are to be judged.
    shown: BTreeSet<ConnId>,
    claimed: Option<ConnId>,
}

impl Run {
    fn step(&mut self, script: &mut Script<'_>, now: &mut Instant) {
        let launch = Launch::from_text(Transport::Tcp, "192.0.2.1:5");
        let id = DataId(script.u32_below(8) + 1);
        let input = match script.u32_below(13) {
            0..3 => {
                self.conn += 1;
                let conn = ConnId::from_number(self.conn);
                let leaf = Some(Fingerprint([script.u8() & 1; 32]));
                self.conns.insert(conn, id);
                Input::Numbered { conn, id, leaf }
            }
            3 => {
                self.named.insert(id);
                Input::Launch { id, launch }
            }
            4 => Input::Verify { id, fp: script.bool().then_some(Fingerprint([1; 32])) },
            5 => Input::Early(self.pick(script)),
            6 => {
                let conn = self.pick(script);
                self.taken = Some(conn);
                Input::Taken { conn, launch }
            }
            7 => {
                let conn = self.pick(script);
                self.conns.remove(&conn);
                Input::Gone(conn)
            }
            8 => Input::Flushed,
            9 => match self.served.pop_first() {
                Some((conn, _)) => Input::Gone(conn),
                None => return,
            },
            10 => Input::Spare(self.pick(script)),
            11 => {
                let conn = self.pick(script);
                self.shown.insert(conn);
                Input::Shown(conn)
            }
            _ => {
                *now = now.after(script.duration());
                return self.roster.handle_timeout(*now);
            }
        };
        self.roster.handle_input(*now, input);
    }

    fn pick(&self, script: &mut Script<'_>) -> ConnId {
        let nth = usize::from(script.u8()) % self.conns.len().max(1);
        let conn = self.conns.keys().nth(nth);
        conn.copied().unwrap_or(ConnId::from_number(0))
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Serve { conn, .. } => {
                let id = self.conns.remove(&conn);
                assert!(!self.config.ingress);
                assert!(id.is_some_and(|id| self.named.contains(&id)));
                self.served.extend(id.map(|id| (conn, id)));
                assert_ne!(self.claimed, Some(conn));
            }
            Output::Close(conn) => {
                // A stranger that was to be taken is closed, too.
                let idle = self.conns.remove(&conn).is_some();
                let known = idle || self.served.remove(&conn).is_some();
                assert!(known || self.taken == Some(conn), "closed twice");
            }
            Output::Judge(conn) => {
                assert!(self.conns.contains_key(&conn) && self.shown.contains(&conn));
            }
            Output::Claim(conn) => {
                assert!(self.conns.contains_key(&conn));
                assert_eq!(self.claimed.replace(conn), None, "once");
            }
            Output::Send(Signal::Launch { id, .. }) => {
                let conn = self.taken.and_then(|conn| self.conns.remove(&conn));
                assert_eq!(conn, Some(id));
            }
            Output::Send(Signal::Verify { id, fp }) => {
                assert!(self.config.check.is_some_and(|check| check.send) && fp.is_some());
                let claimed = self.claimed.and_then(|conn| self.conns.get(&conn));
                assert_eq!(claimed, Some(&id));
            }
            Output::Send(other) => unreachable!("{other:?}"),
            Output::Missing(_) | Output::Matched | Output::Mismatched(_) => {}
        }
    }
}

impl Machine for Run {
    fn handle_timeout(&mut self, now: Instant) {
        self.roster.handle_timeout(now);
    }

    fn poll_output_is_some(&mut self) -> bool {
        let output = self.roster.poll_output();
        let is_some = output.is_some();
        if let Some(output) = output {
            self.on_output(output);
        }
        is_some
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.roster.poll_timeout()
    }

    fn ended(&self) -> bool {
        false
    }
}
