//! What must hold, whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use protocol::terms::SessionId;
use protocol::time::Instant;

use crate::plan::{Plan, User};

/// How a user ended; exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    Served,
    /// The target refused, and the user was told so.
    Failed,
    /// No connection came in time.
    Expired,
    /// Too many waited.
    Refused,
    /// It left by itself.
    Left,
    /// The connection was lost on the way.
    Cut,
    /// Its ingress crashed.
    Crashed,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

#[derive(Debug, Default)]
struct Record {
    came: Option<Instant>,
    dialled: bool,
    up: usize,
    up_ended: bool,
    down: usize,
    down_ended: bool,
    ended: Option<Ended>,
    tainted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    users: BTreeMap<usize, Record>,
    admitted: BTreeSet<(SessionId, u64)>,
}

impl Oracle {
    pub(crate) fn came(&mut self, user: usize, now: Instant) {
        let before = self.record(user).came.replace(now);
        assert_eq!(before, None, "a user comes once");
    }

    /// Egress dials a target for the user: once, however often the launch was repeated.
    pub(crate) fn dialled(&mut self, user: usize) {
        let record = self.record(user);
        assert!(record.came.is_some(), "user {user} does not exist");
        assert!(
            !record.dialled,
            "the target of user {user} is dialled twice"
        );
        record.dialled = true;
    }

    /// Bytes arrived where they should: each once, in order, and as many as were sent.
    pub(crate) fn got(&mut self, plan: &Plan, user: usize, way: Way, bytes: &[u8]) {
        let record = self.record(user);
        let sent = sent(&plan.users[user], way);
        let (got, ended) = match way {
            Way::Up => (&mut record.up, record.up_ended),
            Way::Down => (&mut record.down, record.down_ended),
        };
        assert!(!ended, "bytes of user {user} after their end");
        assert!(*got + bytes.len() <= sent, "too many bytes for user {user}");
        let expected = content(user, way, *got, bytes.len());
        assert_eq!(bytes, expected, "user {user} {way:?} at {got}");
        *got += bytes.len();
    }

    /// The end of the stream arrived; all bytes are before it.
    pub(crate) fn got_end(&mut self, plan: &Plan, user: usize, way: Way) {
        let sent = sent(&plan.users[user], way);
        let record = self.record(user);
        let (got, ended) = match way {
            Way::Up => (record.up, &mut record.up_ended),
            Way::Down => (record.down, &mut record.down_ended),
        };
        assert_eq!(got, sent, "user {user} {way:?}: the end comes too early");
        *ended = true;
    }

    pub(crate) fn end(&mut self, user: usize, how: Ended, excused: bool) {
        let record = self.record(user);
        let before = record.ended.replace(how);
        assert_eq!(before, None, "user {user} ends again, as {how:?}");
        record.tainted |= excused;
        match how {
            Ended::Served => assert!(record.down_ended && record.dialled),
            Ended::Failed => assert!(record.dialled),
            Ended::Expired | Ended::Refused | Ended::Left => {
                assert!(!record.dialled, "user {user}: {how:?} though dialled");
            }
            Ended::Cut => assert!(excused, "user {user} was cut off without a fault"),
            Ended::Crashed => {}
        }
    }

    /// The target's side was cut off, too.
    pub(crate) fn target_is_cut(&mut self, user: usize, excused: bool) {
        assert!(
            excused,
            "the target of user {user} was cut off without a fault"
        );
        self.record(user).tainted = true;
    }

    /// A data connection was admitted: no preface opens two.
    pub(crate) fn admitted(&mut self, session: SessionId, seq: u64) {
        assert!(self.admitted.insert((session, seq)), "a preface opens two");
    }

    pub(crate) fn how(&self, user: usize) -> Option<Ended> {
        self.users.get(&user).and_then(|record| record.ended)
    }

    /// How many users ended how.
    pub(crate) fn tally(&self) -> BTreeMap<Ended, usize> {
        let mut tally = BTreeMap::new();
        for how in self.users.values().filter_map(|record| record.ended) {
            *tally.entry(how).or_default() += 1;
        }
        tally
    }

    pub(crate) fn check_final(&self, plan: &Plan) {
        for (&user, record) in &self.users {
            let ended = record.ended;
            assert!(
                ended.is_some(),
                "user {user} was neither served nor told: {record:?}"
            );
            if ended == Some(Ended::Served) && !record.tainted {
                assert!(
                    record.up_ended,
                    "user {user} was served, its bytes were not: {record:?}"
                );
            }
            let spec = &plan.users[user];
            if plan.is_calm() && spec.leaves.is_none() {
                let fine = if spec.target_refuses {
                    Ended::Failed
                } else {
                    Ended::Served
                };
                // A burst may be too much for a pool of next to nothing.
                let is_crowded = plan.pool_max < 4 && ended == Some(Ended::Expired);
                assert!(
                    ended == Some(fine) || is_crowded,
                    "user {user} on a calm day: {record:?}"
                );
            }
        }
        assert_eq!(self.users.len(), plan.users.len());
    }

    fn record(&mut self, user: usize) -> &mut Record {
        self.users.entry(user).or_default()
    }
}

fn sent(user: &User, way: Way) -> usize {
    match way {
        Way::Up => user.up,
        Way::Down => user.down,
    }
}

/// The bytes of a stream, different for every user, way and place.
pub(crate) fn content(user: usize, way: Way, from: usize, len: usize) -> Vec<u8> {
    let salt = user * 31 + usize::from(way == Way::Up) * 7;
    (from..from + len)
        .map(|at| (at * 13 + at / 251 + salt) as u8)
        .collect()
}
