//! Loopback connections for the tests of relays.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use smol::channel::{Sender, bounded};

use super::Settings;
use super::buffer::STANDARD;
use crate::executor::{Handle, Runtime};
use crate::net::{Polled, Stream};
use crate::stats::Stats;

/// Port 0 of the loopback interface.
pub(crate) const ANY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn settings() -> Settings {
    Settings {
        stats: Arc::new(Stats::default()),
        rx: None,
        tx: None,
        tcp_idle: None,
        udp_idle: PATIENCE,
        buffer: STANDARD,
    }
}

/// Two ends of a TCP connection, blocking.
pub(crate) fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(ANY).unwrap();
    let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let here = listener.accept().unwrap().0;
    for socket in [&here, &there] {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    (here, there)
}

/// An end for a relay, and the other end for the test.
pub(crate) fn connection() -> (Stream, TcpStream) {
    let (here, there) = sockets();
    (Stream::Plain(Polled::new(here).unwrap()), there)
}

/// Both ends of a TLS connection: client and server.
pub(crate) async fn tls() -> (Stream, Stream) {
    let own = rcgen::generate_simple_self_signed([String::from("localhost")]).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (here, there) = sockets();
    let name = ServerName::try_from("localhost").unwrap();
    let (client, server) = smol::future::zip(
        TlsConnector::from(Arc::new(client)).connect(name, Polled::new(here).unwrap()),
        TlsAcceptor::from(Arc::new(server)).accept(Polled::new(there).unwrap()),
    )
    .await;
    let client = TlsStream::Client(client.unwrap());
    let server = TlsStream::Server(server.unwrap());
    (Stream::Tls(Box::new(client)), Stream::Tls(Box::new(server)))
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Sends `bytes`, ends the write side, and returns what comes until the other side ends.
pub(crate) fn exchange(mut socket: TcpStream, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut sink = socket.try_clone()?;
    let writer = std::thread::spawn(move || {
        sink.write_all(&bytes)?;
        sink.shutdown(std::net::Shutdown::Write)
    });
    let mut got = Vec::new();
    socket.read_to_end(&mut got)?;
    writer.join().unwrap()?;
    Ok(got)
}

/// Closes with a RST.
pub(crate) fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// A runtime whose control thread is one beside the test's.
pub(crate) struct Driven {
    control: Handle,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Driven {
    pub(crate) fn new() -> Self {
        let runtime = Runtime::new(2).unwrap();
        let control = runtime.control();
        let (stop, stopped) = bounded::<()>(1);
        let thread = std::thread::spawn(move || {
            runtime.block_on(stopped.recv()).ok();
        });
        Self {
            control,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn control(&self) -> Handle {
        Handle::clone(&self.control)
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}
