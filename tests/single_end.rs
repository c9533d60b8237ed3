//! A client alone: a port forwarder.

use std::io::{Read, Write};
use std::net::Shutdown;

use crate::support::binary::{Launch, Process};
use crate::support::certificates::Authority;
use crate::support::kernel::until_listening;
use crate::support::peers::{self, PATIENCE, Target, UdpTarget};
use crate::support::ports::Port;
use crate::support::scratch::Scratch;
use crate::support::until::{millis, pause, secs};
use crate::support::{attacker, noise, sha256, users};

fn forwarder(target: std::net::SocketAddr, params: &str) -> (Process, Port) {
    let port = Port::reserve();
    let url = format!("client://{}/{target}?mode=1{params}", port.addr());
    let process = Launch::new([url]).start();
    until_listening(port.addr());
    (process, port)
}

#[test]
fn it_carries_tcp_with_half_close() {
    let target = Target::start(peers::digest_at_end);
    let (_client, port) = forwarder(target.addr(), "");
    let sent = noise(5_000_000, 1);
    let mut user = users::connect(port.addr());
    user.write_all(&sent).unwrap();
    user.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    user.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, sha256(&sent));
}

#[test]
fn it_carries_udp() {
    let target = UdpTarget::echo();
    let (_client, port) = forwarder(target.addr(), "");
    users::until_served_udp(port.addr(), secs(10));
    let user = users::datagrams(port.addr());
    let datagram = noise(60_000, 2);
    assert!(users::echo_datagram(&user, &datagram, PATIENCE));
}

#[test]
fn udp_answers_come_from_the_address_that_was_asked() {
    let target = UdpTarget::echo();
    for (any, dual) in [("0.0.0.0", false), ("::", true)] {
        let port = Port::reserve_on(any.parse().unwrap());
        let url = format!("client://{}/{}?mode=1", port.addr(), target.addr());
        let _client = Launch::new([url]).start();
        until_listening(port.addr());
        users::answered_from_where_they_asked(port.number(), dual);
    }
}

#[test]
fn with_tls_it_ends_tls_and_dials_plain() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    let fingerprint = authority.issue_into(&scratch);
    let dir = scratch.path().display();
    let with_files = format!("&tls=2&crt={dir}/crt.pem&key={dir}/key.pem");
    for (params, expected) in [("&tls=1", None), (with_files.as_str(), Some(fingerprint))] {
        let target = Target::start(peers::digest_at_end);
        let (_client, port) = forwarder(target.addr(), params);
        let Ok(mut user) = attacker::tls_without_alpn(port.addr()) else {
            panic!("no TLS: {params}")
        };
        let sent = noise(100_000, 3);
        user.write_all(&sent).unwrap();
        user.conn.send_close_notify();
        user.flush().unwrap();
        let mut answer = vec![0; 64];
        user.read_exact(&mut answer).unwrap();
        assert_eq!(answer, sha256(&sent).as_bytes(), "{params}");
        let presented = sha256(&user.conn.peer_certificates().unwrap()[0]);
        assert!(
            expected.is_none_or(|expected| expected == presented),
            "{params}"
        );
    }
}

#[test]
fn a_target_that_is_down_resets_the_user_and_is_noticed_when_it_is_back() {
    let port = Port::reserve();
    let target = Target::start_on(port.addr(), peers::echo);
    let (_client, entrance) = forwarder(port.addr(), "");
    users::served(entrance.addr());
    drop(target);
    assert_eq!(
        users::end_after(entrance.addr(), b"hello?", secs(10)),
        users::End::Reset
    );
    let _back = Target::start_on(port.addr(), peers::echo);
    users::until_served(entrance.addr(), secs(20));
}

#[test]
fn mode_0_is_single_end_when_nothing_listens_at_the_tunnel_address() {
    let target = Target::echo();
    let port = Port::reserve();
    let client = Launch::new([format!("client://{}/{}", port.addr(), target.addr())]).start();
    until_listening(port.addr());
    users::served(port.addr());
    client.remark(&["mode="], secs(20));
}

#[test]
fn a_reset_user_and_a_reset_target_are_passed_on() {
    let target = Target::start(|stream| {
        socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO))?;
        let mut stream = stream;
        let mut first = [0];
        stream.read_exact(&mut first)
    });
    let (_client, port) = forwarder(target.addr(), "");
    assert_eq!(
        users::end_after(port.addr(), b"!", secs(10)),
        users::End::Reset
    );

    let target = Target::echo();
    let (_client, port) = forwarder(target.addr(), "");
    let user = users::connect(port.addr());
    users::echo(&user, b"hello").unwrap();
    socket2::SockRef::from(&user)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(user);
    crate::support::until::until("the target loses its user", secs(20), || {
        (target.open() == 0).then_some(())
    });
}

#[test]
fn a_slow_reader_does_not_hold_up_others() {
    let target = Target::start(crate::support::http::serve);
    let (_client, port) = forwarder(target.addr(), "");
    let mut slow = users::connect(port.addr());
    slow.write_all(b"GET /100000000 HTTP/1.1\r\n\r\n").unwrap();
    pause(millis(300));
    let mut quick = users::connect(port.addr());
    quick.write_all(b"GET /1000 HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    quick.read_to_end(&mut answer).unwrap();
    assert!(answer.len() > 1000);
}
