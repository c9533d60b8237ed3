//! A limit on bytes per second (`config.md` §3, `rate`).

use core::time::Duration;

use crate::limits::{RATE_BURST, RATE_BURST_BYTES};
use crate::time::Instant;

/// A token bucket in one direction, shared by all relays of an instance.
///
/// It lends: every request is granted at once and told how long to wait before it may be sent.
/// Requests are therefore served in the order they came, whatever their sizes.
/// In any window, what may be sent is the rate times the window, and the burst, or the first request
/// if that is larger.
#[derive(Clone, Debug)]
pub struct Bucket {
    bytes_per_second: u64,
    /// How long an empty bucket takes to fill.
    capacity: Duration,
    /// When the bucket is full, if nothing more is taken.
    full_at: Instant,
}

impl Bucket {
    /// A bucket that is full at `now` and fills at `bytes_per_second` (0 counts as 1). It holds
    /// [`RATE_BURST`] worth of bytes, at least [`RATE_BURST_BYTES`].
    #[must_use]
    pub fn new(bytes_per_second: u64, now: Instant) -> Self {
        let bytes_per_second = bytes_per_second.max(1);
        Self {
            bytes_per_second,
            capacity: RATE_BURST.max(duration_of(RATE_BURST_BYTES, bytes_per_second)),
            full_at: now,
        }
    }

    /// Reserves `n` bytes: how long the caller has to wait before it sends them.
    #[must_use]
    pub fn take(&mut self, now: Instant, n: usize) -> Duration {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        let cost = duration_of(n, self.bytes_per_second);
        self.full_at = self.full_at.max(now).after(cost);
        self.full_at
            .saturating_since(now)
            .saturating_sub(self.capacity)
    }
}

/// How long `bytes` take, rounded up so that the rate is never exceeded.
fn duration_of(bytes: u64, bytes_per_second: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000;
    let nanos = nanos.div_ceil(bytes_per_second.into());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MBIT: u64 = 125_000;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::default();
        let mut bucket = Bucket::new(100 * MBIT, start);
        assert_eq!(bucket.take(start, 1_250_000), Duration::ZERO);
        assert_eq!(bucket.take(start, 12_500), ms(1));
        assert_eq!(bucket.take(start, 12_500), ms(2));
        assert_eq!(bucket.take(start.after(ms(2)), 12_500), ms(1));
    }

    #[test]
    fn a_slow_limit_still_passes_64_kib_at_once() {
        let start = Instant::default();
        let mut bucket = Bucket::new(MBIT, start);
        assert_eq!(bucket.take(start, 64 * 1024), Duration::ZERO);
        assert_eq!(bucket.take(start, 125), ms(1));
    }

    #[test]
    fn an_idle_bucket_holds_no_more_than_the_burst() {
        let start = Instant::default();
        let mut bucket = Bucket::new(100 * MBIT, start);
        let later = start.after(Duration::from_secs(3600));
        assert_eq!(bucket.take(later, 1_250_000 + 12_500), ms(1));
    }

    #[test]
    fn extremes_saturate() {
        let mut bucket = Bucket::new(0, Instant::default());
        for _ in 0..3 {
            let wait = bucket.take(Instant::default(), usize::MAX);
            assert!(wait > Duration::from_secs(1 << 31));
        }
    }

    proptest! {
        #[test]
        fn no_window_sees_more_than_rate_and_burst(
            rate in 1_000_u64..1_000_000_000,
            requests in vec((0_u64..50_000_000, 1_usize..100_000), 1..60),
        ) {
            let mut now = Instant::default();
            let mut bucket = Bucket::new(rate, now);
            let mut sent: Vec<(Instant, u64)> = Vec::new();
            for (pause, size) in requests {
                now = now.after(Duration::from_nanos(pause));
                let at = now.after(bucket.take(now, size));
                prop_assert!(sent.last().is_none_or(|last| last.0 <= at), "in order");
                sent.push((at, u64::try_from(size).unwrap()));
            }
            let burst = (rate / 10).max(64 * 1024);
            for (first, &(from, size)) in sent.iter().enumerate() {
                let at_once = u128::from(burst.max(size));
                let mut total = 0;
                for &(to, size) in &sent[first..] {
                    total += size;
                    let window = to.saturating_since(from).as_nanos();
                    let allowed = u128::from(rate) * window / 1_000_000_000 + at_once + 2;
                    prop_assert!(u128::from(total) <= allowed, "{total} of {allowed}");
                }
            }
        }
    }
}
