//! SIGTERM and SIGINT.

use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

use crate::support::binary::Process;
use crate::support::peers::Target;
use crate::support::tunnel::{Flow, Pair, Setup};
use crate::support::until::{millis, pause, secs, until};
use crate::support::{http, users};

const ENDS: [fn(&mut Pair) -> &mut Process; 2] = [|pair| &mut pair.server, |pair| &mut pair.client];

#[test]
fn a_download_goes_on_after_sigterm_and_new_users_are_not_served() {
    for flow in [Flow::Reverse, Flow::Forward] {
        for end in ENDS {
            let target = Target::echo();
            let setup = Setup::new(flow, 1, target.addr())
                .env("NP_SHUTDOWN_TIMEOUT", "20s")
                .env("NP_POOL_GET_TIMEOUT", "1s");
            let mut pair = setup.start();
            let user = users::connect(pair.users());
            users::echo(&user, b"before").unwrap();

            end(&mut pair).terminate();
            let address = pair.users();
            until("new users are turned away", secs(20), || {
                users::try_served(address, secs(7)).is_err().then_some(())
            });
            for _ in 0..5 {
                users::echo(&user, &[b'x'; 10_000]).expect("the relay goes on");
                pause(millis(100));
            }
            assert!(end(&mut pair).is_running(), "it waits for its relay");

            drop(user);
            let status = end(&mut pair).wait(secs(20));
            assert_eq!(status.code(), Some(0), "{flow:?}");
        }
    }
}

#[test]
fn a_relay_that_does_not_end_is_closed_at_the_time_limit() {
    for end in ENDS {
        let target = Target::start(http::serve);
        let setup = Setup::new(Flow::Reverse, 0, target.addr()).env("NP_SHUTDOWN_TIMEOUT", "1s");
        let mut pair = setup.start();
        // It asks for more than can come, and reads nothing.
        let mut user = users::connect(pair.users());
        user.write_all(b"GET /10000000000 HTTP/1.1\r\n\r\n")
            .unwrap();
        until("the target to be reached", secs(20), || {
            (target.open() == 1).then_some(())
        });

        let asked = Instant::now();
        end(&mut pair).terminate();
        let status = end(&mut pair).wait(secs(20));
        assert_eq!(status.code(), Some(0));
        assert!(
            asked.elapsed() >= millis(900),
            "the relay had {:?}",
            asked.elapsed()
        );
        let read = std::iter::repeat_with(|| user.read(&mut [0; 65_536]));
        let last = read.into_iter().find(|read| !matches!(read, Ok(1..)));
        let error = last
            .unwrap()
            .expect_err("a cut download must not look complete");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn without_relays_it_stops_at_once() {
    for end in ENDS {
        let target = Target::echo();
        let setup = Setup::new(Flow::Reverse, 1, target.addr()).env("NP_SHUTDOWN_TIMEOUT", "60s");
        let mut pair = setup.start();
        end(&mut pair).terminate();
        assert_eq!(end(&mut pair).wait(secs(20)).code(), Some(0));
    }
}

#[test]
fn a_second_signal_does_not_wait() {
    for end in ENDS {
        let target = Target::echo();
        let setup = Setup::new(Flow::Reverse, 0, target.addr()).env("NP_SHUTDOWN_TIMEOUT", "60s");
        let mut pair = setup.start();
        let user = users::connect(pair.users());
        users::echo(&user, b"a relay that stays").unwrap();
        end(&mut pair).terminate();
        // Two signals of a kind that nobody has looked at are one.
        end(&mut pair).remark(&["stopping"], secs(20));
        assert!(end(&mut pair).is_running());
        end(&mut pair).terminate();
        end(&mut pair).wait(secs(20));
        drop(user);
    }
}

#[test]
fn a_client_told_goodbye_finds_the_next_server() {
    let target = Target::echo();
    let mut pair = Setup::new(Flow::Reverse, 1, target.addr()).start();
    users::served(pair.users());
    pair.server.terminate();
    assert_eq!(pair.server.wait(secs(20)).code(), Some(0));
    pair.start_server();
    users::until_served(pair.users(), secs(10));
}
