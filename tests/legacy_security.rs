//! Who gets in with an older handshake, and who is kept out: wrong tokens, wrong keys, `proto`.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use crate::support::attacker::{Control, ELSEWHERE};
use crate::support::binary::{Launch, Process};
use crate::support::course::{at_once, echo};
use crate::support::kernel::until_listening;
use crate::support::legacy::ask::{answer, status};
use crate::support::legacy::{Generation, Journal, Script, head, interval};
use crate::support::mixed::{Mix, patience};
use crate::support::ports::Port;
use crate::support::tunnel::{End, Flow, KEY};
use crate::support::until::{millis, secs, until};
use crate::support::users::{self, connect_from, end_of};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A second address that no tunnel uses.
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 10));

/// And a third.
const FARTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// A reverse server of ours without a client.
fn server(params: &str) -> (Process, Port, Port) {
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    let url = format!(
        "server://{KEY}@{}/{}?mode=1{params}",
        tunnel.addr(),
        user.addr()
    );
    let server = Launch::new([url]).start();
    until_listening(tunnel.addr());
    (server, tunnel, user)
}

#[test]
fn requests_are_answered_as_the_real_server_does() {
    let (_server, tunnel, _user) = server("&tls=1&max=7");
    let right = head::request(KEY);
    let rows = [
        (right.clone(), "200"),
        (right.replace("GET / ", "GET /other "), "404"),
        (head::request("wrong"), "401"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "401"),
        (right.replace("Bearer ", "Basic "), "401"),
        (right.replace("Authorization", "authorization"), "200"),
    ];
    for (request, due) in &rows {
        for tls in [false, true] {
            // Wrong tokens are counted, but those of one address beside a live session are slow only.
            let source = if *due == "401" && tls {
                ELSEWHERE
            } else {
                HERE
            };
            let bytes = answer(tunnel.addr(), source, request.as_bytes(), tls);
            assert_eq!(status(&bytes), *due, "{request:?}, tls: {tls}");
        }
    }
    // `GET ` is what tells the generation, so another method may also be nothing that is known.
    let other = right.replace("GET / ", "POST / ");
    let bytes = answer(tunnel.addr(), ELSEWHERE, other.as_bytes(), false);
    assert!(bytes.is_empty() || status(&bytes) == "405");

    let bytes = answer(tunnel.addr(), FAR, right.as_bytes(), false);
    let terms = head::judge_answer(&bytes, &Journal::new()).unwrap();
    assert_eq!((terms.flow, terms.tls, terms.max), (Flow::Reverse, 1, 7));
}

/// A data connection that got its id.
fn numbered(addr: SocketAddr) -> Option<TcpStream> {
    let mut socket = connect_from(HERE, addr);
    socket.read_exact(&mut [0; 4]).ok()?;
    Some(socket)
}

/// The bytes of each are kept for 5 s, so as many as like must not pile up meanwhile.
#[test]
fn connections_that_speak_before_their_launch_count_against_max() {
    const MAX: usize = 3;
    let told = || {
        let (_server, tunnel, _user) = server(&format!("&max={MAX}"));
        let begun = Instant::now();
        let request = head::request(KEY);
        let bytes = answer(tunnel.addr(), HERE, request.as_bytes(), false);
        assert_eq!(status(&bytes), "200");
        let _control = numbered(tunnel.addr()).expect("the first is the control channel");
        let early: Vec<TcpStream> = (0..MAX)
            .map(|_| {
                let mut socket = numbered(tunnel.addr()).expect("there is room");
                socket.write_all(b"x").unwrap();
                socket
            })
            .collect();
        // It waits for bytes, or for room.
        let mut another = connect_from(HERE, tunnel.addr());
        another.set_read_timeout(Some(secs(1))).unwrap();
        let another = another.read_exact(&mut [0; 4]).ok();
        drop(early);
        let in_time = begun.elapsed() < secs(4);
        assert!(
            !in_time || another.is_none(),
            "one more than {MAX} has an id"
        );
        in_time.then_some(())
    };
    // On a machine that was too slow for once it says nothing.
    until("everything happens within 4 s", secs(60), told);
}

/// A data connection, which has its id by then, is no place to try keys.
#[test]
fn a_wrong_key_on_a_data_connection_is_refused_late_and_counted() {
    at_once(&[Generation::Http, Generation::Classic], |generation| {
        let (tcp, _udp) = echo();
        let mixed = Mix::new(End::Server, *generation).start(tcp.addr());
        users::until_served(mixed.users(), patience());
        let mut data = connect_from(HERE, mixed.tunnel.addr());
        let len = if *generation == Generation::Http {
            4
        } else {
            8
        };
        data.read_exact(&mut vec![0; len]).expect("an id");
        let begun = Instant::now();
        let wrong = head::handshake(*generation, "wrong");
        data.write_all(&wrong).unwrap();
        let mut answer = Vec::new();
        data.read_to_end(&mut answer).expect("it is closed");
        assert!(begun.elapsed() >= millis(900), "{:?}", begun.elapsed());
        match generation {
            Generation::Http => assert_eq!(status(&answer), "401"),
            _ => assert_eq!(answer, b""),
        }
        mixed.ours.remark(&["wrong key", "127.0.0.1"], secs(5));
        users::served(mixed.users());
        mixed.one_session();
    });
}

