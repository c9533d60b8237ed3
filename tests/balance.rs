//! `lbs`: several targets.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::support::course::at_once;
use crate::support::distant::Distant;
use crate::support::kernel::is_listening;
use crate::support::peers::{self, Target};
use crate::support::ports::Port;
use crate::support::tunnel::{Flow, Setup};
use crate::support::until::{secs, until};
use crate::support::users;

/// Three targets that say who they are; the first can be taken away.
struct Targets {
    port: Port,
    first: Option<Target>,
    second: Target,
    third: Target,
}

impl Targets {
    fn start() -> Self {
        let port = Port::reserve();
        let first = Some(Target::start_on(port.addr(), peers::greet("1")));
        let (second, third) = (peers::greet("2"), peers::greet("3"));
        Self {
            port,
            first,
            second: Target::start(second),
            third: Target::start(third),
        }
    }

    fn setup(&self, flow: Flow, lbs: u8) -> Setup {
        Setup::new(flow, 0, self.port.addr())
            .target(self.second.addr())
            .target(self.third.addr())
            .egress(&format!("lbs={lbs}"))
    }

    fn stop_first(&mut self) {
        self.first = None;
        // A child that is being started may hold the listener for a while.
        until("nobody listens", secs(10), || {
            (!is_listening(self.port.addr())).then_some(())
        });
    }

    fn restart_first(&mut self) {
        self.first = Some(Target::start_on(self.port.addr(), peers::greet("1")));
    }
}

/// Who served each of `count` users, one after the other.
fn who(addr: SocketAddr, count: usize) -> BTreeMap<char, usize> {
    let mut served = BTreeMap::new();
    for _ in 0..count {
        let name = users::greeted(addr, secs(10)).map_or('-', char::from);
        *served.entry(name).or_default() += 1;
    }
    served
}

#[test]
fn lbs_0_takes_targets_in_turn_and_skips_a_dead_one() {
    for flow in [Flow::Reverse, Flow::Forward] {
        let mut targets = Targets::start();
        let pair = targets.setup(flow, 0).start();
        assert_eq!(
            who(pair.users(), 9),
            BTreeMap::from([('1', 3), ('2', 3), ('3', 3)])
        );

        targets.stop_first();
        // Whose turn it is while the dead one is tried again depends on time.
        let served = who(pair.users(), 12);
        let names: Vec<char> = served.into_keys().collect();
        assert_eq!(names, ['2', '3']);

        targets.restart_first();
        until("the first target is used again", secs(20), || {
            (users::greeted(pair.users(), secs(10)) == Some(b'1')).then_some(())
        });
    }
}

#[test]
fn lbs_1_serves_everyone_and_skips_a_dead_target() {
    let mut targets = Targets::start();
    let pair = targets
        .setup(Flow::Reverse, 1)
        .env("NP_REPORT_INTERVAL", "1s")
        .start();
    assert_eq!(who(pair.users(), 9).get(&'-'), None);
    targets.stop_first();
    let served = who(pair.users(), 9);
    assert_eq!(
        (served.get(&'-'), served.get(&'1')),
        (None, None),
        "{served:?}"
    );
}

/// Whether users are served by `name` alone, for as long as it takes to ask ten of them.
fn all_go_to(addr: SocketAddr, name: char) -> bool {
    who(addr, 10) == BTreeMap::from([(name, 10)])
}

#[test]
fn lbs_1_prefers_the_nearer_target_and_follows_it() {
    // Whichever comes first in the URL.
    at_once(&[(true, 'b'), (false, 'a')], |&(first_is_far, nearer)| {
        let first = Distant::start("a", first_is_far);
        let second = Distant::start("b", !first_is_far);
        let pair = Setup::new(Flow::Reverse, 0, first.addr())
            .target(second.addr())
            .egress("lbs=1")
            .env("NP_REPORT_INTERVAL", "1s")
            .start();
        until("users go to the nearer target", secs(30), || {
            all_go_to(pair.users(), nearer).then_some(())
        });
        first.set_far(!first_is_far);
        second.set_far(first_is_far);
        let other = if nearer == 'a' { 'b' } else { 'a' };
        until("users go to the other target", secs(60), || {
            all_go_to(pair.users(), other).then_some(())
        });
    });
}

#[test]
fn lbs_2_stays_with_the_primary_and_returns_to_it() {
    let mut targets = Targets::start();
    let pair = targets.setup(Flow::Forward, 2).start();
    assert_eq!(who(pair.users(), 6), BTreeMap::from([('1', 6)]));

    targets.stop_first();
    assert_eq!(who(pair.users(), 6), BTreeMap::from([('2', 6)]));

    targets.restart_first();
    until("the primary is used again", secs(20), || {
        (users::greeted(pair.users(), secs(10)) == Some(b'1')).then_some(())
    });
    assert_eq!(who(pair.users(), 6), BTreeMap::from([('1', 6)]));
}

#[test]
fn when_every_target_is_dead_the_user_is_reset() {
    let (one, two) = (Port::reserve(), Port::reserve());
    let setup = Setup::new(Flow::Reverse, 0, one.addr()).target(two.addr());
    let pair = setup.start();
    assert_eq!(
        users::end_after(pair.users(), b"hello?", secs(10)),
        users::End::Reset
    );
}
