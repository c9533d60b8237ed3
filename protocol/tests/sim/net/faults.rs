//! What can go wrong with wires.

use protocol::time::{Duration, Instant};

use super::{Event, Net, Segment, Sock};
use crate::plan::Node;

/// Both ends notice a dead wire after this long, as keep-alive and `TCP_USER_TIMEOUT` see to.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

impl Net {
    /// The node's process is gone; a silent crash takes the whole host.
    pub(crate) fn crash(&mut self, node: Node, silent: bool) {
        let mine: Vec<Sock> = self
            .wires
            .iter()
            .flat_map(|(&id, wire)| {
                [
                    (Sock(id * 2), &wire.ends[0]),
                    (Sock(id * 2 + 1), &wire.ends[1]),
                ]
            })
            .filter(|(_, end)| end.node == node)
            .map(|(sock, _)| sock)
            .collect();
        for sock in mine {
            self.taint(sock.wire());
            if silent {
                self.kill(sock.wire());
            } else {
                self.send(sock.peer(), Segment::Reset);
            }
            self.shut(sock);
        }
    }

    pub(crate) fn reset_one(&mut self) {
        if let Some(wire) = self.pick() {
            self.taint(wire);
            self.send(Sock(wire * 2), Segment::Reset);
            self.send(Sock(wire * 2 + 1), Segment::Reset);
        }
    }

    pub(crate) fn half_open_one(&mut self) {
        if let Some(wire) = self.pick() {
            self.taint(wire);
            self.kill(wire);
        }
    }

    pub(crate) fn stall_one(&mut self, until: Instant) {
        if let Some(wire) = self.pick() {
            self.taint(wire);
            self.wires.entry(wire).and_modify(|it| it.stalled = until);
        }
    }

    pub(crate) fn blackhole(&mut self, until: Instant) {
        self.blackhole = self.blackhole.max(until);
        let all: Vec<u64> = self.wires.keys().copied().collect();
        for wire in all {
            self.taint(wire);
        }
    }

    pub(crate) fn refuse_dials(&mut self, until: Instant) {
        self.refusing = self.refusing.max(until);
    }

    /// No new faults; what is dead stays dead until its ends notice.
    pub(crate) fn heal(&mut self) {
        self.mitm = 0;
        self.refusing = self.now;
        self.blackhole = self.now;
        for wire in self.wires.values_mut() {
            wire.stalled = wire.stalled.min(self.now);
        }
    }

    /// Whether anything went wrong so far.
    pub(crate) fn is_faulty(&self) -> bool {
        self.faulty
    }

    /// An attacker's wire excuses what is lost on it.
    pub(crate) fn blame_attacker(&mut self, sock: Sock) {
        self.taint(sock.wire());
    }

    /// Without TLS, whoever sees a preface may use it first (`wire.md` §1, `proto`).
    pub(crate) fn blame_plain_text(&mut self, sock: Sock) {
        if !self.is_tls(sock) {
            self.taint(sock.wire());
        }
    }

    /// This wire suffers from what was done to another one, if anything was.
    pub(crate) fn blame_faults(&mut self, sock: Sock) {
        if self.faulty {
            self.taint(sock.wire());
        }
    }

    pub(super) fn kill(&mut self, wire: u64) {
        let Some(it) = self.wires.get_mut(&wire) else {
            return;
        };
        if !core::mem::replace(&mut it.dead, true) {
            self.schedule(self.now.after(KEEP_ALIVE), Event::GiveUp(wire));
        }
    }

    pub(super) fn taint(&mut self, wire: u64) {
        self.faulty = true;
        self.wires.entry(wire).and_modify(|it| it.tainted = true);
    }

    pub(super) fn pick(&mut self) -> Option<u64> {
        let nth = self.rng.below(self.wires.len() as u32) as usize;
        self.wires.keys().nth(nth).copied()
    }
}
