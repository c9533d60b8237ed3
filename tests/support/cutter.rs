//! A TCP relay between the two ends: the network, with its faults at a test's command.

mod link;

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

pub(crate) use self::link::{Fault, Strike, Way};

use self::link::{Edit, Link, Orders, State};
use super::ports::Port;

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
        links.iter().filter(|link| link.has_fired()).count()
    }

    /// Whether a connection is still to be struck: one to come, or one that has not got there.
    pub(crate) fn is_armed(&self) -> bool {
        let to_come = !self.shared.rules.lock().unwrap().strikes.is_empty();
        let waits = |link: &Arc<Link>| {
            link.orders.strike.is_some() && !link.has_fired() && !link.has_ended()
        };
        to_come || self.links().iter().any(waits)
    }

    /// Strikes no more, and resets what was struck or would have been.
    pub(crate) fn lift(&self) {
        self.shared.rules.lock().unwrap().strikes.clear();
        for link in self.links() {
            if link.orders.strike.is_some() {
                link.reset();
            }
        }
    }

    /// Whether neither side has ended a connection.
    pub(crate) fn is_whole(&self, number: usize) -> bool {
        !self.links()[number].has_ended()
    }

    /// Bytes that went `way` on a connection so far.
    pub(crate) fn recorded(&self, number: usize, way: Way) -> Vec<u8> {
        self.links()[number].recorded(way)
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
        let orders = Orders {
            delay: rules.delay,
            edit: rules.edit.clone(),
            strike: rules.strikes.pop_front(),
        };
        let link = Link::new(links.len(), &client, &server, orders);
        links.push(Arc::clone(&link));
        link.run(client, server);
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

#[cfg(test)]
use std::io::{Read as _, Write as _};

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
