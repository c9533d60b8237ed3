//! Each sequence number once: the replay window of data prefaces (`wire.md` §2.3).

use crate::limits::REPLAY_WINDOW;

/// Remembers the highest number accepted and which of the [`REPLAY_WINDOW`] numbers up to it were.
///
/// Ask only after the tag was verified: a number that a stranger made up must not move the window.
#[derive(Clone, Debug)]
pub struct Window {
    highest: u64,
    /// Bit `seq % REPLAY_WINDOW`: whether that number of the window was accepted.
    seen: [u64; WORDS],
}

const WORDS: usize = 64;
const _: () = assert!(WORDS as u64 * 64 == REPLAY_WINDOW, "one bit per number");

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// A window that has seen no number.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            highest: 0,
            seen: [0; WORDS],
        }
    }

    /// Whether `seq` is new; if so it is not any more. 0, which is never sent, and numbers below
    /// the window never are.
    pub fn accept(&mut self, seq: u64) -> bool {
        if seq == 0 {
            return false;
        }
        if seq > self.highest {
            self.advance(seq);
        } else if self.highest - seq >= REPLAY_WINDOW {
            return false;
        }
        !self.mark(seq, true)
    }

    /// Moves the window up to `seq`, forgetting the numbers that fall out of it.
    fn advance(&mut self, seq: u64) {
        if seq - self.highest >= REPLAY_WINDOW {
            self.seen = [0; WORDS];
        } else {
            for skipped in self.highest + 1..=seq {
                self.mark(skipped, false);
            }
        }
        self.highest = seq;
    }

    /// Sets whether `seq` was accepted, and says whether it was before.
    fn mark(&mut self, seq: u64, accepted: bool) -> bool {
        let word = usize::try_from(seq % REPLAY_WINDOW / 64).unwrap_or(0);
        let bit = 1 << (seq % 64);
        let Some(word) = self.seen.get_mut(word) else {
            return true;
        };
        let before = *word & bit != 0;
        *word = if accepted { *word | bit } else { *word & !bit };
        before
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_number_once_in_any_order_within_the_window() {
        let mut window = Window::new();
        assert!(!window.accept(0));
        assert!(window.accept(1));
        assert!(!window.accept(1));
        assert!(window.accept(5000));
        assert!(window.accept(4999));
        assert!(!window.accept(5000));
        assert!(window.accept(5000 - REPLAY_WINDOW + 1));
        assert!(!window.accept(5000 - REPLAY_WINDOW));
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(5001));
    }

    /// Steps that stay near the edges of the window, where mistakes would be.
    fn numbers() -> impl Strategy<Value = Vec<u64>> {
        let step = prop_oneof![-5_i64..5, -4100_i64..-4090, 4090_i64..4100, -5000_i64..9000,];
        vec(step, 0..200).prop_map(|steps| {
            let mut at = 0_u64;
            let walk = steps.into_iter().map(|step| {
                at = at.saturating_add_signed(step);
                at
            });
            walk.collect()
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list_of_everything_seen(numbers in numbers()) {
            let mut window = Window::new();
            let (mut seen, mut highest) = (BTreeSet::new(), 0);
            for seq in numbers {
                let is_recent = seq + REPLAY_WINDOW > highest;
                let expected = seq > 0 && is_recent && seen.insert(seq);
                highest = highest.max(seq);
                prop_assert_eq!(window.accept(seq), expected, "{}", seq);
            }
        }
    }
}
