//! A tunnel client and server on `std::net`, threads and blocking `rustls`: the second driver of
//! the `protocol` crate, which shows how little a driver needs, and that it needs no executor.
//!
//! ```text
//! cargo run -p nodepass-protocol --example blocking -- 'server://KEY@127.0.0.1:10101/127.0.0.1:8080?mode=1'
//! ```
//!
//! All machines sit behind one lock ([`tunnel`]). Every connection has a thread, which blocks on it
//! from its first byte to its last ([`open`], [`relay`]), tells the machines under the lock what
//! happened, and before it releases the lock does what they say. The main thread waits for their
//! next deadline. That is the whole driver; [`conn`] is what it knows about sockets and TLS.
//!
//! Left out: UDP (a launch is answered with "disabled"), `tls=2`, `mode=0` of a server, single-end
//! clients, graceful stops, keep-alive, limits of its own on relays, the reset of relays that fell
//! silent after an unclean end, and the parameters `sni`, `lbs` (targets are tried in order),
//! `dial`, `read`, `rate`, `slot`, `proxy`, `block`, `dns`, `notcp` and `noudp`.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a driver is where the clock, blocking calls and output belong"
)]

mod conn;
mod open;
mod relay;
mod tunnel;

use std::error::Error;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::exit;
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use protocol::config::{self, Config, HostPort, Mode, Role};
use protocol::rng::Seed;
use protocol::terms::{DataTls, Generation};
use protocol::time::{Duration, Instant};
use rustls::crypto::ring;

use crate::tunnel::{Shared, Tunnel};

type Fault = Box<dyn Error + Send + Sync>;

fn main() {
    let url = std::env::args().nth(1).unwrap_or_default();
    let config = configure(&url).unwrap_or_else(|error| fail(2, &error));
    start(config).unwrap_or_else(|error| fail(1, &error)).run()
}

fn configure(url: &str) -> Result<config::Tunnel, Fault> {
    let parsed = config::parse(url, &|name| std::env::var(name).ok())?;
    for warning in parsed.warnings {
        eprintln!("{warning}");
    }
    let Config::Tunnel(config) = parsed.config else {
        return Err("scheme: master; server or client".into());
    };
    match (config.role, config.mode) {
        _ if !config.proto.allows(Generation::Native) => {
            Err("proto: this example speaks the native generation only".into())
        }
        _ if config.tls == DataTls::Verified => Err("tls: 2; this example has 0 and 1".into()),
        (Role::Server, Mode::Auto) => Err("mode: 0; a server of this example has 1, 2".into()),
        (Role::Client, Mode::One) => Err("mode: 1; a client of this example has 0, 2".into()),
        (Role::Server | Role::Client, _) => Ok(config),
    }
}

fn start(config: config::Tunnel) -> Result<Tunnel, Fault> {
    let tunnel = Shared::start(config)?;
    let config = &tunnel.config;
    if config.role == Role::Server {
        accept(tunnel, "clients", &config.tunnel, open::at_door)?;
        if config.mode == Mode::One {
            accept_users(tunnel);
        }
    }
    Ok(tunnel)
}

fn accept_users(tunnel: Tunnel) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(target) = tunnel.config.targets.first() {
            accept(tunnel, "users", target, relay::user).unwrap_or_else(|error| fail(1, &error));
        }
    });
}

type Serve = fn(Tunnel, TcpStream, SocketAddr) -> Result<(), Fault>;

/// Listens, and serves each connection in a thread of its own.
fn accept(tunnel: Tunnel, who: &str, at: &HostPort, serve: Serve) -> Result<(), Fault> {
    let listener = TcpListener::bind((host(at, "::"), at.port));
    let listener = listener.map_err(|error| format!("listen on {at}: {error}"))?;
    println!("listening for {who} on {}", listener.local_addr()?);
    spawn(move || {
        loop {
            match listener.accept() {
                Ok((socket, from)) => spawn(move || {
                    if let Err(error) = serve(tunnel, socket, from) {
                        eprintln!("{from}: {error}");
                    }
                }),
                Err(error) => {
                    // Most likely for want of descriptors: at once it would fail again.
                    eprintln!("cannot accept: {error}");
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    });
    Ok(())
}

fn host<'a>(at: &'a HostPort, any: &'a str) -> &'a str {
    if at.host.is_empty() { any } else { &at.host }
}

/// The machines' time: since the program started.
fn now() -> Instant {
    static ORIGIN: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    Instant::from_origin(ORIGIN.elapsed())
}

/// The machines' randomness.
fn seed() -> Seed {
    let mut bytes = [0; 32];
    match ring::default_provider().secure_random.fill(&mut bytes) {
        Ok(()) => Seed(bytes),
        Err(_) => fail(1, &"the system gives no random bytes".into()),
    }
}

/// No thread panics with a lock held, and if one did, the others could still go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().spawn(work) {
        eprintln!("cannot start a thread: {error}");
    }
}

fn fail(code: i32, error: &Fault) -> ! {
    eprintln!("error: {error}");
    exit(code)
}
