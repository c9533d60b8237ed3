//! A wall clock that is wrong, or jumps: routers without a battery start in 1970, and are told the
//! time later.

use crate::support::binary::Process;
use crate::support::master;
use crate::support::moved_clock::MovedClock;
use crate::support::peers::{Target, UdpTarget};
use crate::support::ports::Port;
use crate::support::sse;
use crate::support::tunnel::{Flow, Pair, Setup};
use crate::support::until::{pause, secs, until};
use crate::support::users;

/// Where a clock may jump to.
const JUMPS: [&str; 5] = ["+1d", "-1d", "+20y", "@1970-01-01 00:00:10", "+0"];

fn with_clock(setup: Setup, clock: &MovedClock) -> Setup {
    let set = |setup: Setup, (name, value): (&str, String)| setup.env(name, &value);
    clock.env().into_iter().fold(setup, set)
}

fn year(process: &Process) -> String {
    process.line_with(&[" info "], secs(20))[..4].to_owned()
}

#[test]
fn a_tunnel_does_not_notice_that_the_wall_clock_jumps() {
    std::thread::scope(|scope| {
        for flow in [Flow::Reverse, Flow::Forward] {
            scope.spawn(move || goes_on_through_jumps(flow));
        }
    });
}

fn goes_on_through_jumps(flow: Flow) {
    let clock = MovedClock::new("+0");
    let target = Target::echo();
    let _datagrams = UdpTarget::echo_on(target.addr());
    let setup = Setup::new(flow, 1, target.addr()).env("NP_REPORT_INTERVAL", "1s");
    let pair: Pair = with_clock(setup, &clock).start();
    let talking = users::connect(pair.users());
    users::echo(&talking, b"before").unwrap();
    let datagrams = users::datagrams(pair.users());
    users::until_served_udp(pair.users(), secs(20));
    for jump in ["+20y", "@1970-01-01 00:00:10"] {
        clock.set(jump);
        // Long enough for a session without pings to die.
        pause(secs(4));
        users::echo(&talking, b"after").unwrap();
        users::served(pair.users());
        assert!(
            users::echo_datagram(&datagrams, jump.as_bytes(), secs(10)),
            "{jump}"
        );
    }
    for process in [&pair.server, &pair.client] {
        process.only_line_with(&["session up"]);
        assert_eq!(process.complaints(), Vec::<String>::new());
    }
}

#[test]
fn an_end_that_starts_in_another_century_has_its_tunnel() {
    std::thread::scope(|scope| {
        for (flow, server, client) in [
            (Flow::Reverse, "@1970-01-01 00:00:05", "+0"),
            (Flow::Forward, "+0", "@1970-01-01 00:00:05"),
            (
                Flow::Reverse,
                "@2119-06-01 00:00:00",
                "@1970-01-01 00:00:05",
            ),
            (Flow::Forward, "@2200-01-01 00:00:00", "+0"),
        ] {
            scope.spawn(move || {
                let target = Target::echo();
                let clocks = [server, client].map(MovedClock::new);
                let [for_server, for_client] = clocks.each_ref().map(MovedClock::env);
                let setup = Setup::new(flow, 1, target.addr());
                let pair = setup.env_of_ends(&for_server, &for_client).start();
                users::served(pair.users());
                for (process, shown) in [(&pair.server, server), (&pair.client, client)] {
                    if let Some(shown) = shown.strip_prefix('@') {
                        assert_eq!(year(process), shown[..4], "the clock is not moved");
                    }
                }
            });
        }
    });
}

/// With `tls=2` time matters. Then the clock is what the operator must be told about.
#[test]
fn a_client_whose_clock_is_in_1970_says_so_when_it_must_trust_a_certificate() {
    let target = Target::echo();
    let clock = MovedClock::new("@1970-01-01 00:00:05");
    let setup = Setup::new(Flow::Reverse, 2, target.addr());
    let pair = setup.env_of_ends(&[], &clock.env()).launch();
    pair.client
        .remark(&["WARN", "not valid yet", "clock"], secs(20));
    // The router is told the time.
    clock.set("+0");
    users::until_served(pair.users(), secs(20));
}

#[test]
fn a_master_does_not_mind_that_the_wall_clock_jumps() {
    let clock = MovedClock::new("@1970-01-01 00:00:05");
    let set = |setup: master::Setup, (name, value): (&str, String)| setup.env(name, &value);
    let setup = master::Setup::default().env("NP_REPORT_INTERVAL", "500ms");
    let mut master = clock.env().into_iter().fold(setup, set).start();
    let (target, port) = (Target::echo(), Port::reserve());
    let url = format!("client://{}/{}?mode=1", port.addr(), target.addr());
    let id = master.api.create_id(&url);
    master.api.until_status(&id, "running");
    let events = sse::Stream::open(&master.api);
    let mut uptime = 0;
    for jump in JUMPS {
        clock.set(jump);
        // Events are told apart by what they are about.
        let alias = format!("now {jump}");
        master
            .api
            .patch(&id, &serde_json::json!({ "alias": alias }));
        events.until(&alias, |events| {
            let mut about = events.iter().filter(|event| event.id() == id);
            about
                .any(|event| event.instance["alias"] == alias.as_str())
                .then_some(())
        });
        let info = master.api.get("/info");
        let now = info["uptime"].as_u64().unwrap();
        assert!((uptime..uptime + 60).contains(&now), "{jump}: {info}");
        uptime = now;
        users::served(port.addr());
        assert_eq!(master.api.instance(&id)["status"], "running", "{jump}");
    }
    until("traffic is counted", secs(20), || {
        (master.api.instance(&id)["tcprx"].as_u64() > Some(0)).then_some(())
    });
    assert_eq!(master.process.complaints(), Vec::<String>::new());
    // What was written in 1970 and later is read in 1970 again.
    clock.set("@1970-01-01 00:00:05");
    master.stop_and_restart();
    assert_eq!(master.api.list().len(), 1);
    users::until_served(port.addr(), secs(20));
}
