use core::time::Duration;

use crate::balance::Balance;
use crate::config::Strategy;
use crate::rng::Seed;
use crate::time::Instant;

/// The strategy, the number of targets, then pairs of what happens and how much: every order names
/// every target once.
pub fn run(data: &[u8]) {
    let Some((&[strategy, targets], script)) = data.split_first_chunk() else {
        return;
    };
    let strategy = match strategy % 3 {
        0 => Strategy::RoundRobin,
        1 => Strategy::LowestLatency,
        _ => Strategy::PrimaryBackup,
    };
    let targets = usize::from(targets % 8);
    let mut balance = Balance::new(strategy, targets, Seed([0; 32]));
    let mut now = Instant::default();
    for pair in script.chunks_exact(2) {
        let &[what, amount] = pair else { return };
        let index = usize::from(amount % 9);
        match what % 5 {
            0 => now = now.after(Duration::from_millis(u64::from(amount) * 16)),
            1 => balance.failed(now, index),
            2 => balance.succeeded(index, Duration::from_millis(amount.into())),
            3 => balance.reached(index),
            _ => {
                let mut order = balance.order(now);
                order.sort_unstable();
                assert!(order.into_iter().eq(0..targets));
            }
        }
    }
}
