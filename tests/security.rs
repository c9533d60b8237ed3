//! What strangers, thieves and men in the middle get: nothing.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::thread;
use std::time::Instant;

use crate::support::attacker::{
    self, Answer, Control, ELSEWHERE, Impostor, hello_line, mac, tunnel_secret,
};
use crate::support::binary::Launch;
use crate::support::certificates::Authority;
use crate::support::course::at_once;
use crate::support::cutter::{Cutter, Way};
use crate::support::kernel::own_memory;
use crate::support::peers::Target;
use crate::support::ports::Port;
use crate::support::scratch::Scratch;
use crate::support::tunnel::{Flow, KEY, Pair, Setup};
use crate::support::until::{millis, never, secs, until};
use crate::support::users::{self, End};
use crate::support::{noise, optimised};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn a_wrong_key_serves_nobody_and_both_sides_say_so() {
    for (flow, tls) in [(Flow::Reverse, 0), (Flow::Forward, 1)] {
        let target = Target::echo();
        let pair = Setup::new(flow, tls, target.addr())
            .keys("right", "wrong")
            .launch();
        pair.server.remark(&["key"], secs(10));
        pair.client.remark(&["key"], secs(10));
        users::never_served(pair.users(), secs(2));
        assert_eq!(target.accepted(), 0);
    }
}

#[test]
fn a_wrong_key_is_not_shouted_about() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .keys("right", "wrong")
        .launch();
    pair.client.remark(&["key"], secs(10));
    // Time for a handful of attempts, which the client goes on making.
    never("the client gives up", secs(4), || {
        pair.client.lines_with(&["panic"]).pop()
    });
    let lines = pair.client.lines().len();
    assert!(lines < 30, "{lines} lines in 4 s");
}

#[test]
fn five_wrong_keys_ban_their_address_and_no_other() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr()).start();
    for attempt in 0..5 {
        match Control::hello(pair.tunnel.addr(), ELSEWHERE, "wrong") {
            Answer::Refused(reason) => assert_eq!(reason, "auth"),
            other => panic!("attempt {attempt} was answered {other:?}"),
        }
    }
    // Closed at accept: without a byte from us, long before the handshake's deadline.
    until("the address is banned", secs(20), || {
        let stranger = users::connect_from(ELSEWHERE, pair.tunnel.addr());
        (users::end_of(&stranger, millis(500)) != End::StillOpen).then_some(())
    });
    // Even the right key does not help from there; from here it does.
    let banned = Control::hello(pair.tunnel.addr(), ELSEWHERE, KEY);
    assert!(matches!(banned, Answer::Closed), "{banned:?}");
    drop(Control::open(pair.tunnel.addr(), KEY));
    users::served(pair.users());
}

#[test]
fn a_client_with_the_wrong_key_is_banned_beside_one_with_the_right_key() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 1, target.addr()).start();
    let cutter = Cutter::before(pair.tunnel.addr());
    cutter.come_from(ELSEWHERE);
    let url = format!("client://wrong@{}/{}?mode=2", cutter.addr(), target.addr());
    let _wrong = Launch::new([url]).start();
    until("the address is banned", secs(20), || {
        users::served(pair.users());
        let stranger = users::connect_from(ELSEWHERE, pair.tunnel.addr());
        (users::end_of(&stranger, millis(300)) != End::StillOpen).then_some(())
    });
    users::served(pair.users());
    assert!(
        pair.server.lines_with(&["127.0.0.9"]).len() < 20,
        "every attempt is a line or more"
    );
}

#[test]
fn wrong_keys_from_the_address_of_a_live_session_close_nothing() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 1, target.addr()).min(2).start();
    users::served(pair.users());
    let slow = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = Control::hello(pair.tunnel.addr(), HERE, "wrong");
                assert!(!matches!(answer, Answer::Welcome(_)), "{answer:?}");
            });
        }
    });
    // Four in a second, each a second late.
    assert!(
        slow.elapsed() >= secs(2),
        "wrong proofs were answered after {:?}",
        slow.elapsed()
    );
    for _ in 0..10 {
        users::served(pair.users());
    }
    drop(Control::open(pair.tunnel.addr(), KEY));
}

