//! TLS 1.3, with one provider: identities, servers, clients and the check of chains.

pub mod certificate;
pub mod client;
mod provider;
pub mod server;
#[cfg(test)]
mod testing;
pub mod verify;
pub mod watch;

pub use certificate::{Identity, IdentityError, fingerprint, leaf_fingerprint};
pub use client::{ClientTls, server_name};
pub use provider::provider;
pub use server::ServerTls;
pub use verify::{VerifyError, check_roots, verify_chain};
pub use watch::Watch;

/// The application protocol of the native generation (`wire.md` §1).
pub const ALPN_NATIVE: &[u8] = b"nodepass/1";
/// The application protocol of the `https` generation.
pub const ALPN_HTTP: &[u8] = b"http/1.1";
