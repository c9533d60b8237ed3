//! UDP through a tunnel: both flows, every `tls`.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::kernel::{ask_for_room, room_of};
use crate::support::peers::{PATIENCE, Target, UdpTarget};
use crate::support::ports::Port;
use crate::support::tools::succeed;
use crate::support::tunnel::{Flow, Setup, in_every_mode};
use crate::support::until::{millis, pause, secs, until};
use crate::support::{noise, users};

in_every_mode!(
    dig_asks_a_name_server,
    large_datagrams_arrive_whole,
    bursts_of_small_datagrams_arrive_whole_and_unmerged,
    every_user_gets_its_own_answers,
);

/// Answers every question with 192.0.2.7.
fn name_server() -> UdpTarget {
    UdpTarget::answer(|query| {
        // The name after the 12 bytes of the header, its end, type and class.
        let name = query.get(12..).unwrap_or_default();
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(0);
        let question = name.get(..end + 5).unwrap_or_default();
        let mut answer = query.get(..2).unwrap_or_default().to_vec();
        answer.extend_from_slice(&[0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend_from_slice(question);
        answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        answer
    })
}

fn dig_asks_a_name_server(flow: Flow, tls: u8) {
    let target = name_server();
    let pair = Setup::new(flow, tls, target.addr()).start();
    let (server, port) = (
        format!("@{}", pair.users().ip()),
        pair.users().port().to_string(),
    );
    let args = [
        server.as_str(),
        "-p",
        &port,
        "+short",
        "+noedns",
        "+time=20",
        "+tries=1",
        "www.example",
        "A",
    ];
    assert_eq!(succeed("dig", &args, secs(30)), "192.0.2.7\n");
}

fn large_datagrams_arrive_whole(flow: Flow, tls: u8) {
    let target = UdpTarget::echo();
    let pair = Setup::new(flow, tls, target.addr()).start();
    let user = users::datagrams(pair.users());
    burst(&user, 50, |number| 20_000 + number * 45_000 / 49);
    for len in [0, 1, 65_507] {
        let arrived = users::echo_datagram(&user, &noise(len, 9), PATIENCE);
        assert!(arrived, "a datagram of {len} bytes");
    }
}

fn bursts_of_small_datagrams_arrive_whole_and_unmerged(flow: Flow, tls: u8) {
    let target = UdpTarget::echo();
    let pair = Setup::new(flow, tls, target.addr()).start();
    for _ in 0..3 {
        burst(&users::datagrams(pair.users()), 640, |number| {
            20 + number % 100
        });
    }
}

/// Sends `count` datagrams at once, of the lengths that `len` gives; each must come back once and
/// unchanged.
///
/// Where the kernel has no room for all of them in a socket's buffer (`net.core.rmem_max`), there
/// are fewer at once: what it drops there no tunnel can deliver.
fn burst(user: &UdpSocket, count: usize, len: impl Fn(usize) -> usize) {
    let make = |number: usize| {
        let mut datagram = noise(len(number), number as u64 + 1);
        datagram[..2].copy_from_slice(&u16::try_from(number).unwrap().to_be_bytes());
        datagram
    };
    let datagrams: Vec<Vec<u8>> = (0..count).map(make).collect();
    let (room, used) = (ask_for_room(user), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut missing: BTreeSet<usize> = (0..count).collect();
            let mut buffer = vec![0; 65_536];
            while !missing.is_empty() {
                let len = user
                    .recv(&mut buffer)
                    .unwrap_or_else(|error| panic!("{error}: {missing:?} of {count} are missing"));
                let number = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
                assert!(
                    datagrams.get(number).is_some_and(|it| *it == buffer[..len]),
                    "datagram {number} changed"
                );
                assert!(missing.remove(&number), "datagram {number} came twice");
                used.fetch_sub(room_of(len), Ordering::SeqCst);
            }
        });
        for datagram in &datagrams {
            let more = room_of(datagram.len());
            until("room in the user's buffer", PATIENCE, || {
                (used.load(Ordering::SeqCst) + more <= room).then_some(())
            });
            used.fetch_add(more, Ordering::SeqCst);
            user.send(datagram).unwrap();
        }
    });
}

fn every_user_gets_its_own_answers(flow: Flow, tls: u8) {
    let target = UdpTarget::echo();
    let pair = Setup::new(flow, tls, target.addr()).start();
    thread::scope(|scope| {
        for number in 0..30_u64 {
            let users = pair.users();
            scope.spawn(move || {
                let user = users::datagrams(users);
                let datagram = noise(200, number + 100);
                let arrived = users::echo_datagram(&user, &datagram, PATIENCE);
                assert!(arrived, "user {number}");
            });
        }
    });
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let target = UdpTarget::echo();
    for (flow, any, dual) in [
        (Flow::Reverse, "::", true),
        (Flow::Forward, "0.0.0.0", false),
    ] {
        let setup = Setup::new(flow, 0, target.addr()).users_on(any.parse().unwrap());
        let pair = setup.start();
        users::answered_from_where_they_asked(pair.users().port(), dual);
    }
}

#[test]
fn a_session_ends_after_the_idle_time_and_not_before() {
    let target = UdpTarget::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .env("NP_UDP_READ_TIMEOUT", "3s")
        .start();
    let user = users::datagrams(pair.users());
    let ask = |words: &str| users::echo_datagram(&user, words.as_bytes(), PATIENCE);
    let since = Instant::now();
    while since.elapsed() < secs(4) {
        assert!(ask("in use"));
        pause(millis(250));
    }
    assert_eq!(
        target.sources(),
        1,
        "one session, so one socket towards the target"
    );
    pause(secs(5));
    assert!(ask("after a long silence"));
    assert_eq!(target.sources(), 2, "a new session");
}

#[test]
fn a_target_that_is_not_there_ends_no_other_session() {
    let port = Port::reserve();
    let target = UdpTarget::echo_on(port.addr());
    let pair = Setup::new(Flow::Reverse, 0, port.addr()).start();
    users::until_served_udp(pair.users(), secs(10));
    drop(target);
    let user = users::datagrams(pair.users());
    for _ in 0..5 {
        drop(user.send(b"nobody is there"));
        pause(millis(20));
    }
    let back = UdpTarget::echo_on(port.addr());
    users::until_served_udp(pair.users(), secs(10));
    assert!(back.received() > 0);
}

#[test]
fn tcp_and_udp_share_one_tunnel() {
    let tcp = Target::echo();
    let udp = UdpTarget::echo_on(tcp.addr());
    let pair = Setup::new(Flow::Reverse, 1, tcp.addr()).start();
    users::served(pair.users());
    users::until_served_udp(pair.users(), secs(10));
    assert!(udp.received() > 0);
}
