//! What breaks is served again, within the bounds of the specification.

use std::time::Instant;

use crate::support::binary::Launch;
use crate::support::kernel::{is_listening, until_listening};
use crate::support::peers::{self, Target, UdpTarget};
use crate::support::ports::Port;
use crate::support::tunnel::{Flow, KEY, Pair, Setup};
use crate::support::until::{millis, pause, poll, secs, until};
use crate::support::{full, optimised, users};

/// How often an end is killed.
fn rounds() -> usize {
    if full() { 10 } else { 4 }
}

/// Kills and restarts one end again and again; users must be served within `limit` each time.
fn survives(flow: Flow, tls: u8, limit: u64, restart: impl Fn(&mut Pair)) {
    let target = Target::echo();
    let mut pair = Setup::new(flow, tls, target.addr()).start();
    users::served(pair.users());
    // The bound is about the real binary; an unoptimised one shares two cores with other tests.
    let limit = secs(if optimised() { limit } else { 20 });
    for round in 0..rounds() {
        let killed = Instant::now();
        restart(&mut pair);
        let served = poll(limit, || users::try_served(pair.users(), millis(500)).ok());
        assert!(
            served.is_some(),
            "round {round}: nobody served after {:?}",
            killed.elapsed()
        );
    }
}

#[test]
fn a_killed_client_is_back_in_a_reverse_tunnel() {
    survives(Flow::Reverse, 1, 2, Pair::restart_client);
}

#[test]
fn a_killed_client_is_back_in_a_forward_tunnel() {
    survives(Flow::Forward, 0, 2, Pair::restart_client);
}

#[test]
fn a_killed_server_is_back_in_a_reverse_tunnel() {
    survives(Flow::Reverse, 0, 3, Pair::restart_server);
}

#[test]
fn a_killed_server_is_back_in_a_forward_tunnel() {
    survives(Flow::Forward, 1, 3, Pair::restart_server);
}

/// The name may be there after the next lookup, and meanwhile the session is of use to a stop.
#[test]
fn a_client_that_cannot_resolve_where_users_come_in_goes_on_trying() {
    let (target, tunnel) = (Target::echo(), Port::reserve());
    let url = format!("server://{KEY}@{}/{}?mode=2", tunnel.addr(), target.addr());
    let _server = Launch::new([url]).start();
    until_listening(tunnel.addr());
    let url = format!("client://{KEY}@{}/nobody.invalid:1?mode=2", tunnel.addr());
    let mut client = Launch::new([url]).start();
    // A resolver without a network takes its time.
    client.remark(&["WARN", "nobody.invalid", "trying again"], secs(60));
    assert!(client.is_running());
    client.remark(&["session up"], secs(5));
    client.terminate();
    assert_eq!(client.wait(secs(20)).code(), Some(0));
}

#[test]
fn a_killed_end_is_back_for_datagrams() {
    let target = UdpTarget::echo();
    let mut pair = Setup::new(Flow::Reverse, 1, target.addr()).start();
    users::until_served_udp(pair.users(), secs(10));
    pair.restart_client();
    users::until_served_udp(pair.users(), secs(20));
    pair.restart_server();
    users::until_served_udp(pair.users(), secs(20));
}

#[test]
fn a_reset_of_every_connection_heals_at_once() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .through_cutter()
        .start();
    for _ in 0..3 {
        users::until_served(pair.users(), secs(20));
        pair.cutter().reset_all();
    }
    users::until_served(pair.users(), secs(20));
}

#[test]
fn a_silent_cut_heals_within_16_seconds() {
    for_both_flows(|flow| {
        let target = Target::echo();
        let pair = Setup::new(flow, 1, target.addr()).through_cutter().start();
        users::served(pair.users());
        pair.cutter().stall_all();
        users::until_served(pair.users(), secs(16));
        // And it is whole again: nobody meets what was cut.
        for _ in 0..10 {
            users::served(pair.users());
        }
    });
}

/// Runs `test` for both flows at once, because it takes long.
fn for_both_flows(test: impl Fn(Flow) + Sync) {
    std::thread::scope(|scope| {
        for flow in [Flow::Reverse, Flow::Forward] {
            let test = &test;
            scope.spawn(move || test(flow));
        }
    });
}

