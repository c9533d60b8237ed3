//! The dialling side of TLS.
//!
//! No chain is judged during a handshake. On a control connection trust comes from the proofs that
//! follow (`wire.md` §2.2), on a data connection from the fingerprint that the control connection
//! announced, and with `tls=2` from [`verify_chain`](super::verify_chain) on the chain kept here.
//! All of this rests on one check that is never left out: the peer holds the private key of the leaf
//! it shows.

use std::fmt;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_rustls::TlsConnector;
use protocol::config::Sni;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use smol::io::AsyncWriteExt as _;

use super::{ALPN_NATIVE, provider};
use crate::net::{Polled, Stream};

/// Tickets kept for resuming; each serves one connection, and each connection brings new ones.
pub const TICKETS: usize = 8;
/// Bytes of a peer's answer to a ClientHello that are kept, to tell what it speaks instead of TLS.
pub const HEARD: usize = 16;

/// Connects with TLS 1.3, taking any chain and keeping it for the caller to judge.
pub struct ClientTls {
    alpn: &'static [&'static [u8]],
    resumes: bool,
    config: Mutex<Arc<ClientConfig>>,
}

impl ClientTls {
    /// For control connections: offers these application protocols, best first. Never resumes, so
    /// that the server shows its certificate each time.
    #[must_use]
    pub fn control(alpn: &'static [&'static [u8]]) -> Self {
        Self::new(alpn, false)
    }

    /// For native data connections of one session: `nodepass/1`, resuming by up to [`TICKETS`]
    /// tickets.
    #[must_use]
    pub fn data() -> Self {
        Self::new(&[ALPN_NATIVE], true)
    }

    /// For the other generations' connections: no application protocol (`wire.md` §3).
    #[must_use]
    pub fn legacy() -> Self {
        Self::new(&[], false)
    }

    fn new(alpn: &'static [&'static [u8]], resumes: bool) -> Self {
        let config = Mutex::new(config(alpn, resumes));
        Self {
            alpn,
            resumes,
            config,
        }
    }

    /// Forgets all tickets, so that the next connections see the server's certificate: when the
    /// server announced other ones.
    pub fn fresh(&self) {
        let fresh = config(self.alpn, self.resumes);
        *self.lock() = fresh;
    }

    /// Does the handshake on a dialled connection, with `name` from [`server_name`]. The caller sets
    /// the deadline, and `TCP_NODELAY` beforehand.
    ///
    /// # Errors
    /// The peer speaks something else or has not the key of its certificate, or the connection ends.
    pub async fn connect(
        &self,
        tcp: Polled<TcpStream>,
        name: ServerName<'static>,
    ) -> io::Result<Stream> {
        let connect = TlsConnector::from(self.lock().clone()).connect(name, tcp);
        Ok(Stream::Tls(Box::new(connect.await?.into())))
    }

    /// The same, where the peer may speak something else than TLS: its first [`HEARD`] bytes, as they
    /// came, are in `heard` afterwards.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn connect_listening(
        &self,
        tcp: Polled<TcpStream>,
        name: ServerName<'static>,
        heard: &mut Vec<u8>,
    ) -> io::Result<Stream> {
        let mut view = Polled::new_nonblocking(tcp.get_ref().try_clone()?)?;
        let (mut hello, mut written) = (Vec::new(), Ok(0));
        let connector = TlsConnector::from(self.lock().clone());
        let connect = connector.connect_with(name, tcp, |tls| {
            while tls.wants_write() && written.is_ok() {
                written = tls.write_tls(&mut hello);
            }
        });
        written?;
        // Written here, so that the answer can be looked at before the handshake reads it.
        view.write_all(&hello).await?;
        let mut first = [0; HEARD];
        let n = view.peek(&mut first).await?;
        heard.extend_from_slice(first.get(..n).unwrap_or_default());
        view.close_copy();
        Ok(Stream::Tls(Box::new(connect.await?.into())))
    }

    fn lock(&self) -> MutexGuard<'_, Arc<ClientConfig>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("resumes", &self.resumes)
            .finish_non_exhaustive()
    }
}

/// What a handshake with `peer` names: `sni`, else the URL's host. Only a DNS name is sent; an
/// address, or `none`, sends no server name.
#[must_use]
pub fn server_name(sni: &Sni, host: &str, peer: IpAddr) -> ServerName<'static> {
    let name = match sni {
        Sni::Host => host,
        Sni::Name(name) => name,
        Sni::None => "",
    };
    ServerName::try_from(name.to_owned()).unwrap_or_else(|_| ServerName::IpAddress(peer.into()))
}

fn config(alpn: &[&[u8]], resumes: bool) -> Arc<ClientConfig> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13]);
    #[allow(
        clippy::expect_used,
        reason = "the provider has TLS 1.3 suites: see its test"
    )]
    let mut config = builder
        .expect("the provider has TLS 1.3 suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyChain { algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = if resumes {
        Resumption::in_memory_sessions(TICKETS)
    } else {
        Resumption::disabled()
    };
    Arc::new(config)
}

/// Takes any chain, but only from a peer that signs the handshake with the leaf's key.
#[derive(Debug)]
struct AnyChain {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyChain {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::HandshakeKind;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use smol::block_on;
    use smol::future::zip;
    use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::testing::{BOTH, ip, meet, pair};
    use super::super::{Identity, ServerTls, leaf_fingerprint};
    use super::*;

