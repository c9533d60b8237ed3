//! `slot`, `rate`, `read`, `proxy`, `block`, `notcp`, `noudp`, `min`, `max`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Instant;

use crate::support::kernel::{is_bound_udp, is_listening};
use crate::support::peers::{self, Target, UdpTarget};
use crate::support::tunnel::{Flow, Pair, Setup};
use crate::support::until::{millis, never, pause, secs, until};
use crate::support::{http, noise, users};

const FLOWS: [Flow; 2] = [Flow::Reverse, Flow::Forward];

#[test]
fn slot_bounds_the_relays_at_either_end() {
    for flow in FLOWS {
        for params in [Setup::ingress, Setup::egress] {
            let target = Target::echo();
            let setup = Setup::new(flow, 0, target.addr()).env("NP_POOL_GET_TIMEOUT", "1s");
            let pair = params(setup, "slot=2").start();
            let one = users::connect(pair.users());
            let two = users::connect(pair.users());
            users::echo(&one, b"one").unwrap();
            users::echo(&two, b"two").unwrap();
            let three = users::end_after(pair.users(), b"three", secs(8));
            assert_ne!(three, users::End::StillOpen, "{flow:?}: a third relay");
            users::echo(&one, b"still one").unwrap();
            drop(one);
            users::until_served(pair.users(), secs(20));
        }
    }
}

#[test]
fn slot_counts_tcp_and_udp_together() {
    let tcp = Target::echo();
    let _udp = UdpTarget::echo_on(tcp.addr());
    let pair = Setup::new(Flow::Reverse, 0, tcp.addr())
        .server("slot=1")
        .start();
    let one = users::connect(pair.users());
    users::echo(&one, b"one").unwrap();
    let user = users::datagrams(pair.users());
    for _ in 0..3 {
        assert!(!users::echo_datagram(&user, b"two", millis(300)));
    }
    let refused = "limit of relays reached";
    pair.server.remark(&["WARN", refused], secs(10));
    assert_eq!(pair.server.lines_with(&["WARN", refused]).len(), 1);
    drop(one);
    users::until_served_udp(pair.users(), secs(10));
    // And the other way round: that session goes on for 30 s.
    for _ in 0..5 {
        let end = users::end_after(pair.users(), b"three", secs(20));
        assert_ne!(end, users::End::StillOpen);
    }
}

#[test]
fn rate_bounds_each_direction_by_itself() {
    // 8 Mbit/s are 1 000 000 bytes a second; the burst is 100 000 bytes.
    for flow in FLOWS {
        let target = Target::start(http::serve);
        let pair = Setup::new(flow, 0, target.addr()).server("rate=8").start();
        let started = Instant::now();
        let mut user = users::connect(pair.users());
        user.write_all(b"GET /2000000 HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        user.read_to_end(&mut answer).unwrap();
        assert!(answer.len() > 2_000_000);
        assert!(
            started.elapsed() > millis(1500),
            "too fast: {:?}",
            started.elapsed()
        );

        // Up and down at once take no longer than one of them: if they shared the rate, they could
        // never be done in less than 2.9 s, on the fastest machine.
        let target = Target::echo();
        let pair = Setup::new(flow, 0, target.addr()).server("rate=8").start();
        let message = noise(1_500_000, 1);
        until("both directions at their own rate", secs(60), || {
            let started = Instant::now();
            let user = users::connect(pair.users());
            let mut writer = user.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| writer.write_all(&message).unwrap());
                let mut back = vec![0; message.len()];
                (&user).read_exact(&mut back).unwrap();
                assert!(back == message);
            });
            let took = started.elapsed();
            assert!(took > millis(1000), "too fast: {took:?}");
            (took < millis(2800)).then_some(())
        });
    }
}

#[test]
fn rate_is_shared_by_all_relays() {
    let target = Target::start(http::serve);
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .server("rate=8")
        .start();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut user = users::connect(pair.users());
                user.write_all(b"GET /500000 HTTP/1.1\r\n\r\n").unwrap();
                let mut answer = Vec::new();
                user.read_to_end(&mut answer).unwrap();
                assert!(answer.len() > 500_000);
            });
        }
    });
    assert!(
        started.elapsed() > millis(1500),
        "too fast: {:?}",
        started.elapsed()
    );
}

