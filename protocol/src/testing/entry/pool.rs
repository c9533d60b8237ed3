use alloc::collections::BTreeSet;

use crate::id::{ConnId, Mint};
use crate::limits;
use crate::pool::{Config, Input, Output, Pool};
use crate::rng::Seed;
use crate::testing::contract::{Machine, check_after_mutation};
use crate::testing::script::Script;
use crate::time::Instant;

/// Bytes: the configuration, then steps: answers to dials, uses, ends, demands, time; also answers
/// about connections that do not exist.
///
/// # Panics
/// If the contract is broken, more connections than `max` are idle or being opened, more than
/// [`limits::DIALS_IN_FLIGHT`] dials run, an id is dialled twice, one that is not idle is closed,
/// exhaustion is said twice, a control channel is missed that is there or not awaited, or a draining pool dials or keeps anything.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut now = Instant::default();
    let config = Config {
        min: usize::from(script.u8() % 80),
        max: usize::from(script.u8()),
        min_interval: script.duration(),
        max_interval: script.duration(),
        control_wait: script.bool().then(|| script.duration()),
    };
    let mut run = Run {
        pool: Pool::new(config, Mint::default(), Seed([7; 32]), now),
        max: config.max.max(1),
        dialled: 0,
        dialing: BTreeSet::new(),
        idle: BTreeSet::new(),
        closing: BTreeSet::new(),
        draining: false,
        exhausted: false,
        awaits_control: config.control_wait.is_some(),
    };
    check_after_mutation(&mut run, now);
    while !script.is_empty() {
        run.step(&mut script, &mut now);
        check_after_mutation(&mut run, now);
        run.check();
    }
}

struct Run {
    pool: Pool,
    max: usize,
    /// The highest id dialled.
    dialled: u64,
    dialing: BTreeSet<ConnId>,
    idle: BTreeSet<ConnId>,
    closing: BTreeSet<ConnId>,
    draining: bool,
    exhausted: bool,
    /// No connection became the control channel, and it was not said that none does.
    awaits_control: bool,
}

impl Run {
    fn step(&mut self, script: &mut Script<'_>, now: &mut Instant) {
        let input = match script.u32_below(12) {
            0..3 => {
                let Some(conn) = pick(&self.dialing, script) else { return };
                self.dialing.remove(&conn);
                // A draining pool answers with a close, which takes it out again.
                self.idle.insert(conn);
                Input::Opened(conn)
            }
            3 => {
                let Some(conn) = pick(&self.dialing, script) else { return };
                self.dialing.remove(&conn);
                let which = script.u8();
                if which < 200 {
                    Input::DialFailed(conn)
                } else if which < 240 {
                    Input::NotNumbered { conn, open: script.duration() }
                } else {
                    self.awaits_control = false;
                    Input::Control(conn)
                }
            }
            4 | 5 => {
                let Some(conn) = pick(&self.idle, script) else { return };
                self.idle.remove(&conn);
                Input::Taken(conn)
            }
            6 => {
                let Some(conn) = pick(&self.idle, script) else { return };
                self.idle.remove(&conn);
                if script.bool() { Input::Ended(conn) } else { Input::Withdrawn(conn) }
            }
            7 => {
                let Some(conn) = pick(&self.closing, script) else { return };
                self.closing.remove(&conn);
                if script.bool() { Input::Ended(conn) } else { Input::Taken(conn) }
            }
            8 => Input::Demand(script.u32_below(300)),
            9 => {
                *now = now.after(script.duration());
                return self.pool.handle_timeout(*now);
            }
            10 if script.u8() < 16 => {
                self.draining = true;
                Input::Drain
            }
            10 => Input::Flush,
            _ => self.stale(script),
        };
        self.pool.handle_input(*now, input);
    }

    /// About a connection that is gone, or never was.
    fn stale(&self, script: &mut Script<'_>) -> Input {
        let conn = ConnId::from_number(script.u16().into());
        let known = [&self.dialing, &self.idle, &self.closing];
        if known.iter().any(|set| set.contains(&conn)) {
            return Input::Demand(0);
        }
        match script.u32_below(6) {
            0 => Input::Opened(conn),
            1 => Input::DialFailed(conn),
            2 => Input::Taken(conn),
            3 => Input::Ended(conn),
            4 => Input::Control(conn),
            _ => Input::Withdrawn(conn),
        }
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Dial(conn) => {
                assert!(!self.draining, "a draining pool does not dial");
                assert!(conn.number() > self.dialled, "ids are never used again");
                self.dialled = conn.number();
                self.dialing.insert(conn);
            }
            Output::Close(conn) => {
                assert!(self.idle.remove(&conn), "only what is idle is closed, once");
                self.closing.insert(conn);
            }
            Output::Exhausted => {
                assert!(!self.exhausted && !self.draining);
                self.exhausted = true;
            }
            Output::NoControl => {
                assert!(self.awaits_control && !self.draining);
                self.awaits_control = false;
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.pool.idle(), self.idle.len());
        assert!(self.dialing.len() <= limits::DIALS_IN_FLIGHT);
        assert!(self.idle.len() + self.dialing.len() <= self.max);
        if self.draining {
            assert!(self.idle.is_empty());
            assert_eq!(self.pool.poll_timeout(), None);
        } else if self.pool.poll_timeout().is_none() {
            let open = self.idle.len() + self.dialing.len();
            assert!(open > 0, "a pool at rest is not empty");
        }
    }
}

impl Machine for Run {
    fn handle_timeout(&mut self, now: Instant) {
        self.pool.handle_timeout(now);
    }

    fn poll_output_is_some(&mut self) -> bool {
        let output = self.pool.poll_output();
        if let Some(output) = output {
            self.on_output(output);
        }
        output.is_some()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.pool.poll_timeout()
    }

    fn ended(&self) -> bool {
        false
    }
}

fn pick(set: &BTreeSet<ConnId>, script: &mut Script<'_>) -> Option<ConnId> {
    let most = u32::try_from(set.len()).unwrap_or(u32::MAX).min(256);
    let nth = usize::try_from(script.u32_below(most)).unwrap_or(0);
    set.iter().nth(nth).copied()
}
