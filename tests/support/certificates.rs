//! Certificates for tests.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::scratch::Scratch;

/// A certificate authority that nobody but this test trusts.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Writes `ca.pem`, and `crt.pem` and `key.pem` of a new leaf for this machine. Gives back the
    /// leaf's SHA-256 in hex.
    pub(crate) fn issue_into(&self, scratch: &Scratch) -> String {
        let (crt, key, fingerprint) = self.issue(&["localhost", "127.0.0.1"]);
        scratch.write("ca.pem", &self.pem);
        scratch.write("key.pem", key);
        scratch.write("crt.pem", crt);
        fingerprint
    }

    /// A new leaf for `names`: certificate and key as PEM, SHA-256 in hex.
    pub(crate) fn issue(&self, names: &[&str]) -> (String, String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (leaf.pem(), key.serialize_pem(), super::sha256(leaf.der()))
    }
}
