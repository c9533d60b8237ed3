//! Targets: what a tunnel leads to.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::kernel::ask_for_room;
use super::ports::Port;
use super::until::{secs, until};

type Handler = dyn Fn(&TcpStream) -> io::Result<()> + Send + Sync;

/// A TCP server with one thread per connection; dropped, it closes all of them.
#[derive(Debug)]
pub(crate) struct Target {
    addr: SocketAddr,
    port: Option<Port>,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicUsize,
    open: Mutex<Vec<Arc<TcpStream>>>,
}

impl Target {
    /// On a port of its own, `handler` for each connection. An error of the handler ends that
    /// connection only.
    pub(crate) fn start(
        handler: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let port = Port::reserve();
        let mut target = Self::start_on(port.addr(), handler);
        target.port = Some(port);
        target
    }

    /// On `addr`, which the caller holds.
    pub(crate) fn start_on(
        addr: SocketAddr,
        handler: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        // A child that is being started may hold the listener of a target before this one for a while.
        let what = format!("listening as a target on {addr}");
        let listener = until(&what, secs(10), || TcpListener::bind(addr).ok());
        let shared = Arc::new(Shared::default());
        let (of_thread, handler) = (Arc::clone(&shared), Arc::new(handler));
        let acceptor = thread::spawn(move || accept(&listener, &of_thread, &handler));
        Self {
            addr,
            port: None,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Sends back what it gets, half-close included.
    pub(crate) fn echo() -> Self {
        Self::start(echo)
    }

    /// Where it listens.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections it has accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many of them have not ended.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.addr));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
        for stream in self.shared.open.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn accept<H>(listener: &TcpListener, shared: &Arc<Shared>, handler: &Arc<H>)
where
    H: Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
{
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        drop(stream.set_nodelay(true));
        let stream = Arc::new(stream);
        shared.open.lock().unwrap().push(Arc::clone(&stream));
        let (shared, handler) = (Arc::clone(shared), Arc::clone(handler));
        thread::spawn(move || {
            let handler: &Handler = &*handler;
            drop(handler(&stream));
            shared
                .open
                .lock()
                .unwrap()
                .retain(|other| !Arc::ptr_eq(other, &stream));
        });
    }
}

/// Sends back what it gets; passes an end of stream on.
pub(crate) fn echo(mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&buffer[..count])?;
    }
}

/// Reads until the peer goes away, and answers nothing.
pub(crate) fn discard(mut stream: &TcpStream) -> io::Result<()> {
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

/// Reads to the end of the stream, then answers with the SHA-256 of it all.
pub(crate) fn digest_at_end(mut stream: &TcpStream) -> io::Result<()> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    stream.write_all(super::sha256(&all).as_bytes())
}

/// Says `greeting` first, then echoes.
pub(crate) fn greet(
    greeting: &'static str,
) -> impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static {
    move |mut stream| {
        stream.write_all(greeting.as_bytes())?;
        echo(stream)
    }
}

/// A UDP server that sends every datagram back; dropped, it stops.
#[derive(Debug)]
pub(crate) struct UdpTarget {
    addr: SocketAddr,
    port: Option<Port>,
    stop: Arc<AtomicBool>,
    received: Arc<AtomicUsize>,
    sources: Arc<Mutex<BTreeSet<SocketAddr>>>,
    worker: Option<thread::JoinHandle<()>>,
}

impl UdpTarget {
    /// Echoes on a port of its own.
    pub(crate) fn echo() -> Self {
        Self::answer(<[u8]>::to_vec)
    }

    /// Echoes on `addr`, which the caller holds.
    pub(crate) fn echo_on(addr: SocketAddr) -> Self {
        Self::answer_on(addr, <[u8]>::to_vec)
    }

    /// Answers every datagram with one made from it, on a port of its own.
    pub(crate) fn answer(make: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        let port = Port::reserve();
        let mut target = Self::answer_on(port.addr(), make);
        target.port = Some(port);
        target
    }

    fn answer_on(addr: SocketAddr, make: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        let what = format!("bound as a UDP target to {addr}");
        let socket = until(&what, secs(10), || UdpSocket::bind(addr).ok());
        // A burst must not be lost here: the tunnel is what is tested.
        ask_for_room(&socket);
        let (stop, received) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&received));
        let sources = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&sources);
        let worker = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                counter.fetch_add(1, Ordering::SeqCst);
                seen.lock().unwrap().insert(from);
                // A user that is gone is no failure of the target.
                drop(socket.send_to(&make(&buffer[..len]), from));
            }
        });
        Self {
            addr,
            port: None,
            stop,
            received,
            sources,
            worker: Some(worker),
        }
    }

    /// Where it receives.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many datagrams have arrived.
    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::SeqCst)
    }

    /// From how many different addresses.
    pub(crate) fn sources(&self) -> usize {
        self.sources.lock().unwrap().len()
    }
}

impl Drop for UdpTarget {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let poke = UdpSocket::bind("127.0.0.1:0").unwrap();
        drop(poke.send_to(&[], self.addr));
        if let Some(worker) = self.worker.take() {
            drop(worker.join());
        }
    }
}

/// How long a peer of a test waits for bytes before it calls them lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
