//! The virtual network: ordered byte streams that are late, cut into pieces, stalled, reset or dead.

mod faults;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use protocol::rng::Rng;
use protocol::terms::Fingerprint;
use protocol::time::{Duration, Instant};

use crate::plan::{Node, Plan};

/// One end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sock(u64);

impl Sock {
    fn wire(self) -> u64 {
        self.0 / 2
    }

    fn side(self) -> usize {
        (self.0 % 2) as usize
    }

    /// The other end of the wire.
    pub(crate) fn peer(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// What is between TCP and the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Plain,
    /// TLS, with the application protocol that both ends agreed on.
    Tls(Option<&'static [u8]>),
}

/// What a node is told about one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    Connected(Sock),
    Failed(Sock),
    Accepted(Sock, IpAddr),
    Readable(Sock),
    Writable(Sock),
    Reset(Sock),
}

/// What a read gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(Vec<u8>),
    Fin,
    Empty,
}

#[derive(Debug)]
enum Segment {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Connect(u64),
    Arrive(Sock),
    Window(Sock),
    GiveUp(u64),
}

struct Wire {
    from: IpAddr,
    layer: Layer,
    /// What each end exports from its TLS; different if somebody sits in the middle.
    secrets: [[u8; 32]; 2],
    ends: [End; 2],
    /// The server's host has it.
    connected: bool,
    /// It was reset before that.
    refused: bool,
    dead: bool,
    stalled: Instant,
    tainted: bool,
}

struct End {
    node: Node,
    open: bool,
    transit: VecDeque<Segment>,
    in_flight: usize,
    last_arrival: Instant,
    unread: VecDeque<u8>,
    fin_arrived: bool,
    fin_sent: bool,
    wants_window: bool,
}

pub(crate) struct Net {
    pub(crate) now: Instant,
    rng: Rng,
    delay: u32,
    pieces: bool,
    window: usize,
    mitm: u32,
    seq: u64,
    queue: BTreeMap<(Instant, u64), Event>,
    wires: BTreeMap<u64, Wire>,
    /// Wires that were dialled for a handshake.
    handshakes: BTreeSet<u64>,
    /// Wires that were tainted and are no more.
    gone: BTreeSet<u64>,
    minted: u64,
    pub(crate) server_up: bool,
    refusing: Instant,
    blackhole: Instant,
    /// Whether the network or a crash did anything to any wire yet.
    faulty: bool,
}

