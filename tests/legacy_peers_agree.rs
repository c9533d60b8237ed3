//! The scripted peers against each other and against what real programs were seen to write, so
//! that a failure against the binary means something.

use crate::support::course::{at_once, bulk, carry, datagrams, echo};
use crate::support::cutter::{Cutter, Way};
use crate::support::kernel::raise_descriptor_limit;
use crate::support::legacy::codec::{self, Signal};
use crate::support::legacy::{Generation, Journal, Script, head};
use crate::support::mixed::patience;
use crate::support::ports::Port;
use crate::support::tunnel::Flow;
use crate::support::until::{millis, pause, secs, until};
use crate::support::users;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
struct Case {
    generation: Generation,
    flow: Flow,
    tls: u8,
    key: Option<&'static str>,
}

fn cases(generation: Generation) -> Vec<Case> {
    let mut cases = Vec::new();
    for flow in [Flow::Reverse, Flow::Forward] {
        for tls in [0, 1] {
            for key in [Some("a key: 100 %"), None] {
                cases.push(Case {
                    generation,
                    flow,
                    tls,
                    key,
                });
            }
        }
    }
    cases
}

/// Server and client of a case; the server listens on the first port.
fn scripts(
    case: &Case,
    tunnel: &Port,
    users: &Port,
    target: std::net::SocketAddr,
) -> (Script, Script) {
    let (at_server, at_client) = match case.flow {
        Flow::Reverse => (users.addr(), target),
        Flow::Forward => (target, users.addr()),
    };
    let make = |local| Script {
        key: case.key.map(str::to_owned),
        ..Script::new(case.generation, tunnel.addr(), local)
    };
    let mut server = Script {
        flow: case.flow,
        tls: case.tls,
        ..make(at_server)
    };
    let mut client = make(at_client);
    // Both would take the oldest connection at once, and as in the field that ends the session.
    client.quirks.verify_after = server.quirks.verify_after + 1;
    server.quirks.late_id = millis(5);
    (server, client)
}

fn agree(case: &Case) {
    let (tcp, _udp) = echo();
    let (tunnel, user) = (Port::reserve(), Port::reserve());
    let (server, client) = scripts(case, &tunnel, &user, tcp.addr());
    let mut serving = server.serve();
    let mut dialling = client.dial();
    users::until_served(user.addr(), patience());
    serving.until_verified(case.tls, patience());
    dialling.until_verified(case.tls, patience());
    carry(user.addr());
    assert_eq!(
        (serving.sessions(), dialling.sessions()),
        (1, 1),
        "it broke"
    );

    dialling.stop();
    dialling = client.dial();
    users::until_served(user.addr(), patience());
    serving.stop();
    serving = server.serve();
    users::until_served(user.addr(), patience());
    assert!(serving.sessions() > 0 && dialling.is_up());
}

#[test]
fn http_peers_agree() {
    raise_descriptor_limit();
    at_once(&cases(Generation::Http), agree);
}

#[test]
fn https_peers_agree() {
    raise_descriptor_limit();
    at_once(&cases(Generation::Https), agree);
}

#[test]
fn classic_peers_agree() {
    raise_descriptor_limit();
    at_once(&cases(Generation::Classic), agree);
}

#[test]
fn odd_peers_agree() {
    at_once(
        &[Generation::Http, Generation::Https, Generation::Classic],
        |generation| {
            let case = Case {
                generation: *generation,
                flow: Flow::Reverse,
                tls: 1,
                key: None,
            };
            let (tcp, _udp) = echo();
            let (tunnel, user) = (Port::reserve(), Port::reserve());
            let (mut server, mut client) = scripts(&case, &tunnel, &user, tcp.addr());
            for script in [&mut server, &mut client] {
                script.min = 40;
                script.quirks.burst = 7;
                script.quirks.overtake = millis(100);
            }
            server.quirks.control_at = 37;
            server.quirks.late_id = millis(100);
            let (_serving, _dialling) = (server.serve(), client.dial());
            users::until_served(user.addr(), patience());
            bulk(user.addr(), 1 << 20);
            datagrams(user.addr(), 10);
        },
    );
}

#[test]
fn a_peer_notices_silence_and_a_wrong_certificate() {
    for wrong_fp in [false, true] {
        let case = Case {
            generation: Generation::Http,
            flow: Flow::Reverse,
            tls: 1,
            key: None,
        };
        let (tcp, _udp) = echo();
        let (tunnel, user) = (Port::reserve(), Port::reserve());
        let (server, mut client) = scripts(&case, &tunnel, &user, tcp.addr());
        client.quirks.wrong_fp = wrong_fp;
        let (serving, dialling) = (server.serve(), client.dial());
        serving.until_up(secs(10));
        if wrong_fp {
            until("the server ends the session", secs(20), || {
                serving.saw("certificates differ").then_some(())
            });
            assert_eq!(tcp.accepted(), 0);
        } else {
            dialling.mute(true);
            until("the server hears nothing", secs(30), || {
                serving.saw("silence").then_some(())
            });
        }
    }
}

/// A line of a transcript.
struct Event {
    conn: String,
    bytes: Vec<u8>,
}

