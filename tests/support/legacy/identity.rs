//! Certificates of a scripted server, and a client that accepts any.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig};

use crate::support::attacker::AnyCertificate;

/// A certificate and its key.
#[derive(Debug)]
pub(crate) struct Identity {
    leaf: Vec<u8>,
    config: Arc<ServerConfig>,
}

impl Identity {
    /// Made in memory, as the real ones do.
    pub(crate) fn fresh(alpn: &[&str]) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        Self::new(made.cert.der().clone(), key, alpn)
    }

    /// From PEM.
    pub(crate) fn from_pem((crt, key): &(String, String), alpn: &[&str]) -> Self {
        let crt = CertificateDer::from_pem_slice(crt.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        Self::new(crt, key, alpn)
    }

    fn new(leaf: CertificateDer<'static>, key: PrivateKeyDer<'static>, alpn: &[&str]) -> Self {
        let bytes = leaf.to_vec();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key)
            .unwrap();
        config.alpn_protocols = protocols(alpn);
        Self {
            leaf: bytes,
            config: Arc::new(config),
        }
    }

    /// The certificate in DER.
    pub(crate) fn leaf(&self) -> &[u8] {
        &self.leaf
    }

    /// For one connection.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// A client that accepts any certificate.
pub(crate) fn client_config(alpn: &[&str]) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
        .with_no_client_auth();
    config.alpn_protocols = protocols(alpn);
    Arc::new(config)
}

fn protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}
