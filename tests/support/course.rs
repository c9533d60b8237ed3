//! What every pair of ends must carry, and many cases at once.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread;

use super::peers::{Target, UdpTarget};
use super::until::{millis, pause, secs};
use super::{noise, sha256, users};

/// A target that echoes, for TCP and UDP on one address.
pub(crate) fn echo() -> (Target, UdpTarget) {
    let tcp = Target::echo();
    let udp = UdpTarget::echo_on(tcp.addr());
    (tcp, udp)
}

/// 8 MiB there and back, 60 datagrams, 100 short connections one after the other.
pub(crate) fn carry(users: SocketAddr) {
    bulk(users, 8 << 20);
    datagrams(users, 60);
    for _ in 0..100 {
        users::served(users);
    }
}

/// `len` bytes there and back, with equal SHA-256.
pub(crate) fn bulk(users: SocketAddr, len: usize) {
    let user = users::connect(users);
    let sent = noise(len, 77);
    let mut back = vec![0; len];
    thread::scope(|scope| {
        scope.spawn(|| (&user).write_all(&sent).expect("all of it is sent"));
        (&user).read_exact(&mut back).expect("all of it comes back");
    });
    assert_eq!(sha256(&back), sha256(&sent));
}

/// `count` datagrams of many lengths there and back, one after the other.
pub(crate) fn datagrams(users: SocketAddr, count: usize) {
    let user = users::datagrams(users);
    for number in 0..count {
        let datagram = noise(1 + number * 23, number as u64 + 1);
        // The kernel may lose one on a busy machine.
        let arrived = (0..4).any(|_| users::echo_datagram(&user, &datagram, secs(2)));
        assert!(arrived, "datagram {number} of {} bytes", datagram.len());
        pause(millis(2));
    }
}

/// Runs `test` for all cases at once, and says which of them failed.
pub(crate) fn at_once<Case: Debug + Sync>(cases: &[Case], test: impl Fn(&Case) + Sync) {
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for case in cases {
            let (test, failed) = (&test, &failed);
            scope.spawn(move || {
                let run = thread::scope(|inner| inner.spawn(|| test(case)).join().is_ok());
                if !run {
                    failed.lock().unwrap().push(format!("{case:?}"));
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed: {failed:#?}");
}
