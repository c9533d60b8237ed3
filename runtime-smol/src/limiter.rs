//! The `rate` of an instance in one direction, shared by all its relays.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::rate::Bucket;
use protocol::time::Instant;

use crate::clock::Clock;

/// The largest piece that a limited relay moves at once, in bytes. Small, so that relays take turns
/// and none waits long for its own.
pub const PIECE: usize = 16 * 1024;

/// A token bucket that many relays draw from.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    bucket: Mutex<Bucket>,
}

impl Limiter {
    /// A limiter of `bytes_per_second`.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        let clock = Clock::new();
        Self {
            clock,
            bucket: Mutex::new(Bucket::new(bytes_per_second, clock.now())),
        }
    }

    /// Takes `n` bytes out of the bucket: how long to wait before sending them.
    #[must_use]
    pub fn take(&self, n: usize) -> Duration {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(self.clock.now(), n)
    }

    /// The same as a point in time; `None`: send at once.
    pub(crate) fn pause(&self, n: usize) -> Option<Instant> {
        let wait = self.take(n);
        (!wait.is_zero()).then(|| self.clock.now().after(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_share_one_bucket() {
        let limiter = Limiter::new(12_500);
        let waits: Vec<_> = (0..16).map(|_| limiter.take(PIECE)).collect();
        assert_eq!(waits[0], Duration::ZERO, "a burst passes at once");
        assert!(waits[15] > Duration::from_secs(5), "{waits:?}");
    }
}
