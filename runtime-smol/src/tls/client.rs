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

use async_io::Async;
use futures_rustls::TlsConnector;
use protocol::config::Sni;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::{ALPN_HTTP, ALPN_NATIVE, provider};
use crate::net::Stream;

/// Tickets kept for resuming; each serves one connection, and each connection brings new ones.
pub const TICKETS: usize = 8;

/// Connects with TLS 1.3, taking any chain and keeping it for the caller to judge.
pub struct ClientTls {
    alpn: &'static [&'static [u8]],
    resumes: bool,
    config: Mutex<Arc<ClientConfig>>,
}

impl ClientTls {
    /// For control connections: offers `nodepass/1`, then `http/1.1`. Never resumes, so that the
    /// server shows its certificate each time.
    #[must_use]
    pub fn control() -> Self {
        Self::new(&[ALPN_NATIVE, ALPN_HTTP], false)
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
        tcp: Async<TcpStream>,
        name: ServerName<'static>,
    ) -> io::Result<Stream> {
        let connect = TlsConnector::from(self.lock().clone()).connect(name, tcp);
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

    use super::super::testing::{ip, meet, pair};
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
            let client = ClientTls::control();
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
    fn handshakes_may_run_on_any_thread() {
        fn sent<T: Send>(_: T) {}
        let server = ServerTls::users(&Identity::self_signed().unwrap()).unwrap();
        let (here, there) = pair();
        sent(ClientTls::legacy().connect(here, ip()));
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
                let client = ClientTls::control();
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
