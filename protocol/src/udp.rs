//! Which datagrams of a UDP socket belong together (`wire.md` §2.4).
//!
//! A UDP session is one user address. It begins with a datagram from an address that has none, and
//! ends when no datagram went either way for the idle time, or when the driver says so.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::net::SocketAddr;
use core::time::Duration;

use crate::id::{Mint, UserId};
use crate::time::Instant;

/// The UDP sessions of one socket. It follows the contract of all machines; it has no end.
///
/// Every operation takes logarithmic time. A datagram only notes when it came: the queue of
/// deadlines is corrected when the time of an entry has come.
#[derive(Debug)]
pub struct FlowTable {
    idle: Duration,
    cap: usize,
    now: Instant,
    mint: Mint,
    ids: BTreeMap<SocketAddr, UserId>,
    flows: BTreeMap<UserId, Flow>,
    /// When to look at each session again, never later than its deadline.
    queue: BTreeSet<(Instant, UserId)>,
    expired: VecDeque<UserId>,
}

/// Whose datagram it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Of this session.
    Known(UserId),
    /// Of this session, which begins with it.
    New(UserId),
    /// It would begin a session, and there are as many as there may be: drop it.
    Full,
}

/// A session that was idle for too long and is forgotten: close what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired(pub UserId);

impl FlowTable {
    /// A table of at most `cap` sessions, each of which ends after `idle` without a datagram.
    #[must_use]
    pub fn new(idle: Duration, cap: usize) -> Self {
        Self {
            idle,
            cap,
            now: Instant::default(),
            mint: Mint::default(),
            ids: BTreeMap::new(),
            flows: BTreeMap::new(),
            queue: BTreeSet::new(),
            expired: VecDeque::new(),
        }
    }

    /// A datagram came from the user at `address`.
    pub fn touch(&mut self, now: Instant, address: SocketAddr) -> Touch {
        if let Some(&user) = self.ids.get(&address) {
            self.refresh(now, user);
            return Touch::Known(user);
        }
        self.advance(now);
        if self.flows.len() + self.expired.len() >= self.cap {
            return Touch::Full;
        }
        let user = UserId::from_number(self.mint.next());
        let deadline = self.now.after(self.idle);
        let flow = Flow {
            address,
            deadline,
            queued: deadline,
        };
        self.ids.insert(address, user);
        self.flows.insert(user, flow);
        self.queue.insert((deadline, user));
        Touch::New(user)
    }

    /// A datagram went to the user.
    pub fn refresh(&mut self, now: Instant, user: UserId) {
        self.advance(now);
        if let Some(flow) = self.flows.get_mut(&user) {
            flow.deadline = self.now.after(self.idle);
        }
    }

    /// The session ended for another reason: forget it, without an output.
    pub fn remove(&mut self, user: UserId) {
        if let Some(flow) = self.flows.remove(&user) {
            self.ids.remove(&flow.address);
            self.queue.remove(&(flow.queued, user));
        }
    }

    /// Ends the sessions whose deadlines have come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        while let Some(&(due, user)) = self.queue.first()
            && due <= self.now
        {
            self.queue.pop_first();
            let Some(flow) = self.flows.get_mut(&user) else {
                continue;
            };
            if flow.deadline > self.now {
                flow.queued = flow.deadline;
                self.queue.insert((flow.queued, user));
            } else {
                self.remove(user);
                self.expired.push_back(user);
            }
        }
    }

    /// The next session that expired. Until it is taken, it counts towards the cap.
    pub fn poll_output(&mut self) -> Option<Expired> {
        self.expired.pop_front().map(Expired)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.expired.is_empty() {
            return Some(self.now);
        }
        self.queue.first().map(|&(due, _)| due)
    }

    /// The user's address, for the datagrams that go to it.
    #[must_use]
    pub fn address(&self, user: UserId) -> Option<SocketAddr> {
        self.flows.get(&user).map(|flow| flow.address)
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }
}

#[derive(Debug)]
struct Flow {
    address: SocketAddr,
    deadline: Instant,
    /// Its entry in the queue.
    queued: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn address(number: u16) -> SocketAddr {
        ([192, 0, 2, 1], number).into()
    }

    fn begin(table: &mut FlowTable, now: Instant, number: u16) -> UserId {
        let Touch::New(user) = table.touch(now, address(number)) else {
            panic!("no new session")
        };
        user
    }

    #[test]
    fn an_address_is_one_session_while_datagrams_go_either_way() {
        let mut table = FlowTable::new(IDLE, 8);
        let user = begin(&mut table, at(0), 1);
        assert_ne!(begin(&mut table, at(0), 2), user);
        assert_eq!(table.touch(at(20), address(1)), Touch::Known(user));
        table.refresh(at(40), user);
        assert_eq!(table.address(user), Some(address(1)));

        table.handle_timeout(at(69));
        assert_ne!(table.poll_output(), Some(Expired(user)));
        assert_eq!(table.poll_output(), None);
        assert_eq!(table.poll_timeout(), Some(at(70)));
        table.handle_timeout(at(70));
        assert_eq!(table.poll_timeout(), Some(at(70)));
        assert_eq!(table.poll_output(), Some(Expired(user)));
        assert_eq!(table.poll_timeout(), None);

        assert_ne!(begin(&mut table, at(71), 1), user);
    }

    #[test]
    fn a_removed_session_does_not_expire() {
        let mut table = FlowTable::new(IDLE, 8);
        let user = begin(&mut table, at(0), 1);
        table.remove(user);
        assert!(table.is_empty());
        assert_eq!(table.poll_timeout(), None);
        table.remove(user);
        table.refresh(at(1), user);
        assert_eq!((table.poll_output(), table.address(user)), (None, None));
    }

    #[test]
    fn the_cap_counts_sessions_whose_end_was_not_taken() {
        let mut table = FlowTable::new(IDLE, 2);
        let first = begin(&mut table, at(0), 1);
        begin(&mut table, at(0), 2);
        assert_eq!(table.touch(at(1), address(3)), Touch::Full);
        assert_eq!(table.touch(at(1), address(1)), Touch::Known(first));

        table.handle_timeout(at(30));
        assert_eq!(table.touch(at(30), address(3)), Touch::Full);
        assert!(table.poll_output().is_some());
        begin(&mut table, at(30), 3);
    }

    #[test]
    fn time_that_goes_backwards_counts_as_the_last_time() {
        let mut table = FlowTable::new(IDLE, 2);
        begin(&mut table, at(100), 1);
        begin(&mut table, at(50), 2);
        table.handle_timeout(at(129));
        assert_eq!(table.poll_output(), None);
        assert_eq!(table.poll_timeout(), Some(at(130)));
    }
}
