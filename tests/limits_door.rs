//! What strangers, and clients with the key, may take of the tunnel port: what happens to the one
//! too many, and that the others are served. `SECURITY.md` lists these limits.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::attacker::{self, Answer, Control, ELSEWHERE};
use crate::support::binary::{Launch, Process};
use crate::support::course::at_once;
use crate::support::kernel::until_listening;
use crate::support::legacy::ask::{answer, status};
use crate::support::legacy::codec::{base64, xor};
use crate::support::legacy::conn::{Conn, Lines};
use crate::support::legacy::{Generation, head};
use crate::support::peers::Target;
use crate::support::ports::Port;
use crate::support::tunnel::{Flow, KEY, Pair, Setup};
use crate::support::until::{millis, secs, until};
use crate::support::users::{self, End, connect_from, is_open};

/// Where strangers come from; no tunnel uses these.
const PLACES: [IpAddr; 5] = [place(21), place(22), place(23), place(24), place(25)];

const fn place(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

/// A tunnel whose strangers may stay for a minute, so that only the limits close them.
fn patient() -> (Pair, Target) {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr())
        .env("NP_HANDSHAKE_TIMEOUT", "1m")
        .start();
    until("the pool is full", secs(20), || {
        (pair.connections() == 5).then_some(())
    });
    (pair, target)
}

/// Connections that say nothing.
fn silent(addr: SocketAddr, from: IpAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect_from(from, addr)).collect()
}

fn open(connections: &[TcpStream]) -> usize {
    let open = connections.iter().filter(|stream| is_open(stream));
    open.count()
}

fn warnings(server: &Process) -> usize {
    server.lines_with(&["WARN", "in handshake"]).len()
}

fn said_once(server: &Process) {
    server.remark(&["WARN", "in handshake"], secs(10));
    assert_eq!(warnings(server), 1);
}

#[test]
fn one_address_has_64_connections_in_handshake_and_its_oldest_goes_first() {
    let (pair, _target) = patient();
    let addr = pair.tunnel.addr();
    let neighbour = silent(addr, PLACES[1], 10);
    let older = silent(addr, PLACES[0], 64);
    users::served(pair.users());
    assert_eq!((open(&older), warnings(&pair.server)), (64, 0));

    let newer = silent(addr, PLACES[0], 64);
    until("the older ones are closed", secs(20), || {
        (open(&older) == 0).then_some(())
    });
    assert_eq!((open(&newer), open(&neighbour)), (64, 10));
    said_once(&pair.server);
    // Nor is whoever has the key kept out, from that very address.
    let honest = Control::hello(addr, PLACES[0], KEY);
    assert!(matches!(honest, Answer::Welcome(_)), "{honest:?}");
    users::served(pair.users());
}

#[test]
fn a_server_has_256_connections_in_handshake_and_the_oldest_goes_first() {
    let (pair, _target) = patient();
    let addr = pair.tunnel.addr();
    let mut crowd: Vec<Vec<TcpStream>> = PLACES[..4]
        .iter()
        .map(|from| silent(addr, *from, 64))
        .collect();
    assert_eq!(crowd.iter().map(|some| open(some)).sum::<usize>(), 256);
    assert_eq!(warnings(&pair.server), 0);

    crowd.push(silent(addr, PLACES[4], 64));
    until("the oldest are closed", secs(20), || {
        (open(&crowd[0]) == 0).then_some(())
    });
    // A connection of the client's pool may have needed a place, too.
    let open: Vec<usize> = crowd.iter().map(|some| open(some)).collect();
    assert!(open[1] >= 60 && open[2..] == [64, 64, 64], "{open:?}");
    said_once(&pair.server);
    for _ in 0..5 {
        users::served(pair.users());
    }
    drop(Control::open(addr, KEY));
}

/// Sends `words`, then one of `drips` at a time, until the connection ends; after how long.
fn kept(mut stream: impl Read + Write, socket: &TcpStream, words: &[u8], drips: &[u8]) -> Duration {
    let began = Instant::now();
    drop(stream.write_all(words).and_then(|()| stream.flush()));
    let mut drips = drips.iter();
    socket.set_read_timeout(Some(millis(400))).unwrap();
    while began.elapsed() < secs(40) {
        match stream.read(&mut [0; 256]) {
            Ok(1..) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if let Some(byte) = drips.next() {
                    drop(stream.write_all(&[*byte]).and_then(|()| stream.flush()));
                }
            }
            Ok(0) | Err(_) => break,
        }
    }
    began.elapsed()
}