impl Net {
    pub(crate) fn new(plan: &Plan, rng: Rng) -> Self {
        Self {
            now: Instant::default(),
            rng,
            delay: plan.delay,
            pieces: plan.pieces,
            window: plan.window,
            mitm: plan.mitm,
            seq: 0,
            queue: BTreeMap::new(),
            wires: BTreeMap::new(),
            handshakes: BTreeSet::new(),
            gone: BTreeSet::new(),
            minted: 0,
            server_up: true,
            refusing: Instant::default(),
            blackhole: Instant::default(),
            faulty: false,
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Does the next event, and says who is told what.
    pub(crate) fn step(&mut self) -> Vec<(Node, Told)> {
        let Some((_, event)) = self.queue.pop_first() else {
            return Vec::new();
        };
        match event {
            Event::Connect(wire) => self.connect(wire),
            Event::Arrive(sock) => self.arrive(sock).into_iter().collect(),
            Event::Window(sock) => self.tell(sock, Told::Writable(sock)).into_iter().collect(),
            Event::GiveUp(wire) => {
                let socks = [Sock(wire * 2), Sock(wire * 2 + 1)];
                let told = socks.map(|sock| self.tell(sock, Told::Reset(sock)));
                self.remove(wire);
                told.into_iter().flatten().collect()
            }
        }
    }

    /// Dials the server's tunnel port.
    pub(crate) fn dial(&mut self, node: Node, from: IpAddr, layer: Layer) -> Sock {
        let wire = self.minted;
        self.minted += 1;
        let secret = self.rng.bytes();
        let in_the_middle =
            self.mitm > 0 && layer != Layer::Plain && self.rng.below(100) < self.mitm;
        let other = if in_the_middle {
            self.rng.bytes()
        } else {
            secret
        };
        let end = |node| End {
            node,
            open: true,
            transit: VecDeque::new(),
            in_flight: 0,
            last_arrival: self.now,
            unread: VecDeque::new(),
            fin_arrived: false,
            fin_sent: false,
            wants_window: false,
        };
        let mut ends = [end(node), end(Node::Server)];
        ends[1].open = false;
        let entry = Wire {
            from,
            layer,
            secrets: [secret, other],
            ends,
            connected: false,
            refused: false,
            dead: false,
            stalled: Instant::default(),
            tainted: in_the_middle,
        };
        self.wires.insert(wire, entry);
        let at = self.later();
        self.schedule(at, Event::Connect(wire));
        Sock(wire * 2)
    }

    /// The same, to say something first.
    pub(crate) fn dial_to_speak(&mut self, node: Node, from: IpAddr, layer: Layer) -> Sock {
        let sock = self.dial(node, from, layer);
        self.handshakes.insert(sock.wire());
        sock
    }

    /// Whether the end that dialled is about to say something, whatever the other one takes it for.
    pub(crate) fn is_to_speak(&self, sock: Sock) -> bool {
        self.handshakes.contains(&sock.wire())
    }

    /// 32 bytes from this end's TLS, by label.
    pub(crate) fn exporter(&self, sock: Sock, label: u8) -> [u8; 32] {
        let mut secret = self.wires[&sock.wire()].secrets[sock.side()];
        secret[0] ^= label;
        secret
    }

    pub(crate) fn layer(&self, sock: Sock) -> Layer {
        self.wires[&sock.wire()].layer
    }

    pub(crate) fn is_tls(&self, sock: Sock) -> bool {
        self.layer(sock) != Layer::Plain
    }

    /// The certificate that the server shows on this wire, as this end sees it.
    pub(crate) fn leaf(&self, sock: Sock) -> Option<Fingerprint> {
        let wire = &self.wires[&sock.wire()];
        let forged = wire.secrets[0] != wire.secrets[1] && sock.side() == 0;
        (wire.layer != Layer::Plain).then_some(Fingerprint([u8::from(forged); 32]))
    }

    /// Whether the network or a crash did something to this wire that excuses a loss.
    pub(crate) fn is_tainted(&self, sock: Sock) -> bool {
        let wire = self.wires.get(&sock.wire());
        wire.map_or_else(|| self.gone.contains(&sock.wire()), |wire| wire.tainted)
    }

    /// Takes as many bytes as the window has room for, and says how many.
    pub(crate) fn write(&mut self, sock: Sock, bytes: &[u8]) -> usize {
        let Some(wire) = self.wires.get_mut(&sock.wire()) else {
            return bytes.len();
        };
        assert!(!wire.ends[sock.side()].fin_sent, "a write after the end");
        let peer = &wire.ends[sock.peer().side()];
        let room = self
            .window
            .saturating_sub(peer.in_flight + peer.unread.len());
        let taken = room.min(bytes.len());
        wire.ends[sock.side()].wants_window = taken < bytes.len();
        let mut left = &bytes[..taken];
        while !left.is_empty() {
            let most = if self.pieces && self.rng.below(2) == 0 {
                1 + self.rng.below(40) as usize
            } else {
                left.len()
            };
            let (piece, rest) = left.split_at(most.min(left.len()));
            self.send(sock.peer(), Segment::Bytes(piece.to_vec()));
            left = rest;
        }
        taken
    }

    pub(crate) fn read(&mut self, sock: Sock, most: usize) -> Read {
        let Some(wire) = self.wires.get_mut(&sock.wire()) else {
            return Read::Empty;
        };
        let end = &mut wire.ends[sock.side()];
        if end.unread.is_empty() {
            return if end.fin_arrived {
                Read::Fin
            } else {
                Read::Empty
            };
        }
        let taken = most.min(end.unread.len());
        let bytes = end.unread.drain(..taken).collect();
        if core::mem::take(&mut wire.ends[sock.peer().side()].wants_window) {
            let at = self.later();
            self.schedule(at, Event::Window(sock.peer()));
        }
        Read::Bytes(bytes)
    }

    /// Ends this end's stream; the other direction goes on.
    pub(crate) fn shutdown(&mut self, sock: Sock) {
        let Some(wire) = self.wires.get_mut(&sock.wire()) else {
            return;
        };
        if !core::mem::replace(&mut wire.ends[sock.side()].fin_sent, true) {
            self.send(sock.peer(), Segment::Fin);
        }
    }

    /// Closes this end, as `close` does: bytes not read make it a reset.
    pub(crate) fn close(&mut self, sock: Sock) {
        let Some(wire) = self.wires.get(&sock.wire()) else {
            return;
        };
        if wire.ends[sock.side()].unread.is_empty() {
            self.shutdown(sock);
        } else {
            self.send(sock.peer(), Segment::Reset);
        }
        self.shut(sock);
    }

    pub(crate) fn abort(&mut self, sock: Sock) {
        self.send(sock.peer(), Segment::Reset);
        self.shut(sock);
    }

    /// Ends that this node has not closed.
    pub(crate) fn open_ends(&self, node: Node) -> usize {
        let ends = self.wires.values().flat_map(|wire| &wire.ends);
        ends.filter(|end| end.open && end.node == node).count()
    }

    fn connect(&mut self, id: u64) -> Vec<(Node, Told)> {
        let Some(wire) = self.wires.get_mut(&id) else {
            return Vec::new();
        };
        let node = wire.ends[0].node;
        if !wire.ends[0].open || self.now < self.blackhole || wire.dead {
            return Vec::new();
        }
        if wire.refused || self.now < self.refusing || !self.server_up {
            self.wires.remove(&id);
            return vec![(node, Told::Failed(Sock(id * 2)))];
        }
        wire.connected = true;
        wire.ends[1].open = true;
        let accepted = Told::Accepted(Sock(id * 2 + 1), wire.from);
        vec![
            (Node::Server, accepted),
            (node, Told::Connected(Sock(id * 2))),
        ]
    }

    fn arrive(&mut self, sock: Sock) -> Option<(Node, Told)> {
        let wire = self.wires.get_mut(&sock.wire())?;
        if wire.dead {
            return None;
        }
        let until = wire.stalled.max(self.blackhole);
        if until > self.now {
            self.schedule(until, Event::Arrive(sock));
            return None;
        }
        let end = &mut wire.ends[sock.side()];
        let segment = end.transit.pop_front()?;
        match segment {
            Segment::Bytes(bytes) => {
                end.in_flight -= bytes.len();
                if !end.open {
                    self.send(sock.peer(), Segment::Reset);
                    return None;
                }
                end.unread.extend(bytes);
                self.tell(sock, Told::Readable(sock))
            }
            Segment::Fin => {
                end.fin_arrived = true;
                self.tell(sock, Told::Readable(sock))
            }
            Segment::Reset => {
                end.unread.clear();
                let told = self.tell(sock, Told::Reset(sock));
                self.shut(sock);
                told
            }
        }
    }

    fn tell(&self, sock: Sock, told: Told) -> Option<(Node, Told)> {
        let end = &self.wires.get(&sock.wire())?.ends[sock.side()];
        end.open.then_some((end.node, told))
    }

    fn send(&mut self, to: Sock, segment: Segment) {
        let delayed = self.later();
        let Some(wire) = self.wires.get_mut(&to.wire()) else {
            return;
        };
        let end = &mut wire.ends[to.side()];
        if let Segment::Bytes(bytes) = &segment {
            end.in_flight += bytes.len();
        }
        let at = delayed.max(end.last_arrival);
        end.last_arrival = at;
        end.transit.push_back(segment);
        self.schedule(at, Event::Arrive(to));
    }

    /// The end is closed here; the wire goes when nobody can learn anything from it.
    fn shut(&mut self, sock: Sock) {
        let Some(wire) = self.wires.get_mut(&sock.wire()) else {
            return;
        };
        wire.ends[sock.side()].open = false;
        if wire.ends.iter().all(|end| !end.open) {
            self.remove(sock.wire());
        }
    }

    fn remove(&mut self, wire: u64) {
        if self.wires.remove(&wire).is_some_and(|wire| wire.tainted) {
            self.gone.insert(wire);
        }
    }

    fn later(&mut self) -> Instant {
        let micros = 200 + self.rng.below(self.delay.max(1) * 1000);
        self.now.after(Duration::from_micros(micros.into()))
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.seq += 1;
        self.queue.insert((at, self.seq), event);
    }
}
