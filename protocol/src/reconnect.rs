//! When a client connects again (`wire.md` §2.2).
//!
//! Failed attempts double the delay up to 5 s. A session that lived 2 s after its `welcome` resets
//! it; one that lived shorter lets it grow to 1 s at most, so that a peer that is restarted again
//! and again is still found quickly.

use core::time::Duration;

use crate::backoff::Backoff;
use crate::limits::SESSION_PROVEN;
use crate::rng::Seed;
use crate::time::Instant;

/// The most that a session which was up, but not for long, adds to the next attempt.
const SHORT_LIVED_MAX: Duration = Duration::from_secs(1);
/// The most that a peer's `bye` can put an attempt off.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// What happens to a client's attempts and sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The attempt failed.
    Failed,
    /// The attempt got its `welcome`.
    Up,
    /// The session ended; with the delay that the peer's `bye` asked for.
    Ended(Option<Duration>),
    /// There is news of the server: a waiting attempt is due as if it were the first.
    News,
    /// No more attempts.
    Stop,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect, and answer with [`Input::Failed`] or [`Input::Up`].
    Connect,
}

/// A client's rhythm of attempts; at most one runs at a time.
#[derive(Debug)]
pub struct Reconnect {
    backoff: Backoff,
    state: State,
    due: bool,
    now: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting(Instant),
    Connecting,
    Up(Instant),
    Stopped,
}

impl Reconnect {
    /// The first attempt is due at once.
    #[must_use]
    pub fn new(seed: Seed, now: Instant) -> Self {
        Self {
            backoff: Backoff::new(seed),
            state: State::Connecting,
            due: true,
            now,
        }
    }

    /// One mutation; drain [`poll_output`](Self::poll_output) afterwards. What does not fit the
    /// state is ignored, and so is the outcome of an attempt that was not taken yet.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        self.now = self.now.max(now);
        if self.due && input != Input::Stop {
            return;
        }
        match (input, self.state) {
            (Input::Failed, State::Connecting) => self.wait(self.now, None),
            (Input::Up, State::Connecting) => self.state = State::Up(self.now),
            (Input::Ended(retry_after), State::Up(since)) => self.wait(since, retry_after),
            (Input::News, State::Waiting(until)) => {
                self.backoff.reset();
                let soon = self.now.after(self.backoff.next_delay());
                self.state = State::Waiting(until.min(soon));
            }
            (Input::Stop, _) => {
                self.state = State::Stopped;
                self.due = false;
            }
            (Input::Failed | Input::Up | Input::Ended(_) | Input::News, _) => {}
        }
    }

    /// Acts on the deadline if it has passed; early or repeated calls change nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if matches!(self.state, State::Waiting(until) if until <= self.now) {
            self.state = State::Connecting;
            self.due = true;
        }
    }

    /// The next thing to do; `None` when all is done.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        core::mem::take(&mut self.due).then_some(Output::Connect)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            _ if self.due => Some(self.now),
            State::Waiting(until) => Some(until),
            State::Connecting | State::Up(_) | State::Stopped => None,
        }
    }

    fn wait(&mut self, up_since: Instant, retry_after: Option<Duration>) {
        let lived = self.now.saturating_since(up_since);
        if lived >= SESSION_PROVEN {
            self.backoff.reset();
        } else if matches!(self.state, State::Up(_)) {
            self.backoff.soften(SHORT_LIVED_MAX);
        }
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        self.state = State::Waiting(self.now.after(self.backoff.next_delay().max(asked)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    /// Fails `n` attempts in a row and returns the last delay.
    fn fail(reconnect: &mut Reconnect, n: usize) -> Duration {
        let mut delay = Duration::ZERO;
        for _ in 0..n {
            assert_eq!(reconnect.poll_output(), Some(Output::Connect));
            reconnect.handle_input(reconnect.now, Input::Failed);
            delay = pass(reconnect);
        }
        delay
    }

    fn pass(reconnect: &mut Reconnect) -> Duration {
        let due = reconnect.poll_timeout().unwrap();
        let delay = due.saturating_since(reconnect.now);
        reconnect.handle_timeout(due);
        delay
    }

    fn live(reconnect: &mut Reconnect, millis: u64) -> Duration {
        assert_eq!(reconnect.poll_output(), Some(Output::Connect));
        reconnect.handle_input(reconnect.now, Input::Up);
        let end = reconnect.now.after(Duration::from_millis(millis));
        reconnect.handle_input(end, Input::Ended(None));
        pass(reconnect)
    }

    fn is_about(delay: Duration, millis: u64) {
        let millis = Duration::from_millis(millis);
        assert!(
            delay >= millis * 8 / 10 && delay <= millis * 12 / 10,
            "{delay:?}, not {millis:?}"
        );
    }

    #[test]
    fn the_first_attempt_is_due_at_once() {
        let mut reconnect = Reconnect::new(Seed([1; 32]), at(5));
        assert_eq!(reconnect.poll_timeout(), Some(at(5)));
        assert_eq!(reconnect.poll_output(), Some(Output::Connect));
        assert_eq!(reconnect.poll_timeout(), None);
    }

    #[test]
    fn failures_double_to_five_seconds_and_a_proven_session_resets() {
        let mut reconnect = Reconnect::new(Seed([1; 32]), at(0));
        is_about(fail(&mut reconnect, 1), 100);
        is_about(fail(&mut reconnect, 1), 200);
        is_about(fail(&mut reconnect, 10), 5_000);
        is_about(live(&mut reconnect, 2_000), 100);
    }

    #[test]
    fn short_sessions_in_a_row_stay_at_a_second() {
        let mut reconnect = Reconnect::new(Seed([1; 32]), at(0));
        fail(&mut reconnect, 10);
        for _ in 0..10 {
            is_about(live(&mut reconnect, 100), 1_000);
        }
    }

    #[test]
    fn the_peer_may_ask_for_a_later_attempt_within_reason() {
        for (asked, given) in [(1_000, 1_000), (3_600_000, 60_000)] {
            let mut reconnect = Reconnect::new(Seed([1; 32]), at(0));
            assert_eq!(reconnect.poll_output(), Some(Output::Connect));
            reconnect.handle_input(at(0), Input::Up);
            reconnect.handle_input(at(9_000), Input::Ended(Some(Duration::from_millis(asked))));
            assert_eq!(pass(&mut reconnect), Duration::from_millis(given));
        }
    }

    #[test]
    fn an_attempt_that_was_not_taken_has_no_outcome() {
        let mut reconnect = Reconnect::new(Seed([1; 32]), at(0));
        reconnect.handle_input(at(1), Input::Failed);
        assert_eq!(reconnect.poll_output(), Some(Output::Connect));
        assert_eq!(reconnect.poll_timeout(), None, "and it is still awaited");
    }

    #[test]
    fn news_of_the_server_cut_the_waiting_short() {
        let mut reconnect = Reconnect::new(Seed([1; 32]), at(0));
        fail(&mut reconnect, 10);
        assert_eq!(reconnect.poll_output(), Some(Output::Connect));
        let now = reconnect.now;
        reconnect.handle_input(now, Input::Failed);
        reconnect.handle_input(now, Input::News);
        is_about(pass(&mut reconnect), 100);
    }

    #[test]
    fn a_stop_is_final() {
        let mut reconnect = Reconnect::new(Seed([1; 32]), at(0));
        reconnect.handle_input(at(0), Input::Stop);
        reconnect.handle_input(at(1), Input::Failed);
        assert_eq!(
            (reconnect.poll_output(), reconnect.poll_timeout()),
            (None, None)
        );
    }
}