#[test]
fn read_ends_a_relay_that_is_silent_and_no_other() {
    for flow in FLOWS {
        let target = Target::echo();
        let pair = Setup::new(flow, 0, target.addr()).server("read=3s").start();
        let (silent, busy) = (users::connect(pair.users()), users::connect(pair.users()));
        let since = Instant::now();
        users::echo(&silent, b"the last words").unwrap();
        while since.elapsed() < secs(4) {
            users::echo(&busy, b"data").expect("a relay with data goes on");
            pause(millis(250));
        }
        assert_ne!(users::end_of(&silent, secs(20)), users::End::StillOpen);
        users::echo(&busy, b"data").expect("a relay with data goes on");
    }
}

/// A target that hands out the first bytes of each connection.
fn first_bytes(count: usize) -> (Target, mpsc::Receiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::channel();
    let target = Target::start(move |mut stream| {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes)?;
        sender.send(bytes).map_err(std::io::Error::other)?;
        peers::echo(stream)
    });
    (target, receiver)
}

#[test]
fn proxy_1_tells_the_target_who_the_user_is() {
    for flow in FLOWS {
        let (sender, receiver) = mpsc::channel();
        let target = Target::start(move |stream| {
            let mut line = String::new();
            std::io::BufRead::read_line(
                &mut std::io::BufReader::with_capacity(1, stream),
                &mut line,
            )?;
            sender.send(line).map_err(std::io::Error::other)?;
            peers::echo(stream)
        });
        let pair = Setup::new(flow, 0, target.addr()).egress("proxy=1").start();
        let user = users::connect(pair.users());
        users::echo(&user, b"hello").unwrap();
        let line = receiver.recv_timeout(secs(20)).unwrap();
        let from = user.local_addr().unwrap();
        let fields: Vec<&str> = line.trim_end().split(' ').collect();
        assert_eq!(fields.len(), 6, "{line}");
        assert_eq!(fields[..3], ["PROXY", "TCP4", "127.0.0.1"], "{line}");
        assert_eq!(fields[4], from.port().to_string(), "{line}");
        assert!(line.ends_with("\r\n") && line.len() <= 107, "{line}");
    }
}

