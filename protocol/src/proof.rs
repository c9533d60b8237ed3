//! Proof that both ends have the tunnel key, bound to one TLS channel (`wire.md` §2.1, §2.2).

use core::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::key::TunnelKey;
use crate::wire::hex;

/// What both ends of the native generation offer in TLS.
pub const ALPN: &[u8] = b"nodepass/1";
/// TLS exporter label of `A`, which proofs are bound to. 32 bytes, no context.
pub const LABEL_AUTH: &[u8] = b"EXPORTER-nodepass-auth";
/// TLS exporter label of `D`, the key of data prefaces. 32 bytes, no context.
pub const LABEL_DATA: &[u8] = b"EXPORTER-nodepass-data";
/// TLS exporter label of `X`, taken from a data connection's own TLS. 32 bytes, no context.
pub const LABEL_CONN: &[u8] = b"EXPORTER-nodepass-conn";

const SALT: &[u8] = b"nodepass native 1";
const ITERATIONS: u32 = 100_000;
const SHA256_BLOCK: usize = 64;

/// `K`: the tunnel key, made expensive to guess. Printed as `***`, erased when dropped.
#[derive(Clone)]
pub struct PreKey(Zeroizing<[u8; 32]>);

impl PreKey {
    /// Derives `K`. This takes tens of milliseconds of CPU: call it away from the reactor, once
    /// per key.
    #[must_use]
    pub fn derive(key: &TunnelKey) -> Self {
        let mut derived = Zeroizing::new([0; 32]);
        let password = key.reveal().as_bytes();
        pbkdf2::pbkdf2_hmac::<Sha256>(password, SALT, ITERATIONS, derived.as_mut_slice());
        Self(derived)
    }

    /// `K` itself, for tests and simulations that skip the derivation.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// What `side` sends to prove that it has the key, on the channel whose exporter `A` is
    /// `exporter`.
    #[must_use]
    pub fn proof(&self, side: Side, exporter: &[u8; 32]) -> Proof {
        let mut mac = keyed(self.0.as_slice());
        mac.update(side.label());
        mac.update(exporter);
        Proof(Zeroizing::new(mac.finalize().into_bytes().into()))
    }
}

impl fmt::Debug for PreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreKey(***)")
    }
}

/// `D`: the key of a session's data prefaces, exported from its control connection's TLS with
/// [`LABEL_DATA`]. Printed as `***`, erased when dropped.
#[derive(Clone)]
pub struct DataSecret(Zeroizing<[u8; 32]>);

impl DataSecret {
    /// What the exporter gave.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// HMAC-SHA256 with this key.
    pub(crate) fn mac(&self) -> Hmac<Sha256> {
        keyed(self.0.as_slice())
    }
}

impl fmt::Debug for DataSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataSecret(***)")
    }
}

/// HMAC pads a short key with zeros up to the hash's block, and hashes a longer one first: done
/// here, it cannot fail.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    if key.len() > SHA256_BLOCK {
        let short: Zeroizing<[u8; 32]> = Zeroizing::new(Sha256::digest(key).into());
        return keyed(short.as_slice());
    }
    let mut block = Zeroizing::new([0; SHA256_BLOCK]);
    for (padded, byte) in block.iter_mut().zip(key) {
        *padded = *byte;
    }
    Hmac::new((&*block).into())
}

/// Whose proof it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that dialled.
    Client,
    /// The end that accepted.
    Server,
}

impl Side {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Client => b"client",
            Self::Server => b"server",
        }
    }
}

/// A proof of the key. Compared in constant time, printed as `***`, erased when dropped.
#[derive(Clone)]
pub struct Proof(Zeroizing<[u8; 32]>);

impl Proof {
    /// The token of the `http` and `https` handshakes (`wire.md` §3). Bound to nothing but the key:
    /// whoever sees it can use it.
    #[must_use]
    pub fn token(key: &TunnelKey) -> Self {
        let mac = keyed(key.reveal().as_bytes());
        Self(Zeroizing::new(mac.finalize().into_bytes().into()))
    }

    /// A proof that a peer claims.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text).map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// The 64 digits on the wire.
    #[must_use]
    pub fn to_hex(&self) -> alloc::string::String {
        hex::encode(self.0.as_slice())
    }
}

impl PartialEq for Proof {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for Proof {}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    /// The bytes 0, 1, … 31.
    fn exporter() -> [u8; 32] {
        core::array::from_fn(|index| u8::try_from(index).unwrap())
    }

    /// Computed with Python's `hashlib.pbkdf2_hmac` and `hmac`.
    #[test]
    fn known_answers() {
        let key = PreKey::derive(&TunnelKey::new("KEY"));
        let expected = "ba8f7ecb80f7b008bd34f8899e718f00b119c9c2a954fa41da60f0e1136acb54";
        assert_eq!(hex::encode(key.0.as_slice()), expected);
        assert_eq!(
            key.proof(Side::Client, &exporter()).to_hex(),
            "5e043a1620b57ae38d772e744033bcfc85514cf2cf513e489bcf573546e836fd"
        );
        assert_eq!(
            key.proof(Side::Server, &exporter()).to_hex(),
            "07ddc1b2145f55bbfbbbe4855dfac0043782233e951344317a4c7d0aa2952a27"
        );
    }

    #[test]
    fn a_token_is_that_of_the_specification() {
        assert_eq!(
            Proof::token(&TunnelKey::new("KEY")).to_hex(),
            "9e599712811af9f7f000b9f1d0f4a4e4a463ecb5c4fae7bdaa13e33c4642c86e"
        );
        // Computed with Python's `hmac`.
        assert_eq!(
            Proof::token(&TunnelKey::new("k".repeat(65))).to_hex(),
            "41f1c4cc3107cd5b8d92460f61032902bfdb06484eef17e861b83a5012d3b7f3"
        );
    }

    #[test]
    fn a_proof_depends_on_key_side_and_channel() {
        let key = PreKey::from_bytes([1; 32]);
        let proof = key.proof(Side::Client, &exporter());
        assert_eq!(proof, Proof::from_hex(&proof.to_hex()).unwrap());
        assert_ne!(proof, key.proof(Side::Server, &exporter()));
        assert_ne!(proof, key.proof(Side::Client, &[0; 32]));
        assert_ne!(
            proof,
            PreKey::from_bytes([2; 32]).proof(Side::Client, &exporter())
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let key = PreKey::from_bytes([7; 32]);
        assert_eq!(format!("{key:?}"), "PreKey(***)");
        assert_eq!(
            format!("{:?}", key.proof(Side::Client, &exporter())),
            "Proof(***)"
        );
        let secret = DataSecret::from_bytes([7; 32]);
        assert_eq!(format!("{secret:?}"), "DataSecret(***)");
    }
}
