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
            } else if self.is_connected(sock.wire()) {
                self.send(sock.peer(), Segment::Reset);
            }
            self.shut(sock);
        }
    }

    pub(crate) fn reset_one(&mut self) {
        if let Some(wire) = self.pick() {
            self.taint(wire);
            if !self.is_connected(wire) {
                // Later the server would accept it, and never hear of the reset.
                self.wires.entry(wire).and_modify(|it| it.refused = true);
                return;
            }
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

    /// Whether both ends know of it. Before that, nothing reaches the server's.
    fn is_connected(&self, wire: u64) -> bool {
        self.wires.get(&wire).is_some_and(|it| it.connected)
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use protocol::rng::{Rng, Seed};

    use super::*;
    use crate::net::{Layer, Told};
    use crate::plan::Plan;

    const CLIENT: Node = Node::Client(0);

    fn dialled() -> (Net, Sock) {
        let mut net = Net::new(&Plan::from_seed(0), Rng::new(Seed([3; 32])));
        net.mitm = 0;
        let from = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let sock = net.dial(CLIENT, from, Layer::Plain);
        (net, sock)
    }

    /// All that everybody is told from now on.
    fn told(net: &mut Net) -> Vec<(Node, Told)> {
        let mut told = Vec::new();
        while let Some(at) = net.next() {
            net.now = at;
            told.extend(net.step());
        }
        told
    }

    #[test]
    fn a_reset_on_the_way_to_the_server_fails_the_dial() {
        let (mut net, sock) = dialled();
        net.reset_one();
        assert_eq!(told(&mut net), [(CLIENT, Told::Failed(sock))]);
        assert_eq!(net.open_ends(Node::Server), 0);
    }

    #[test]
    fn a_connected_wire_is_reset_at_both_ends() {
        let (mut net, sock) = dialled();
        told(&mut net);
        net.reset_one();
        let told = told(&mut net);
        assert!(told.contains(&(CLIENT, Told::Reset(sock))), "{told:?}");
        assert!(told.contains(&(Node::Server, Told::Reset(sock.peer()))));
        assert_eq!(net.open_ends(Node::Server), 0);
    }

    #[test]
    fn a_dial_that_outlasts_a_crash_of_the_server_is_one_to_the_next() {
        let (mut net, sock) = dialled();
        net.crash(Node::Server, false);
        let told = told(&mut net);
        assert!(
            matches!(told[..], [(Node::Server, Told::Accepted(..)), (CLIENT, Told::Connected(it))] if it == sock),
            "{told:?}"
        );
    }
}
