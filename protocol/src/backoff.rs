//! How long to wait before trying again: doubling, bounded, jittered.

use core::time::Duration;

use crate::limits::{BACKOFF_JITTER, BACKOFF_MAX, BACKOFF_MIN};
use crate::rng::{Rng, Seed};

/// The delays between attempts at one thing: [`BACKOFF_MIN`] doubling to [`BACKOFF_MAX`], each
/// moved by up to [`BACKOFF_JITTER`] per cent either way so that many ends do not come at once.
#[derive(Debug)]
pub struct Backoff {
    rng: Rng,
    next: Duration,
}

impl Backoff {
    /// A back-off that has seen no failure.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self {
            rng: Rng::new(seed),
            next: BACKOFF_MIN,
        }
    }

    /// An attempt failed: how long to wait before the next one.
    #[must_use]
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.rng.jitter(self.next, BACKOFF_JITTER);
        self.next = self.next.saturating_mul(2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        delay
    }

    /// An attempt succeeded: start over.
    pub const fn reset(&mut self) {
        self.next = BACKOFF_MIN;
    }

    /// An attempt worked for a while, though not long enough for [`reset`](Self::reset): the next
    /// delay is at most `max` before jitter.
    pub fn soften(&mut self, max: Duration) {
        self.next = self.next.min(max);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn is_around(delay: Duration, expected: Duration) -> bool {
        delay >= expected * 4 / 5 && delay <= expected * 6 / 5
    }

    proptest! {
        #[test]
        fn delays_double_to_the_limit_and_start_over(seed: [u8; 32]) {
            let mut backoff = Backoff::new(Seed(seed));
            for _ in 0..2 {
                for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000].map(ms) {
                    let delay = backoff.next_delay();
                    prop_assert!(is_around(delay, expected), "{delay:?} for {expected:?}");
                }
                backoff.reset();
            }
        }

        #[test]
        fn a_softened_delay_is_at_most_the_bound_and_doubles_again(seed: [u8; 32]) {
            let mut backoff = Backoff::new(Seed(seed));
            for _ in 0..6 {
                assert!(backoff.next_delay() > Duration::ZERO);
            }
            backoff.soften(ms(500));
            prop_assert!(is_around(backoff.next_delay(), ms(500)));
            prop_assert!(is_around(backoff.next_delay(), ms(1000)));
            backoff.soften(Duration::ZERO);
            prop_assert_eq!(backoff.next_delay(), Duration::ZERO);
            prop_assert!(is_around(backoff.next_delay(), ms(100)));
        }
    }
}