/// The bytes of a transcript, in order.
fn transcript(text: &str) -> Vec<Event> {
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, conn, _, len, digits] = words[..] else {
            return None;
        };
        assert!(len.starts_with("len="));
        let pairs = digits
            .as_bytes()
            .chunks(2)
            .map(|pair| str::from_utf8(pair).unwrap());
        Some(Event {
            conn: conn.to_owned(),
            bytes: pairs
                .map(|pair| u8::from_str_radix(pair, 16).unwrap())
                .collect(),
        })
    };
    text.lines().filter_map(parse).collect()
}

const HTTP: &str = include_str!("../protocol/tests/vectors/http-tls0.hex");
const HTTP_64: &str = include_str!("../protocol/tests/vectors/http-tls0-pool64.hex");
const CLASSIC: &str = include_str!("../protocol/tests/vectors/classic-tls0.hex");

/// Reads every line that real programs wrote on `control`, and writes it again byte for byte.
fn reads_and_writes(generation: Generation, events: &[Event], control: &str) -> Vec<Signal> {
    let lines = events.iter().filter(|event| event.conn == control);
    let lines = lines.flat_map(|event| event.bytes.split_inclusive(|byte| *byte == b'\n'));
    let signal = |line: &[u8]| {
        let signal = codec::decode(generation, "KEY", &line[..line.len() - 1]).unwrap();
        assert_eq!(
            codec::encode(generation, "KEY", &signal),
            line,
            "{signal:?}"
        );
        signal
    };
    // The handshake of `classic` is on the same connection, and the first id in the others.
    let handshake =
        |line: &[u8]| line == b"HFZ\n" || line == [0; 4] || line.ends_with(&[0x20, 0x33, 0x0a]);
    lines.filter(|line| !handshake(line)).map(signal).collect()
}

#[test]
fn recorded_lines_are_read_and_written_again() {
    for (text, control) in [(HTTP, "conn002"), (HTTP_64, "conn037")] {
        let signals = reads_and_writes(Generation::Http, &transcript(text), control);
        let launches: Vec<_> = signals
            .iter()
            .filter(|signal| !matches!(signal, Signal::Ping | Signal::Pong))
            .collect();
        assert!(
            matches!(launches[..], [Signal::Tcp { .. }, Signal::Udp { .. }]),
            "{launches:?}"
        );
    }
    let signals = reads_and_writes(Generation::Classic, &transcript(CLASSIC), "conn001");
    let of = |text: &str| Signal::Udp {
        id: text.to_owned(),
        remote: "127.0.0.1:34823".to_owned(),
    };
    assert!(signals.contains(&of("6d70aa66")), "{signals:?}");
}

#[test]
fn recorded_handshakes_are_the_ones_of_the_peers() {
    let events = transcript(HTTP);
    assert_eq!(events[0].bytes, head::request("KEY").into_bytes());
    let journal = Journal::new();
    let terms = head::judge_answer(&events[1].bytes, &journal).unwrap();
    assert_eq!(events[1].bytes, head::answer(terms).into_bytes());
    let asked = String::from_utf8(events[0].bytes.clone()).unwrap();
    let judged = |key: &str| {
        let nowhere = ([127, 0, 0, 1], 1).into();
        let script = Script {
            key: Some(key.to_owned()),
            ..Script::new(Generation::Http, nowhere, nowhere)
        };
        head::judge_request(&asked, &script, &journal)
    };
    assert_eq!((judged("KEY"), judged("KEX")), (None, Some(401)));
    assert_eq!(journal.fouls(), [""; 0]);
}

/// What two peers write on loopback is what the real ones wrote, ids and addresses aside.
#[test]
fn a_session_of_the_peers_looks_like_a_recorded_one() {
    for (generation, text) in [(Generation::Http, HTTP), (Generation::Classic, CLASSIC)] {
        let case = Case {
            generation,
            flow: Flow::Reverse,
            tls: 0,
            key: Some("KEY"),
        };
        let (tcp, _udp) = echo();
        let (tunnel, user) = (Port::reserve(), Port::reserve());
        let cutter = Cutter::before(tunnel.addr());
        let (mut server, mut client) = scripts(&case, &tunnel, &user, tcp.addr());
        server.quirks.control_at = 1;
        client.tunnel = cutter.addr();
        let _serving = server.serve();
        let dialling = client.dial();
        dialling.until_up(secs(10));
        users::until_served(user.addr(), secs(10));
        users::until_served_udp(user.addr(), secs(10));
        // Two rounds of pings.
        pause(server.interval * 2);

        let seen = |way| -> Vec<Vec<u8>> {
            (0..cutter.count())
                .map(|number| cutter.recorded(number, way))
                .collect()
        };
        let (up, down) = (seen(Way::Up), seen(Way::Down));
        let recorded = transcript(text);
        let began =
            |bytes: &[Vec<u8>], with: &[u8]| bytes.iter().any(|bytes| bytes.starts_with(with));
        assert!(began(&up, &recorded[0].bytes), "the handshake");
        // The first ping of a `classic` server came with its answer, or not.
        let answer = recorded[1].bytes.strip_suffix(b"\x20j\n");
        let answer = answer.unwrap_or(&recorded[1].bytes);
        assert!(began(&down, answer), "the answer");
        let digit = |byte: &u8| byte.is_ascii_hexdigit();
        if generation == Generation::Http {
            assert!(began(&down, &[0; 4]), "the control channel");
        } else {
            let ids = down
                .iter()
                .filter(|bytes| bytes.len() >= 8 && bytes[..8].iter().all(digit));
            assert!(ids.count() >= 4, "ids of data connections");
        }
    }
}
