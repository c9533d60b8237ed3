//! The native protocol spoken by hand, after the specification and without the project's code, so
//! that a test can do what no honest end does.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use serde_json::Value;
use sha2::Sha256;

use super::certificates::Authority;
use super::hex;
use super::peers::PATIENCE;
use super::users::{End, connect_from, end_of};

/// TLS as a client.
pub(crate) type ClientTls = StreamOwned<ClientConnection, TcpStream>;
/// TLS as a server.
pub(crate) type ServerTls = StreamOwned<ServerConnection, TcpStream>;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An address of this machine that no tunnel under test uses.
pub(crate) const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

/// `K` of the specification, made once for each key.
pub(crate) fn tunnel_secret(key: &str) -> [u8; 32] {
    static KNOWN: Mutex<BTreeMap<String, [u8; 32]>> = Mutex::new(BTreeMap::new());
    let make =
        || pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(key.as_bytes(), b"nodepass native 1", 100_000);
    let mut known = KNOWN.lock().unwrap();
    *known.entry(key.to_owned()).or_insert_with(make)
}

/// HMAC-SHA256.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// A control connection on which `hello` was answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The proof was right.
    Welcome(Box<Control>),
    /// The reason that the server gave.
    Refused(String),
    /// It closed without a word.
    Closed,
}

/// A control connection with its session.
#[derive(Debug)]
pub(crate) struct Control {
    lines: BufReader<ClientTls>,
    welcome: Value,
    data_secret: [u8; 32],
}

impl Control {
    /// Says `hello` with `key` from `source`.
    pub(crate) fn hello(addr: SocketAddr, source: IpAddr, key: &str) -> Answer {
        let Ok(mut stream) = tls(addr, source) else {
            return Answer::Closed;
        };
        let channel = exporter(&stream.conn, "EXPORTER-nodepass-auth");
        let data_secret = exporter(&stream.conn, "EXPORTER-nodepass-data");
        let secret = tunnel_secret(key);
        let hello = hello_line(&mac(&secret, &[b"client", &channel]));
        if stream
            .write_all(hello.as_bytes())
            .and_then(|()| stream.flush())
            .is_err()
        {
            return Answer::Closed;
        }
        let mut lines = BufReader::new(stream);
        let Some(welcome) = read_line(&mut lines) else {
            return Answer::Closed;
        };
        match welcome["action"].as_str() {
            Some("refuse") => Answer::Refused(text(&welcome, "reason")),
            Some("welcome") => {
                let proof = hex(&mac(&secret, &[b"server", &channel]));
                assert_eq!(
                    welcome["proof"].as_str(),
                    Some(proof.as_str()),
                    "the server's proof"
                );
                Answer::Welcome(Box::new(Self {
                    lines,
                    welcome,
                    data_secret,
                }))
            }
            other => panic!("an answer to hello: {other:?}"),
        }
    }

    /// A session with the right key, from this machine's usual address.
    pub(crate) fn open(addr: SocketAddr, key: &str) -> Self {
        match Self::hello(addr, LOCALHOST, key) {
            Answer::Welcome(control) => *control,
            other => panic!("the right key was answered {other:?}"),
        }
    }

    /// The `welcome`.
    pub(crate) const fn welcome(&self) -> &Value {
        &self.welcome
    }

