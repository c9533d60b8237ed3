//! Randomness as an argument: one seed per machine, one generator behind it.

use core::fmt;
use core::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Where a machine's randomness comes from: the driver draws it from the operating system, a test
/// writes it down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u8; 32]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(***)")
    }
}

/// A deterministic generator: the same seed gives the same values on every platform.
pub struct Rng(ChaCha12Rng);

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rng(***)")
    }
}

impl Rng {
    /// A generator that starts from `seed`.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self(ChaCha12Rng::from_seed(seed.0))
    }

    /// A seed for a child machine.
    pub fn seed(&mut self) -> Seed {
        Seed(self.bytes())
    }

    /// `N` unguessable bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// A number below `bound` (0 if `bound` is 0), with a bias too small to matter for jitter.
    pub fn below(&mut self, bound: u32) -> u32 {
        let wide = u64::from(self.0.next_u32()) * u64::from(bound);
        u32::try_from(wide >> 32).unwrap_or(0)
    }

    /// `around`, moved by up to `percent` per cent either way.
    pub fn jitter(&mut self, around: Duration, percent: u32) -> Duration {
        let per_mille = 1000 - 10 * percent + self.below(20 * percent + 1);
        around.saturating_mul(per_mille) / 1000
    }
}
