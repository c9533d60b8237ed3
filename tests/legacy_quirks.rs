//! What is odd about the programs of the field, met one at a time.

use std::io::{Read, Write};

use crate::support::course::{at_once, bulk, datagrams, echo};
use crate::support::legacy::{Generation, codec};
use crate::support::mixed::{Mix, patience};
use crate::support::noise;
use crate::support::peers::{Target, UdpTarget};
use crate::support::tunnel::{End, Flow};
use crate::support::until::{millis, pause, secs, until};
use crate::support::users;

/// Every generation with both of our ends, in the flow in which users come in at the peer.
fn with_users_at_the_peer() -> Vec<Mix> {
    let rows = Generation::ALL.into_iter().flat_map(|generation| {
        [(End::Client, Flow::Reverse), (End::Server, Flow::Forward)]
            .map(|(ours, flow)| Mix::new(ours, generation).with(flow, 0))
    });
    rows.collect()
}

#[test]
fn the_control_channel_may_be_the_37th_connection() {
    at_once(&[Generation::Http, Generation::Https], |generation| {
        for tls in [0, 1] {
            let (tcp, _udp) = echo();
            let mix = Mix {
                min: 64,
                ..Mix::new(End::Client, *generation)
            };
            let mixed = mix.with(Flow::Reverse, tls).start_as(tcp.addr(), |script| {
                script.quirks.control_at = 37;
            });
            users::until_served(mixed.users(), patience());
            mixed.one_session();
        }
    });
}

#[test]
fn users_bytes_may_overtake_their_launch() {
    at_once(&with_users_at_the_peer(), |mix| {
        let (tcp, _udp) = echo();
        let mixed = mix.start_as(tcp.addr(), |script| script.quirks.overtake = millis(400));
        users::until_served(mixed.users(), patience());
        for _ in 0..6 {
            users::served(mixed.users());
        }
        mixed.one_session();
    });
}

#[test]
fn a_user_that_comes_and_goes_before_its_launch_is_read_is_carried() {
    at_once(&with_users_at_the_peer(), |mix| {
        let target = Target::start(crate::support::peers::digest_at_end);
        let mixed = mix.start_as(target.addr(), |script| script.quirks.overtake = millis(400));
        mixed.peer.until_up(patience());
        until("a user is told its digest", patience(), || {
            let mut user = users::try_connect(mixed.users(), patience()).ok()?;
            user.write_all(b"short").ok()?;
            user.shutdown(std::net::Shutdown::Write).ok()?;
            let mut answer = String::new();
            user.read_to_string(&mut answer).ok()?;
            // In `classic` nobody is told of the end of one direction.
            let told = answer == crate::support::sha256(b"short");
            (told || mix.generation == Generation::Classic).then_some(())
        });
        mixed.one_session();
    });
}

/// A peer that speaks HTTP through a forward tunnel writes on a data connection what a new
/// handshake begins with.
#[test]
fn a_user_who_speaks_http_ends_no_session() {
    let wrong = format!(
        "GET / HTTP/1.1\r\nHost: none\r\nAuthorization: Bearer {}\r\n\r\n",
        codec::token("another")
    );
    let requests = [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        &wrong,
        "GET ",
        "NPD1",
        "\x16\x03\x01",
    ];
    at_once(&Generation::ALL, |generation| {
        let (tcp, _udp) = echo();
        let mix = Mix::new(End::Server, *generation).with(Flow::Forward, 0);
        let mixed = mix.start_as(tcp.addr(), |script| script.quirks.overtake = millis(300));
        users::until_served(mixed.users(), patience());
        for request in requests {
            // With the launch before its bytes and after them.
            for _ in 0..2 {
                let user = users::connect(mixed.users());
                // These two close that connection, if they come before the launch.
                let may_fail = request.starts_with('\x16') || request.starts_with("NPD1");
                let echoed = users::echo(&user, request.as_bytes());
                assert!(echoed.is_ok() || may_fail, "{request:?}: {echoed:?}");
                if echoed.is_ok() {
                    users::echo(&user, b"and more").unwrap();
                }
            }
        }
        users::served(mixed.users());
        let charged = mixed.ours.lines_with(&["wrong key"]);
        assert_eq!(charged, [""; 0], "a user is no attacker");
        mixed.one_session();
    });
}

