//! Replays transcripts of real programs: what they sent is understood, line for line, and what we
//! send in their peer's place is what they were sent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test's helpers fail by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use protocol::dialect::{DataBy, Dialect};
use protocol::handshake::legacy::{
    AwaitLegacy, LegacyConfig, LegacyHandshake, LegacyKeys, LegacyStep, Spoken,
};
use protocol::handshake::{Established, HandshakeError, Step};
use protocol::id::ConnId;
use protocol::key::TunnelKey;
use protocol::roster::{self, Roster};
use protocol::session::{self, Session};
use protocol::terms::{DataId, DataTls, Flow, Transport};
use protocol::time::Instant;
use protocol::wire::http::Params;
use protocol::wire::launch::Launch;
use protocol::wire::native::RefuseReason;
use protocol::wire::signal::Signal;

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Client,
    Server,
}

/// One line of a transcript. No bytes: the end of the stream.
#[derive(Debug)]
struct Event {
    at: Instant,
    conn: u64,
    from: From,
    bytes: Vec<u8>,
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    fs::read_to_string(path.join(name)).unwrap()
}

fn transcript(name: &str) -> Vec<Event> {
    let event = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [seconds, conn, direction, rest @ ..] = &words[..] else {
            return None;
        };
        let from = match *direction {
            "C>S" => From::Client,
            "S>C" => From::Server,
            _ => return None,
        };
        let hex = rest.get(1).copied().unwrap_or_default();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        Some(Event {
            at: Instant::from_origin(Duration::from_secs_f64(seconds.parse().unwrap())),
            conn: conn.trim_start_matches("conn").parse().unwrap(),
            from,
            bytes: (0..hex.len()).step_by(2).map(byte).collect(),
        })
    };
    read(name).lines().filter_map(event).collect()
}

/// All that one side said on one connection.
fn said(events: &[Event], conn: u64, from: From) -> Vec<u8> {
    let its = events
        .iter()
        .filter(|it| it.conn == conn && it.from == from);
    its.flat_map(|it| it.bytes.clone()).collect()
}

fn keys() -> LegacyKeys {
    LegacyKeys::new(&TunnelKey::new("KEY"), None)
}

/// As a client, with this answer to its request.
fn as_client(spoken: Spoken, answer: &[u8]) -> Result<Established, HandshakeError> {
    let config = LegacyConfig {
        host: "none".into(),
        least_tls: DataTls::Plain,
    };
    let (now, mut out) = (Instant::default(), Vec::new());
    let wait = LegacyHandshake::start(spoken, &config, &keys(), now, TIMEOUT, &mut out)?;
    match wait.handle_bytes(answer)? {
        Step::Done(established) => Ok(established),
        Step::NeedsInput(wait) => wait.handle_eof(),
    }
}

fn as_server(spoken: Spoken, request: &[u8]) -> LegacyStep {
    let wait = AwaitLegacy::new(spoken, &keys(), Instant::default(), TIMEOUT);
    wait.unwrap().handle_bytes(request).unwrap()
}

/// A recording of a reverse tunnel.
struct Recording {
    events: Vec<Event>,
    spoken: Spoken,
    /// Which connection carries signals, and how much goes before them.
    control: u64,
    before: BTreeMap<u8, usize>,
}

impl Recording {
    fn http(name: &str) -> Self {
        let events = transcript(name);
        let zero = |it: &&Event| it.from == From::Server && it.bytes == [0; 4];
        let control = events.iter().find(zero).unwrap().conn;
        Self {
            events,
            spoken: Spoken::Http,
            control,
            before: [(From::Server as u8, 4)].into(),
        }
    }

    fn classic() -> Self {
        Self {
            events: transcript("classic-tls0.hex"),
            spoken: Spoken::Classic,
            control: 1,
            before: [(From::Server as u8, 6), (From::Client as u8, 4)].into(),
        }
    }

    fn established(&self) -> Established {
        as_client(self.spoken, &said(&self.events, 1, From::Server)).unwrap()
    }

    fn dialect(&self) -> Dialect {
        self.established().dialect
    }

    /// The signals of one side: when, and the bytes.
    fn signals(&self, from: From) -> Vec<(Instant, Vec<u8>)> {
        let mut skip = self.before.get(&(from as u8)).copied().unwrap_or(0);
        let mut signals = Vec::new();
        for it in &self.events {
            if (it.conn, it.from) != (self.control, from) || it.bytes.is_empty() {
                continue;
            }
            let taken = skip.min(it.bytes.len());
            skip -= taken;
            signals.push((it.at, it.bytes[taken..].to_vec()));
        }
        signals
    }

