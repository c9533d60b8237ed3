//! One connection, plain or under TLS, that one thread reads and one writes.
//!
//! A `rustls` connection is one object for both directions, so it sits behind a mutex. Nobody
//! blocks while holding it: records are read from and written to the socket outside.

use std::io::{self, Read as _, Write as _};
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use protocol::proof::ALPN;
use protocol::terms::Fingerprint;
use protocol::time::{Duration, Instant};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ServerConfig;
use rustls::version::TLS13;
use rustls::{Connection, DigitallySignedStruct, Error, SignatureScheme};
use sha2::{Digest as _, Sha256};
use socket2::SockRef;

use crate::{Fault, lock, now};

/// The most that is read or encrypted at once.
pub(crate) const CHUNK: usize = 16 * 1024;
/// How long a connection that said its last byte waits for the peer to close it.
const LINGER: Duration = Duration::from_secs(2);

pub(crate) struct Conn {
    socket: TcpStream,
    tls: Option<Mutex<Connection>>,
    /// What is received before anything else.
    early: Mutex<Vec<u8>>,
}

impl Conn {
    pub(crate) fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            tls: None,
            early: Mutex::default(),
        })
    }

    /// Shakes hands; what was [put back](Self::put_back) is the beginning of the peer's records.
    pub(crate) fn secure(mut self, tls: impl Into<Connection>, until: Instant) -> io::Result<Self> {
        let mut records = mem::take(&mut *lock(&self.early));
        let tls = self.tls.insert(Mutex::new(tls.into()));
        loop {
            let plain = decrypt(tls, &records);
            flush(tls, &self.socket)?;
            lock(&self.early).extend(plain?);
            if !lock(tls).is_handshaking() {
                return Ok(self);
            }
            records = read_records(&self.socket, Some(until))?;
        }
    }

    /// Waits for bytes, on a plain connection at most `room`; none are the end of the stream.
    pub(crate) fn receive(&self, room: usize, until: Option<Instant>) -> io::Result<Vec<u8>> {
        loop {
            let early = mem::take(&mut *lock(&self.early));
            if !early.is_empty() {
                return Ok(early);
            }
            let Some(tls) = &self.tls else {
                return read(&self.socket, room, until);
            };
            let state = lock(tls).process_new_packets();
            if state.map_err(io::Error::other)?.peer_has_closed() {
                return Ok(Vec::new());
            }
            let plain = decrypt(tls, &read_records(&self.socket, until)?)?;
            lock(&self.early).extend(plain);
        }
    }

    /// [`receive`](Self::receive) where the stream may not end yet.
    pub(crate) fn expect(&self, until: Instant) -> io::Result<Vec<u8>> {
        match self.receive(CHUNK, Some(until)) {
            Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        }
    }

    /// Gives back bytes that were received: they come again, before any other.
    pub(crate) fn put_back(&self, bytes: &[u8]) {
        lock(&self.early).splice(..0, bytes.iter().copied());
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            return (&self.socket).write_all(bytes);
        };
        for chunk in bytes.chunks(CHUNK) {
            lock(tls).writer().write_all(chunk)?;
            flush(tls, &self.socket)?;
        }
        Ok(())
    }

    /// Ends our direction; the other one goes on.
    pub(crate) fn finish(&self) {
        if let Some(tls) = &self.tls {
            lock(tls).send_close_notify();
            flush(tls, &self.socket).ok();
        }
        self.socket.shutdown(Shutdown::Write).ok();
    }

    /// Waits for the peer's end, as closing at once could overtake the last byte written.
    pub(crate) fn linger(&self) {
        let until = now().after(LINGER);
        while self.expect(until).is_ok() {}
    }

    /// Ends both directions, and wakes the threads that read and write.
    pub(crate) fn close(&self) {
        self.socket.shutdown(Shutdown::Both).ok();
    }

    /// Lets the peer see an error instead of an end, as soon as no thread uses the connection.
    pub(crate) fn reset(&self) {
        let socket = SockRef::from(&self.socket);
        socket.set_linger(Some(Duration::ZERO)).ok();
        socket.shutdown(Shutdown::Read).ok();
    }

    /// `None` without TLS.
    pub(crate) fn exporter(&self, label: &[u8]) -> Option<[u8; 32]> {
        let tls = lock(self.tls.as_ref()?);
        tls.export_keying_material([0; 32], label, None).ok()
    }

    /// Of the peer's certificate.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        let tls = lock(self.tls.as_ref()?);
        let leaf = tls.peer_certificates()?.first()?;
        Some(Fingerprint(Sha256::digest(leaf).into()))
    }

    pub(crate) fn alpn(&self) -> Option<Vec<u8>> {
        let tls = lock(self.tls.as_ref()?);
        tls.alpn_protocol().map(<[u8]>::to_vec)
    }
}

fn read(mut socket: &TcpStream, room: usize, until: Option<Instant>) -> io::Result<Vec<u8>> {
    let left = until.map(|until| until.saturating_since(now()));
    if left == Some(Duration::ZERO) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.set_read_timeout(left)?;
    let mut bytes = vec![0; room];
    let read = socket.read(&mut bytes);
    if matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    bytes.truncate(read?);
    Ok(bytes)
}

/// The end of the socket's stream is an error: that of the records is a `close_notify`.
fn read_records(socket: &TcpStream, until: Option<Instant>) -> io::Result<Vec<u8>> {
    match read(socket, CHUNK, until) {
        Ok(records) if records.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        other => other,
    }
}

fn decrypt(tls: &Mutex<Connection>, mut records: &[u8]) -> io::Result<Vec<u8>> {
    let mut tls = lock(tls);
    let mut plain = Vec::new();
    while !records.is_empty() && tls.read_tls(&mut records)? > 0 {
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let mut bytes = vec![0; state.plaintext_bytes_to_read()];
        tls.reader().read_exact(&mut bytes)?;
        plain.extend(bytes);
    }
    Ok(plain)
}

fn flush(tls: &Mutex<Connection>, mut socket: &TcpStream) -> io::Result<()> {
    let (mut records, mut tls) = (Vec::new(), lock(tls));
    while tls.wants_write() {
        tls.write_tls(&mut records)?;
    }
    drop(tls);
    socket.write_all(&records)
}

/// A certificate made in memory, and its fingerprint for the `welcome`.
pub(crate) fn server_tls() -> Result<(Arc<ServerConfig>, Fingerprint), Fault> {
    let made = rcgen::generate_simple_self_signed(["nodepass".to_owned()])?;
    let leaf = made.cert.der().clone();
    let fingerprint = Fingerprint(Sha256::digest(&leaf).into());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key.into())?;
    config.alpn_protocols = vec![ALPN.to_vec(), b"http/1.1".to_vec()];
    Ok((Arc::new(config), fingerprint))
}

/// Accepts any certificate, but checks that the peer has its key: trust comes from the proofs on
/// control connections, on data connections from the fingerprints told there.
pub(crate) fn client_tls() -> Result<Arc<ClientConfig>, Fault> {
    let provider = Arc::new(ring::default_provider());
    let trust = Trust(provider.signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed connection shows no certificate.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Trust(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
