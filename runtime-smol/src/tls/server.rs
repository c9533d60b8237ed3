//! The accepting side of TLS.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_rustls::TlsAcceptor;
use protocol::terms::Fingerprint;
use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;

use super::{ALPN_HTTP, ALPN_NATIVE, Identity, provider};
use crate::net::{Polled, Stream};

/// Accepts TLS 1.3 with an identity that can be exchanged while connections come in.
///
/// Sessions resume by stateless tickets; there is no early data and no client certificate.
pub struct ServerTls {
    alpn: Vec<Vec<u8>>,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    fingerprint: Fingerprint,
}

impl ServerTls {
    /// For the tunnel port: offers `nodepass/1`, then `http/1.1` (`wire.md` §1).
    ///
    /// # Errors
    /// There is no randomness for the ticket key.
    pub fn tunnel(identity: &Identity) -> Result<Self, rustls::Error> {
        Self::new(identity, vec![ALPN_NATIVE.to_vec(), ALPN_HTTP.to_vec()])
    }

    /// For users of a single-end listener: whatever application protocol they bring.
    ///
    /// # Errors
    /// There is no randomness for the ticket key.
    pub fn users(identity: &Identity) -> Result<Self, rustls::Error> {
        Self::new(identity, Vec::new())
    }

    /// Offers `alpn`, the preferred one first. If it is not empty, a client that names only others
    /// is refused; one that names none is welcome.
    ///
    /// # Errors
    /// There is no randomness for the ticket key.
    pub fn new(identity: &Identity, alpn: Vec<Vec<u8>>) -> Result<Self, rustls::Error> {
        let current = Mutex::new(Current::new(identity, alpn.clone())?);
        Ok(Self { alpn, current })
    }

    /// Uses `identity` for handshakes that begin from now on. Those under way keep theirs. Tickets
    /// of the old identity count no more, so that a resumed connection never vouches for it.
    ///
    /// # Errors
    /// There is no randomness for the ticket key; the old identity stays.
    pub fn swap(&self, identity: &Identity) -> Result<(), rustls::Error> {
        let next = Current::new(identity, self.alpn.clone())?;
        *self.lock() = next;
        Ok(())
    }

    /// The fingerprint of the identity in force.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.lock().fingerprint
    }

    /// Does the handshake on an accepted connection. The caller sets the deadline, and `TCP_NODELAY`
    /// beforehand.
    ///
    /// # Errors
    /// The peer speaks something else, or the connection ends.
    pub async fn accept(&self, tcp: Polled<TcpStream>) -> io::Result<Stream> {
        self.accept_showing(tcp).await.map(|(stream, _)| stream)
    }

    /// The same, and the leaf that the peer was shown, whatever is in force by then.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub async fn accept_showing(
        &self,
        tcp: Polled<TcpStream>,
    ) -> io::Result<(Stream, Fingerprint)> {
        let (accept, shown) = {
            let current = self.lock();
            (current.acceptor.accept(tcp), current.fingerprint)
        };
        Ok((Stream::Tls(Box::new(accept.await?.into())), shown))
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Current {
    fn new(identity: &Identity, alpn: Vec<Vec<u8>>) -> Result<Self, rustls::Error> {
        let key = SingleCertAndKey::from(identity.key().clone());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(key));
        config.alpn_protocols = alpn;
        config.ticketer = Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            acceptor: Arc::new(config).into(),
            fingerprint: identity.fingerprint(),
        })
    }
}

#[cfg(test)]
mod tests {
    use smol::block_on;
    use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::testing::{BOTH, ip, meet, pair};
    use super::super::{ClientTls, leaf_fingerprint};
    use protocol::proof::{LABEL_AUTH, LABEL_DATA};

    use super::*;