    /// When each data connection got its id.
    fn ids(&self) -> Vec<(Instant, u64, DataId)> {
        let DataBy::Address(form) = self.dialect().capabilities.data else {
            panic!("ids");
        };
        let mut seen = vec![1];
        let mut ids = Vec::new();
        for it in &self.events {
            if it.from == From::Server && !it.bytes.is_empty() && !seen.contains(&it.conn) {
                seen.push(it.conn);
                let id = form.decode(&it.bytes).unwrap();
                let mut written = Vec::new();
                form.encode(id, &mut written);
                assert_eq!(written, it.bytes);
                ids.push((it.at, it.conn, id));
            }
        }
        ids
    }
}

fn recordings() -> [Recording; 3] {
    [
        Recording::http("http-tls0.hex"),
        Recording::http("http-tls0-pool64.hex"),
        Recording::classic(),
    ]
}

#[test]
fn both_handshakes_of_the_field_are_understood_and_answered_alike() {
    for recording in recordings() {
        let established = recording.established();
        assert_eq!(established.flow, Flow::Reverse);
        assert_eq!((established.tls, established.max), (DataTls::Plain, 1024));

        let request = said(&recording.events, 1, From::Client);
        let LegacyStep::Verified(client) = as_server(recording.spoken, &request) else {
            panic!("the key is right");
        };
        let params = Params {
            flow: Flow::Reverse,
            max: 1024,
            tls: DataTls::Plain,
        };
        let mut answer = Vec::new();
        client.answer(&params, &mut answer).unwrap();
        let theirs = said(&recording.events, 1, From::Server);
        match recording.spoken {
            Spoken::Classic => assert!(theirs.starts_with(&answer)),
            Spoken::Http | Spoken::Https => assert_eq!(without_date(&theirs), answer),
        }
        let capabilities = client.dialect(&params).unwrap().capabilities;
        assert_eq!(capabilities, established.dialect.capabilities);
    }
}

fn without_date(answer: &[u8]) -> Vec<u8> {
    let text = core::str::from_utf8(answer).unwrap();
    let lines = text.split_inclusive('\n');
    let kept: String = lines.filter(|line| !line.starts_with("Date:")).collect();
    kept.into_bytes()
}

#[test]
fn every_signal_is_understood_and_would_be_said_in_the_same_words() {
    for recording in recordings() {
        let codec = recording.dialect().codec;
        for from in [From::Client, From::Server] {
            let signals = recording.signals(from);
            assert!(!signals.is_empty());
            for (_, bytes) in signals {
                let mut again = Vec::new();
                for line in bytes.split_inclusive(|&byte| byte == b'\n') {
                    let line = line.strip_suffix(b"\n").expect("whole lines");
                    let signal = codec.decode(line).unwrap().expect("a known action");
                    codec.encode(&signal, &mut again);
                }
                assert_eq!(again, bytes);
            }
        }
    }
}

#[test]
fn a_session_lives_through_the_recording_of_its_peer() {
    for recording in recordings() {
        for from in [From::Client, From::Server] {
            let signals = recording.signals(from);
            let (begin, end) = (signals[0].0, signals.last().unwrap().0);
            let mut session = Session::new(&recording.dialect(), TIMEOUT, begin);
            let (mut launches, mut round_trips) = (0, 0);
            for (at, bytes) in signals {
                while session.poll_timeout().is_some_and(|due| due <= at) {
                    session.handle_timeout(session.poll_timeout().unwrap());
                }
                session.handle_input(at, session::Input::Control(&bytes));
                while let Some(output) = session.poll_output() {
                    match output {
                        session::Output::Heard => {}
                        session::Output::RoundTrip(_) => round_trips += 1,
                        session::Output::Launch { .. } => launches += 1,
                        other => panic!("{other:?}"),
                    }
                }
            }
            assert!(end > begin);
            let expected = if from == From::Server { 2 } else { 0 };
            assert_eq!(launches, expected);
            assert!(round_trips >= 1, "{:?} {from:?}", recording.spoken);
        }
    }
}

#[test]
fn ids_are_unique_and_zero_is_the_control_channel() {
    for recording in recordings() {
        let ids = recording.ids();
        let mut numbers: Vec<u32> = ids.iter().map(|(_, _, id)| id.0).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ids.len());
        let zero = ids.iter().find(|(_, _, id)| *id == DataId::CONTROL);
        let control = zero.map(|(_, conn, _)| *conn);
        match recording.spoken {
            Spoken::Classic => assert_eq!(control, None),
            Spoken::Http | Spoken::Https => assert_eq!(control, Some(recording.control)),
        }
    }
}

