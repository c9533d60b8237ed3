//! Faults on the control connection: in its TLS handshake, its `hello` and `welcome`, and later.

use std::ops::Range;

use crate::faults_data::{records, strikes};
use crate::support::binary::Launch;
use crate::support::cutter::{Strike, Way};
use crate::support::exchange::{Seen, Witness, exchange, until_whole};
use crate::support::kernel::tcp_sockets;
use crate::support::peers::{self, Target};
use crate::support::tunnel::{End, Flow, KEY, Pair, Setup};
use crate::support::until::{millis, poll, secs, until};

/// Records of a control connection that are struck, each way. From the client: its hello in TLS, its
/// end of the handshake, its `hello`, a ping. The server's are about as many.
const RECORDS: usize = 4;

/// The strikes are shared by so many tunnels.
const PARTS: usize = 8;

fn start(flow: Flow, tls: u8, target: &Witness) -> Pair {
    Setup::new(flow, tls, target.addr())
        .min(1)
        .env("NP_HANDSHAKE_TIMEOUT", "2s")
        .env("NP_REPORT_INTERVAL", "1s")
        .through_cutter()
        .start()
}

/// What is said on the first connection, which is always the control connection.
fn stages(pair: &Pair) -> Vec<(Way, Range<usize>)> {
    let mut stages = Vec::new();
    for way in [Way::Up, Way::Down] {
        let records = until("a ping", secs(20), || {
            let records = records(&pair.cutter().recorded(0, way));
            (records.len() > RECORDS).then_some(records)
        });
        stages.extend(records.into_iter().map(|record| (way, record)).take(7));
    }
    stages
}

/// A fresh client whose first connection is struck; users must be served all the same.
fn strike(pair: &mut Pair, strike: Strike) {
    let before = pair.cutter().struck();
    until(&format!("{strike:?}"), secs(20), || {
        if pair.cutter().struck() > before {
            return Some(());
        }
        // The first connection may be one that the last client was about to open.
        if !pair.cutter().is_armed() {
            pair.client.kill();
            pair.cutter().strike_next(strike);
            pair.start_client();
        }
        None
    });
    // Not lifted: an end that hears nothing gives up by itself.
    until_whole(pair.users(), secs(15));
    pair.cutter().lift();
}

fn every_fault(flow: Flow, tls: u8, part: usize) {
    let target = Witness::start();
    let mut pair = start(flow, tls, &target);
    until_whole(pair.users(), secs(20));
    let before = pair.other_descriptors(End::Server);
    let stages = stages(&pair).into_iter().enumerate();
    let blows = stages.flat_map(|(turn, (way, bytes))| strikes(way, &bytes, turn));
    for blow in blows.skip(part).step_by(PARTS) {
        eprintln!("{flow:?} tls={tls} {blow:?}");
        strike(&mut pair, blow);
    }
    until_whole(pair.users(), secs(15));
    target.expect_right_bytes();
    // Each client before was killed: whoever it had connected saw an end, and plain TCP cannot tell.
    let can_tell = flow == Flow::Forward && tls == 1;
    assert!(!can_tell || target.cut().is_empty(), "{:?}", target.cut());
    until("no relay is left", secs(20), || {
        (target.open() == 0).then_some(())
    });
    let server = pair.server.id();
    let back = poll(secs(20), || {
        (pair.other_descriptors(End::Server) <= before).then_some(())
    });
    let left = || tcp_sockets(server);
    assert!(back.is_some(), "{before} before: {:#?}", left());
}

#[test]
fn a_control_connection_that_fails_at_any_byte_is_made_anew() {
    std::thread::scope(|scope| {
        let tunnels = [Flow::Reverse, Flow::Forward].into_iter().cycle();
        let tunnels = tunnels.zip([0, 0, 1, 1].into_iter().cycle());
        for (part, (flow, tls)) in (0..PARTS).zip(tunnels) {
            scope.spawn(move || every_fault(flow, tls, part));
        }
    });
}

/// Users whose relays have a path of their own do not notice that the control connection is gone.
#[test]
fn relays_outlive_a_control_connection_that_was_cut() {
    let target = Witness::start();
    let pair = start(Flow::Reverse, 1, &target);
    until_whole(pair.users(), secs(20));
    let user = crate::support::users::connect(pair.users());
    let message = crate::support::exchange::message();
    crate::support::users::echo(&user, &message[..4000]).unwrap();
    pair.cutter().reset(0);
    pair.client.remark(&["session ended"], secs(10));
    until("another session", secs(20), || {
        (pair.client.lines_with(&["session up"]).len() == 2).then_some(())
    });
    crate::support::users::echo(&user, &message[4000..]).unwrap();
    assert_eq!(exchange(pair.users(), || false), Seen::Whole);
    crate::support::until::never("a third session", millis(500), || {
        (pair.client.lines_with(&["session up"]).len() > 2).then_some(())
    });
}

/// Dialling has a time limit of its own, which does not count once the server has been reached.
#[test]
fn a_server_that_is_silent_is_tried_again_after_the_handshake_timeout() {
    let silent = Target::start(peers::discard);
    let url = format!("client://{KEY}@{}/127.0.0.1:9?mode=2", silent.addr());
    let _client = Launch::new([url])
        .env("NP_HANDSHAKE_TIMEOUT", "500ms")
        .env("NP_TCP_DIAL_TIMEOUT", "10s")
        .start();
    until("a third attempt", secs(15), || {
        (silent.accepted() >= 3).then_some(())
    });
}
