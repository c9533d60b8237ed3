//! Memory and processor time of a pair of ends.

use std::net::TcpStream;
use std::time::Duration;

use crate::support::kernel::{cpu, established, own_memory, pss, raise_descriptor_limit};
use crate::support::optimised;
use crate::support::peers::Target;
use crate::support::tunnel::{Flow, Pair, Setup};
use crate::support::until::{pause, poll, secs, until};
use crate::support::users;

const MIB: u64 = 1 << 20;
const USERS: usize = 1000;

/// Memory of both ends together, as `kind` counts it.
fn both(pair: &Pair, kind: fn(u32) -> u64) -> u64 {
    kind(pair.server.id()) + kind(pair.client.id())
}

/// The real binary is held to a bound near what it needs, an unoptimised one to a loose one.
fn bound() -> u64 {
    if optimised() { 12_000_000 } else { 80 * MIB }
}

/// Own memory of both ends while a thousand users are connected and idle; afterwards they are gone.
fn with_idle_users(pair: &Pair, target: &Target) -> u64 {
    let idle: Vec<TcpStream> = (0..USERS).map(|_| users::connect(pair.users())).collect();
    for user in &idle {
        users::echo(user, b"here").unwrap();
    }
    let (all, used) = (both(pair, pss), both(pair, own_memory));
    assert!(all <= bound(), "{USERS} idle users cost {all} bytes");
    drop(idle);
    until("the end of all relays", secs(20), || {
        (established(target.addr()) == 0).then_some(())
    });
    used
}

#[test]
fn a_thousand_idle_users_cost_little_and_their_memory_comes_back() {
    raise_descriptor_limit();
    for flow in [Flow::Reverse, Flow::Forward] {
        let target = Target::echo();
        let pair = Setup::new(flow, 0, target.addr()).min(64).start();
        users::served(pair.users());
        let rest = both(&pair, own_memory);
        for round in 0..2 {
            let used = with_idle_users(&pair, &target);
            let enough = rest + used.saturating_sub(rest) / 2 + MIB;
            let left = || both(&pair, own_memory);
            let back = poll(secs(20), || (left() <= enough).then_some(()));
            assert!(
                back.is_some(),
                "{flow:?}, round {round}: {rest} at rest, {used} with users, {} after them",
                left()
            );
            users::served(pair.users());
        }
    }
}

#[test]
fn a_pair_at_rest_uses_no_processor_time_beyond_its_pings() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 1, target.addr()).min(64).start();
    users::served(pair.users());
    until("the pool is full", secs(30), || {
        (pair.connections() == 1 + 64).then_some(())
    });
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
