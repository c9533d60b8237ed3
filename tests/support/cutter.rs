//! A TCP relay between the two ends: the network, with its faults at a test's command.

use std::collections::VecDeque;
use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::ports::Port;
use super::until::pause;

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

type Edit = Box<dyn Fn(usize, Way, &mut Vec<u8>) + Send + Sync>;

/// Relays every connection it accepts until told otherwise.
#[derive(Debug)]
pub(crate) struct Cutter {
    port: Port,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

struct Shared {
    upstream: SocketAddr,
    stop: AtomicBool,
    rules: Mutex<Rules>,
    links: Mutex<Vec<Arc<Link>>>,
}

#[derive(Default)]
struct Rules {
    source: Option<IpAddr>,
    delay: Duration,
    edit: Option<Arc<Edit>>,
    strikes: VecDeque<Strike>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

impl Cutter {
    /// In front of `upstream`.
    pub(crate) fn before(upstream: SocketAddr) -> Self {
        let port = Port::reserve();
        let listener = TcpListener::bind(port.addr()).expect("listen as a relay");
        let shared = Arc::new(Shared {
            upstream,
            stop: AtomicBool::new(false),
            rules: Mutex::default(),
            links: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(&listener, &of_thread));
        Self {
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Where clients connect.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// New connections to the server come from `source`.
    pub(crate) fn come_from(&self, source: IpAddr) {
        self.shared.rules.lock().unwrap().source = Some(source);
    }

    /// Every chunk of new connections is held back this long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.rules.lock().unwrap().delay = delay;
    }

    /// `edit` may change, lengthen or empty every chunk of new connections. It is given the number
    /// of the connection, from 0.
    pub(crate) fn edit(&self, edit: impl Fn(usize, Way, &mut Vec<u8>) + Send + Sync + 'static) {
        self.shared.rules.lock().unwrap().edit = Some(Arc::new(Box::new(edit)));
    }

    /// How many connections have come.
    pub(crate) fn count(&self) -> usize {
        self.shared.links.lock().unwrap().len()
    }

    /// Stops reading and writing on every connection so far. New ones pass.
    pub(crate) fn stall_all(&self) {
        for link in self.links() {
            link.set(State::Stalled);
        }
    }

    /// Stops reading and writing on one connection.
    pub(crate) fn stall(&self, number: usize) {
        self.links()[number].set(State::Stalled);
    }

    /// Resets one connection, to both sides.
    pub(crate) fn reset(&self, number: usize) {
        self.links()[number].reset();
    }

    /// Resets every connection so far, to both sides.
    pub(crate) fn reset_all(&self) {
        for link in self.links() {
            link.reset();
        }
    }

    /// The next connection, or the one after those that are to be struck already, is struck.
    pub(crate) fn strike_next(&self, strike: Strike) {
        let mut rules = self.shared.rules.lock().unwrap();
        rules.strikes.push_back(strike);
    }

    /// How many connections have been struck.
    pub(crate) fn struck(&self) -> usize {
        let links = self.links();
        let struck = links
            .iter()
            .filter(|link| link.fired.load(Ordering::SeqCst));
        struck.count()
    }

    /// Whether a connection is still to be struck: one to come, or one that has not got there.
    pub(crate) fn is_armed(&self) -> bool {
        let waiting = |link: &Arc<Link>| {
            let over = [&link.fired, &link.ended].map(|it| it.load(Ordering::SeqCst));
            link.strike.is_some() && over == [false; 2]
        };
        !self.shared.rules.lock().unwrap().strikes.is_empty() || self.links().iter().any(waiting)
    }

    /// Strikes no more, and resets what was struck or would have been.
    pub(crate) fn lift(&self) {
        self.shared.rules.lock().unwrap().strikes.clear();
        for link in self.links() {
            if link.strike.is_some() {
                link.reset();
            }
        }
    }

    /// Whether neither side has ended a connection.
    pub(crate) fn is_whole(&self, number: usize) -> bool {
        !self.links()[number].ended.load(Ordering::SeqCst)
    }

    /// Bytes that went `way` on a connection so far.
    pub(crate) fn recorded(&self, number: usize, way: Way) -> Vec<u8> {
        self.links()[number].record(way).lock().unwrap().clone()
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.shared.links.lock().unwrap().clone()
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.port.addr()));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
        self.reset_all();
    }
}

/// Most bytes of a connection that are kept for [`Cutter::recorded`], each way.
const RECORD: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Passing,
    Stalled,
    Over,
}

/// One relayed connection.
struct Link {
    number: usize,
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
    ends: Mutex<Vec<Arc<TcpStream>>>,
    up: Mutex<Vec<u8>>,
    down: Mutex<Vec<u8>>,
    delay: Duration,
    edit: Option<Arc<Edit>>,
    strike: Option<Strike>,
    fired: AtomicBool,
    /// Ways that are swallowed: up, down.
    dead: [AtomicBool; 2],
}

impl Link {
    /// Whether the strike is for this way and still to come, and after how many bytes.
    fn strike_at(&self, way: Way) -> Option<Strike> {
        self.strike
            .filter(|strike| strike.way == way && !self.fired.load(Ordering::SeqCst))
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

    fn set(&self, state: State) {
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
    fn reset(&self) {
        self.set(State::Over);
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

fn accept(listener: &TcpListener, shared: &Shared) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = stream else { continue };
        let Some(server) = dial(shared) else { continue };
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        let (client, server) = (Arc::new(client), Arc::new(server));
        let mut rules = shared.rules.lock().unwrap();
        let mut links = shared.links.lock().unwrap();
        let link = Arc::new(Link {
            number: links.len(),
            state: Mutex::new(State::Passing),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
            ends: Mutex::new(vec![Arc::clone(&client), Arc::clone(&server)]),
            up: Mutex::default(),
            down: Mutex::default(),
            delay: rules.delay,
            edit: rules.edit.clone(),
            strike: rules.strikes.pop_front(),
            fired: AtomicBool::new(false),
            dead: Default::default(),
        });
        links.push(Arc::clone(&link));
        let (back, from, to) = (Arc::clone(&link), Arc::clone(&server), Arc::clone(&client));
        thread::spawn(move || pump(&link, Way::Up, &client, &server));
        thread::spawn(move || pump(&back, Way::Down, &from, &to));
    }
}

fn dial(shared: &Shared) -> Option<TcpStream> {
    let socket = Socket::new(Domain::for_address(shared.upstream), Type::STREAM, None).ok()?;
    if let Some(source) = shared.rules.lock().unwrap().source {
        socket.bind(&SocketAddr::new(source, 0).into()).ok()?;
    }
    socket.connect(&shared.upstream.into()).ok()?;
    Some(socket.into())
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
    if let Some(edit) = &link.edit {
        edit(link.number, way, &mut chunk);
    }
    if !link.delay.is_zero() {
        pause(link.delay);
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

#[test]
fn it_relays_records_changes_stalls_and_resets() {
    use super::until::{millis, secs};
    use super::{peers::Target, users};
    let target = Target::echo();
    let cutter = Cutter::before(target.addr());
    let user = users::connect(cutter.addr());
    users::echo(&user, b"one").unwrap();
    assert_eq!(
        (cutter.recorded(0, Way::Up), cutter.recorded(0, Way::Down)).0,
        b"one"
    );
    assert!(cutter.is_whole(0));

    cutter.stall_all();
    assert_eq!(users::end_of(&user, millis(100)), users::End::StillOpen);
    assert_eq!(
        users::end_after(cutter.addr(), b"new ones pass", millis(300)),
        users::End::StillOpen
    );
    cutter.reset_all();
    assert_eq!(users::end_of(&user, secs(5)), users::End::Reset);

    cutter.edit(|_, way, chunk| {
        if way == Way::Up {
            chunk.make_ascii_uppercase();
        }
    });
    let mut user = users::connect(cutter.addr());
    user.write_all(b"loud").unwrap();
    let mut answer = [0; 4];
    user.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"LOUD");
}

#[test]
fn it_strikes_at_the_byte() {
    use super::until::{millis, secs};
    use super::{peers::Target, users};
    let target = Target::echo();
    let cutter = Cutter::before(target.addr());
    for (way, fault, end) in [
        (Way::Up, Fault::Fin, users::End::Closed),
        (Way::Down, Fault::Half, users::End::Closed),
        (Way::Up, Fault::Reset, users::End::Reset),
        (Way::Down, Fault::Stall, users::End::StillOpen),
        (Way::Up, Fault::Mute, users::End::StillOpen),
        (Way::Down, Fault::Delay, users::End::StillOpen),
    ] {
        let before = cutter.struck();
        cutter.strike_next(Strike { way, at: 3, fault });
        let mut user = users::connect(cutter.addr());
        user.write_all(b"abc").unwrap();
        user.write_all(b"def").unwrap();
        assert_eq!(users::end_of(&user, millis(600)), end, "{fault:?}");
        assert_eq!(cutter.struck(), before + 1);
        let passed = cutter.recorded(cutter.count() - 1, way).len();
        assert_eq!(
            passed,
            if fault == Fault::Delay { 6 } else { 3 },
            "{fault:?}"
        );
        cutter.lift();
        assert_ne!(users::end_of(&user, secs(5)), users::End::StillOpen);
        users::served(cutter.addr());
    }
}