#[test]
fn five_wrong_tokens_or_keys_ban_their_address() {
    for (generation, source) in [
        (Generation::Http, ELSEWHERE),
        (Generation::Https, FAR),
        (Generation::Classic, FARTHER),
    ] {
        let (server, tunnel, _user) = server("");
        let tls = generation == Generation::Https;
        for _ in 0..5 {
            let bytes = answer(
                tunnel.addr(),
                source,
                &head::handshake(generation, "wrong"),
                tls,
            );
            if generation == Generation::Classic {
                assert_eq!(bytes, b"", "a wrong line is answered");
            } else {
                assert_eq!(status(&bytes), "401");
            }
        }
        until("the address is banned", secs(5), || {
            let stranger = connect_from(source, tunnel.addr());
            (end_of(&stranger, millis(500)) != users::End::StillOpen).then_some(())
        });
        assert_eq!(
            answer(
                tunnel.addr(),
                source,
                &head::handshake(generation, KEY),
                tls
            ),
            b"",
            "{generation:?}"
        );
        // Others are not.
        assert_ne!(
            answer(
                tunnel.addr(),
                HERE,
                &head::handshake(Generation::Http, KEY),
                false
            ),
            b""
        );
        server.remark(&["WARN", "banned", &source.to_string()], secs(10));
    }
}

#[test]
fn what_is_no_handshake_bans_nobody() {
    let (_server, tunnel, _user) = server("");
    let binary: Vec<u8> = [vec![0x80; 40], vec![b'\n']].concat();
    for words in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"GET /other HTTP/1.1\r\n\r\n",
        &binary,
    ] {
        for _ in 0..6 {
            let mut stranger = connect_from(ELSEWHERE, tunnel.addr());
            drop(stranger.write_all(words));
            drop(stranger.shutdown(std::net::Shutdown::Write));
            drop(stranger.read_to_end(&mut Vec::new()));
        }
    }
    let bytes = answer(
        tunnel.addr(),
        ELSEWHERE,
        &head::handshake(Generation::Http, KEY),
        false,
    );
    assert_eq!(status(&bytes), "200");
}

#[test]
fn a_native_server_refuses_every_older_handshake_and_says_so() {
    at_once(&Generation::ALL, |generation| {
        let (tcp, _udp) = echo();
        let mix = Mix::new(End::Server, *generation).params("&proto=native");
        let mixed = mix.start(tcp.addr());
        mixed.ours.remark(&["proto", generation.name()], patience());
        users::never_served(mixed.users(), interval() * 6);
        assert_eq!((mixed.peer.sessions(), tcp.accepted()), (0, 0));
    });
}

#[test]
fn a_server_lets_in_only_what_its_proto_names() {
    let rows = [
        ("native,https", Generation::Http),
        ("http", Generation::Https),
        ("https,http", Generation::Classic),
    ];
    at_once(&rows, |(proto, generation)| {
        let (tcp, _udp) = echo();
        let mixed = Mix::new(End::Server, *generation)
            .params(&format!("&proto={proto}"))
            .start(tcp.addr());
        users::never_served(mixed.users(), interval() * 6);
        assert_eq!(mixed.peer.sessions(), 0);
    });
    at_once(&Generation::ALL, |generation| {
        let (tcp, _udp) = echo();
        let params = format!("&proto={}", generation.name());
        let mixed = Mix::new(End::Server, *generation)
            .params(&params)
            .start(tcp.addr());
        users::until_served(mixed.users(), patience());
    });
}

#[test]
fn a_wrong_key_serves_nobody_in_any_generation() {
    let rows = Generation::ALL
        .into_iter()
        .flat_map(|generation| [End::Client, End::Server].map(|ours| (ours, generation)));
    at_once(&rows.collect::<Vec<_>>(), |(ours, generation)| {
        let (tcp, _udp) = echo();
        let mixed = Mix::new(*ours, *generation).start_as(tcp.addr(), |script| {
            script.key = Some("another-key".to_owned());
        });
        users::never_served(mixed.users(), interval() * 8);
        assert_eq!((mixed.peer.sessions(), tcp.accepted()), (0, 0));
    });
}

/// A session of one generation says nothing for another.
#[test]
fn each_session_is_warned_about_once_and_a_native_one_never() {
    let (tcp, _udp) = echo();
    let mixed = Mix::new(End::Server, Generation::Http).start(tcp.addr());
    users::until_served(mixed.users(), patience());
    let second = Script {
        key: Some(mixed.script.key()),
        ..Script::new(Generation::Https, mixed.tunnel.addr(), tcp.addr())
    };
    // Of the same address, so it takes the place of the first.
    drop(Control::open(mixed.tunnel.addr(), KEY));
    let _second = second.dial();
    until("a warning about the second", patience(), || {
        (!mixed.warnings(Generation::Https).is_empty()).then_some(())
    });
    let native = mixed.ours.lines_with(&["WARN", "native session"]);
    assert!(native.is_empty(), "{native:?}");
}
