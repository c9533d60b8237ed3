//! Whole tunnels on a virtual clock and a virtual network, from one seed.
//!
//! A run has faults for a while, then none; then everything must work again; then all ends, and
//! nothing may be left. `SIM_SEED=n` repeats one run and prints what happens, `SIM_SEEDS=n` runs
//! that many. The machines' features `bug-timeout` and `bug-leak` plant bugs that a sweep finds:
//!
//! ```sh
//! cargo test -p nodepass-protocol --test sim --features bug-timeout   # must fail
//! cargo test -p nodepass-protocol --test sim --features bug-leak      # must fail
//! cargo test -p nodepass-protocol --test sim --profile sim            # 2000 seeds
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is how a run fails, and its output is how it is understood"
)]

mod carrier;
mod net;
mod node_client;
mod node_server;
mod oracle;
mod plan;
mod world;

use std::collections::BTreeMap;
use std::env;
use std::panic;
use std::thread;

use oracle::Ended;
use plan::Plan;
use world::{Summary, World};

/// Takes all outputs of a machine, which say themselves that they are due (contract, point 3).
#[macro_export]
macro_rules! drain {
    ($machine:expr, $now:expr) => {{
        let mut outputs = Vec::new();
        loop {
            let due = $machine.poll_timeout();
            let Some(output) = $machine.poll_output() else {
                break outputs;
            };
            assert!(
                due.is_some_and(|due| due <= $now),
                "{output:?} is queued and not due"
            );
            outputs.push(output);
        }
    }};
}

/// Tells a machine the time; often too early, which must not matter (contract, point 5).
#[macro_export]
macro_rules! ring {
    ($machine:expr, $now:expr) => {{
        let due = $machine.poll_timeout();
        $machine.handle_timeout($now);
        if due.is_none_or(|due| due > $now) {
            assert_eq!($machine.poll_timeout(), due, "an early call has an effect");
        }
    }};
}

fn run(seed: u64, verbose: bool) -> Summary {
    let plan = Plan::from_seed(seed);
    if verbose {
        println!("{plan:#?}");
    }
    World::new(&plan, verbose).run()
}

fn variable(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Fewer when `cargo test` runs everything; `SIM_SEEDS` says otherwise.
fn usual_seeds() -> u64 {
    let program = env::current_exe().unwrap_or_default();
    let is_sim_profile = program.components().any(|part| part.as_os_str() == "sim");
    if is_sim_profile { 2000 } else { 200 }
}

/// Runs `seeds` on every core: which of them failed, and how users ended in the others.
fn sweep(seeds: u64) -> (Vec<u64>, BTreeMap<Ended, usize>) {
    let cores = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let work = |first: u64| {
        let (mut failed, mut users) = (Vec::new(), BTreeMap::new());
        for seed in (first..seeds).step_by(cores as usize) {
            match panic::catch_unwind(|| run(seed, false)) {
                Ok(summary) => add(&mut users, summary.users),
                Err(_) => {
                    eprintln!("reproduce with SIM_SEED={seed}");
                    failed.push(seed);
                }
            }
        }
        (failed, users)
    };
    thread::scope(|scope| {
        let spawn = |first| scope.spawn(move || work(first));
        let threads: Vec<_> = (0..cores).map(spawn).collect();
        let (mut failed, mut users) = (Vec::new(), BTreeMap::new());
        for thread in threads {
            let part = thread.join().unwrap();
            failed.extend(part.0);
            add(&mut users, part.1);
        }
        (failed, users)
    })
}

fn add(all: &mut BTreeMap<Ended, usize>, part: BTreeMap<Ended, usize>) {
    for (how, count) in part {
        *all.entry(how).or_default() += count;
    }
}

#[test]
fn every_seed_holds() {
    if let Some(seed) = variable("SIM_SEED") {
        println!("{:?}", run(seed, true));
        return;
    }
    let (failed, users) = sweep(variable("SIM_SEEDS").unwrap_or_else(usual_seeds));
    println!("{users:?}");
    let first = failed.first();
    assert_eq!(first, None, "reproduce with SIM_SEED=n, one of {failed:?}");
    // Faults that hit nobody, or everybody, would prove nothing.
    let all: usize = users.values().sum();
    let served = users.get(&Ended::Served).copied().unwrap_or(0);
    assert!(served > all / 2 && served < all, "{users:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..5 {
        assert_eq!(run(seed, false), run(seed, false));
    }
    assert_ne!(run(0, false).trace, run(1, false).trace);
}