#[test]
fn garbage_never_bans() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr()).start();
    for round in 0..20 {
        let mut stranger = users::connect_from(ELSEWHERE, pair.tunnel.addr());
        let garbage: Vec<u8> = match round % 4 {
            0 => noise(500, round),
            1 => [b"NPD1".to_vec(), noise(40, round)].concat(),
            2 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            _ => [vec![0x16, 3, 1, 0, 200], noise(200, round)].concat(),
        };
        drop(stranger.write_all(&garbage));
        drop(stranger.shutdown(std::net::Shutdown::Write));
        assert_ne!(
            users::end_of(&stranger, secs(20)),
            End::StillOpen,
            "round {round}"
        );
    }
    let answer = Control::hello(pair.tunnel.addr(), ELSEWHERE, KEY);
    assert!(matches!(answer, Answer::Welcome(_)), "{answer:?}");
    users::served(pair.users());
}

#[test]
fn three_hundred_strange_connections_delay_nobody_and_leave_no_memory() {
    let target = Target::echo();
    let mut pair = Setup::new(Flow::Reverse, 1, target.addr())
        .env("NP_HANDSHAKE_TIMEOUT", "10s")
        .start();
    users::served(pair.users());
    let rest = own_memory(pair.server.id());
    let strange: Vec<TcpStream> = (0..300_u64)
        .map(|number| {
            let mut stranger = users::connect(pair.tunnel.addr());
            let words = match number % 3 {
                0 => Vec::new(),
                1 => vec![if number % 2 == 0 { 0x16 } else { b'N' }],
                _ => noise(100, number),
            };
            // It may be turned away at once.
            drop(stranger.write_all(&words));
            stranger
        })
        .collect();
    users::served(pair.users());
    // A silent one is waited for still, so the user was not made to wait for that.
    assert_eq!(users::end_of(&strange[297], millis(1)), End::StillOpen);
    pair.restart_client();
    let limit = secs(if optimised() { 2 } else { 20 });
    users::until_served(pair.users(), limit);
    let grown = own_memory(pair.server.id()).saturating_sub(rest);
    assert!(grown < 12 << 20, "the server grew by {grown} bytes");

    for stranger in &strange {
        assert_ne!(
            users::end_of(stranger, secs(20)),
            End::StillOpen,
            "a stranger may stay"
        );
    }
    drop(Control::open(pair.tunnel.addr(), KEY));
}

#[test]
fn a_hand_made_client_is_served_so_the_refusals_below_mean_something() {
    for tls in [0, 1] {
        let (server, tunnel, user) = server(tls);
        let control = Control::open(tunnel.addr(), KEY);
        assert_eq!(control.welcome()["flow"], "-");
        assert_eq!(control.welcome()["tls"], tls.to_string());
        let mut launch = [0; 2];
        let user = if tls == 0 {
            let mut data = control.data(tunnel.addr(), 1);
            let user = users::connect(user.addr());
            data.read_exact(&mut launch).unwrap();
            user
        } else {
            let mut data = control.data_tls(tunnel.addr(), 1);
            let user = users::connect(user.addr());
            data.read_exact(&mut launch).unwrap();
            user
        };
        let from = user.local_addr().unwrap().to_string();
        assert_eq!((launch[0], usize::from(launch[1])), (1, from.len()));
        drop(server);
    }
}

#[test]
fn a_replayed_or_invented_preface_is_refused() {
    let (_server, tunnel, user) = server(0);
    let control = Control::open(tunnel.addr(), KEY);
    // Each is launched, so its preface has been read before the next, or any replay, is sent.
    let _accepted = [1, 10_000].map(|seq| {
        let mut data = control.data(tunnel.addr(), seq);
        let user = users::connect(user.addr());
        data.read_exact(&mut [0]).unwrap();
        (data, user)
    });
    let mut wrong_tag = control.preface(2, &[]);
    wrong_tag[43] ^= 1;
    let mut wrong_session = control.preface(3, &[]);
    wrong_session[4] ^= 1;
    for (what, preface) in [
        ("a replay", control.preface(1, &[])),
        ("a replay of the newest", control.preface(10_000, &[])),
        ("a number behind the window", control.preface(4, &[])),
        ("a wrong tag", wrong_tag),
        ("an unknown session", wrong_session),
        (
            "a tag for a channel that is not there",
            control.preface(10_001, &[7; 32]),
        ),
    ] {
        assert_refused(what, &tunnel, &preface);
    }
    // Within the window and new: accepted.
    let fine = control.data(tunnel.addr(), 9_999);
    assert_eq!(users::end_of(&fine, secs(1)), End::StillOpen);
}

