//! How many idle data connections a client holds, and when it dials (`wire.md` §2.5).
//!
//! The pool aims at `target + surge` connections that are idle or being opened. `target` moves
//! between `min` and `max` with the rate of use; `surge` is what the peer said it is short of right
//! now, and shrinks as those connections are taken. At rest no timer runs.

use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;

use crate::backoff::Backoff;
use crate::id::{ConnId, Mint};
use crate::limits;
use crate::rng::Seed;
use crate::time::{Instant, earliest};

/// What a pool is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Least idle connections; above `max` it counts as `max`.
    pub min: usize,
    /// Most connections that are idle or being opened, at least 1.
    pub max: usize,
    /// `NP_MIN_POOL_INTERVAL`: the least time between dials while they fail, and over which the
    /// rate of use is measured.
    pub min_interval: Duration,
    /// `NP_MAX_POOL_INTERVAL`: how often the target falls while it is higher than needed.
    pub max_interval: Duration,
    /// Where one of the connections is to become the session's control channel: how long that may
    /// take.
    pub control_wait: Option<Duration>,
}

/// What happens to data connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The dial succeeded, and its preface is written or its id is read.
    Opened(ConnId),
    /// The dial succeeded, but the connection is the session's control channel: no data connection,
    /// and no failure.
    Control(ConnId),
    /// The dial failed.
    DialFailed(ConnId),
    /// The dial succeeded, but the server closed the connection instead of giving it an id.
    NotNumbered {
        /// The connection.
        conn: ConnId,
        /// How long it was open.
        open: Duration,
    },
    /// A user took the connection.
    Taken(ConnId),
    /// The connection ended, unused.
    Ended(ConnId),
    /// The server withdrew the connection, unused (`0x07`).
    Withdrawn(ConnId),
    /// Ingress is short of this many connections right now, in all.
    Demand(u32),
    /// Close idle connections and refill.
    Flush,
    /// Dial no more and close what is idle: the session takes no new launches.
    Drain,
}

/// What the pool wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a data connection and answer with [`Input::Opened`] or [`Input::DialFailed`].
    Dial(ConnId),
    /// Close this idle connection, or give up dialling it.
    Close(ConnId),
    /// [`limits::DIAL_FAILURES`] in a row: the session is of no use. Said once.
    Exhausted,
    /// No connection became the control channel in time, or the server treats them as strangers
    /// ([`limits::NOT_KNOWN_DIALS`]): it restarted after its answer. The session is of no use. Said once.
    NoControl,
}

/// The pool of one session, at the client.
#[derive(Debug)]
pub struct Pool {
    config: Config,
    mint: Mint,
    backoff: Backoff,
    /// When each dial started.
    dialing: BTreeMap<ConnId, Instant>,
    /// When each idle connection was opened; ids rise with age, so the first is the oldest.
    idle: BTreeMap<ConnId, Instant>,
    target: usize,
    surge: usize,
    /// The time that opening a connection takes, smoothed.
    open_time: Duration,
    window: Window,
    /// No dials before this.
    blocked: Option<Instant>,
    failed_dials: u32,
    early_ends: u32,
    /// Connections end early lately: that another one opens proves nothing.
    in_doubt: bool,
    /// When the last failure was counted.
    counted: Option<Instant>,
    exhausted: bool,
    /// Until when one of the connections must become the control channel.
    control_due: Option<Instant>,
    /// Connections in a row that the server did not know as this session's.
    not_known: u32,
    draining: bool,
    outputs: VecDeque<Output>,
    now: Instant,
}

/// Uses since the last look at the target.
#[derive(Debug)]
struct Window {
    taken: usize,
    since: Instant,
    due: Option<Instant>,
}

impl Pool {
    /// A pool that starts to fill at once. `mint` names its connections; handing on the
    /// [`mint`](Self::mint) of the session before keeps late news of its connections apart.
    #[must_use]
    pub fn new(config: Config, mint: Mint, seed: Seed, now: Instant) -> Self {
        let max = config.max.max(1);
        let config = Config {
            min: config.min.clamp(1, max),
            max,
            ..config
        };
        let mut pool = Self {
            config,
            mint,
            backoff: Backoff::new(seed),
            dialing: BTreeMap::new(),
            idle: BTreeMap::new(),
            target: config.min,
            surge: 0,
            open_time: Duration::ZERO,
            window: Window {
                taken: 0,
                since: now,
                due: None,
            },
            blocked: None,
            failed_dials: 0,
            early_ends: 0,
            in_doubt: false,
            counted: None,
            exhausted: false,
            control_due: config.control_wait.map(|wait| now.after(wait)),
            not_known: 0,
            draining: false,
            outputs: VecDeque::new(),
            now,
        };
        pool.refill();
        pool
    }

