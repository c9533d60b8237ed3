//! Memory and processor time of a pair of ends.

use std::net::TcpStream;
use std::time::Duration;

use crate::support::kernel::{cpu, established, pss, raise_descriptor_limit};
use crate::support::optimised;
use crate::support::peers::Target;
use crate::support::tunnel::{Flow, Pair, Setup};
use crate::support::until::{pause, secs, until};
use crate::support::users;

const MIB: u64 = 1 << 20;
const USERS: usize = 1000;

/// Pss of both ends together.
fn both(pair: &Pair) -> u64 {
    pss(pair.server.id()) + pss(pair.client.id())
}

/// The real binary is held to a bound near what it needs, an unoptimised one to a loose one.
fn bound() -> u64 {
    if optimised() { 12_000_000 } else { 80 * MIB }
}

/// Pss of both ends while a thousand users are connected and idle; afterwards they are gone.
fn with_idle_users(pair: &Pair, target: &Target) -> u64 {
    let idle: Vec<TcpStream> = (0..USERS).map(|_| users::connect(pair.users())).collect();
    for user in &idle {
        users::echo(user, b"here").unwrap();
    }
    let used = both(pair);
    drop(idle);
    until("the end of all relays", secs(20), || {
        (established(target.addr()) == 0).then_some(())
    });
    used
}

/// What an allocator gives back to the system is its own affair: a page with one living connection
/// on it stays. That memory is used again is ours.
#[test]
fn a_thousand_idle_users_cost_little_and_their_memory_is_used_again() {
    raise_descriptor_limit();
    for flow in [Flow::Reverse, Flow::Forward] {
        let target = Target::echo();
        let pair = Setup::new(flow, 0, target.addr()).min(64).start();
        users::served(pair.users());
        let rest = both(&pair);
        let first = with_idle_users(&pair, &target);
        assert!(
            first <= bound(),
            "{flow:?}: {USERS} idle users cost {first} bytes, {rest} at rest"
        );
        let rounds: Vec<u64> = (0..3).map(|_| with_idle_users(&pair, &target)).collect();
        let enough = first + first.saturating_sub(rest) / 4 + MIB;
        assert!(
            rounds.iter().all(|&used| used <= enough),
            "{flow:?}: {rest} at rest, {first} at first, then {rounds:?}"
        );
        users::served(pair.users());
    }
}

#[test]
fn a_pair_at_rest_uses_no_processor_time_beyond_its_pings() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 1, target.addr()).min(64).start();
    users::served(pair.users());
    pause(secs(2));
    let used = || cpu(pair.server.id()) + cpu(pair.client.id());
    let before = used();
    pause(secs(6));
    let spent = used() - before;
    let allowed = Duration::from_millis(if optimised() { 30 } else { 150 });
    assert!(
        spent <= allowed,
        "{spent:?} of processor time in 6 s at rest"
    );
}
