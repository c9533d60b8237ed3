//! The check of a server's chain for `tls=2` (`wire.md` §2.2).

use std::path::{Path, PathBuf};

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};

use super::certificate::{IdentityError, read_chain};
use super::provider;

/// Why a chain is not trusted: one line.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The server showed no certificate.
    #[error("the server showed no certificate")]
    NoCertificate,
    /// The name to verify is neither a DNS name nor an address.
    #[error("`{0}` is neither a host name nor an address")]
    Name(String),
    /// The `ca` file cannot be used.
    #[error(transparent)]
    Ca(#[from] IdentityError),
    /// The `ca` file holds certificates, but none that could be a root.
    #[error("ca: {}: no usable root certificate in it; X.509 version 3 is needed", .0.display())]
    UselessCa(PathBuf),
    /// There are no trusted roots.
    #[error("no trusted root certificates on this machine; name some with ca")]
    NoRoots,
    /// The chain leads nowhere, is for another name, or its time is over.
    #[error("certificate of {name}: {problem}")]
    Untrusted {
        /// Who was expected.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

/// Verifies that `chain`, leaf first, leads to a root of the system, or of the PEM file `ca`, and
/// is for `name`, a host name or an IP address.
///
/// The roots are read for this call only: they are large, and rarely needed. Blocks on files.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    name: &str,
    ca: Option<&Path>,
) -> Result<(), VerifyError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    let server = ServerName::try_from(name).map_err(|_| VerifyError::Name(name.to_owned()))?;
    let roots = match ca {
        Some(path) => roots_in(path)?,
        None => store(rustls_native_certs::load_native_certs().certs),
    };
    if roots.is_empty() {
        return Err(VerifyError::NoRoots);
    }
    trusted(leaf, intermediates, &server, &roots).map_err(|error| VerifyError::Untrusted {
        name: name.to_owned(),
        problem: problem(&error),
    })
}

/// What rustls' `WebPkiServerVerifier` does, without its code for lists of revoked certificates.
fn trusted(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    server: &ServerName<'_>,
    roots: &RootCertStore,
) -> Result<(), rustls::Error> {
    let leaf = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider().signature_verification_algorithms.all;
    let now = UnixTime::now();
    verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)?;
    verify_server_name(&leaf, server)
}

/// Whether the PEM file `path` has roots for [`verify_chain`], to be asked at start, long before they
/// are needed. Blocks on the file.
///
/// # Errors
/// [`VerifyError::Ca`] or [`VerifyError::UselessCa`].
pub fn check_roots(path: &Path) -> Result<(), VerifyError> {
    roots_in(path).map(drop)
}

fn roots_in(path: &Path) -> Result<RootCertStore, VerifyError> {
    let roots = store(read_chain("ca", path)?);
    if roots.is_empty() {
        return Err(VerifyError::UselessCa(path.to_owned()));
    }
    Ok(roots)
}

fn store(roots: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots);
    store
}

fn problem(error: &rustls::Error) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext,
        NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    let rustls::Error::InvalidCertificate(error) = error else {
        return error.to_string();
    };
    // A bad signature: the authority of that name is another one.
    let words = if matches!(error, UnknownIssuer | BadSignature) {
        "it was not issued by a trusted authority"
    } else if matches!(error, NotValidForName | NotValidForNameContext { .. }) {
        "it is for another name"
    } else if matches!(error, Expired | ExpiredContext { .. }) {
        "it has expired"
    } else if matches!(error, NotValidYet | NotValidYetContext { .. }) {
        "it is not valid yet; is this machine's clock right?"
    } else if is_authority(error) {
        "it is that of an authority, not of a server: issue one with it, or make it with CA:FALSE"
    } else {
        return error.to_string();
    };
    words.to_owned()
}

/// Whether a leaf may issue others, as `openssl req -x509` makes it. The library has only a text for
/// that.
fn is_authority(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity"))
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::super::testing::{Folder, authority, pem_of};
    use super::*;

    #[test]
    fn a_chain_is_trusted_for_its_names_only() {
        let folder = Folder::new();
        let authority = authority();
        let ca = folder.write("ca.pem", &authority.pem());
        let stranger = folder.write("other.pem", &super::super::testing::authority().pem());
        let verify = |host: &str, name: &str, ca: &Path| {
            let (crt, key) = folder.identity("leaf", &authority, host);
            let identity = Identity::from_files(&crt, &key).unwrap();
            verify_chain(&identity.key().cert, name, Some(ca)).map_err(|e| e.to_string())
        };
        verify("example.org", "example.org", &ca).unwrap();
        verify("192.0.2.1", "192.0.2.1", &ca).unwrap();
        assert_eq!(
            verify("example.org", "example.com", &ca).unwrap_err(),
            "certificate of example.com: it is for another name"
        );
        assert_eq!(
            verify("192.0.2.1", "192.0.2.2", &ca).unwrap_err(),
            "certificate of 192.0.2.2: it is for another name"
        );
        assert_eq!(
            verify("example.org", "example.org", &stranger).unwrap_err(),
            "certificate of example.org: it was not issued by a trusted authority"
        );
    }

    #[test]
    fn what_cannot_be_verified_is_told() {
        let own = Identity::self_signed().unwrap();
        let text = |chain: &[CertificateDer<'_>], name, ca: Option<&Path>| {
            verify_chain(chain, name, ca).unwrap_err().to_string()
        };
        let chain = &own.key().cert;
        assert_eq!(text(&[], "a", None), "the server showed no certificate");
        assert_eq!(
            text(chain, "a b", None),
            "`a b` is neither a host name nor an address"
        );
        assert_eq!(
            text(chain, "a", Some(Path::new("/nowhere/ca.pem"))),
            "ca: cannot read /nowhere/ca.pem: no such file or directory"
        );
    }

    #[test]
    fn a_ca_file_without_a_usable_root_is_told() {
        let folder = Folder::new();
        check_roots(&folder.write("good.pem", &authority().pem())).unwrap();
        let own = Identity::self_signed().unwrap();
        for (name, content, expected) in [
            (
                "text.pem",
                "this is no certificate\n".to_owned(),
                "no certificate in it",
            ),
            (
                "der.pem",
                pem_of("CERTIFICATE", b"not DER"),
                "no usable root certificate in it",
            ),
        ] {
            let path = folder.write(name, &content);
            let error = check_roots(&path).unwrap_err().to_string();
            let start = format!("ca: {}: {expected}; ", path.display());
            assert!(error.starts_with(&start), "{error}");
            let when_used = verify_chain(&own.key().cert, "a", Some(&path)).unwrap_err();
            assert_eq!(when_used.to_string(), error);
        }
    }

    #[test]
    fn an_authority_is_no_server() {
        let folder = Folder::new();
        let pem = authority().pem();
        let ca = folder.write("ca.pem", &pem);
        let chain = read_chain("crt", &ca).unwrap();
        let error = verify_chain(&chain, "nodepass", Some(&ca)).unwrap_err();
        assert!(error.to_string().contains("CA:FALSE"), "{error}");
    }

    #[test]
    fn the_systems_roots_do_not_know_our_certificates() {
        let own = Identity::self_signed().unwrap();
        let error = verify_chain(&own.key().cert, "nodepass", None).unwrap_err();
        assert!(matches!(
            error,
            VerifyError::Untrusted { .. } | VerifyError::NoRoots
        ));
    }
}
