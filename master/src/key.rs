//! The API key (`rest.md` §1).

use std::fmt;
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};

use protocol::rng::Rng;
use subtle::ConstantTimeEq as _;

/// The key in force.
pub(crate) struct Key(RwLock<Arc<str>>);

impl Key {
    pub(crate) const fn new(key: Arc<str>) -> Self {
        Self(RwLock::new(key))
    }

    pub(crate) fn get(&self) -> Arc<str> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on it is this one.
    pub(crate) fn set(&self, key: Arc<str>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    /// Compares in constant time; how long the key is, is no secret.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        let key = self.get();
        !key.is_empty() && bool::from(key.as_bytes().ct_eq(given))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

/// `N` random bytes as lower-case hexadecimal digits.
pub(crate) fn hex<const N: usize>(rng: &mut Rng) -> String {
    rng.bytes::<N>()
        .iter()
        .fold(String::with_capacity(2 * N), |mut text, byte| {
            // Writing to a string cannot fail.
            write!(text, "{byte:02x}").ok();
            text
        })
}

#[cfg(test)]
mod tests {
    use protocol::rng::Seed;

    use super::*;

    #[test]
    fn a_key_is_32_lower_case_digits_and_no_two_are_the_same() {
        let mut rng = Rng::new(Seed([7; 32]));
        let (one, two) = (hex::<16>(&mut rng), hex::<16>(&mut rng));
        assert!(one != two && one.len() == 32);
        assert!(one.bytes().all(|byte| b"0123456789abcdef".contains(&byte)));
    }

    #[test]
    fn only_the_key_in_force_is_accepted() {
        let key = Key::new("abc".into());
        assert!(key.is(b"abc"));
        for wrong in ["", "ab", "abd", "abcd", "ABC"] {
            assert!(!key.is(wrong.as_bytes()), "{wrong}");
        }
        key.set("xyz".into());
        assert!(key.is(b"xyz") && !key.is(b"abc"));
        assert!(!Key::new("".into()).is(b""), "no key is never right");
        assert_eq!(format!("{key:?}"), "Key(***)");
    }
}