#[test]
fn a_preface_seen_on_the_way_cannot_be_used_again() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .through_cutter()
        .start();
    users::served(pair.users());
    let cutter = pair.cutter();
    // A launch went down on them, so the server has read their prefaces.
    let launched =
        (1..cutter.count()).filter(|&number| !cutter.recorded(number, Way::Down).is_empty());
    let stolen: Vec<Vec<u8>> = launched
        .map(|number| cutter.recorded(number, Way::Up))
        .collect();
    assert!(!stolen.is_empty());
    for up in stolen {
        assert!(up.starts_with(b"NPD1"));
        assert_refused("a stolen preface", &pair.tunnel, &up[..44]);
    }
    users::served(pair.users());
}

/// Whoever has seen a whole session says again what the client said, byte for byte.
#[test]
fn a_session_that_was_recorded_opens_nothing() {
    let rows = [
        (Flow::Reverse, 0),
        (Flow::Reverse, 1),
        (Flow::Forward, 0),
        (Flow::Forward, 1),
    ];
    at_once(&rows, |&(flow, tls)| {
        let target = Target::echo();
        let mut pair = Setup::new(flow, tls, target.addr())
            .server("proto=native")
            .client("proto=native")
            .through_cutter()
            .start();
        users::served(pair.users());
        let cutter = pair.cutter();
        // What was answered has been read, so the replay is not the first to arrive.
        let answered =
            (0..cutter.count()).filter(|&number| !cutter.recorded(number, Way::Down).is_empty());
        let recording: Vec<Vec<u8>> = answered
            .map(|number| cutter.recorded(number, Way::Up))
            .collect();
        assert!(recording.len() >= 2, "a control and a data connection");
        let accepted = target.accepted();
        let replay = |pair: &Pair| {
            for said in &recording {
                let mut thief = users::connect(pair.tunnel.addr());
                // It may be closed before all is said.
                drop(thief.write_all(said));
                let end = users::end_of(&thief, secs(20));
                assert_ne!(end, End::StillOpen, "{flow:?} tls={tls}");
            }
            assert_eq!(target.accepted(), accepted, "{flow:?} tls={tls}");
            pair.server.only_line_with(&["session up"]);
        };
        replay(&pair);
        pair.client.kill();
        pair.server.remark(&["session ended"], secs(30));
        replay(&pair);
    });
}

#[test]
fn with_tls_a_preface_is_worth_nothing_outside_its_connection() {
    let (_server, tunnel, _user) = server(1);
    let control = Control::open(tunnel.addr(), KEY);

    // Bound to another connection's exporter.
    let other = attacker::tls(tunnel.addr(), HERE).unwrap();
    let conn = attacker::exporter(&other.conn, "EXPORTER-nodepass-conn");
    let mut thief = attacker::tls(tunnel.addr(), HERE).unwrap();
    thief.write_all(&control.preface(1, &conn)).unwrap();
    thief.flush().unwrap();
    assert_ne!(
        users::end_of(&thief.sock, secs(4)),
        End::StillOpen,
        "another exporter"
    );

    // Not bound at all, inside TLS.
    let mut unbound = attacker::tls(tunnel.addr(), HERE).unwrap();
    unbound.write_all(&control.preface(2, &[])).unwrap();
    unbound.flush().unwrap();
    assert_ne!(
        users::end_of(&unbound.sock, secs(4)),
        End::StillOpen,
        "no exporter"
    );

    // Without TLS.
    assert_refused("a plain preface", &tunnel, &control.preface(3, &[]));
}

#[test]
fn a_preface_after_the_session_ended_is_refused() {
    let (_server, tunnel, _user) = server(0);
    let control = Control::open(tunnel.addr(), KEY);
    // Each would be accepted while the session lives.
    let mut prefaces = (1..100)
        .map(|seq| control.preface(seq, &[]))
        .collect::<Vec<_>>()
        .into_iter();
    drop(control);
    until("the session to end", secs(20), || {
        let mut thief = users::connect(tunnel.addr());
        thief.write_all(&prefaces.next()?).unwrap();
        (users::end_of(&thief, millis(500)) != End::StillOpen).then_some(())
    });
}

#[test]
fn the_right_certificate_with_the_wrong_key_gets_no_connection() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    authority.issue_into(&scratch);
    for tls in [0, 2] {
        let impostor = Impostor::new(&authority);
        let target = Target::echo();
        let client = Launch::new([format!(
            "client://{KEY}@{}/{}?mode=2&min=2&ca={}/ca.pem",
            impostor.addr(),
            target.addr(),
            scratch.path().display()
        )])
        .start();
        let (mut lines, hello, channel) = impostor.accept();
        // The client's own proof is right, and it is no use: it cannot be turned into ours.
        let expected = mac(&tunnel_secret(KEY), &[b"client", &channel]);
        assert_eq!(hello["proof"], crate::support::hex(&expected));
        let proof = mac(&tunnel_secret("wrong"), &[b"server", &channel]);
        let welcome = impostor.welcome_line(&proof, tls);
        lines.get_mut().write_all(welcome.as_bytes()).unwrap();
        lines.get_mut().flush().unwrap();
        client.remark(&["key"], secs(10));
        impostor.nobody_comes(secs(3));
    }
}

