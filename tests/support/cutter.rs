//! A TCP relay between the two ends: the network, with its faults at a test's command.

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

    /// Resets every connection so far, to both sides.
    pub(crate) fn reset_all(&self) {
        for link in self.links() {
            link.reset();
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
}

impl Link {
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
        let rules = shared.rules.lock().unwrap();
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

fn pump(link: &Link, way: Way, mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer);
        if !link.may_pass() {
            return;
        }
        match read {
            Ok(count) if count > 0 => {
                let mut chunk = buffer[..count].to_vec();
                if let Some(edit) = &link.edit {
                    edit(link.number, way, &mut chunk);
                }
                if !link.delay.is_zero() {
                    pause(link.delay);
                }
                keep(link, way, &chunk);
                if to.write_all(&chunk).is_err() {
                    drop(from.shutdown(Shutdown::Both));
                    return;
                }
            }
            Ok(_) => {
                link.ended.store(true, Ordering::SeqCst);
                drop(to.shutdown(Shutdown::Write));
                return;
            }
            Err(_) => {
                link.ended.store(true, Ordering::SeqCst);
                return link.reset();
            }
        }
    }
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
