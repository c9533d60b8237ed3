//! When an instance runs: a machine without I/O. It is told what happened and says what to do.
//!
//! ```text
//!            start                started
//! Stopped ─────────▶ Starting ──────────────▶ Running
//!    ▲  ▲               │ failed   ended by itself │ │ stop, restart
//!    │  └── Pausing ◀── │ ◀──────────────┐  ┌──────┘ ▼
//!    │       restart    └──▶ Waiting ◀───┼──┘     Stopping
//!    └───────────────── stop ────────────┴─────────────┘
//! ```
//!
//! There is one job at a time, the start of a run or the run itself: [`Output::Begin`] is given only
//! after the job before was reported over or cut.

use std::collections::VecDeque;
use std::time::Duration;

use protocol::time::Instant;

use crate::object::Status;

/// How long a restart shows `stopped` at least (`rest.md` §3).
pub(crate) const PAUSE: Duration = Duration::from_millis(250);
/// The first wait before a failed instance is started again; it doubles.
pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest that starting may take.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);
/// What a run may take beyond `NP_SHUTDOWN_TIMEOUT` to end: the last words to its peers.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(4);

/// The times that a configuration sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The longest wait before a failed instance is started again.
    pub(crate) cooldown: Duration,
    /// The longest that a graceful stop may take.
    pub(crate) stop: Duration,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// It is to run.
    Start,
    /// It is to stop, cut off after this long if it has not ended by then.
    Stop(Duration),
    /// It is to stop, show that, and run again.
    Restart,
    /// The start that this number belongs to has succeeded.
    Started(u64),
    /// It has failed.
    Failed(u64),
    /// The run ended: as it should, or by a failure.
    Ended(u64, Result<(), ()>),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Start a run, under this number.
    Begin(u64),
    /// Ask the run to end.
    Finish,
    /// Drop the start or the run that there is.
    Cut,
    /// The status is another one.
    Show(Status),
}

/// One instance's machine.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    limits: Limits,
    phase: Phase,
    shown: Status,
    /// The number of the last start.
    generation: u64,
    retry: Duration,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Stopped,
    /// `retried`: after a failure, which is shown until it works.
    Starting {
        by: Instant,
        retried: bool,
    },
    Running {
        since: Instant,
    },
    Stopping {
        by: Instant,
        again: bool,
    },
    /// Shows `stopped` before it starts again.
    Pausing {
        until: Instant,
    },
    /// Shows `error` before it is tried again.
    Waiting {
        until: Instant,
    },
}