    /// The next line with this action, if it comes within `limit`; pings are answered meanwhile.
    pub(crate) fn line(&mut self, action: &str, limit: Duration) -> Option<Value> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            let line = read_line(&mut self.lines)?;
            if line["action"] == action {
                return Some(line);
            }
            if line["action"] == "ping" {
                self.send(&format!("{{\"action\":\"pong\",\"seq\":{}}}", line["seq"]))
                    .ok()?;
            }
        }
        None
    }

    /// Whether it still lives: a `ping` is answered.
    pub(crate) fn answers(&mut self) -> bool {
        self.send("{\"action\":\"ping\",\"seq\":7}").is_ok()
            && self.line("pong", PATIENCE).is_some()
    }

    /// How the connection ends, if it does before `limit` passes in silence.
    pub(crate) fn end(&self, limit: Duration) -> End {
        end_of(&self.lines.get_ref().sock, limit)
    }

    /// Sends one line, without its end.
    pub(crate) fn send(&mut self, line: &str) -> io::Result<()> {
        let stream = self.lines.get_mut();
        stream.write_all(format!("{line}\n").as_bytes())?;
        stream.flush()
    }

    /// The preface of data connection `seq`, bound to `conn`, its exporter (empty without TLS).
    pub(crate) fn preface(&self, seq: u64, conn: &[u8]) -> Vec<u8> {
        let session = unhex(&text(&self.welcome, "session"));
        let seq = seq.to_be_bytes();
        let tag = mac(&self.data_secret, &[b"data", &session, &seq, conn]);
        [b"NPD1", session.as_slice(), &seq, &tag[..16]].concat()
    }

    /// A plain data connection, which the server should accept with `tls=0`.
    pub(crate) fn data(&self, addr: SocketAddr, seq: u64) -> TcpStream {
        let mut stream = connect_from(LOCALHOST, addr);
        stream.write_all(&self.preface(seq, &[])).unwrap();
        stream
    }

    /// A data connection inside TLS, which the server should accept with `tls` 1 and 2.
    pub(crate) fn data_tls(&self, addr: SocketAddr, seq: u64) -> ClientTls {
        let mut stream = tls(addr, LOCALHOST).unwrap();
        let conn = exporter(&stream.conn, "EXPORTER-nodepass-conn");
        stream.write_all(&self.preface(seq, &conn)).unwrap();
        stream.flush().unwrap();
        stream
    }
}

/// A finished TLS handshake that offers `nodepass/1` and accepts any certificate.
pub(crate) fn tls(addr: SocketAddr, source: IpAddr) -> io::Result<ClientTls> {
    tls_offering(addr, source, vec![b"nodepass/1".to_vec()])
}

/// A finished TLS handshake of an ordinary program that accepts any certificate.
pub(crate) fn tls_without_alpn(addr: SocketAddr) -> io::Result<ClientTls> {
    tls_offering(addr, LOCALHOST, Vec::new())
}

fn tls_offering(addr: SocketAddr, source: IpAddr, alpn: Vec<Vec<u8>>) -> io::Result<ClientTls> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn;
    let name = ServerName::IpAddress(addr.ip().into());
    let mut conn = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = connect_from(source, addr);
    while conn.is_handshaking() {
        conn.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(conn, stream))
}

/// SHA-256 in hex of the certificate that the server presents now.
pub(crate) fn presented(addr: SocketAddr) -> String {
    let stream = tls(addr, LOCALHOST).unwrap();
    super::sha256(&stream.conn.peer_certificates().unwrap()[0])
}

/// 32 bytes of the exporter of a connection.
pub(crate) fn exporter<Side>(conn: &rustls::ConnectionCommon<Side>, label: &str) -> [u8; 32] {
    conn.export_keying_material([0; 32], label.as_bytes(), None)
        .unwrap()
}

/// A `hello` line of a client instance that nobody has seen before.
pub(crate) fn hello_line(proof: &[u8]) -> String {
    static INSTANCES: AtomicU64 = AtomicU64::new(1);
    let proof = hex(proof);
    let instance = format!("{:032x}", INSTANCES.fetch_add(1, Ordering::Relaxed));
    format!(
        "{{\"action\":\"hello\",\"v\":1,\"proof\":\"{proof}\",\"instance\":\"{instance}\",\
         \"agent\":\"by hand\",\"features\":[]}}\n"
    )
}

/// Pretends to be a server: `nodepass/1` over TLS with a certificate of its own.
#[derive(Debug)]
pub(crate) struct Impostor {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    /// SHA-256 of its certificate in hex.
    pub(crate) fingerprint: String,
}

