//! Whole tunnels on a virtual clock and a virtual network, from one seed.
//!
//! A run has faults for a while, then none; then everything must work again; then all ends, and
//! nothing may be left. `SIM_SEED=n` repeats one run and prints what happens, `SIM_SEEDS=n` runs
//! that many; `SIM_SCRIPT=file` repeats a run of the fuzzer. The machines' features `bug-timeout` and
//! `bug-leak` plant bugs that a sweep finds:
//!
//! ```sh
//! cargo test -p nodepass-protocol --test sim --features bug-timeout   # must fail
//! cargo test -p nodepass-protocol --test sim --features bug-leak      # must fail
//! SIM_SEEDS=100000 cargo test -p nodepass-protocol --test sim --profile sim
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
mod contract;
mod net;
mod node_client;
mod node_server;
mod oracle;
mod plan;
mod world;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::panic;
use std::path::Path;
use std::thread;

use oracle::{Ended, Event};
use plan::Plan;
use world::{Summary, World};

fn run(seed: u64, verbose: bool) -> Summary {
    let plan = Plan::from_seed(seed);
    if verbose {
        println!("{plan:#?}");
    }
    World::new(&plan, verbose).run()
}

/// A run from the bytes of a fuzzer (`fuzz.rs`).
fn run_script(path: &Path, verbose: bool) -> Summary {
    let plan = Plan::from_script(&fs::read(path).unwrap());
    if verbose {
        println!("{plan:#?}");
    }
    World::new(&plan, verbose).run()
}

fn variable(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Without `SIM_SEEDS`.
const USUAL_SEEDS: u64 = 2000;

/// Which seeds failed, how users ended in the others, and what happened there.
#[derive(Default)]
struct Sweep {
    failed: Vec<u64>,
    users: BTreeMap<Ended, usize>,
    events: BTreeMap<Event, usize>,
}

/// Runs `seeds` on every core.
fn sweep(seeds: u64) -> Sweep {
    let cores = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let work = |first: u64| {
        let mut part = Sweep::default();
        for seed in (first..seeds).step_by(cores as usize) {
            match panic::catch_unwind(|| run(seed, false)) {
                Ok(summary) => {
                    add(&mut part.users, summary.users);
                    add(&mut part.events, summary.events);
                }
                Err(_) => {
                    eprintln!("reproduce with SIM_SEED={seed}");
                    part.failed.push(seed);
                }
            }
        }
        part
    };
    thread::scope(|scope| {
        let spawn = |first| scope.spawn(move || work(first));
        let threads: Vec<_> = (0..cores).map(spawn).collect();
        let mut all = Sweep::default();
        for thread in threads {
            let part = thread.join().unwrap();
            all.failed.extend(part.failed);
            add(&mut all.users, part.users);
            add(&mut all.events, part.events);
        }
        all
    })
}

fn add<K: Ord>(all: &mut BTreeMap<K, usize>, part: BTreeMap<K, usize>) {
    for (what, count) in part {
        *all.entry(what).or_default() += count;
    }
}

#[test]
fn every_seed_holds() {
    if let Some(seed) = variable("SIM_SEED") {
        println!("{:?}", run(seed, true));
        return;
    }
    let seeds = variable("SIM_SEEDS").unwrap_or(USUAL_SEEDS);
    let Sweep {
        failed,
        users,
        events,
    } = sweep(seeds);
    println!("{users:?} {events:?}");
    let first = failed.first();
    assert_eq!(first, None, "reproduce with SIM_SEED=n, one of {failed:?}");
    let missed = Event::ALL.iter().filter(|it| !events.contains_key(it));
    let missed: Vec<_> = missed.filter(|_| seeds >= 200).collect();
    assert!(missed.is_empty(), "these never happened: {missed:?}");
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

/// What the fuzzer knows: whole runs from bytes (`fuzz.rs`).
#[test]
fn every_script_of_the_fuzzer_holds() {
    if let Some(script) = env::var_os("SIM_SCRIPT") {
        println!("{:?}", run_script(Path::new(&script), true));
        return;
    }
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/two_nodes");
    let scripts: Vec<_> = fs::read_dir(corpus).unwrap().flatten().collect();
    assert!(!scripts.is_empty());
    for script in scripts {
        // Shown if the run panics.
        println!("{}", script.path().display());
        run_script(&script.path(), false);
    }
}

/// Its old session is not dead yet, its first word is late, and the server takes its silence for that
/// of a data connection.
#[test]
fn a_legacy_client_that_restarts_wins_at_once() {
    let mut returned = 0;
    for seed in 0..60 {
        let plan = Plan::restart(seed);
        let summary = World::new(&plan, false).run();
        returned += summary.events.get(&Event::Returned).copied().unwrap_or(0);
    }
    assert!(returned > 20, "only {returned} found their old session");
}
