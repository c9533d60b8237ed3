use core::time::Duration;

use crate::rate::Bucket;
use crate::time::Instant;

/// The rate in KiB per second, then pairs of a pause and a size: sending stays in order, and in all
/// below the rate and one burst.
pub fn run(data: &[u8]) {
    let Some((&kib, script)) = data.split_first() else {
        return;
    };
    let rate = u64::from(kib.max(1)) * 1024;
    let mut now = Instant::default();
    let mut bucket = Bucket::new(rate, now);
    let (mut last, mut total) = (now, 0_u64);
    for pair in script.chunks_exact(2) {
        let &[pause, size] = pair else { return };
        now = now.after(Duration::from_millis(pause.into()));
        let size = usize::from(size) * 257;
        let at = now.after(bucket.take(now, size));
        assert!(at >= last);
        (last, total) = (at, total + u64::try_from(size).unwrap_or(0));
        let millis = at.since_origin().as_micros().div_ceil(1000);
        let allowed = 64 * 1024 + u128::from(rate) * millis / 1000;
        assert!(u128::from(total) <= allowed + 255 * 257);
    }
}
