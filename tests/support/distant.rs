//! A target that is far away: connecting to it takes a second, as the network would make it.
//!
//! Its queue is full, so the first SYN is lost. As soon as somebody dials, the queue is emptied, and
//! the SYN that the kernel repeats after a second finds room.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::kernel::is_dialled;
use super::peers::echo;
use super::ports::Port;
use super::until::poll;

/// How long one look for something takes.
const LOOK: Duration = Duration::from_millis(200);

/// A target that says its name, then echoes; near or far. Dropped, it stops.
#[derive(Debug)]
pub(crate) struct Distant {
    port: Port,
    shared: Arc<Shared>,
    main: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    far: AtomicBool,
    over: AtomicBool,
}

impl Distant {
    /// Starts it.
    pub(crate) fn start(name: &'static str, far: bool) -> Self {
        let (port, shared) = (Port::reserve(), Arc::new(Shared::default()));
        shared.far.store(far, Ordering::SeqCst);
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.set_reuse_address(true).unwrap();
        listener.bind(&port.addr().into()).unwrap();
        listener.listen(0).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut door = Door {
            listener,
            addr: port.addr(),
            name,
            filler: None,
        };
        let of_thread = Arc::clone(&shared);
        let main = Some(thread::spawn(move || door.run(&of_thread)));
        Self { port, shared, main }
    }

    /// Where it listens.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// It moves.
    pub(crate) fn set_far(&self, far: bool) {
        self.shared.far.store(far, Ordering::SeqCst);
    }
}

impl Drop for Distant {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(main) = self.main.take() {
            drop(main.join());
        }
    }
}

struct Door {
    listener: Socket,
    addr: SocketAddr,
    name: &'static str,
    /// What fills the queue.
    filler: Option<Socket>,
}

impl Door {
    fn run(&mut self, shared: &Shared) {
        while !shared.over.load(Ordering::SeqCst) {
            if !shared.far.load(Ordering::SeqCst) {
                poll(LOOK, || self.accept().then_some(()));
                continue;
            }
            self.fill();
            if poll(LOOK, || is_dialled(self.addr).then_some(())).is_some() {
                // Until the repeated SYN has come, or nobody dials any more.
                poll(Duration::from_secs(5), || {
                    (self.accept() || !is_dialled(self.addr)).then_some(())
                });
            }
        }
    }

    fn fill(&mut self) {
        if self.filler.is_none() {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // In progress, which is what it is for.
            drop(socket.connect(&self.addr.into()));
            self.filler = Some(socket);
        }
    }

    /// Empties the queue and serves who is in it; whether there was anybody.
    fn accept(&mut self) -> bool {
        let mut served = false;
        while let Ok((socket, from)) = self.listener.accept() {
            let ours = self.filler.as_ref().map(|own| own.local_addr().unwrap());
            if ours.is_some_and(|ours| ours.as_socket() == from.as_socket()) {
                self.filler = None;
                continue;
            }
            served = true;
            socket.set_nonblocking(false).unwrap();
            let (mut stream, name) = (TcpStream::from(socket), self.name);
            thread::spawn(move || {
                // A probe hangs up at once.
                drop(stream.write_all(name.as_bytes()));
                drop(echo(&stream));
            });
        }
        served
    }
}