    /// One mutation; drain [`poll_output`](Self::poll_output) afterwards.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        self.advance(now);
        match input {
            Input::Opened(conn) => self.on_opened(conn),
            Input::Control(conn) => {
                if self.dialing.remove(&conn).is_some() {
                    self.control_due = None;
                }
            }
            Input::DialFailed(conn) => {
                if let Some(started) = self.dialing.remove(&conn) {
                    self.on_failure(started, |pool| &mut pool.failed_dials);
                }
            }
            Input::NotNumbered { conn, open } => {
                if let Some(started) = self.dialing.remove(&conn) {
                    self.on_not_numbered(open);
                    self.on_failure(started, |pool| &mut pool.failed_dials);
                }
            }
            Input::Taken(conn) => self.on_taken(conn),
            Input::Ended(conn) => self.on_ended(conn, false),
            Input::Withdrawn(conn) => self.on_ended(conn, true),
            Input::Demand(n) => {
                let asked = usize::try_from(n).unwrap_or(usize::MAX);
                self.surge = self.surge.max(asked).min(self.config.max);
                // What nobody takes is closed again some time.
                self.look_later();
            }
            Input::Flush => self.close_idle(usize::MAX),
            Input::Drain => {
                self.draining = true;
                self.blocked = None;
                self.window.due = None;
                self.control_due = None;
                self.close_idle(usize::MAX);
            }
        }
        self.refill();
    }

    /// Acts on deadlines that have passed; early or repeated calls change nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        if self.window.due.is_some_and(|due| due <= self.now) {
            self.lower_target();
        }
        if self.blocked.is_some_and(|until| until <= self.now) {
            self.blocked = None;
        }
        if self.control_due.is_some_and(|due| due <= self.now) {
            self.control_due = None;
            self.outputs.push_back(Output::NoControl);
        }
        self.refill();
    }

    /// The next thing to do; `None` when all is done.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.outputs.is_empty() && !cfg!(feature = "bug-timeout") {
            return Some(self.now);
        }
        earliest(self.control_due, earliest(self.blocked, self.window.due))
    }

    /// Where naming connections goes on, for the next session's pool.
    #[must_use]
    pub fn mint(&self) -> Mint {
        self.mint.clone()
    }

    /// Idle connections now.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    fn on_opened(&mut self, conn: ConnId) {
        let Some(started) = self.dialing.remove(&conn) else {
            return;
        };
        if self.draining {
            return self.outputs.push_back(Output::Close(conn));
        }
        let took = self.now.saturating_since(started);
        self.open_time = if self.open_time.is_zero() {
            took
        } else {
            self.open_time.saturating_mul(7).saturating_add(took) / 8
        };
        self.idle.insert(conn, self.now);
        self.failed_dials = 0;
        self.not_known = 0;
        if !self.in_doubt {
            self.recover();
        }
    }

    /// A server that does not know the session takes its connections for handshakes that never come.
    fn on_not_numbered(&mut self, open: Duration) {
        if open < limits::NOT_KNOWN || self.control_due.is_none() {
            return;
        }
        self.not_known += 1;
        if self.not_known >= limits::NOT_KNOWN_DIALS {
            self.control_due = None;
            self.outputs.push_back(Output::NoControl);
        }
    }

    fn on_taken(&mut self, conn: ConnId) {
        if self.idle.remove(&conn).is_none() {
            return;
        }
        self.surge = self.surge.saturating_sub(1);
        self.early_ends = 0;
        self.in_doubt = false;
        if self.failed_dials == 0 {
            self.recover();
        }
        self.look_later();
        self.window.taken += 1;
        self.target = self.target.max(self.needed());
    }

    fn on_ended(&mut self, conn: ConnId, withdrawn: bool) {
        let Some(opened) = self.idle.remove(&conn) else {
            return;
        };
        if withdrawn || self.now.saturating_since(opened) < limits::EARLY_END {
            self.on_failure(opened, |pool| {
                pool.in_doubt = true;
                &mut pool.early_ends
            });
        }
    }

    /// One more failure of a kind, of a connection that began then. Those that began before the last
    /// failure was counted belong to the same trouble: a moment's outage meets many at once.
    fn on_failure(&mut self, began: Instant, row: impl Fn(&mut Self) -> &mut u32) {
        if self.draining || self.counted.is_some_and(|counted| began <= counted) {
            return;
        }
        self.counted = Some(self.now);
        let delay = self.backoff.next_delay().max(self.config.min_interval);
        self.blocked = Some(self.now.after(delay));
        *row(self) += 1;
        if *row(self) >= limits::DIAL_FAILURES && !self.exhausted {
            self.exhausted = true;
            self.outputs.push_back(Output::Exhausted);
        }
    }

    fn recover(&mut self) {
        self.backoff.reset();
        self.blocked = None;
    }

    /// What the current rate of use calls for: twice what is taken in the time that opening one
    /// takes, so that a burst finds warm connections.
    fn needed(&self) -> usize {
        let span = self
            .now
            .saturating_since(self.window.since)
            .max(self.config.min_interval);
        let taken = u128::try_from(self.window.taken).unwrap_or(u128::MAX);
        let cover = self.open_time.as_micros() * 2;
        let warm = taken
            .saturating_mul(cover)
            .div_ceil(span.as_micros().max(1));
        let warm = usize::try_from(warm).unwrap_or(usize::MAX);
        self.config.min.max(warm).min(self.config.max)
    }

    /// An eighth of what is not needed goes at each look.
    fn lower_target(&mut self) {
        let spare = self.target.saturating_sub(self.needed());
        self.target -= spare.div_ceil(8);
        self.surge = 0;
        let open = self.idle.len() + self.dialing.len();
        let in_use = self.window.taken > 0 || self.target > self.config.min || open > self.target;
        self.window = Window {
            taken: 0,
            since: self.now,
            due: in_use.then(|| self.next_look()),
        };
        self.close_idle(self.idle.len().saturating_sub(self.target));
    }

    /// Begins a window, if none runs.
    fn look_later(&mut self) {
        if self.window.due.is_none() && !self.draining {
            self.window = Window {
                taken: 0,
                since: self.now,
                due: Some(self.next_look()),
            };
        }
    }

    fn next_look(&self) -> Instant {
        self.now
            .after(self.config.max_interval.max(Duration::from_millis(1)))
    }

    /// Closes up to `n` idle connections, newest first: ingress takes the oldest.
    fn close_idle(&mut self, n: usize) {
        for _ in 0..n {
            let Some((conn, _)) = self.idle.pop_last() else {
                return;
            };
            self.outputs.push_back(Output::Close(conn));
        }
    }

    fn refill(&mut self) {
        if self.draining || self.blocked.is_some() {
            return;
        }
        let wanted = self.target.saturating_add(self.surge).min(self.config.max);
        while self.dialing.len() < limits::DIALS_IN_FLIGHT
            && self.idle.len() + self.dialing.len() < wanted
        {
            let conn = ConnId::from_number(self.mint.next());
            self.dialing.insert(conn, self.now);
            self.outputs.push_back(Output::Dial(conn));
        }
    }

    /// One that lived long enough shows that prefaces are accepted; but only one that is newer than the
    /// last failure, that there is room for more.
    fn look_who_lived(&mut self) {
        let lived = |opened: Instant| self.now.saturating_since(opened) >= limits::EARLY_END;
        let oldest = self.idle.first_key_value().map(|(_, &opened)| opened);
        if oldest.is_some_and(lived) {
            self.early_ends = 0;
        }
        let newer = |&opened: &Instant| Some(opened) > self.counted && lived(opened);
        if self.in_doubt && self.idle.values().any(newer) {
            self.in_doubt = false;
            if self.failed_dials == 0 {
                self.backoff.reset();
            }
        }
    }

    fn advance(&mut self, now: Instant) {
        debug_assert!(now >= self.now, "time goes forward");
        self.now = self.now.max(now);
        debug_assert!(self.dialing.len() <= limits::DIALS_IN_FLIGHT);
        debug_assert!(self.idle.len() + self.dialing.len() <= self.config.max);
        self.look_who_lived();
    }
}

#[cfg(test)]
mod tests;
