//! Points 3 to 6 of the [contract](crate) as one check for every machine.

use crate::time::{Duration, Instant};

/// A machine as this check sees it. A test that wants the outputs wraps its machine in a type that
/// keeps what it polls.
pub trait Machine {
    /// The time is `now`.
    fn handle_timeout(&mut self, now: Instant);
    /// Takes one output, and says whether there was one.
    fn poll_output_is_some(&mut self) -> bool;
    /// The next deadline.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Whether the last output was taken. A machine without an end says `false`.
    fn ended(&self) -> bool;
}

/// More outputs than any single mutation may cause: beyond, a machine is taken to loop.
const OUTPUTS: usize = 1 << 20;

/// Drains `machine` after a mutation at `now`, and asserts what the contract says about that.
///
/// A deadline that is due at `now` is delivered, as a driver would.
///
/// # Panics
/// If the machine breaks the contract.
pub fn check_after_mutation(machine: &mut impl Machine, now: Instant) {
    drain(machine, now);
    if machine.poll_timeout().is_some_and(|due| due <= now) {
        machine.handle_timeout(now);
        drain(machine, now);
    }
    let deadline = machine.poll_timeout();
    assert!(
        deadline.is_none_or(|due| due > now),
        "point 4, strict advance: after a time-out at {now:?} the deadline is {deadline:?}"
    );
    machine.handle_timeout(now);
    assert!(
        !machine.poll_output_is_some(),
        "point 5, no early effect: an output at {now:?}, before the deadline {deadline:?}"
    );
    assert_eq!(
        machine.poll_timeout(),
        deadline,
        "point 5, no early effect: the deadline moved at {now:?}"
    );
    if machine.ended() {
        check_final(machine, now);
    }
}

/// Point 6, as far as time can tell; a test gives its other inputs before it calls this.
fn check_final(machine: &mut impl Machine, now: Instant) {
    assert_eq!(
        machine.poll_timeout(),
        None,
        "point 6, the end is final: a deadline"
    );
    machine.handle_timeout(now.after(Duration::from_secs(24 * 60 * 60)));
    assert!(
        !machine.poll_output_is_some(),
        "point 6, the end is final: an output"
    );
    assert_eq!(machine.poll_timeout(), None, "point 6, the end is final");
    assert!(machine.ended(), "point 6, the end is final: back to life");
}

fn drain(machine: &mut impl Machine, now: Instant) {
    for _ in 0..OUTPUTS {
        let due = machine.poll_timeout();
        if !machine.poll_output_is_some() {
            return;
        }
        assert!(
            due.is_some_and(|due| due <= now),
            "point 3, queued means due: an output at {now:?}, but the deadline was {due:?}"
        );
    }
    assert!(
        !machine.poll_output_is_some(),
        "more than {OUTPUTS} outputs"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says one thing at `at`, and breaks one rule.
    struct Alarm {
        at: Option<Instant>,
        queued: bool,
        fault: Fault,
        ended: bool,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        QueuedInSilence,
        StandsStill,
        RingsEarly,
        Undead,
    }

    impl Machine for Alarm {
        fn handle_timeout(&mut self, now: Instant) {
            let early = self.fault == Fault::RingsEarly;
            if self.at.is_some_and(|at| now >= at || early) {
                self.queued = self.fault != Fault::StandsStill;
            }
        }

        fn poll_output_is_some(&mut self) -> bool {
            let had = core::mem::take(&mut self.queued);
            if had {
                self.ended = true;
                if self.fault != Fault::Undead {
                    self.at = None;
                }
            }
            had
        }

        fn poll_timeout(&self) -> Option<Instant> {
            if self.queued && self.fault != Fault::QueuedInSilence {
                return Some(Instant::default());
            }
            self.at.filter(|_| !self.queued)
        }

        fn ended(&self) -> bool {
            self.ended
        }
    }

    fn second(n: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(n))
    }

    fn run(fault: Fault) {
        let mut alarm = Alarm {
            at: Some(second(2)),
            queued: false,
            fault,
            ended: false,
        };
        check_after_mutation(&mut alarm, second(1));
        check_after_mutation(&mut alarm, second(2));
        assert!(alarm.ended);
    }

    #[test]
    fn a_correct_machine_passes() {
        run(Fault::None);
    }

    #[test]
    #[should_panic = "point 3"]
    fn an_output_without_a_deadline_is_noticed() {
        run(Fault::QueuedInSilence);
    }

    #[test]
    #[should_panic = "point 4"]
    fn a_deadline_that_stands_still_is_noticed() {
        run(Fault::StandsStill);
    }

    #[test]
    #[should_panic = "point 5"]
    fn an_early_effect_is_noticed() {
        run(Fault::RingsEarly);
    }

    #[test]
    #[should_panic = "point 4"]
    fn a_deadline_after_the_end_is_noticed() {
        run(Fault::Undead);
    }
}