/// The client's roster, fed in the order of the recording: users' bytes that overtake their launch
/// included.
#[test]
fn both_users_of_a_recording_are_launched_on_their_connections() {
    for recording in recordings() {
        let ids = recording.ids();
        let codec = recording.dialect().codec;
        let config = roster::Config {
            ingress: false,
            check: None,
        };
        let mut roster = Roster::new(config, Instant::default());
        let mut served = Vec::new();
        let mut launched = Vec::new();
        for it in recording.events.iter().filter(|it| it.from == From::Server) {
            let id = ids
                .iter()
                .find(|(at, conn, _)| (*at, *conn) == (it.at, it.conn));
            let conn = ConnId::from_number(it.conn);
            if let Some((_, _, id)) = id.filter(|_| it.bytes.len() <= 8) {
                let (id, leaf) = (*id, None);
                let input = roster::Input::Numbered { conn, id, leaf };
                if id != DataId::CONTROL {
                    roster.handle_input(it.at, input);
                }
            } else if it.conn == recording.control {
                for line in it.bytes.split(|&byte| byte == b'\n') {
                    if let Ok(Some(Signal::Launch { id, launch })) = codec.decode(line) {
                        roster.handle_input(it.at, roster::Input::Launch { id, launch });
                    }
                }
            } else if it.conn != 1 && !launched.contains(&conn) {
                roster.handle_input(it.at, roster::Input::Early(conn));
            }
            while let Some(output) = roster.poll_output() {
                if let roster::Output::Serve { conn, launch } = output {
                    launched.push(conn);
                    let bytes = said(&recording.events, conn.number(), From::Server);
                    let id = ids.iter().find(|it| it.1 == conn.number()).unwrap().2;
                    served.push((launch, bytes[id_len(&recording)..].to_vec(), id));
                }
            }
        }
        let [(tcp, tcp_bytes, _), (udp, udp_bytes, _)] = &served[..] else {
            panic!("two users, not {served:?}");
        };
        assert_eq!(
            (tcp.transport, &tcp_bytes[..]),
            (Transport::Tcp, &b"hello tcp"[..])
        );
        assert_eq!(
            (udp.transport, &udp_bytes[..]),
            (Transport::Udp, &b"hello udpsecond udp"[..])
        );
        assert!(udp.address().is_some());
        let has_source = |launch: &Launch| launch.address().is_some();
        assert_eq!(has_source(tcp), recording.spoken != Spoken::Classic);
    }
}

fn id_len(recording: &Recording) -> usize {
    match recording.dialect().capabilities.data {
        DataBy::Address(form) => form.len(),
        DataBy::Preface => 0,
    }
}

/// The answers of `http-handshake-variants.txt`: the server's URL, the request, the answer.
fn variants() -> Vec<(String, String, Vec<u8>)> {
    let text = read("http-handshake-variants.txt");
    let mut variants = Vec::new();
    for server in text.split("##### server ").skip(1) {
        let url = server.lines().next().unwrap().to_owned();
        for answer in server.split("--- ").skip(1) {
            let (request, answer) = answer.split_once('\n').unwrap();
            let of_log = |line: &&str| !line.starts_with("2026-");
            let mut lines = answer.lines().take_while(of_log);
            let head: Vec<&str> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            let body = lines.next().unwrap();
            let whole = format!("{}\r\n\r\n{body}\n", head.join("\r\n"));
            variants.push((url.clone(), request.to_owned(), whole.into_bytes()));
        }
    }
    variants
}

#[test]
fn refusals_are_understood_and_given_as_by_the_real_server() {
    let request = |first: &str, token: &str| format!("{first} HTTP/1.1\r\nHost: h\r\n{token}\r\n");
    let wrong = format!("Authorization: Bearer {}\r\n", "0".repeat(64));
    let ours = BTreeMap::from([
        (401, request("GET /", &wrong)),
        (404, request("GET /other", "")),
        (405, request("POST /", "")),
    ]);
    let mut seen = 0;
    for (_, asked, answer) in variants() {
        if asked == "good token" {
            continue;
        }
        seen += 1;
        let error = as_client(Spoken::Http, &answer).unwrap_err();
        let status = match error {
            HandshakeError::Refused(RefuseReason::Auth) => 401,
            HandshakeError::HttpStatus(status) => status,
            other => panic!("{other}"),
        };
        let LegacyStep::Refused { answer: said, why } =
            as_server(Spoken::Http, ours[&status].as_bytes())
        else {
            panic!("refused");
        };
        assert_eq!(said, without_date(&answer), "{asked}");
        assert_eq!(why.counts_for_ban(), status == 401);
    }
    assert_eq!(seen, 4);
}

#[test]
fn what_a_server_says_of_its_tunnel_is_understood() {
    let mut seen = 0;
    for (url, asked, answer) in variants() {
        if asked != "good token" {
            continue;
        }
        seen += 1;
        let outcome = as_client(Spoken::Http, &answer);
        if url.contains("type=") && !url.contains("type=0") {
            assert_eq!(outcome, Err(HandshakeError::PoolType), "{url}");
            continue;
        }
        let established = outcome.unwrap();
        let flow = if url.contains("mode=2") {
            Flow::Forward
        } else {
            Flow::Reverse
        };
        assert_eq!(established.flow, flow, "{url}");
        assert_eq!(established.tls == DataTls::Pinned, url.contains("tls=1"));
        assert_eq!(
            established.max,
            if url.contains("max=7") { 7 } else { 1024 }
        );
    }
    assert!(seen >= 8, "{seen}");
}
