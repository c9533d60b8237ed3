//! The binary and the second driver, `protocol/examples/blocking`, as the two ends of one tunnel.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use crate::support::peers::{self, Target};
use crate::support::tunnel::{End, Flow, Setup};
use crate::support::users;

/// What each user sends before it shuts down its write side.
const SENT: usize = 1 << 20;

fn carries_users(end: End) {
    for flow in [Flow::Reverse, Flow::Forward] {
        for tls in [0, 1] {
            let target = Target::start(peers::digest_at_end);
            let setup = Setup::new(flow, tls, target.addr()).second_driver(end);
            let pair = setup.start();
            let answers = thread::scope(|scope| {
                let user = || {
                    let mut user = users::connect(pair.users());
                    user.write_all(&vec![7; SENT]).unwrap();
                    user.shutdown(Shutdown::Write).unwrap();
                    let mut answer = Vec::new();
                    user.read_to_end(&mut answer).unwrap();
                    answer
                };
                let users: Vec<_> = (0..8).map(|_| scope.spawn(user)).collect();
                users
                    .into_iter()
                    .map(|user| user.join().unwrap())
                    .collect::<Vec<_>>()
            });
            let first = answers.first().unwrap();
            assert!(!first.is_empty(), "{flow:?} tls={tls}");
            assert!(
                answers.iter().all(|answer| answer == first),
                "{flow:?} tls={tls}"
            );
        }
    }
}

#[test]
fn a_blocking_server_serves_our_client() {
    carries_users(End::Server);
}

#[test]
fn a_blocking_client_is_served_by_our_server() {
    carries_users(End::Client);
}

#[test]
fn a_blocking_client_survives_a_restart_of_our_server() {
    let target = Target::echo();
    let mut pair = Setup::new(Flow::Reverse, 1, target.addr())
        .second_driver(End::Client)
        .start();
    users::served(pair.users());
    pair.restart_server();
    users::until_served(pair.users(), std::time::Duration::from_secs(10));
}