#[test]
fn proxy_2_tells_the_target_who_the_user_is() {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    for flow in FLOWS {
        let (target, receiver) = first_bytes(28);
        let pair = Setup::new(flow, 1, target.addr()).egress("proxy=2").start();
        let user = users::connect(pair.users());
        users::echo(&user, b"hello").unwrap();
        let header = receiver.recv_timeout(secs(20)).unwrap();
        let port = user.local_addr().unwrap().port();
        assert_eq!(&header[..12], SIGNATURE);
        assert_eq!(header[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(header[16..20], [127, 0, 0, 1]);
        assert_eq!(header[24..26], port.to_be_bytes());
    }
}

/// What users may say first, and the digit that forbids it.
const FIRST_WORDS: [(&[u8], &str); 6] = [
    (&[5, 1, 0], "1"),
    (&[4, 1, 0, 80, 127, 0, 0, 1, 0], "1"),
    (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", "2"),
    (b"CONNECT example:443 HTTP/1.1\r\n\r\n", "2"),
    (&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3], "3"),
    (b"SSH-2.0-something\r\n", "none"),
];

#[test]
fn block_turns_away_what_its_digits_name_and_nothing_else() {
    for flow in FLOWS {
        for digits in ["1", "2", "3", "123"] {
            let target = Target::echo();
            let pair = Setup::new(flow, 0, target.addr())
                .ingress(&format!("block={digits}"))
                .start();
            for (words, digit) in FIRST_WORDS {
                let user = users::connect(pair.users());
                let echoed = users::echo(&user, words).is_ok();
                let expected = !digits.contains(digit);
                assert_eq!(echoed, expected, "{flow:?} block={digits}: {words:?}");
            }
        }
    }
}

#[test]
fn block_recognises_words_that_come_in_pieces_and_passes_on_the_others() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .server("block=123")
        .start();
    for (words, digit) in FIRST_WORDS {
        let mut user = users::connect(pair.users());
        for byte in &words[..3] {
            // It may be turned away after the first byte already.
            drop(user.write_all(&[*byte]));
            pause(millis(20));
        }
        let echoed = users::echo_rest(&user, words, 3).is_ok();
        assert_eq!(echoed, digit == "none", "{words:?}");
    }
}

#[test]
fn notcp_and_noudp_carry_only_the_other() {
    for flow in FLOWS {
        for params in [Setup::ingress, Setup::egress] {
            let tcp = Target::echo();
            let _udp = UdpTarget::echo_on(tcp.addr());
            let setup = || Setup::new(flow, 0, tcp.addr()).env("NP_POOL_GET_TIMEOUT", "1s");

            let pair = params(setup(), "notcp=1").launch();
            users::until_served_udp(pair.users(), secs(10));
            users::never_served(pair.users(), millis(500));

            let pair = params(setup(), "noudp=1").launch();
            users::until_served(pair.users(), secs(10));
            let user = users::datagrams(pair.users());
            for _ in 0..3 {
                assert!(
                    !users::echo_datagram(&user, b"hello?", millis(200)),
                    "{flow:?}"
                );
            }
        }
    }
}

#[test]
fn notcp_and_noudp_listen_only_for_the_other() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .server("notcp=1")
        .launch();
    until("UDP is listened on", secs(20), || {
        is_bound_udp(pair.users()).then_some(())
    });
    assert!(!is_listening(pair.users()));
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .server("noudp=1")
        .start();
    assert!(!is_bound_udp(pair.users()));
}

/// Waits until the pool holds `idle` connections, and looks whether it stays so.
fn settles_at(pair: &Pair, idle: usize) {
    until(&format!("{idle} idle connections"), secs(10), || {
        (pair.connections() == 1 + idle).then_some(())
    });
    never("another number of idle connections", millis(500), || {
        (pair.connections() > 1 + idle).then_some(())
    });
}

#[test]
fn min_connections_are_held_ready() {
    let target = Target::echo();
    for min in [1, 20] {
        let pair = Setup::new(Flow::Reverse, 0, target.addr()).min(min).start();
        settles_at(&pair, usize::from(min));
    }
}

#[test]
fn max_of_the_server_bounds_what_a_client_holds_ready() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Forward, 1, target.addr())
        .min(30)
        .server("max=3")
        .start();
    settles_at(&pair, 3);
    let relays: Vec<TcpStream> = (0..10).map(|_| users::connect(pair.users())).collect();
    for relay in &relays {
        users::echo(relay, b"used connections do not count").unwrap();
    }
}

#[test]
fn dial_chooses_the_source_address() {
    let (sender, receiver) = mpsc::channel::<SocketAddr>();
    let target = Target::start(move |stream| {
        sender
            .send(stream.peer_addr()?)
            .map_err(std::io::Error::other)?;
        peers::echo(stream)
    });
    for flow in FLOWS {
        let pair = Setup::new(flow, 0, target.addr())
            .egress("dial=127.0.0.5")
            .start();
        users::served(pair.users());
        let source = receiver.recv_timeout(secs(20)).unwrap();
        assert_eq!(source.ip().to_string(), "127.0.0.5", "{flow:?}");
    }
}

#[test]
fn a_user_that_nobody_can_serve_is_let_go_after_the_time_limit() {
    let target = Target::echo();
    let mut pair = Setup::new(Flow::Reverse, 0, target.addr())
        .env("NP_POOL_GET_TIMEOUT", "1s")
        .start();
    pair.client.kill();
    let end = users::end_after(pair.users(), b"anyone?", secs(20));
    assert_ne!(end, users::End::StillOpen);
}
