//! What a server shows: a certificate chain and its key.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::terms::Fingerprint;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use super::provider;
use crate::net::{Stream, reason};

/// The largest PEM file that is read.
pub const PEM_FILE: u64 = 1024 * 1024;
/// The name in certificates made in memory.
const OWN_NAME: &str = "nodepass";

/// Why there is no identity: one line that names the parameter.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("{parameter}: cannot read {}: {}", path.display(), reason(.source))]
    Read {
        /// `crt` or `key`.
        parameter: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{parameter}: {}: {problem}; {allowed}", path.display())]
    Content {
        /// `crt` or `key`.
        parameter: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What it must hold.
        allowed: &'static str,
    },
    /// The key is another certificate's.
    #[error("key: {} does not belong to the certificate in {}", key.display(), crt.display())]
    Mismatch {
        /// The certificate's file.
        crt: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// No certificate can be made in memory.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

/// A certificate chain, its private key, and the leaf's fingerprint.
#[derive(Clone, Debug)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// A new ECDSA P-256 key with a certificate that signs itself (`tls=1`).
    ///
    /// Its validity is wide and does not depend on the clock, which is wrong on a router that has
    /// just started; peers know it by its fingerprint.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn self_signed() -> Result<Self, IdentityError> {
        let failed = |error: rcgen::Error| IdentityError::Make(error.to_string());
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::new([OWN_NAME.to_owned()]).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, OWN_NAME);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        let certificate = params.self_signed(&pair).map_err(failed)?;
        let key = PrivatePkcs8KeyDer::from(pair.serialize_der()).into();
        let chain = vec![certificate.der().clone()];
        let key = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| IdentityError::Make(error.to_string()))?;
        Ok(Self::new(key))
    }

    /// Reads a PEM chain, leaf first, and the leaf's private key (`tls=2`). Blocks on the files,
    /// at most [`PEM_FILE`] bytes each.
    ///
    /// # Errors
    /// A file cannot be read or holds something else, or the two do not belong together.
    pub fn from_files(crt: &Path, key: &Path) -> Result<Self, IdentityError> {
        let chain = read_chain("crt", crt)?;
        let pem = read("key", key)?;
        let bad_key = |problem: String| IdentityError::Content {
            parameter: "key",
            path: key.to_owned(),
            problem,
            allowed: "a PEM private key is needed, RSA, ECDSA or Ed25519, not encrypted",
        };
        let der = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| bad_key(pem_problem(&error, "no private key in it")))?;
        let signing = provider()
            .key_provider
            .load_private_key(der)
            .map_err(|_| bad_key("this key cannot be used".to_owned()))?;
        let certified = CertifiedKey::new(chain, signing);
        match certified.keys_match() {
            Ok(()) => Ok(Self::new(certified)),
            Err(rustls::Error::InconsistentKeys(_)) => Err(IdentityError::Mismatch {
                crt: crt.to_owned(),
                key: key.to_owned(),
            }),
            Err(_) => Err(bad_chain("crt", crt, "its first certificate is malformed")),
        }
    }

    fn new(key: CertifiedKey) -> Self {
        let fingerprint = key.cert.first().map(fingerprint);
        Self {
            key: Arc::new(key),
            fingerprint: fingerprint.unwrap_or(Fingerprint([0; 32])),
        }
    }

    /// The chain and the key, as rustls wants them.
    #[must_use]
    pub const fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// SHA-256 of the leaf.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

/// SHA-256 of a certificate's DER bytes.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate).into())
}

/// The fingerprint of the certificate that the TLS peer of `stream` showed, if any.
#[must_use]
pub fn leaf_fingerprint(stream: &Stream) -> Option<Fingerprint> {
    stream.chain().first().map(fingerprint)
}

/// Reads the certificates of a PEM file, at least one.
pub(super) fn read_chain(
    parameter: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let pem = read(parameter, path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(bad_chain(parameter, path, "no certificate in it")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(bad_chain(parameter, path, &pem_problem(&error, ""))),
    }
}

fn bad_chain(parameter: &'static str, path: &Path, problem: &str) -> IdentityError {
    IdentityError::Content {
        parameter,
        path: path.to_owned(),
        problem: problem.to_owned(),
        allowed: "PEM certificates are needed, X.509 version 3",
    }
}

fn pem_problem(error: &PemError, nothing: &str) -> String {
    if matches!(error, PemError::NoItemsFound) {
        nothing.to_owned()
    } else {
        "it is not well-formed PEM".to_owned()
    }
}

fn read(parameter: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PEM_FILE + 1).read_to_end(&mut bytes));
    let source = match read {
        Ok(read) if u64::try_from(read).is_ok_and(|read| read <= PEM_FILE) => return Ok(bytes),
        Ok(_) => io::Error::other("it is larger than 1 MiB"),
        Err(error) => error,
    };
    let path = path.to_owned();
    Err(IdentityError::Read {
        parameter,
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, authority, pem_of};
    use super::*;

    #[test]
    fn identities_made_in_memory_differ() {
        let (one, two) = (
            Identity::self_signed().unwrap(),
            Identity::self_signed().unwrap(),
        );
        assert_ne!(one.fingerprint(), two.fingerprint());
        assert_eq!(one.key().cert.len(), 1);
    }

    #[test]
    fn files_give_chain_and_key() {
        let folder = Folder::new();
        let (crt, key) = folder.identity("a", &authority(), "example.org");
        let identity = Identity::from_files(&crt, &key).unwrap();
        assert_eq!(identity.key().cert.len(), 2);
        assert_eq!(identity.fingerprint(), fingerprint(&identity.key().cert[0]));
    }

    #[test]
    fn errors_name_parameter_and_file() {
        let folder = Folder::new();
        let (crt, key) = folder.identity("a", &authority(), "example.org");
        let (_, other) = folder.identity("b", &authority(), "example.org");
        let missing = folder.path("missing.pem");
        let empty = folder.write("empty.pem", "");
        let broken = folder.write("broken.pem", &pem_of("CERTIFICATE", b"not DER"));
        let huge = folder.write("huge.pem", &"\n".repeat(1024 * 1024 + 1));
        let error = |crt: &Path, key: &Path| {
            let error = Identity::from_files(crt, key).unwrap_err().to_string();
            error.replace(folder.path("").to_str().unwrap(), "")
        };
        assert_eq!(
            error(&missing, &key),
            "crt: cannot read missing.pem: no such file or directory"
        );
        assert_eq!(
            error(&crt, &huge),
            "key: cannot read huge.pem: it is larger than 1 MiB"
        );
        assert_eq!(
            error(&empty, &key),
            "crt: empty.pem: no certificate in it; PEM certificates are needed, X.509 version 3"
        );
        assert_eq!(
            error(&broken, &key),
            "crt: broken.pem: its first certificate is malformed; PEM certificates are needed, \
             X.509 version 3"
        );
        assert!(error(&crt, &crt).starts_with("key: a.crt: no private key in it; "));
        assert_eq!(
            error(&crt, &other),
            "key: b.key does not belong to the certificate in a.crt"
        );
    }
}