    /// Connects, reads what follows the handshake (tickets), and tells whether it resumed.
    async fn visit(client: &ClientTls, server: &ServerTls) -> (bool, Stream) {
        let (mut here, mut there) = meet(client, server).await.unwrap();
        there.write_all(b"x").await.unwrap();
        there.flush().await.unwrap();
        here.read_exact(&mut [0]).await.unwrap();
        let kind = here.tls().unwrap().handshake_kind();
        (kind == Some(HandshakeKind::Resumed), here)
    }

    #[test]
    fn data_connections_resume_until_told_to_start_afresh() {
        block_on(async {
            let identity = Identity::self_signed().unwrap();
            let server = ServerTls::tunnel(&identity).unwrap();
            let client = ClientTls::data();
            assert!(!visit(&client, &server).await.0);
            let (resumed, stream) = visit(&client, &server).await;
            assert!(resumed);
            assert_eq!(leaf_fingerprint(&stream), Some(identity.fingerprint()));
            client.fresh();
            assert!(!visit(&client, &server).await.0);
            assert!(visit(&client, &server).await.0);
        });
    }

    #[test]
    fn a_swapped_identity_ends_resumption_even_without_a_fresh_start() {
        block_on(async {
            let server = ServerTls::tunnel(&Identity::self_signed().unwrap()).unwrap();
            let client = ClientTls::data();
            visit(&client, &server).await;
            let new = Identity::self_signed().unwrap();
            server.swap(&new).unwrap();
            let (resumed, stream) = visit(&client, &server).await;
            assert!(!resumed);
            assert_eq!(leaf_fingerprint(&stream), Some(new.fingerprint()));
        });
    }

    #[test]
    fn control_connections_never_resume() {
        block_on(async {
            let server = ServerTls::tunnel(&Identity::self_signed().unwrap()).unwrap();
            let client = ClientTls::control(BOTH);
            assert!(!visit(&client, &server).await.0);
            assert!(!visit(&client, &server).await.0);
        });
    }

    #[test]
    fn a_certificate_without_its_key_is_worth_nothing() {
        block_on(async {
            let (victim, thief) = (Identity::self_signed(), Identity::self_signed());
            let stolen = victim.unwrap().key().cert.clone();
            let key = CertifiedKey::new(stolen, thief.unwrap().key().key.clone());
            let config = rustls::ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
            let acceptor = futures_rustls::TlsAcceptor::from(Arc::new(config));
            let (here, there) = pair();
            let client = ClientTls::legacy();
            let (here, _) = zip(client.connect(here, ip()), acceptor.accept(there)).await;
            let error = here.unwrap_err().to_string();
            assert!(error.contains("BadSignature"), "{error}");
        });
    }

    #[test]
    fn what_a_peer_says_instead_of_tls_is_heard() {
        block_on(async {
            let (here, mut there) = pair();
            let answer = async {
                there.read_exact(&mut [0]).await.unwrap();
                there
                    .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    .await
                    .unwrap();
            };
            let (client, mut heard) = (ClientTls::control(BOTH), Vec::new());
            let connect = client.connect_listening(here, ip(), &mut heard);
            let (connected, ()) = zip(connect, answer).await;
            connected.unwrap_err();
            assert_eq!(heard, b"HTTP/1.1 400 Bad");
        });
    }

    #[test]
    fn handshakes_may_run_on_any_thread() {
        fn sent<T: Send>(_: T) {}
        let server = ServerTls::users(&Identity::self_signed().unwrap()).unwrap();
        let (here, there) = pair();
        let (also_here, _also_there) = pair();
        sent(ClientTls::legacy().connect(here, ip()));
        sent(ClientTls::legacy().connect_listening(also_here, ip(), &mut Vec::new()));
        sent(server.accept(there));
    }

    #[test]
    fn server_names() {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let name = |sni: &Sni, host| server_name(sni, host, peer).to_str().into_owned();
        assert_eq!(name(&Sni::Host, "example.org"), "example.org");
        assert_eq!(name(&Sni::Host, "2001:db8::1"), "2001:db8::1");
        assert_eq!(name(&Sni::Host, ""), "192.0.2.1");
        assert_eq!(name(&Sni::None, "example.org"), "192.0.2.1");
        assert_eq!(name(&Sni::Name("other.org".to_owned()), "x"), "other.org");
    }

    #[test]
    fn the_name_is_sent_unless_there_is_none() {
        block_on(async {
            let server = ServerTls::tunnel(&Identity::self_signed().unwrap()).unwrap();
            let seen = async |sni: Sni| {
                let (here, there) = pair();
                let name = server_name(&sni, "example.org", "127.0.0.1".parse().unwrap());
                let client = ClientTls::control(BOTH);
                let (here, there) = zip(client.connect(here, name), server.accept(there)).await;
                here.unwrap();
                match there.unwrap() {
                    Stream::Tls(tls) => match *tls {
                        futures_rustls::TlsStream::Server(tls) => {
                            tls.get_ref().1.server_name().map(str::to_owned)
                        }
                        futures_rustls::TlsStream::Client(_) => None,
                    },
                    Stream::Plain(_) => None,
                }
            };
            assert_eq!(seen(Sni::Host).await.as_deref(), Some("example.org"));
            assert_eq!(seen(Sni::None).await, None);
        });
    }
}