#[test]
fn a_server_that_lowers_tls_gets_no_connection() {
    let authority = Authority::new();
    let impostor = Impostor::new(&authority);
    let target = Target::echo();
    let (at, to) = (impostor.addr(), target.addr());
    let url = format!("client://{KEY}@{at}/{to}?mode=2&min=2&tls=1");
    let client = Launch::new([url]).start();
    let (mut lines, _, channel) = impostor.accept();
    let proof = mac(&tunnel_secret(KEY), &[b"server", &channel]);
    let welcome = impostor.welcome_line(&proof, 0);
    lines.get_mut().write_all(welcome.as_bytes()).unwrap();
    lines.get_mut().flush().unwrap();
    client.remark(&["tls"], secs(10));
    impostor.nobody_comes(secs(3));
}

#[test]
fn a_man_in_the_middle_of_the_control_connection_is_refused() {
    let (_server, tunnel, _user) = server(0);
    let impostor = Impostor::new(&Authority::new());
    let target = Target::echo();
    let url = format!(
        "client://{KEY}@{}/{}?mode=2",
        impostor.addr(),
        target.addr()
    );
    let _client = Launch::new([url]).start();
    // The hello of the right client, carried into a TLS connection of our own.
    let (_lines, hello, _) = impostor.accept();
    let mut stream = attacker::tls(tunnel.addr(), ELSEWHERE).unwrap();
    stream.write_all(format!("{hello}\n").as_bytes()).unwrap();
    stream.flush().unwrap();
    let answer = attacker::read_line(&mut std::io::BufReader::new(stream)).unwrap();
    assert_eq!(
        (&answer["action"], &answer["reason"]),
        (&"refuse".into(), &"auth".into())
    );
}

#[test]
fn oversized_and_malformed_lines_end_their_connection_only() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr()).start();
    for words in [
        vec![b'{'; 5000],
        b"{\"action\":\"hello\"}\n".to_vec(),
        b"{\"action\":\"hello\",\"v\":2,\"proof\":\"00\",\"instance\":\"00\"}\n".to_vec(),
        b"{]\n".to_vec(),
        hello_line(&[0; 5]).into_bytes(),
    ] {
        let mut stream = attacker::tls(pair.tunnel.addr(), ELSEWHERE).unwrap();
        drop(stream.write_all(&words).and_then(|()| stream.flush()));
        assert_ne!(
            users::end_of(&stream.sock, secs(20)),
            End::StillOpen,
            "{:?}",
            &words[..3]
        );
    }
    // Inside a session as well: what is unknown is ignored, what is too long ends it.
    let mut session = Control::open(pair.tunnel.addr(), KEY);
    session
        .send("{\"action\":\"dance\",\"to\":\"anything\"}")
        .unwrap();
    session.send("{\"action\":\"ping\",\"seq\":77}").unwrap();
    assert_eq!(session.line("pong", secs(5)).unwrap()["seq"], 77);
    session.send(&"x".repeat(5000)).unwrap();
    assert_ne!(
        session.end(secs(4)),
        End::StillOpen,
        "a line that is too long"
    );
    users::served(pair.users());
}

/// A reverse server without clients: its process, tunnel and user ports.
fn server(tls: u8) -> (crate::support::binary::Process, Port, Port) {
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    let (at, to) = (tunnel.addr(), user.addr());
    let process = Launch::new([format!("server://{KEY}@{at}/{to}?mode=1&tls={tls}")]).start();
    crate::support::kernel::until_listening(at);
    (process, tunnel, user)
}

/// Sends a preface on a connection of its own, which the server must close without a word.
fn assert_refused(what: &str, tunnel: &Port, preface: &[u8]) {
    let mut thief = users::connect(tunnel.addr());
    thief.write_all(preface).unwrap();
    let mut answer = [0];
    thief.set_read_timeout(Some(secs(4))).unwrap();
    match thief.read(&mut answer) {
        Ok(0) => {}
        Ok(_) => panic!("{what} was answered"),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("{what}: accepted"),
        Err(_) => {}
    }
}