impl Lifecycle {
    /// One that is stopped.
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Stopped,
            shown: Status::Stopped,
            generation: 0,
            retry: FIRST_RETRY,
            outputs: VecDeque::new(),
        }
    }

    /// One that failed without a run: it waits to be started again.
    pub(crate) fn failed(limits: Limits, now: Instant) -> Self {
        let cooldown = limits.cooldown.max(FIRST_RETRY);
        Self {
            phase: Phase::Waiting {
                until: now.after(cooldown),
            },
            shown: Status::Error,
            retry: cooldown,
            ..Self::new(limits)
        }
    }

    /// Nothing runs, and nothing will without being asked to.
    pub(crate) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// Takes note of what happened.
    pub(crate) fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Start => self.start(now),
            Input::Stop(within) => self.stop(now, within),
            Input::Restart => self.restart(now),
            Input::Started(number) if self.is_starting(number) => {
                self.enter(Phase::Running { since: now });
            }
            Input::Failed(number) if self.is_starting(number) => self.wait(now),
            Input::Ended(number, result) if number == self.generation => self.ended(now, result),
            Input::Started(_) | Input::Failed(_) | Input::Ended(..) => {}
        }
    }

    /// Acts on a deadline that has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        match self.phase {
            Phase::Starting { by, .. } if by <= now => {
                self.outputs.push_back(Output::Cut);
                self.wait(now);
            }
            Phase::Stopping { by, again } if by <= now => {
                self.outputs.push_back(Output::Cut);
                self.stopped(now, again);
            }
            Phase::Pausing { until } if until <= now => self.begin(now, false),
            Phase::Waiting { until } if until <= now => self.begin(now, true),
            Phase::Stopped
            | Phase::Running { .. }
            | Phase::Starting { .. }
            | Phase::Stopping { .. }
            | Phase::Pausing { .. }
            | Phase::Waiting { .. } => {}
        }
    }

    /// What to do next; drained after every mutation.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Stopped | Phase::Running { .. } => None,
            Phase::Starting { by, .. } | Phase::Stopping { by, .. } => Some(by),
            Phase::Pausing { until } | Phase::Waiting { until } => Some(until),
        }
    }

    fn start(&mut self, now: Instant) {
        match self.phase {
            Phase::Stopped => {
                self.retry = FIRST_RETRY;
                self.begin(now, false);
            }
            Phase::Waiting { .. } => {
                self.retry = FIRST_RETRY;
                self.begin(now, true);
            }
            Phase::Stopping { by, .. } => self.phase = Phase::Stopping { by, again: true },
            Phase::Starting { .. } | Phase::Running { .. } | Phase::Pausing { .. } => {}
        }
    }

    fn stop(&mut self, now: Instant, within: Duration) {
        let latest = now.after(within.min(self.limits.stop));
        match self.phase {
            Phase::Running { .. } => self.finish(latest, false),
            Phase::Stopping { by, .. } => {
                let by = by.min(latest);
                self.phase = Phase::Stopping { by, again: false };
            }
            Phase::Starting { .. } => {
                self.outputs.push_back(Output::Cut);
                self.enter(Phase::Stopped);
            }
            Phase::Pausing { .. } | Phase::Waiting { .. } => self.enter(Phase::Stopped),
            Phase::Stopped => {}
        }
    }

    fn restart(&mut self, now: Instant) {
        self.retry = FIRST_RETRY;
        match self.phase {
            Phase::Running { .. } => self.finish(now.after(self.limits.stop), true),
            Phase::Stopping { by, .. } => self.phase = Phase::Stopping { by, again: true },
            Phase::Starting { .. } => {
                self.outputs.push_back(Output::Cut);
                self.stopped(now, true);
            }
            Phase::Stopped | Phase::Waiting { .. } => self.stopped(now, true),
            Phase::Pausing { .. } => {}
        }
    }

    fn is_starting(&self, number: u64) -> bool {
        matches!(self.phase, Phase::Starting { .. }) && number == self.generation
    }

    fn ended(&mut self, now: Instant, result: Result<(), ()>) {
        match self.phase {
            Phase::Stopping { again, .. } => self.stopped(now, again),
            Phase::Running { since } => {
                if now.saturating_since(since) > self.limits.cooldown {
                    self.retry = FIRST_RETRY;
                }
                match result {
                    Ok(()) => self.enter(Phase::Stopped),
                    Err(()) => self.wait(now),
                }
            }
            Phase::Stopped
            | Phase::Starting { .. }
            | Phase::Pausing { .. }
            | Phase::Waiting { .. } => {}
        }
    }

    fn begin(&mut self, now: Instant, retried: bool) {
        self.generation += 1;
        let by = now.after(START_TIMEOUT);
        self.enter(Phase::Starting { by, retried });
        self.outputs.push_back(Output::Begin(self.generation));
    }

    fn finish(&mut self, by: Instant, again: bool) {
        self.outputs.push_back(Output::Finish);
        self.enter(Phase::Stopping { by, again });
    }

    fn stopped(&mut self, now: Instant, again: bool) {
        let until = now.after(PAUSE);
        self.enter(if again {
            Phase::Pausing { until }
        } else {
            Phase::Stopped
        });
    }

    fn wait(&mut self, now: Instant) {
        let cooldown = self.limits.cooldown.max(FIRST_RETRY);
        let until = now.after(self.retry.min(cooldown));
        self.retry = self.retry.saturating_mul(2).min(cooldown);
        self.enter(Phase::Waiting { until });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let status = match phase {
            Phase::Stopped | Phase::Pausing { .. } | Phase::Starting { retried: false, .. } => {
                Status::Stopped
            }
            Phase::Running { .. } | Phase::Stopping { .. } => Status::Running,
            Phase::Waiting { .. } | Phase::Starting { retried: true, .. } => Status::Error,
        };
        if status != self.shown {
            self.shown = status;
            self.outputs.push_back(Output::Show(status));
        }
    }
}

#[cfg(test)]
mod tests;