impl Impostor {
    /// On a free port, with a certificate that `authority` issued.
    pub(crate) fn new(authority: &Authority) -> Self {
        let (crt, key, fingerprint) = authority.issue(&["localhost", "127.0.0.1"]);
        let crt = CertificateDer::from_pem_slice(crt.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![crt], key)
            .unwrap();
        config.alpn_protocols = vec![b"nodepass/1".to_vec()];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self {
            listener,
            config: Arc::new(config),
            fingerprint,
        }
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Accepts one control connection; its `hello` and the channel's `A`.
    pub(crate) fn accept(&self) -> (BufReader<ServerTls>, Value, [u8; 32]) {
        loop {
            let (mut stream, _) = self.listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut conn = ServerConnection::new(Arc::clone(&self.config)).unwrap();
            while conn.is_handshaking() && conn.complete_io(&mut stream).is_ok() {}
            if conn.is_handshaking() {
                continue;
            }
            let channel = exporter(&conn, "EXPORTER-nodepass-auth");
            let mut lines = BufReader::new(StreamOwned::new(conn, stream));
            if let Some(hello) = read_line(&mut lines) {
                return (lines, hello, channel);
            }
        }
    }

    /// A `welcome` line.
    pub(crate) fn welcome_line(&self, proof: &[u8], tls: u8) -> String {
        let (proof, session, fp) = (hex(proof), "a1".repeat(16), &self.fingerprint);
        format!(
            "{{\"action\":\"welcome\",\"v\":1,\"proof\":\"{proof}\",\"session\":\"{session}\",\
             \"flow\":\"-\",\"max\":4,\"tls\":\"{tls}\",\"type\":\"0\",\"fp\":[\"{fp}\"],\
             \"features\":[]}}\n"
        )
    }

    /// Fails the test if anyone connects and says a byte within `span`.
    pub(crate) fn nobody_comes(&self, span: Duration) {
        self.listener.set_nonblocking(true).unwrap();
        super::until::never("a connection to the impostor", span, || {
            let (mut stream, _) = self.listener.accept().ok()?;
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(span)).unwrap();
            let mut first = [0];
            // A control connection that tries again begins with TLS; data connections with `N`.
            (stream.read(&mut first).ok()? == 1 && first[0] == b'N').then_some(())
        });
    }
}

/// The next line as JSON, `None` when the stream has ended.
pub(crate) fn read_line(lines: &mut impl BufRead) -> Option<Value> {
    let mut line = String::new();
    let count = lines.take(4096).read_line(&mut line).ok()?;
    (count > 0).then(|| serde_json::from_str(&line).expect("a line of JSON"))
}

/// A field of a line as text.
pub(crate) fn text(line: &Value, field: &str) -> String {
    line[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {line}"))
        .to_owned()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}

/// Trusts every certificate whose key signed the handshake.
#[derive(Debug)]
pub(crate) struct AnyCertificate(Arc<CryptoProvider>);

impl AnyCertificate {
    /// With the algorithms of `provider`.
    pub(crate) const fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }
}

impl ServerCertVerifier for AnyCertificate {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn the_hand_made_client_and_server_understand_each_other() {
    let impostor = Impostor::new(&Authority::new());
    let addr = impostor.addr();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut lines, hello, channel) = impostor.accept();
            let proof = mac(&tunnel_secret("key"), &[b"client", &channel]);
            assert_eq!(hello["proof"], hex(&proof));
            let proof = mac(&tunnel_secret("key"), &[b"server", &channel]);
            let stream = lines.get_mut();
            stream
                .write_all(impostor.welcome_line(&proof, 0).as_bytes())
                .unwrap();
            stream.flush().unwrap();
            assert_eq!(read_line(&mut lines).unwrap()["action"], "pong");
        });
        let mut control = Control::open(addr, "key");
        assert_eq!(control.preface(1, &[]).len(), 44);
        control.send("{\"action\":\"pong\",\"seq\":1}").unwrap();
    });
}
