//! What must hold, whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use protocol::terms::{Generation, SessionId};
use protocol::time::{Duration, Instant};

use crate::net::Sock;
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
    /// Its connection was closed while its launch was on the way: a legacy egress cannot say that
    /// it dialled nothing, so nobody repeats the launch.
    Crossed,
    /// It left by itself.
    Left,
    /// The connection was lost on the way.
    Cut,
    /// Its ingress crashed.
    Crashed,
}

/// What only happens with legacy generations; a sweep must come upon each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A session of this generation is up, as both ends see it.
    Up(Generation),
    /// A client that restarted dialled into its old session, and ended it.
    Returned,
    /// A silent connection found no room in its session, and stayed half-open.
    Full,
    /// Users' bytes came before their launch.
    Overtook,
    /// A launch came before egress knew its connection's id.
    Parked,
    /// A certificate check passed.
    Matched,
    /// One found somebody in the middle.
    Mismatched,
}

impl Event {
    /// All that a long sweep must come upon.
    pub(crate) const ALL: [Self; 8] = [
        Self::Up(Generation::Http),
        Self::Up(Generation::Https),
        Self::Up(Generation::Classic),
        Self::Full,
        Self::Overtook,
        Self::Parked,
        Self::Matched,
        Self::Mismatched,
    ];
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
    /// When it was launched last.
    launched: Option<Instant>,
    dialled: bool,
    up: usize,
    up_ended: bool,
    down: usize,
    down_ended: bool,
    ended: Option<Ended>,
    tainted: bool,
}

/// The longest way of a launch and back.
const CROSSING: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    users: BTreeMap<usize, Record>,
    /// Whose bytes ingress writes on a wire.
    launched: BTreeMap<Sock, usize>,
    admitted: BTreeSet<(SessionId, u64)>,
    /// How often what happened.
    pub(crate) events: BTreeMap<Event, usize>,
}

impl Oracle {
    pub(crate) fn came(&mut self, user: usize, now: Instant) {
        let before = self.record(user).came.replace(now);
        assert_eq!(before, None, "a user comes once");
    }

    pub(crate) fn happened(&mut self, event: Event) {
        *self.events.entry(event).or_default() += 1;
    }

    /// Ingress launches the user on its end of a wire, which serves nobody else.
    pub(crate) fn launched(&mut self, sock: Sock, user: usize, now: Instant) {
        self.record(user).launched = Some(now);
        let before = self.launched.insert(sock, user);
        assert_eq!(before, None, "a connection serves two users");
    }

    /// Whose bytes come out of this end of a wire. Not every generation's launch names the user.
    pub(crate) fn launched_at(&self, sock: Sock) -> usize {
        let user = self.launched.get(&sock.peer());
        *user.expect("a launch that no ingress sent")
    }

    /// Egress dials a target for the user: once, however often the launch was repeated.
    pub(crate) fn dialled(&mut self, user: usize) {
        let record = self.record(user);
        assert!(record.came.is_some(), "user {user} does not exist");
        assert!(
            !record.dialled,
            "the target of user {user} is dialled twice"
        );
        let told = [Ended::Crossed, Ended::Expired, Ended::Refused, Ended::Left];
        let is_told = record.ended.is_some_and(|how| told.contains(&how));
        assert!(!is_told, "the target of user {user} is dialled too late");
        record.dialled = true;
    }

    /// Whether an end of stream here is no end of what the target sent: it is how a legacy egress
    /// says that it failed.
    pub(crate) fn is_broken_off(&self, plan: &Plan, user: usize) -> bool {
        let spec = &plan.users[user];
        let record = &self.users[&user];
        spec.target_refuses || !record.dialled || record.down < spec.down
    }

    /// Whether egress knows of the launch, or a close may still have crossed it.
    pub(crate) fn is_fresh(&self, user: usize, now: Instant) -> bool {
        let record = &self.users[&user];
        let is_recent = |launched: Instant| now <= launched.after(CROSSING);
        record.dialled || record.launched.is_some_and(is_recent)
    }

    /// The connection that a signal announced the user on failed at ingress.
    pub(crate) fn end_broken_off(&mut self, plan: &Plan, user: usize, excused: bool) {
        let dialled = self.record(user).dialled;
        let how = match dialled {
            _ if excused => Ended::Cut,
            false => Ended::Crossed,
            true if plan.users[user].target_refuses => Ended::Failed,
            true => Ended::Cut,
        };
        self.end(user, how, excused);
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
            Ended::Crossed | Ended::Expired | Ended::Refused | Ended::Left => {
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
                // Nor may a legacy connection that is closed because it is spare.
                let is_crossed = plan.has_legacy() && ended == Some(Ended::Crossed);
                assert!(
                    ended == Some(fine) || is_crowded || is_crossed,
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