    #[test]
    fn each_direction_ends_by_itself() {
        block_on(async {
            let server = ServerTls::tunnel(&Identity::self_signed().unwrap()).unwrap();
            let (mut here, mut there) = meet(&ClientTls::control(BOTH), &server).await.unwrap();
            let mut bytes = Vec::new();

            here.write_all(b"question").await.unwrap();
            here.close().await.unwrap();
            there.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, b"question");

            bytes.clear();
            there.write_all(b"answer").await.unwrap();
            there.close().await.unwrap();
            here.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, b"answer");
        });
    }

    #[test]
    fn the_server_may_end_first() {
        block_on(async {
            let server = ServerTls::tunnel(&Identity::self_signed().unwrap()).unwrap();
            let (mut here, mut there) = meet(&ClientTls::control(BOTH), &server).await.unwrap();
            let mut bytes = Vec::new();
            there.close().await.unwrap();
            here.read_to_end(&mut bytes).await.unwrap();
            here.write_all(b"still here").await.unwrap();
            here.close().await.unwrap();
            there.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, b"still here");
        });
    }

    #[test]
    fn an_end_without_close_notify_is_an_error() {
        block_on(async {
            let server = ServerTls::tunnel(&Identity::self_signed().unwrap()).unwrap();
            let (here, mut there) = meet(&ClientTls::control(BOTH), &server).await.unwrap();
            drop(here);
            let error = there.read_to_end(&mut Vec::new()).await.unwrap_err();
            // A FIN, or a RST because tickets were not read.
            assert!(matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ));
        });
    }

    #[test]
    fn plain_streams_end_each_direction_too() {
        block_on(async {
            let (here, there) = pair();
            let (mut here, mut there) = (Stream::Plain(here), Stream::Plain(there));
            let mut bytes = Vec::new();
            here.close().await.unwrap();
            there.read_to_end(&mut bytes).await.unwrap();
            there.write_all(b"answer").await.unwrap();
            there.close().await.unwrap();
            here.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, b"answer");
            assert!(here.exporter(LABEL_AUTH).is_err());
            assert!(here.alpn().is_none() && leaf_fingerprint(&here).is_none());
        });
    }

    #[test]
    fn both_ends_export_the_same_bytes_and_other_connections_others() {
        block_on(async {
            let server = ServerTls::tunnel(&Identity::self_signed().unwrap()).unwrap();
            let client = ClientTls::control(BOTH);
            let (here, there) = meet(&client, &server).await.unwrap();
            let (other, _) = meet(&client, &server).await.unwrap();
            let auth = |stream: &Stream| stream.exporter(LABEL_AUTH).unwrap();
            assert_eq!(auth(&here), auth(&there));
            assert_ne!(auth(&here), auth(&other));
            assert_ne!(auth(&here), here.exporter(LABEL_DATA).unwrap());
        });
    }

    #[test]
    fn application_protocols_are_chosen_by_the_server() {
        block_on(async {
            let identity = Identity::self_signed().unwrap();
            let tunnel = ServerTls::tunnel(&identity).unwrap();
            let users = ServerTls::users(&identity).unwrap();
            let https = ServerTls::new(&identity, vec![ALPN_HTTP.to_vec()]).unwrap();
            let agreed = async |client: ClientTls, server: &ServerTls| {
                let (here, there) = meet(&client, server).await.unwrap();
                assert_eq!(here.alpn(), there.alpn());
                here.alpn().map(<[u8]>::to_vec)
            };
            assert_eq!(
                agreed(ClientTls::control(BOTH), &tunnel).await.as_deref(),
                Some(ALPN_NATIVE)
            );
            assert_eq!(
                agreed(ClientTls::control(BOTH), &https).await.as_deref(),
                Some(ALPN_HTTP)
            );
            assert_eq!(agreed(ClientTls::control(BOTH), &users).await, None);
            assert_eq!(agreed(ClientTls::legacy(), &tunnel).await, None);
            meet(&ClientTls::data(), &https).await.unwrap_err();
        });
    }

    #[test]
    fn a_swap_is_for_handshakes_that_begin_later() {
        block_on(async {
            let (old, new) = (Identity::self_signed(), Identity::self_signed());
            let (old, new) = (old.unwrap(), new.unwrap());
            let server = ServerTls::tunnel(&old).unwrap();
            let client = ClientTls::control(BOTH);
            let (tcp_here, tcp_there) = pair();
            let begun = server.accept_showing(tcp_there);
            let mut begun = std::pin::pin!(begun);
            // Polled once, the handshake is under way.
            assert!(smol::future::poll_once(begun.as_mut()).await.is_none());
            server.swap(&new).unwrap();
            assert_eq!(server.fingerprint(), new.fingerprint());
            let (here, there) = smol::future::zip(client.connect(tcp_here, ip()), begun).await;
            assert_eq!(there.unwrap().1, old.fingerprint());
            assert_eq!(leaf_fingerprint(&here.unwrap()), Some(old.fingerprint()));
            let (here, _there) = meet(&client, &server).await.unwrap();
            assert_eq!(leaf_fingerprint(&here), Some(new.fingerprint()));
        });
    }
}
