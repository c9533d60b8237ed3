//! The tunnel key and what is derived from it (`wire.md` §2.1, §2.2, §2.3).

use alloc::format;
use alloc::string::{String, ToString as _};
use core::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The secret both ends share. Printed as `***`, erased when dropped.
#[derive(Clone)]
pub struct TunnelKey(Zeroizing<String>);

impl TunnelKey {
    /// The key with this text, percent-decoded.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The key of a tunnel whose URL has none: FNV-1a-32 of the port's decimal digits as 8
    /// lower-case hex digits (`wire.md` §2.1). No secret.
    #[must_use]
    pub fn default_for(port: u16) -> Self {
        let hash = port
            .to_string()
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, digit| {
                (hash ^ u32::from(digit)).wrapping_mul(0x0100_0193)
            });
        Self::new(format!("{hash:08x}"))
    }

    /// What the `classic` generation uses for a URL without a key: the port in lower-case hex
    /// (`wire.md` §5).
    #[must_use]
    pub fn classic_default_for(port: u16) -> Self {
        Self::new(format!("{port:x}"))
    }

    /// The key's text. Never log it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TunnelKey(***)")
    }
}

impl PartialEq for TunnelKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for TunnelKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_keys_are_those_of_the_field() {
        assert_eq!(TunnelKey::default_for(10101).reveal(), "e68be2b4");
        assert_eq!(TunnelKey::classic_default_for(10101).reveal(), "2775");
    }

    #[test]
    fn debug_output_hides_the_key() {
        assert_eq!(format!("{:?}", TunnelKey::new("secret")), "TunnelKey(***)");
    }
}
