use alloc::collections::{BTreeMap, BTreeSet};

use crate::id::{ConnId, LinkId, Mint, UserId};
use crate::ingress::{Config, Ingress, Input, Output};
use crate::limits;
use crate::testing::contract::{Machine, check_after_mutation};
use crate::testing::script::Script;
use crate::time::{Duration, Instant};

/// Bytes: the configuration, then steps: users who come, leave and come again, sessions and their
/// connections, time; also news about what does not exist.
///
/// # Panics
/// If the contract is broken, a user who waits ends in more than one way or not at all, a
/// connection is launched twice, after its end or on a session that is gone, a user waits while
/// a connection is idle, or more than [`limits::QUEUED_USERS`] wait.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut now = Instant::default();
    let config = Config {
        wait: script.duration(),
        report_interval: script.duration(),
    };
    let mut run = Run {
        ingress: Ingress::new(config, now),
        users: Mint::default(),
        conns: Mint::default(),
        waiting: BTreeMap::new(),
        launched: BTreeSet::new(),
        links: BTreeSet::new(),
        idle: BTreeMap::new(),
    };
    while !script.is_empty() {
        for _ in 0..run.repeat(&mut script) {
            run.step(&mut script.clone(), &mut now);
        }
        run.step(&mut script, &mut now);
        check_after_mutation(&mut run, now);
        run.check(config.wait, now);
    }
}

struct Run {
    ingress: Ingress,
    users: Mint,
    conns: Mint,
    /// Since when each waits.
    waiting: BTreeMap<UserId, Instant>,
    launched: BTreeSet<UserId>,
    links: BTreeSet<LinkId>,
    idle: BTreeMap<ConnId, LinkId>,
}

impl Run {
    /// How often a step is done more than once: that is how limits are met.
    fn repeat(&self, script: &mut Script<'_>) -> u32 {
        match script.u8() {
            255 => 600,
            many @ 240..=254 => u32::from(many) - 230,
            _ => 0,
        }
    }

    fn step(&mut self, script: &mut Script<'_>, now: &mut Instant) {
        let link = LinkId::from_number(script.u32_below(6).into());
        let input = match script.u32_below(10) {
            0..3 => {
                let user = UserId::from_number(self.users.next());
                self.waiting.insert(user, *now);
                Input::User(user)
            }
            3 => {
                let Some(user) = self.launched.pop_first() else { return };
                self.waiting.insert(user, *now);
                Input::Again(user)
            }
            4 => {
                let Some((user, _)) = self.waiting.pop_first() else { return };
                Input::UserGone(user)
            }
            5 | 6 => {
                let conn = ConnId::from_number(self.conns.next());
                self.idle.insert(conn, link);
                Input::Idle(link, conn)
            }
            7 => {
                let conn = ConnId::from_number(script.u8().into());
                self.idle.remove(&conn);
                Input::Lost(conn)
            }
            8 => match script.u32_below(4) {
                0 => {
                    self.links.remove(&link);
                    Input::SessionGone(link)
                }
                1 => Input::Heard(link),
                _ => {
                    self.links.insert(link);
                    Input::SessionUp(link)
                }
            },
            _ => {
                *now = now.after(script.duration());
                self.ingress.handle_timeout(*now);
                return self.drain();
            }
        };
        self.ingress.handle_input(*now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while self.poll_output_is_some() {}
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Launch { user, conn, link } => {
                assert!(self.waiting.remove(&user).is_some(), "a user waits once");
                assert_eq!(self.idle.remove(&conn), Some(link), "an idle one, once");
                assert!(self.links.contains(&link), "its session is up");
                self.launched.insert(user);
            }
            Output::Expired(user) | Output::Refused(user) => {
                assert!(self.waiting.remove(&user).is_some(), "a user ends once");
            }
            Output::Demand(link, n) => {
                assert!(self.links.contains(&link) && n > 0);
                assert!(usize::try_from(n).is_ok_and(|n| n <= limits::QUEUED_USERS));
            }
            Output::Close(conn) => {
                let link = self.idle.remove(&conn);
                assert!(link.is_some_and(|link| !self.links.contains(&link)));
            }
        }
    }

    fn check(&self, wait: Duration, now: Instant) {
        assert_eq!(self.ingress.idle(), self.idle.len());
        assert!(self.waiting.is_empty() || self.idle.is_empty());
        assert!(self.waiting.len() <= limits::QUEUED_USERS);
        assert!(self.idle.values().all(|link| self.links.contains(link)));
        for since in self.waiting.values() {
            assert!(since.after(wait) > now, "whoever waits too long is told");
        }
        let at_rest = self.ingress.poll_timeout().is_none();
        assert_eq!(at_rest, self.waiting.is_empty());
    }
}

impl Machine for Run {
    fn handle_timeout(&mut self, now: Instant) {
        self.ingress.handle_timeout(now);
    }

    fn poll_output_is_some(&mut self) -> bool {
        let output = self.ingress.poll_output();
        if let Some(output) = output {
            self.on_output(output);
        }
        output.is_some()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.ingress.poll_timeout()
    }

    fn ended(&self) -> bool {
        false
    }
}
