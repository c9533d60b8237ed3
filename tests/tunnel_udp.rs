//! UDP through a tunnel: both flows, every `tls`.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::thread;

use crate::support::peers::{Target, UdpTarget};
use crate::support::ports::Port;
use crate::support::tools::succeed;
use crate::support::tunnel::{Flow, Setup, in_every_mode};
use crate::support::until::{millis, pause, secs};
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
        "+time=3",
        "+tries=5",
        "www.example",
        "A",
    ];
    assert_eq!(succeed("dig", &args, secs(30)), "192.0.2.7\n");
}

fn large_datagrams_arrive_whole(flow: Flow, tls: u8) {
    let target = UdpTarget::echo();
    let pair = Setup::new(flow, tls, target.addr()).start();
    users::until_served_udp(pair.users(), secs(10));
    let user = users::datagrams(pair.users());
    for number in 0..50_usize {
        let datagram = noise(20_000 + number * 45_000 / 49, number as u64);
        let len = datagram.len();
        // UDP may lose one on a busy machine; what arrives must be whole.
        let arrived = (0..3).any(|_| users::echo_datagram(&user, &datagram, secs(2)));
        assert!(arrived, "datagram {number} of {len} bytes");
    }
    for len in [0, 1, 65_507] {
        let datagram = noise(len, 9);
        let arrived = (0..3).any(|_| users::echo_datagram(&user, &datagram, secs(2)));
        assert!(arrived, "a datagram of {len} bytes");
    }
}

fn bursts_of_small_datagrams_arrive_whole_and_unmerged(flow: Flow, tls: u8) {
    const BURST: u32 = 640;
    let target = UdpTarget::echo();
    let pair = Setup::new(flow, tls, target.addr()).start();
    users::until_served_udp(pair.users(), secs(10));
    // The kernel may drop some of a burst on a busy machine, so there are a few; one must be whole.
    let whole = (0..8).any(|round| burst(&users::datagrams(pair.users()), round, BURST) == BURST);
    assert!(whole, "no burst of {BURST} arrived whole");
}

/// Sends `count` numbered datagrams at once; how many different ones came back. None may have
/// changed.
fn burst(user: &UdpSocket, round: u32, count: u32) -> u32 {
    let make = move |number: u32| {
        let len = 20 + number as usize % 100;
        let mut datagram = noise(len, u64::from(round * count + number) + 1);
        datagram[..4].copy_from_slice(&number.to_be_bytes());
        datagram
    };
    user.set_read_timeout(Some(millis(700))).unwrap();
    let reader = user.try_clone().unwrap();
    let back = thread::spawn(move || {
        let mut numbers = BTreeSet::new();
        let mut buffer = [0; 2048];
        while let Ok(len) = reader.recv(&mut buffer) {
            let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
            assert!(
                number < count && buffer[..len] == make(number),
                "datagram {number} changed"
            );
            numbers.insert(number);
            if numbers.len() == count as usize {
                break;
            }
        }
        u32::try_from(numbers.len()).unwrap()
    });
    for number in 0..count {
        user.send(&make(number)).unwrap();
    }
    back.join().unwrap()
}

fn every_user_gets_its_own_answers(flow: Flow, tls: u8) {
    let target = UdpTarget::echo();
    let pair = Setup::new(flow, tls, target.addr()).start();
    users::until_served_udp(pair.users(), secs(10));
    thread::scope(|scope| {
        for number in 0..30_u64 {
            let users = pair.users();
            scope.spawn(move || {
                let user = users::datagrams(users);
                let datagram = noise(200, number + 100);
                let arrived = (0..5).any(|_| users::echo_datagram(&user, &datagram, secs(2)));
                assert!(arrived, "user {number}");
            });
        }
    });
}

#[test]
fn a_session_ends_after_the_idle_time_and_not_before() {
    let target = UdpTarget::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .env("NP_UDP_READ_TIMEOUT", "1s")
        .start();
    let user = users::datagrams(pair.users());
    let ask = |words: &str| (0..5).any(|_| users::echo_datagram(&user, words.as_bytes(), secs(1)));
    for _ in 0..8 {
        assert!(ask("in use"));
        pause(millis(250));
    }
    assert_eq!(
        target.sources(),
        1,
        "one session, so one socket towards the target"
    );
    pause(millis(2500));
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