#[test]
fn a_handshake_has_5_seconds_however_it_drips() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 1, target.addr()).start();
    let addr = pair.tunnel.addr();
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..], &[7; 40]].concat();
    let request = head::request(KEY);
    let rows: [(&str, bool, &[u8], &[u8]); 8] = [
        ("silence", false, b"", b""),
        ("a client hello", false, &hello[..1], &hello[1..]),
        ("a request", false, b"GET ", &request.as_bytes()[4..]),
        ("a classic line", false, b"k", &[b'k'; 100]),
        ("a preface", false, b"NPD1", &[9; 40]),
        ("silence in TLS", true, b"", b""),
        (
            "a hello in TLS",
            true,
            b"{",
            b"\"action\":\"hello\",\"v\":1,\"proof\":\"0000000000",
        ),
        ("a preface in TLS", true, b"NPD1", &[9; 40]),
    ];
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while done.load(Ordering::SeqCst) < rows.len() {
                users::served(pair.users());
                std::thread::park_timeout(millis(200));
            }
        });
        at_once(&rows, |(what, tls, words, drips)| {
            let took = if *tls {
                let stream = attacker::tls(addr, ELSEWHERE).unwrap();
                let socket = stream.sock.try_clone().unwrap();
                kept(stream, &socket, words, drips)
            } else {
                let stream = connect_from(ELSEWHERE, addr);
                kept(&stream, &stream, words, drips)
            };
            done.fetch_add(1, Ordering::SeqCst);
            // The time runs from accepting, and TLS may have taken some of it.
            let right = took > secs(3) && took < secs(20);
            assert!(right, "{what}: {took:?}");
        });
    });
}

/// A request with the right key that is `len` bytes long.
fn long_request(len: usize) -> String {
    let request = head::request(KEY);
    let field = "X-Padding: ";
    let padding = "x".repeat(len - request.len() - field.len() - 2);
    request.replacen("User-Agent", &format!("{field}{padding}\r\nUser-Agent"), 1)
}

/// A request with the right key that has `count` fields.
fn wide_request(count: usize) -> String {
    let request = head::request(KEY);
    let more = "X: y\r\n".repeat(count - (request.lines().count() - 2));
    request.replacen("User-Agent", &format!("{more}User-Agent"), 1)
}

#[test]
fn a_request_head_has_8_kib_and_64_fields_at_most() {
    let target = Target::echo();
    let pair = Setup::new(Flow::Reverse, 0, target.addr()).start();
    let addr = pair.tunnel.addr();
    let rows = [
        (long_request(8192), true),
        (long_request(8193), false),
        (long_request(100_000), false),
        (wide_request(64), true),
        (wide_request(65), false),
    ];
    for (number, (request, good)) in rows.iter().enumerate() {
        for tls in [false, true] {
            let bytes = answer(addr, ELSEWHERE, request.as_bytes(), tls);
            let granted = !bytes.is_empty() && status(&bytes) == "200";
            assert_eq!(granted, *good, "row {number}, tls: {tls}");
        }
    }
    users::served(pair.users());
}

/// A server that is ingress, and its tunnel and user ports.
fn server(params: &str) -> (Process, Port, Port) {
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    let (at, to) = (tunnel.addr(), user.addr());
    let server = Launch::new([format!("server://{KEY}@{at}/{to}?mode=1{params}")]).start();
    until_listening(at);
    (server, tunnel, user)
}

#[test]
fn a_native_control_line_has_4096_bytes_at_most() {
    let (server, tunnel, _user) = server("");
    let mut other = Control::open(tunnel.addr(), KEY);
    let padded = |len: usize| {
        let line = "{\"action\":\"ping\",\"seq\":5,\"x\":\"\"}";
        line.replace("\"\"", &format!("\"{}\"", "x".repeat(len - 1 - line.len())))
    };
    let mut session = Control::open(tunnel.addr(), KEY);
    session.send(&padded(4096)).unwrap();
    assert_eq!(session.line("pong", secs(20)).unwrap()["seq"], 5);
    session.send(&padded(4097)).unwrap();
    assert_ne!(session.end(secs(4)), End::StillOpen);
    server.remark(&["session ended"], secs(10));
    assert!(other.answers(), "another session ended, too");
}

/// The control channel of a hand-made client.
fn control(generation: Generation, addr: SocketAddr, source: IpAddr) -> (Conn, Lines) {
    if generation == Generation::Classic {
        let conn = Conn::plain(connect_from(source, addr));
        conn.write_all(&head::handshake(generation, KEY)).unwrap();
        let mut lines = Lines::default();
        lines.next(&conn, secs(20)).expect("the answer to the key");
        return (conn, lines);
    }
    let request = head::handshake(generation, KEY);
    let bytes = answer(addr, source, &request, generation == Generation::Https);
    assert_eq!(status(&bytes), "200");
    let conn = Conn::plain(connect_from(source, addr));
    conn.patience(Some(secs(20)));
    conn.read_exact(&mut [0; 4])
        .expect("the id of the control channel");
    (conn, Lines::default())
}

