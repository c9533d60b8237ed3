//! One relayed connection, and what may happen to it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::support::until::pause;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What happens to a connection at a chosen byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Both sides see an end of stream; what they still send is swallowed.
    Fin,
    /// The receiver of this way sees an end of stream, the other way goes on.
    Half,
    /// Both sides see RST.
    Reset,
    /// Nothing passes any more, and neither side is told.
    Stall,
    /// This way is swallowed, the other way goes on.
    Mute,
    /// A pause; then all goes on as if nothing had been.
    Delay,
}

impl Fault {
    /// Every one.
    pub(crate) const ALL: [Self; 6] = [
        Self::Fin,
        Self::Half,
        Self::Reset,
        Self::Stall,
        Self::Mute,
        Self::Delay,
    ];

    /// Whether an end can tell only by waiting.
    pub(crate) const fn is_silent(self) -> bool {
        matches!(self, Self::Stall | Self::Mute)
    }
}

/// A fault that waits for its byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike {
    /// Which way bytes are counted.
    pub(crate) way: Way,
    /// So many bytes still pass. With none the connection is struck as soon as it is there.
    pub(crate) at: usize,
    /// What happens then.
    pub(crate) fault: Fault,
}

/// How long [`Fault::Delay`] pauses.
const DELAY: Duration = Duration::from_millis(300);

/// Changes a chunk of the connection with this number.
pub(super) type Edit = Box<dyn Fn(usize, Way, &mut Vec<u8>) + Send + Sync>;

/// Most bytes of a connection that are kept for [`Cutter::recorded`], each way.
const RECORD: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Passing,
    Stalled,
    Over,
}

/// What is to happen to a connection.
pub(super) struct Orders {
    /// Every chunk is held back this long.
    pub(super) delay: Duration,
    /// What changes chunks.
    pub(super) edit: Option<Arc<Edit>>,
    /// The fault that waits for its byte.
    pub(super) strike: Option<Strike>,
}

/// One relayed connection.
pub(super) struct Link {
    number: usize,
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
    ends: Mutex<Vec<Arc<TcpStream>>>,
    up: Mutex<Vec<u8>>,
    down: Mutex<Vec<u8>>,
    pub(super) orders: Orders,
    fired: AtomicBool,
    /// Ways that are swallowed: up, down.
    dead: [AtomicBool; 2],
}

impl Link {
    /// Whether the strike is for this way and still to come, and after how many bytes.
    fn strike_at(&self, way: Way) -> Option<Strike> {
        self.orders
            .strike
            .filter(|strike| strike.way == way && !self.has_fired())
    }

    /// Does what was ordered, between the bytes that have passed and those that follow.
    fn fire(&self, strike: Strike, (from, to): (&TcpStream, &TcpStream)) {
        self.fired.store(true, Ordering::SeqCst);
        match strike.fault {
            Fault::Fin => {
                self.swallow(Way::Up);
                self.swallow(Way::Down);
                drop((from.shutdown(Shutdown::Write), to.shutdown(Shutdown::Write)));
            }
            Fault::Half => {
                self.swallow(strike.way);
                drop(to.shutdown(Shutdown::Write));
            }
            Fault::Reset => self.reset(),
            Fault::Stall => self.set(State::Stalled),
            Fault::Mute => self.swallow(strike.way),
            Fault::Delay => pause(DELAY),
        }
    }

    fn swallow(&self, way: Way) {
        self.dead[way as usize].store(true, Ordering::SeqCst);
    }

    fn is_swallowed(&self, way: Way) -> bool {
        self.dead[way as usize].load(Ordering::SeqCst)
    }

    /// Between these two, number `number`.
    pub(super) fn new(
        number: usize,
        client: &Arc<TcpStream>,
        server: &Arc<TcpStream>,
        orders: Orders,
    ) -> Arc<Self> {
        Arc::new(Self {
            number,
            state: Mutex::new(State::Passing),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
            ends: Mutex::new(vec![Arc::clone(client), Arc::clone(server)]),
            up: Mutex::default(),
            down: Mutex::default(),
            fired: AtomicBool::new(false),
            dead: Default::default(),
            orders,
        })
    }

