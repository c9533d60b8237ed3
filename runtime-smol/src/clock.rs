//! The protocol's time and the system's: one origin for the whole process, and timers that are
//! touched only when a deadline moves.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use protocol::time::Instant;

use crate::timer::Timer;

/// Maps the protocol's [`Instant`] to the system's monotonic clock and back.
///
/// Every clock of a process has the same origin, so that instants can be passed between tasks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// The process's clock.
    #[must_use]
    pub fn new() -> Self {
        static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
        Self {
            origin: *ORIGIN.get_or_init(std::time::Instant::now),
        }
    }

    /// Now, as the protocol counts.
    #[must_use]
    pub fn now(self) -> Instant {
        Instant::from_origin(self.origin.elapsed())
    }

    /// The system's instant for `at`; `None` if it is too far away to be represented.
    #[must_use]
    pub fn to_std(self, at: Instant) -> Option<std::time::Instant> {
        self.origin.checked_add(at.since_origin())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits until `at`.
pub async fn until(at: Instant) {
    match Clock::new().to_std(at) {
        Some(at) => Timer::at(at).await,
        None => std::future::pending().await,
    }
}

/// A timer for a deadline that moves often: the reactor is told only when it really changed.
#[derive(Debug)]
pub struct Deadline {
    clock: Clock,
    timer: Timer,
    armed: Option<Instant>,
}

impl Deadline {
    /// A timer that is not armed. It costs the reactor nothing until it is.
    #[must_use]
    pub fn never() -> Self {
        Self {
            clock: Clock::new(),
            timer: Timer::never(),
            armed: None,
        }
    }

    /// Arms the timer for `at`, or disarms it.
    pub fn set(&mut self, at: Option<Instant>) {
        if at == self.armed {
            return;
        }
        self.armed = at;
        match at.and_then(|at| self.clock.to_std(at)) {
            Some(at) => self.timer.set_at(at),
            None => self.timer.clear(),
        }
    }

    /// Arms the timer for `at` unless it fires earlier anyway. For deadlines that mostly move away:
    /// let the timer fire, look at the clock, and arm it again.
    pub fn bring_forward(&mut self, at: Instant) {
        if self.armed.is_none_or(|armed| armed > at) {
            self.set(Some(at));
        }
    }

    /// Ready once the deadline has passed; it is then disarmed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.armed.is_none() {
            return Poll::Pending;
        }
        let fired = Pin::new(&mut self.timer).poll(cx);
        fired.map(|()| self.armed = None)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[test]
    fn clocks_agree_and_round_trip() {
        let (first, second) = (Clock::new(), Clock::new());
        let at = first.now();
        assert!(second.now() >= at);
        assert_eq!(first.to_std(at), second.to_std(at));
        let future = first.now().after(Duration::MAX);
        assert_eq!(first.to_std(future), None);
    }

    #[test]
    fn a_deadline_fires_at_its_time_and_once() {
        async_io::block_on(async {
            let clock = Clock::new();
            let mut deadline = Deadline::never();
            let far = clock.now().after(Duration::from_secs(3600));
            let near = clock.now().after(Duration::from_millis(5));
            deadline.set(Some(far));
            deadline.set(Some(near));
            poll_fn(|cx| deadline.poll(cx)).await;
            assert!(clock.now() >= near);
            let again = poll_fn(|cx| Poll::Ready(deadline.poll(cx).is_ready())).await;
            assert!(!again);
        });
    }
}