#[test]
fn a_launch_may_come_before_the_id_of_its_connection() {
    at_once(&Generation::ALL, |generation| {
        let (tcp, _udp) = echo();
        let mixed = Mix::new(End::Client, *generation).start_as(tcp.addr(), |script| {
            script.quirks.late_id = millis(400);
        });
        mixed.peer.until_up(patience());
        users::until_served(mixed.users(), patience());
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| users::served(mixed.users()));
            }
        });
        mixed.one_session();
    });
}

#[test]
fn pings_may_come_in_bursts() {
    at_once(&Mix::every(), |mix| {
        let (tcp, _udp) = echo();
        let mixed = mix.start_as(tcp.addr(), |script| script.quirks.burst = 40);
        users::until_served(mixed.users(), patience());
        bulk(mixed.users(), 1 << 20);
        datagrams(mixed.users(), 10);
        mixed.one_session();
    });
}

/// 1.5 puts a data connection back into its pool; ours closes it, and the peer copes.
#[test]
fn a_used_connection_is_not_used_again() {
    at_once(&[End::Client, End::Server], |ours| {
        let flow = if *ours == End::Client {
            Flow::Reverse
        } else {
            Flow::Forward
        };
        let (tcp, _udp) = echo();
        let mix = Mix::new(*ours, Generation::Classic).with(flow, 0);
        let mixed = mix.start_as(tcp.addr(), |script| {
            script.quirks.reuse = true;
            // Bytes before the launch would look like the first user's: nobody can tell them.
            script.quirks.overtake = millis(0);
        });
        users::until_served(mixed.users(), patience());
        until(
            "a connection is launched again, or closed before",
            patience() * 2,
            || {
                // Each leaves a connection behind that returns to the pool when its time is over.
                users::served(mixed.users());
                pause(millis(100));
                (mixed.peer.saw("used again") || mixed.peer.saw("had ended")).then_some(())
            },
        );
        users::served(mixed.users());
        mixed.one_session();
    });
}

#[test]
fn a_data_connection_offers_no_application_protocol() {
    for generation in Generation::ALL {
        let (tcp, _udp) = echo();
        let mixed = Mix::new(End::Client, generation)
            .with(Flow::Reverse, 1)
            .start(tcp.addr());
        users::until_served(mixed.users(), patience());
        mixed.one_session();
        assert!(!mixed.peer.saw("offers application protocols"));
    }
}

/// A server that listens no more between its handshake and its data connections, for long.
#[test]
fn a_server_may_be_deaf_after_its_handshake() {
    at_once(&[Generation::Http, Generation::Https], |generation| {
        let (tcp, _udp) = echo();
        let mixed = Mix::new(End::Client, *generation).start_as(tcp.addr(), |script| {
            script.quirks.deaf = millis(700);
        });
        users::until_served(mixed.users(), patience());
        mixed.one_session();
    });
}

/// A frame above 16 384 bytes makes that peer drop the whole UDP session, so ours sends none.
#[test]
fn a_datagram_too_long_for_an_https_peer_is_dropped_and_ends_nothing() {
    let rows = [End::Client, End::Server]
        .into_iter()
        .flat_map(|ours| [Flow::Reverse, Flow::Forward].map(|flow| (ours, flow)));
    at_once(&rows.collect::<Vec<_>>(), |(ours, flow)| {
        let target = UdpTarget::answer(|asked| match asked {
            b"a long one" => vec![7; 20_000],
            _ => asked.to_vec(),
        });
        let mixed = Mix::new(*ours, Generation::Https)
            .with(*flow, 0)
            .start(target.addr());
        mixed.peer.until_up(patience());
        users::until_served_udp(mixed.users(), patience());
        let user = users::datagrams(mixed.users());
        let back = |len: usize| {
            let datagram = noise(len, 3);
            (0..4).any(|_| users::echo_datagram(&user, &datagram, secs(2)))
        };
        assert!(back(100) && back(0) && back(16_384));
        let ours_accepts_users = (*ours == End::Server) == (*flow == Flow::Reverse);
        if ours_accepts_users {
            assert!(
                !users::echo_datagram(&user, &noise(16_385, 3), millis(300)),
                "it passed"
            );
        } else {
            user.send(b"a long one").unwrap();
        }
        // The session of this user goes on.
        assert!(back(101));
        assert_eq!(target.sources(), 2, "a UDP session broke");
        mixed.one_session();
    });
}
