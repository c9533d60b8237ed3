//! In which order several targets are tried (`config.md` §3, `lbs`).
//!
//! Every target is tried for every user, so a user fails only when all of them do. A target that
//! failed goes to the end of the order until its back-off is over; then one user tries it first,
//! and falls through to the others if it still fails.

use alloc::vec::Vec;
use core::time::Duration;

use crate::backoff::Backoff;
use crate::config::Strategy;
use crate::limits::BACKOFF_MAX;
use crate::rng::{Rng, Seed};
use crate::time::Instant;

/// Orders targets, by their indexes, for one user at a time.
#[derive(Debug)]
pub struct Balance {
    strategy: Strategy,
    targets: Vec<Target>,
    /// Whose turn it is first (round robin).
    turn: usize,
}

impl Balance {
    /// A balance over `targets` targets that all are expected to work.
    #[must_use]
    pub fn new(strategy: Strategy, targets: usize, seed: Seed) -> Self {
        let mut rng = Rng::new(seed);
        let targets = (0..targets)
            .map(|_| Target {
                health: Health::Up,
                backoff: Backoff::new(rng.seed()),
                latency: None,
            })
            .collect();
        Self {
            strategy,
            targets,
            turn: 0,
        }
    }

    /// The targets in the order to try them for one user: each exactly once, those in back-off
    /// last.
    #[must_use]
    pub fn order(&mut self, now: Instant) -> Vec<usize> {
        let preferred = self.preferred();
        let is_up = |&index: &usize| self.target(index).is_none_or(|it| !it.is_down(now));
        let (mut order, down): (Vec<_>, Vec<_>) = preferred.into_iter().partition(is_up);
        order.extend(down);
        let first = order.first().and_then(|&index| self.targets.get_mut(index));
        if let Some(first) = first {
            first.begin_trial(now);
        }
        order
    }

    /// A connection to the target was opened, for a user or as a probe, in `latency`.
    pub fn succeeded(&mut self, index: usize, latency: Duration) {
        let Some(target) = self.targets.get_mut(index) else {
            return;
        };
        target.latency = Some(match (target.health, target.latency) {
            (Health::Up, Some(known)) => (known.saturating_mul(3)).saturating_add(latency) / 4,
            (Health::Up | Health::Down { .. }, _) => latency,
        });
        target.health = Health::Up;
        target.backoff.reset();
    }

    /// The target has an address, which is all that can be known where nothing answers (UDP): it is
    /// expected to work again. Whether it does is not known, so its next back-off is not shorter.
    pub fn reached(&mut self, index: usize) {
        if let Some(target) = self.targets.get_mut(index) {
            target.health = Health::Up;
        }
    }

    /// A connection to the target could not be opened, for a user or as a probe.
    ///
    /// Failures of users that were already trying when the back-off began do not lengthen it.
    pub fn failed(&mut self, now: Instant, index: usize) {
        let Some(target) = self.targets.get_mut(index) else {
            return;
        };
        if target.is_down(now) && !target.is_on_trial() {
            return;
        }
        target.health = Health::Down {
            until: now.after(target.backoff.next_delay()),
            trial: false,
        };
    }

    /// Whether the driver should open, time and close a connection to every target at start and
    /// each report interval, and report the result as for a user.
    #[must_use]
    pub fn wants_probes(&self) -> bool {
        self.strategy == Strategy::LowestLatency && self.targets.len() > 1
    }

    /// The order if nothing were in back-off.
    fn preferred(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.targets.len()).collect();
        match self.strategy {
            Strategy::RoundRobin => {
                order.rotate_left(self.turn);
                self.turn = (self.turn + 1) % order.len().max(1);
            }
            Strategy::LowestLatency => order.sort_by_key(|&index| {
                let latency = self.target(index).and_then(|it| it.latency);
                latency.unwrap_or(Duration::MAX)
            }),
            Strategy::PrimaryBackup => {}
        }
        order
    }

    fn target(&self, index: usize) -> Option<&Target> {
        self.targets.get(index)
    }
}

#[derive(Debug)]
struct Target {
    health: Health,
    backoff: Backoff,
    /// Smoothed time that opening a connection takes.
    latency: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Health {
    Up,
    /// Not to be tried before the others until then. On trial, one user is finding out.
    Down {
        until: Instant,
        trial: bool,
    },
}

impl Target {
    fn is_down(&self, now: Instant) -> bool {
        match self.health {
            Health::Up => false,
            Health::Down { until, .. } => now < until,
        }
    }

    const fn is_on_trial(&self) -> bool {
        match self.health {
            Health::Up => false,
            Health::Down { trial, .. } => trial,
        }
    }