#[test]
fn silent_relays_of_a_dead_session_are_reset_within_60_seconds_and_busy_ones_go_on() {
    for_both_flows(|flow| {
        let target = Target::echo();
        let pair = Setup::new(flow, 0, target.addr())
            .env("NP_REPORT_INTERVAL", "1s")
            .through_cutter()
            .start();
        let silent = users::connect(pair.users());
        let busy = users::connect(pair.users());
        users::echo(&silent, b"the last words").unwrap();
        // Only the control connection falls silent. The session is dead 3 s later; its relays
        // still have a path.
        pair.cutter().stall(0);
        let cut = Instant::now();
        silent.set_read_timeout(Some(millis(100))).unwrap();
        loop {
            users::echo(&busy, b"still here").expect("a busy relay goes on");
            match users::end_of(&silent, millis(400)) {
                users::End::StillOpen => {}
                users::End::Closed => panic!("closed, not reset"),
                users::End::Reset => break,
            }
            assert!(
                cut.elapsed() < secs(66),
                "not reset after {:?}",
                cut.elapsed()
            );
        }
        assert!(
            cut.elapsed() > secs(30),
            "reset after {:?} already",
            cut.elapsed()
        );
        users::served(pair.users());
    });
}

#[test]
fn a_restarted_target_is_noticed_at_the_next_connection() {
    for flow in [Flow::Reverse, Flow::Forward] {
        let port = Port::reserve();
        let target = Target::start_on(port.addr(), peers::echo);
        let pair = Setup::new(flow, 0, port.addr()).start();
        for _ in 0..3 {
            users::served(pair.users());
        }
        drop(target);
        assert_eq!(
            users::end_after(pair.users(), b"hello?", secs(10)),
            users::End::Reset
        );
        let _back = Target::start_on(port.addr(), peers::echo);
        // The first user meets a target that answers: no back-off stands between.
        users::served(pair.users());
    }
}

#[test]
fn a_client_may_be_started_long_before_its_server() {
    let target = Target::echo();
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    let client = format!("client://{KEY}@{}/{}?mode=2", tunnel.addr(), target.addr());
    let _client = Launch::new([client]).start();
    pause(millis(1500));
    let server = format!("server://{KEY}@{}/{}?mode=1", tunnel.addr(), user.addr());
    let _server = Launch::new([server]).start();
    users::until_served(user.addr(), secs(10));
}

#[test]
fn an_end_of_stream_in_the_middle_of_a_download_reaches_the_user() {
    let target = Target::start(crate::support::http::serve);
    let mut pair = Setup::new(Flow::Reverse, 0, target.addr()).start();
    let user = users::connect(pair.users());
    std::io::Write::write_all(&mut &user, b"GET /1000000000 HTTP/1.1\r\n\r\n").unwrap();
    pair.client.kill();
    let end = users::end_of(&user, secs(10));
    assert!(end != users::End::StillOpen, "the user waits for ever");
    until("the target loses its user", secs(10), || {
        (target.open() == 0).then_some(())
    });
}

/// `mode=0`, row by row of the table in the specification.
#[test]
fn mode_0_decides_by_what_it_finds() {
    let target = Target::echo();

    // Server, free local target: reverse.
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    {
        let server = Launch::new([format!("server://{KEY}@{}/{}", tunnel.addr(), user.addr())]);
        let server = server.start();
        server.remark(&["mode="], secs(5));
        // Client, something listens at the tunnel address: dual-end.
        until_listening(tunnel.addr());
        let client = Launch::new([format!(
            "client://{KEY}@{}/{}",
            tunnel.addr(),
            target.addr()
        )]);
        let client = client.start();
        client.remark(&["mode="], secs(5));
        users::until_served(user.addr(), secs(10));
    }

    // Server, something listens at its target already: forward.
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    {
        let url = format!("server://{KEY}@{}/{}", tunnel.addr(), target.addr());
        let _server = Launch::new([url]).start();
        until_listening(tunnel.addr());
        let client = format!("client://{KEY}@{}/{}?mode=2", tunnel.addr(), user.addr());
        let _client = Launch::new([client]).start();
        users::until_served(user.addr(), secs(10));
    }

    // Server, a target that is no address of this machine: forward. Nobody connects to it.
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    {
        let url = format!("server://{KEY}@{}/192.0.2.1:9", tunnel.addr());
        let _server = Launch::new([url]).start();
        until_listening(tunnel.addr());
        let client = format!("client://{KEY}@{}/{}?mode=2", tunnel.addr(), user.addr());
        let _client = Launch::new([client]).start();
        until("the client accepts users", secs(10), || {
            is_listening(user.addr()).then_some(())
        });
    }
}
