//! An end that runs out of descriptors: it says so once, does not spin, serves whom it has, and is
//! as before when the flood is over.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use crate::support::binary::{Launch, Process};
use crate::support::kernel::{cpu, descriptors, tcp_sockets, until_listening};
use crate::support::master;
use crate::support::peers::Target;
use crate::support::ports::Port;
use crate::support::tunnel::{End, Flow, Pair, Setup};
use crate::support::until::{pause, poll, secs, until};
use crate::support::users;

/// What the end in question is started by: it may have so many descriptors.
const FEW: [&str; 2] = ["prlimit", "--nofile=64:64"];
/// Users, each of whom needs two of them.
const FLOOD: usize = 120;

/// So many users at once, all of whom have said something.
fn flood(addr: SocketAddr) -> Vec<TcpStream> {
    let users = (0..FLOOD).filter_map(|_| users::try_connect(addr, secs(5)).ok());
    users
        .map(|mut user| {
            drop(user.write_all(b"one of many"));
            user
        })
        .collect()
}

/// Floods `addr`, while `talking` goes on; `process` must not spin, complain on and on, or keep
/// anything. `before` are its descriptors without users but for `talking`.
fn survives_a_flood(process: &Process, addr: SocketAddr, talking: &TcpStream, what: &str) {
    let before = descriptors(process.id());
    let many = flood(addr);
    until(&format!("{what}: descriptors run short"), secs(20), || {
        (descriptors(process.id()) >= 55).then_some(())
    });
    let spent = cpu(process.id());
    for _ in 0..20 {
        users::echo(talking, b"served").unwrap_or_else(|error| panic!("{what}: {error}"));
        pause(secs(2) / 20);
    }
    let spent = cpu(process.id()) - spent;
    assert!(
        spent < secs(1),
        "{what}: {spent:?} of processor time in 2 s"
    );
    drop(many);
    users::until_served(addr, secs(20));
    for _ in 0..10 {
        users::served(addr);
    }
    users::echo(talking, b"still").unwrap();
    // The pool may have grown by what the flood wanted, and shrinks slowly.
    let allowed = before + 12;
    let back = poll(secs(20), || {
        (descriptors(process.id()) <= allowed).then_some(())
    });
    let left = || tcp_sockets(process.id());
    assert!(back.is_some(), "{what}: {before} before: {:#?}", left());
    // At most: each of two listeners pauses and runs short, and so do dials.
    process.line_with(&["WARN"], secs(10));
    let complaints = process.complaints();
    assert!(
        (1..=5).contains(&complaints.len()),
        "{what}: {complaints:#?}"
    );
}

fn an_end_with_few_descriptors(flow: Flow, end: End) {
    let target = Target::echo();
    let pair: Pair = Setup::new(flow, 0, target.addr())
        .min(4)
        .under(end, &FEW)
        .env("NP_POOL_GET_TIMEOUT", "2s")
        .start();
    let talking = users::connect(pair.users());
    users::echo(&talking, b"hello").unwrap();
    let process = match end {
        End::Server => &pair.server,
        End::Client => &pair.client,
    };
    survives_a_flood(
        process,
        pair.users(),
        &talking,
        &format!("{flow:?} {end:?}"),
    );
    pair.client.only_line_with(&["session up"]);
}

#[test]
fn an_end_of_a_tunnel_with_few_descriptors_outlives_a_flood_of_users() {
    std::thread::scope(|scope| {
        for flow in [Flow::Reverse, Flow::Forward] {
            for end in [End::Server, End::Client] {
                scope.spawn(move || an_end_with_few_descriptors(flow, end));
            }
        }
    });
}

#[test]
fn a_forwarder_with_few_descriptors_outlives_a_flood_of_users() {
    let (target, port) = (Target::echo(), Port::reserve());
    let url = format!("client://{}/{}?mode=1", port.addr(), target.addr());
    let client = Launch::new([url]).under(FEW).start();
    until_listening(port.addr());
    let talking = users::connect(port.addr());
    users::echo(&talking, b"hello").unwrap();
    survives_a_flood(&client, port.addr(), &talking, "forwarder");
}

/// Callers of the API are not users of its instances.
#[test]
fn a_master_with_few_descriptors_outlives_a_flood_of_callers() {
    let (target, port) = (Target::echo(), Port::reserve());
    let master = master::Setup::default().under(FEW).start();
    let url = format!("client://{}/{}?mode=1", port.addr(), target.addr());
    let id = master.api.create_id(&url);
    master.api.until_status(&id, "running");
    until_listening(port.addr());
    let talking = users::connect(port.addr());
    users::echo(&talking, b"hello").unwrap();
    let before = descriptors(master.process.id());

    let many = flood(master.api.addr);
    let process = &master.process;
    until("descriptors run short", secs(20), || {
        (descriptors(process.id()) >= 55).then_some(())
    });
    let spent = cpu(process.id());
    for _ in 0..20 {
        users::echo(&talking, b"served").unwrap();
        pause(secs(2) / 20);
    }
    let spent = cpu(process.id()) - spent;
    assert!(spent < secs(1), "{spent:?} of processor time in 2 s");
    drop(many);
    until("the API answers", secs(20), || {
        master.api.try_call("GET", "/instances", "")
    });
    users::served(port.addr());
    let back = poll(secs(20), || {
        (descriptors(process.id()) <= before + 4).then_some(())
    });
    assert!(back.is_some(), "{:#?}", tcp_sockets(process.id()));
    process.line_with(&["WARN"], secs(10));
    let complaints = process.complaints();
    assert!((1..=3).contains(&complaints.len()), "{complaints:#?}");
}