    /// If the back-off is over, keeps everybody but the user who is about to try from trying, for
    /// as long as the answer may take.
    fn begin_trial(&mut self, now: Instant) {
        if let Health::Down { until, .. } = self.health
            && until <= now
        {
            self.health = Health::Down {
                until: now.after(BACKOFF_MAX),
                trial: true,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(strategy: Strategy) -> Balance {
        Balance::new(strategy, 3, Seed([7; 32]))
    }

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn round_robin_takes_turns_and_skips_a_failed_target() {
        let mut balance = balance(Strategy::RoundRobin);
        assert_eq!(balance.order(at(0)), [0, 1, 2]);
        assert_eq!(balance.order(at(0)), [1, 2, 0]);
        balance.failed(at(0), 2);
        assert_eq!(balance.order(at(0)), [0, 1, 2]);
        assert_eq!(balance.order(at(0)), [0, 1, 2]);
        assert_eq!(balance.order(at(0)), [1, 0, 2]);
    }

    #[test]
    fn the_lowest_latency_goes_first_and_unknown_ones_last() {
        let mut balance = balance(Strategy::LowestLatency);
        assert!(balance.wants_probes());
        assert_eq!(balance.order(at(0)), [0, 1, 2]);
        balance.succeeded(0, ms(30));
        balance.succeeded(2, ms(10));
        assert_eq!(balance.order(at(0)), [2, 0, 1]);
        balance.succeeded(1, ms(5));
        assert_eq!(balance.order(at(0)), [1, 2, 0]);
        balance.failed(at(0), 1);
        assert_eq!(balance.order(at(0)), [2, 0, 1]);
    }

    #[test]
    fn one_slow_connection_does_not_turn_the_order_over() {
        let mut balance = balance(Strategy::LowestLatency);
        balance.succeeded(0, ms(10));
        balance.succeeded(1, ms(20));
        balance.succeeded(2, ms(30));
        balance.succeeded(0, ms(45));
        assert_eq!(balance.order(at(0)), [0, 1, 2]);
        for _ in 0..5 {
            balance.succeeded(0, ms(45));
        }
        assert_eq!(balance.order(at(0)), [1, 2, 0]);
    }

    #[test]
    fn one_user_at_a_time_tests_the_primary_after_its_back_off() {
        let mut balance = balance(Strategy::PrimaryBackup);
        assert!(!balance.wants_probes());
        balance.failed(at(0), 0);
        assert_eq!(balance.order(at(79)), [1, 2, 0]);
        assert_eq!(balance.order(at(121)), [0, 1, 2]);
        assert_eq!(balance.order(at(121)), [1, 2, 0]);

        balance.failed(at(130), 0);
        assert_eq!(balance.order(at(130 + 159)), [1, 2, 0]);
        assert_eq!(balance.order(at(130 + 241)), [0, 1, 2]);

        balance.succeeded(0, ms(1));
        assert_eq!(balance.order(at(400)), [0, 1, 2]);
        assert_eq!(balance.order(at(400)), [0, 1, 2]);
    }

    #[test]
    fn a_target_that_is_reached_is_back_but_its_next_back_off_is_longer() {
        let mut balance = balance(Strategy::PrimaryBackup);
        balance.failed(at(0), 0);
        assert_eq!(balance.order(at(121)), [0, 1, 2]);
        balance.reached(0);
        assert_eq!(balance.order(at(122)), [0, 1, 2]);
        assert_eq!(balance.order(at(123)), [0, 1, 2]);

        balance.failed(at(130), 0);
        assert_eq!(balance.order(at(130 + 159)), [1, 2, 0]);
        balance.reached(9);
    }

    #[test]
    fn reaching_a_target_says_nothing_about_its_latency() {
        let mut balance = balance(Strategy::LowestLatency);
        balance.succeeded(1, ms(10));
        balance.reached(0);
        assert_eq!(balance.order(at(0)), [1, 0, 2]);
        balance.failed(at(0), 1);
        balance.reached(1);
        assert_eq!(balance.order(at(0)), [1, 0, 2]);
    }

    #[test]
    fn a_test_that_nobody_reports_is_repeated() {
        let mut balance = balance(Strategy::PrimaryBackup);
        balance.failed(at(0), 0);
        assert_eq!(balance.order(at(121)), [0, 1, 2]);
        assert_eq!(balance.order(at(121 + 4_999)), [1, 2, 0]);
        assert_eq!(balance.order(at(121 + 5_000)), [0, 1, 2]);
    }

    #[test]
    fn users_failing_together_count_once() {
        let mut balance = balance(Strategy::PrimaryBackup);
        for _ in 0..50 {
            balance.failed(at(0), 0);
        }
        assert_eq!(balance.order(at(121)), [0, 1, 2]);
    }

    #[test]
    fn with_every_target_failed_all_are_still_tried() {
        let mut balance = balance(Strategy::PrimaryBackup);
        for index in 0..3 {
            balance.failed(at(0), index);
        }
        assert_eq!(balance.order(at(0)), [0, 1, 2]);
    }
}
