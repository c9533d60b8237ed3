use alloc::collections::BTreeMap;
use core::net::SocketAddr;
use core::time::Duration;

use crate::id::UserId;
use crate::testing::contract::{Machine, check_after_mutation};
use crate::time::Instant;
use crate::udp::{Expired, FlowTable, Touch};

/// A script of pairs, what happens and to whom, against a plain list of sessions and deadlines.
pub fn run(data: &[u8]) {
    let mut model = Model {
        table: FlowTable::new(IDLE, CAP),
        now: Instant::default(),
        deadlines: BTreeMap::new(),
    };
    for pair in data.chunks_exact(2) {
        let &[what, amount] = pair else { return };
        let user = UserId::from_number(amount.into());
        match what % 8 {
            0..3 => model.touch(([192, 0, 2, 1], u16::from(amount % 16)).into()),
            3 => model.refresh(user),
            4 => {
                model.table.remove(user);
                model.deadlines.remove(&user);
            }
            5 | 6 => model.now = model.now.after(Duration::from_millis(amount.into())),
            _ => model.expire(),
        }
        assert_eq!(model.table.len(), model.deadlines.len());
        assert!(model.table.len() <= CAP);
    }
}

const IDLE: Duration = Duration::from_millis(500);
const CAP: usize = 8;

struct Model {
    table: FlowTable,
    now: Instant,
    deadlines: BTreeMap<UserId, Instant>,
}

impl Model {
    fn touch(&mut self, address: SocketAddr) {
        match self.table.touch(self.now, address) {
            Touch::Known(user) => {
                let deadline = self.deadlines.insert(user, self.now.after(IDLE));
                assert!(deadline.is_some());
                assert_eq!(self.table.address(user), Some(address));
            }
            Touch::New(user) => {
                let deadline = self.deadlines.insert(user, self.now.after(IDLE));
                assert!(deadline.is_none());
            }
            Touch::Full => assert_eq!(self.deadlines.len(), CAP),
        }
    }

    fn refresh(&mut self, user: UserId) {
        self.table.refresh(self.now, user);
        if let Some(deadline) = self.deadlines.get_mut(&user) {
            *deadline = self.now.after(IDLE);
        }
    }

    fn expire(&mut self) {
        let now = self.now;
        self.table.handle_timeout(now);
        check_after_mutation(self, now);
        assert!(self.deadlines.values().all(|&deadline| deadline > self.now));
        let next = self.table.poll_timeout();
        assert_eq!(next.is_none(), self.deadlines.is_empty());
        assert!(next.is_none_or(|next| next > self.now));
        let first = self.deadlines.values().min();
        assert!(next.is_none_or(|next| first.is_some_and(|&first| next <= first)));
    }
}

impl Machine for Model {
    fn handle_timeout(&mut self, now: Instant) {
        self.table.handle_timeout(now);
    }

    fn poll_output_is_some(&mut self) -> bool {
        let Some(Expired(user)) = self.table.poll_output() else {
            return false;
        };
        let deadline = self.deadlines.remove(&user);
        assert!(deadline.is_some_and(|deadline| deadline <= self.now));
        true
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.table.poll_timeout()
    }

    fn ended(&self) -> bool {
        false
    }
}
