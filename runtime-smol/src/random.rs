//! Randomness from the operating system.

use std::fs::File;
use std::io::{self, Read as _};

use protocol::rng::Seed;

/// 32 bytes, for everything random in one instance.
///
/// # Errors
/// The system gives none.
pub fn seed() -> io::Result<Seed> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Seed(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_seeds_are_the_same() {
        assert!(seed().unwrap() != seed().unwrap());
    }
}
