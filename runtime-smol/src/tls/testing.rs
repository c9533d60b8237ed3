//! What the tests of this module share: connections, an authority, a folder.

use std::fmt::Write as _;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use smol::future::zip;

use super::{ALPN_HTTP, ALPN_NATIVE, ClientTls, ServerTls};
use crate::net::{Polled, Stream};

/// What a client that speaks both offers.
pub(super) const BOTH: &[&[u8]] = &[ALPN_NATIVE, ALPN_HTTP];

/// A name for handshakes where it does not matter.
pub(super) fn ip() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

/// Two ends of a TCP connection.
pub(super) fn pair() -> (Polled<TcpStream>, Polled<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (there, _) = listener.accept().unwrap();
    (Polled::new(here).unwrap(), Polled::new(there).unwrap())
}

/// The client's and the server's end of a TLS connection.
pub(super) async fn meet(client: &ClientTls, server: &ServerTls) -> io::Result<(Stream, Stream)> {
    let (here, there) = pair();
    let (here, there) = zip(client.connect(here, ip()), server.accept(there)).await;
    Ok((here?, there?))
}

/// An authority that issues certificates.
pub(super) fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A PEM block; the bytes in hex, for files that are broken further in.
pub(super) fn pem_of(label: &str, bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    let padding = "=".repeat((4 - text.len() % 4) % 4);
    format!("-----BEGIN {label}-----\n{text}{padding}\n-----END {label}-----\n")
}

/// A folder that goes when it is dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nodepass-tls-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Puts a file there in one step.
    pub(super) fn write(&self, name: &str, content: &str) -> PathBuf {
        let (path, new) = (self.path(name), self.path("new"));
        std::fs::write(&new, content).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path
    }

    /// Writes a new certificate for `host`, followed by its issuer's, and its key.
    pub(super) fn identity(
        &self,
        name: &str,
        authority: &CertifiedIssuer<'static, KeyPair>,
        host: &str,
    ) -> (PathBuf, PathBuf) {
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let leaf = params.signed_by(&pair, authority).unwrap();
        let chain = format!("{}{}", leaf.pem(), authority.pem());
        (
            self.write(&format!("{name}.crt"), &chain),
            self.write(&format!("{name}.key"), &pair.serialize_pem()),
        )
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(AsRef::<Path>::as_ref(&self.0)));
    }
}