    /// Begins to relay.
    pub(super) fn run(self: Arc<Self>, client: Arc<TcpStream>, server: Arc<TcpStream>) {
        let (back, from, to) = (Arc::clone(&self), Arc::clone(&server), Arc::clone(&client));
        thread::spawn(move || pump(&self, Way::Up, &client, &server));
        thread::spawn(move || pump(&back, Way::Down, &from, &to));
    }

    /// Whether its strike has come.
    pub(super) fn has_fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }

    /// Whether either side has ended it.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// What has passed, as far as it is kept.
    pub(super) fn recorded(&self, way: Way) -> Vec<u8> {
        self.record(way).lock().unwrap().clone()
    }

    pub(super) fn set(&self, state: State) {
        let mut current = self.state.lock().unwrap();
        if *current != State::Over {
            *current = state;
        }
        self.changed.notify_all();
    }

    /// Waits while stalled; whether bytes may pass.
    fn may_pass(&self) -> bool {
        let state = self.state.lock().unwrap();
        let state = self
            .changed
            .wait_while(state, |state| *state == State::Stalled)
            .unwrap();
        *state == State::Passing
    }

    /// Both sockets close with RST once the pumps have let go of them.
    pub(super) fn reset(&self) {
        self.set(State::Over);
        self.ended.store(true, Ordering::SeqCst);
        for end in self.ends.lock().unwrap().drain(..) {
            drop(SockRef::from(&*end).set_linger(Some(Duration::ZERO)));
            drop(end.shutdown(Shutdown::Read));
        }
    }

    const fn record(&self, way: Way) -> &Mutex<Vec<u8>> {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }
}

fn pump(link: &Link, way: Way, mut from: &TcpStream, to: &TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    let mut passed = 0;
    strike(link, way, passed, (from, to));
    loop {
        let read = from.read(&mut buffer);
        if !link.may_pass() {
            return;
        }
        match read {
            Ok(count) if count > 0 => {
                if !pass(link, way, &buffer[..count], (from, to), &mut passed) {
                    return;
                }
            }
            Ok(_) => {
                link.ended.store(true, Ordering::SeqCst);
                if !link.is_swallowed(way) {
                    drop(to.shutdown(Shutdown::Write));
                }
                return;
            }
            Err(_) => {
                link.ended.store(true, Ordering::SeqCst);
                return link.reset();
            }
        }
    }
}

/// Strikes if this is the byte.
fn strike(link: &Link, way: Way, passed: usize, ends: (&TcpStream, &TcpStream)) {
    if let Some(strike) = link.strike_at(way).filter(|strike| strike.at == passed) {
        link.fire(strike, ends);
    }
}

/// Passes a chunk on, in two pieces if it is struck in between. False: the connection is over.
fn pass(
    link: &Link,
    way: Way,
    chunk: &[u8],
    (from, mut to): (&TcpStream, &TcpStream),
    passed: &mut usize,
) -> bool {
    let mut chunk = chunk.to_vec();
    if let Some(edit) = &link.orders.edit {
        edit(link.number, way, &mut chunk);
    }
    if !link.orders.delay.is_zero() {
        pause(link.orders.delay);
    }
    let mut rest = &chunk[..];
    while !rest.is_empty() && !link.is_swallowed(way) {
        let until = link.strike_at(way).map(|strike| strike.at - *passed);
        let (now, later) = rest.split_at(until.unwrap_or(rest.len()).min(rest.len()));
        keep(link, way, now);
        if to.write_all(now).is_err() {
            drop(from.shutdown(Shutdown::Both));
            return false;
        }
        *passed += now.len();
        rest = later;
        strike(link, way, *passed, (from, to));
        if !link.may_pass() {
            return false;
        }
    }
    true
}

fn keep(link: &Link, way: Way, chunk: &[u8]) {
    let mut record = link.record(way).lock().unwrap();
    let room = RECORD.saturating_sub(record.len()).min(chunk.len());
    record.extend_from_slice(&chunk[..room]);
}
