//! An end that stands still for a while: a suspended laptop, a paused virtual machine, a router that
//! swaps. SIGSTOP and SIGCONT do the same.

use std::io::{Read, Write};
use std::net::Shutdown;

use crate::support::binary::Process;
use crate::support::peers::{Target, UdpTarget};
use crate::support::tunnel::{Flow, Pair, Setup};
use crate::support::until::{millis, never, pause, secs, until};
use crate::support::{noise, users};

type End = fn(&Pair) -> &Process;

const ENDS: [(Flow, End); 4] = [
    (Flow::Reverse, |pair| &pair.server),
    (Flow::Reverse, |pair| &pair.client),
    (Flow::Forward, |pair| &pair.server),
    (Flow::Forward, |pair| &pair.client),
];

/// Sessions that the client has had.
fn sessions(pair: &Pair) -> usize {
    pair.client.lines_with(&["session up"]).len()
}

/// Runs `test` for either end and both flows at once, because each waits most of the time.
fn for_each(test: impl Fn(Flow, End) + Sync) {
    std::thread::scope(|scope| {
        for (flow, end) in ENDS {
            let test = &test;
            scope.spawn(move || test(flow, end));
        }
    });
}

#[test]
fn an_end_that_stands_still_for_two_seconds_loses_nothing() {
    for_each(|flow, end| {
        let target = Target::echo();
        let _datagrams = UdpTarget::echo_on(target.addr());
        let pair = Setup::new(flow, 1, target.addr()).start();
        users::until_served_udp(pair.users(), secs(20));
        let talking = users::connect(pair.users());
        users::echo(&talking, b"before").unwrap();
        let mut sending = users::connect(pair.users());
        let sent = noise(3_000_000, 5);
        let datagrams = users::datagrams(pair.users());

        end(&pair).freeze();
        let (mut writer, all) = (sending.try_clone().unwrap(), sent.clone());
        let upload = std::thread::spawn(move || {
            writer.write_all(&all).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let late = users::connect(pair.users());
        (&late).write_all(b"came meanwhile").unwrap();
        datagrams.send(b"sent meanwhile").unwrap();
        pause(secs(2));
        end(&pair).thaw();

        let mut back = Vec::new();
        sending.read_to_end(&mut back).unwrap();
        upload.join().unwrap();
        assert!(back == sent, "{flow:?}: {} bytes came back", back.len());
        users::echo(&talking, b"after").expect("the relay goes on");
        users::echo_rest(&late, b"came meanwhile", 14).expect("a user waits");
        let mut datagram = [0; 64];
        let len = datagrams.recv(&mut datagram).expect("a datagram waits");
        assert_eq!(&datagram[..len], b"sent meanwhile");
        assert_eq!(sessions(&pair), 1, "the session goes on");
    });
}

#[test]
fn an_end_that_was_given_up_is_back_with_one_session() {
    for_each(|flow, end| {
        let target = Target::echo();
        let pair = Setup::new(flow, 1, target.addr())
            .min(2)
            .env("NP_REPORT_INTERVAL", "1s")
            .env("NP_HANDSHAKE_TIMEOUT", "2s")
            .start();
        users::served(pair.users());
        let talking = users::connect(pair.users());
        users::echo(&talking, b"before").unwrap();
        let first = sessions(&pair);
        let other = if std::ptr::eq(end(&pair), &raw const pair.server) {
            &pair.client
        } else {
            &pair.server
        };

        end(&pair).freeze();
        other.remark(&["session ended"], secs(20));
        pause(secs(1));
        end(&pair).thaw();

        users::until_served(pair.users(), secs(10));
        users::echo(&talking, b"after").expect("its data connection was never cut");
        until("another session", secs(10), || {
            (sessions(&pair) > first).then_some(())
        });
        // One session with its idle connections, and the relay of an earlier one.
        until("nothing but one session is left", secs(20), || {
            (pair.connections() == 1 + 2 + 1).then_some(())
        });
        let now = sessions(&pair);
        never(
            "a session that takes the place of this one",
            secs(2),
            || (sessions(&pair) > now).then_some(()),
        );
        users::echo(&talking, b"at last").unwrap();
    });
}

/// Both at once, as with two virtual machines on one host that sleeps.
#[test]
fn both_ends_stand_still_and_go_on() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .env("NP_REPORT_INTERVAL", "500ms")
        .start();
    let user = users::connect(pair.users());
    users::echo(&user, b"before").unwrap();
    pair.server.freeze();
    pair.client.freeze();
    pause(secs(3));
    pair.client.thaw();
    pair.server.thaw();
    users::echo(&user, b"after").expect("the relay goes on");
    users::until_served(pair.users(), secs(10));
    never("an end of the program", millis(100), || {
        pair.client.lines_with(&["panic"]).pop()
    });
}