#[test]
fn a_control_line_of_the_older_generations_has_4096_bytes_and_512_in_classic_at_most() {
    let rows = [
        (Generation::Http, place(31), 4096 - 3, 4096 + 1),
        (Generation::Https, place(32), 4096 - 3, 4096 + 1),
        (Generation::Classic, place(33), 512, 513),
    ];
    at_once(&rows, |(generation, source, longest, too_long)| {
        let (server, tunnel, _user) = server("");
        let mut other = Control::open(tunnel.addr(), KEY);
        let (conn, mut lines) = control(*generation, tunnel.addr(), *source);
        // Nothing that is known, so it is passed over.
        let line = |len: usize| {
            let mut line = if *generation == Generation::Classic {
                xor(*generation, KEY, &vec![b'a'; len - 1])
            } else {
                base64(&xor(*generation, KEY, &vec![b'a'; (len - 1) / 4 * 3])).into_bytes()
            };
            line.push(b'\n');
            assert_eq!(line.len(), len);
            line
        };
        let ping = crate::support::legacy::codec::Signal::Ping;
        let ping = crate::support::legacy::codec::encode(*generation, KEY, &ping);
        conn.write_all(&line(*longest)).unwrap();
        conn.write_all(&ping).unwrap();
        lines.next(&conn, secs(20)).expect("the session goes on");
        conn.write_all(&line(*too_long)).unwrap();
        let ended = until("the session ends", secs(10), || {
            lines.next(&conn, secs(10)).err()
        });
        assert!(!ended.contains("silence"), "{ended}");
        server.remark(&["session ended"], secs(10));
        assert!(other.answers(), "another session ended, too");
    });
}

/// All that came on a connection that has ended.
fn last_word(mut stream: &TcpStream) -> Option<Vec<u8>> {
    stream.set_read_timeout(Some(millis(1))).unwrap();
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Ok(_) | Err(_) => Some(all),
    }
}

#[test]
fn a_session_has_max_idle_connections_and_one_more_is_turned_away() {
    let target = Target::echo();
    at_once(&[Flow::Reverse, Flow::Forward], |flow| {
        let (tunnel, user) = (Port::reserve(), Port::reserve());
        let (mode, at, to) = match flow {
            Flow::Reverse => (1, tunnel.addr(), user.addr()),
            Flow::Forward => (2, tunnel.addr(), target.addr()),
        };
        let url = format!("server://{KEY}@{at}/{to}?mode={mode}&max=3");
        let server = Launch::new([url]).start();
        until_listening(at);
        let sessions = [Control::open(at, KEY), Control::open(at, KEY)];
        let other: Vec<TcpStream> = (1..4).map(|seq| sessions[1].data(at, seq)).collect();
        let mut idle: Vec<TcpStream> = (1..40).map(|seq| sessions[0].data(at, seq)).collect();
        // Which of them are met first is chance.
        let mut words = Vec::new();
        until("all but three are turned away", secs(20), || {
            idle.retain(|stream| {
                let last = last_word(stream);
                words.extend(last.clone());
                last.is_none()
            });
            (idle.len() == 3).then_some(())
        });
        // A server that dials says that nothing was dialled: a launch may be on its way.
        let due: &[u8] = if *flow == Flow::Reverse { b"" } else { &[7] };
        assert!(words.iter().all(|word| word == due), "{flow:?}: {words:?}");
        idle.extend(other);
        assert_eq!(open(&idle), 6, "{flow:?}");
        assert!(server.lines_with(&["WARN", "idle"]).len() <= 1, "{flow:?}");
        // Those serve users.
        if *flow == Flow::Reverse {
            let _users: Vec<TcpStream> = (0..6).map(|_| users::connect(user.addr())).collect();
            for mut launched in &idle {
                launched.set_read_timeout(Some(secs(20))).unwrap();
                launched.read_exact(&mut [0]).unwrap();
            }
        } else {
            for mut launched in &idle {
                launched.set_read_timeout(Some(secs(20))).unwrap();
                launched.write_all(b"\x01\x0b127.0.0.1:9hello").unwrap();
                let mut echoed = [0; 6];
                launched.read_exact(&mut echoed).unwrap();
                assert_eq!(&echoed, b"\0hello");
            }
        }
    });
}
