use crate::limits;
use crate::reconnect::{Input, Output, Reconnect};
use crate::rng::Seed;
use crate::testing::contract::{Machine, check_after_mutation};
use crate::testing::script::Script;
use crate::time::{Duration, Instant};

/// Bytes: pairs of what happens and how much, in any order.
///
/// # Panics
/// If the contract is broken, two attempts run at once, an attempt comes after the stop, or nothing
/// is going on and no attempt is due within the longest delay.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut now = Instant::default();
    let mut run = Run {
        reconnect: Reconnect::new(Seed(script.array()), now),
        attempt: false,
        up: false,
        stopped: false,
    };
    check_after_mutation(&mut run, now);
    while !script.is_empty() {
        let input = match script.u32_below(9) {
            0 | 1 => Input::Failed,
            2 | 3 => Input::Up,
            4 => Input::Ended(None),
            5 => Input::Ended(Some(script.duration())),
            6 if script.u8() == 0 => Input::Stop,
            7 => Input::News,
            _ => {
                now = now.after(script.duration());
                run.reconnect.handle_timeout(now);
                check_after_mutation(&mut run, now);
                continue;
            }
        };
        run.reconnect.handle_input(now, input);
        run.note(input);
        check_after_mutation(&mut run, now);
        run.check(now);
    }
}

struct Run {
    reconnect: Reconnect,
    attempt: bool,
    up: bool,
    stopped: bool,
}

impl Run {
    fn note(&mut self, input: Input) {
        match input {
            Input::Failed => self.attempt = false,
            Input::Up => self.up |= core::mem::take(&mut self.attempt),
            Input::Ended(_) => self.up = false,
            Input::News => {}
            Input::Stop => self.stopped = true,
        }
    }

    fn check(&self, now: Instant) {
        let next = self.reconnect.poll_timeout();
        if self.stopped || self.attempt || self.up {
            assert_eq!(next, None, "there is nothing to do");
        } else {
            let longest = limits::BACKOFF_MAX * 12 / 10;
            let longest = longest.max(Duration::from_secs(60));
            assert!(next.is_some_and(|next| next <= now.after(longest)));
        }
    }
}

impl Machine for Run {
    fn handle_timeout(&mut self, now: Instant) {
        self.reconnect.handle_timeout(now);
    }

    fn poll_output_is_some(&mut self) -> bool {
        let output = self.reconnect.poll_output();
        if output == Some(Output::Connect) {
            assert!(!self.attempt && !self.up, "one at a time");
            assert!(!self.stopped, "a stop is final");
            self.attempt = true;
        }
        output.is_some()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.reconnect.poll_timeout()
    }

    fn ended(&self) -> bool {
        self.stopped
    }
}
