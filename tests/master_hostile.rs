//! Slow, greedy and malicious clients: an honest one is answered throughout (`rest.md` §1).

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::api::{Api, Conn, ELSEWHERE, PATIENCE, until_open};
use crate::support::binary;
use crate::support::kernel::{established, pss, raise_descriptor_limit};
use crate::support::master::{Master, SERVER, STATE, read_json};
use crate::support::ports::Port;
use crate::support::scratch::Scratch;
use crate::support::sse::Stream;
use crate::support::until::{promptly, secs, until};
use crate::support::{full, optimised};

/// Half a request, without a key.
const HALF_HEAD: &str = "GET /api/v1/info HTTP/1.1\r\nHost: x\r\nX-Slow";

/// An honest client asks `times` times; the longest wait.
fn honest(api: &Api, times: usize) -> Duration {
    let ask = || {
        let began = Instant::now();
        api.get("/info");
        began.elapsed()
    };
    let longest = (0..times).map(|_| ask()).max().unwrap_or_default();
    eprintln!("GET /info: {longest:?} at most of {times}");
    // One lost SYN costs a second; a limit of the master that is in the way costs ten.
    assert!(longest < secs(5), "an honest client waited {longest:?}");
    longest
}

/// The head of a `POST` with a body of `length` bytes that the caller sends.
fn post(api: &Api, length: usize) -> String {
    let Api { base, key, .. } = api;
    format!(
        "POST {base}/info HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[test]
fn fifty_slow_heads_and_fifty_slow_bodies_delay_nobody() {
    let master = Master::start();
    let mut slow: Vec<_> = (0..100)
        .map(|number| {
            let mut conn = master.api.connect();
            let words = if number % 2 == 0 {
                HALF_HEAD.to_owned()
            } else {
                post(&master.api, 1000) + "{"
            };
            conn.send(words).unwrap();
            conn
        })
        .collect();
    let end = Instant::now() + secs(3);
    while Instant::now() < end {
        for conn in &mut slow {
            drop(conn.send(" "));
        }
        honest(&master.api, 5);
    }
}

/// Sends `words`, and a byte per second for 9 s if it drips. The status of the answer, whether the
/// connection was closed then, and when.
fn timed(api: &Api, words: &str, drips: bool) -> (Option<u16>, bool, Duration) {
    let mut conn = api.connect();
    let began = Instant::now();
    conn.send(words).unwrap();
    // Activity does not buy time.
    while drips && began.elapsed() < secs(9) {
        drop(conn.send("x"));
        thread::park_timeout(secs(1));
    }
    conn.patience(secs(90));
    let answer = conn.answer().map(|answer| {
        answer.expect_manners("a deadline");
        answer.status
    });
    let closed = conn.is_closed_within(secs(10));
    (answer.ok(), closed, began.elapsed())
}

#[test]
fn the_deadlines_and_silences_of_connections() {
    let master = Master::start();
    let api = &master.api;
    let begun = post(api, 1000) + "{";
    // All at once: they are all about waiting.
    thread::scope(|scope| {
        for (name, words, drips, after) in [
            ("head", HALF_HEAD, false, 10),
            ("dripping head", HALF_HEAD, true, 10),
            ("body", begun.as_str(), false, 30),
        ] {
            scope.spawn(move || {
                let (status, closed, took) = timed(api, words, drips);
                assert_eq!(status, Some(408), "{name}");
                assert!(closed, "{name}: left open");
                let right = took >= secs(after - 1) && took < secs(after) + PATIENCE;
                assert!(right, "{name}: {took:?}");
            });
        }
        scope.spawn(|| an_idle_connection_is_kept_for_a_minute(api));
        scope.spawn(|| a_stream_is_silent_for_15_s_at_most(api));
    });
}

fn an_idle_connection_is_kept_for_a_minute(api: &Api) {
    let mut conn = api.connect();
    conn.send(api.request("GET", "/info", "")).unwrap();
    conn.answer().unwrap().expect(200);
    let began = Instant::now();
    if full() {
        assert!(conn.is_closed_within(secs(60) + PATIENCE));
        assert!(began.elapsed() >= secs(58), "{:?}", began.elapsed());
    } else {
        // Longer than a head may take: it is another limit.
        assert!(!conn.is_closed_within(secs(20)));
    }
}

fn a_stream_is_silent_for_15_s_at_most(api: &Api) {
    let stream = Stream::open(api);
    stream.until_retries(2, secs(15) + PATIENCE);
    let retries = stream.retries();
    for pair in retries.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap >= secs(13), "again after {gap:?} only");
        assert!(gap < secs(15) + PATIENCE, "silence of {gap:?}");
    }
}

#[test]
fn five_hundred_idle_connections_delay_nobody() {
    raise_descriptor_limit();
    let master = Master::start();
    honest(&master.api, 5);
    let before = pss(master.process.id());
    let idle: Vec<_> = (0..500).map(|_| Conn::plain(master.api.addr)).collect();
    honest(&master.api, 20);
    let grown = pss(master.process.id()).saturating_sub(before);
    let limit = if optimised() { 16 } else { 32 };
    assert!(
        grown < limit << 20,
        "{} MiB more for 500 connections",
        grown >> 20
    );
    drop(idle);
    until("the connections are gone", PATIENCE, || {
        (established(master.api.addr) == 0).then_some(())
    });
}

#[test]
fn at_the_limit_the_longest_idle_makes_room_and_nobody_with_the_key() {
    raise_descriptor_limit();
    let master = Master::start();
    let api = &master.api;
    let stream = Stream::open(api);
    stream.first("initial", "********");
    let body = json!({ "url": SERVER }).to_string();
    let request = api.request("POST", "/instances", &body);
    let (begun, rest) = request.split_at(request.len() - 5);
    let mut busy: Vec<_> = (0..5)
        .map(|_| {
            let mut conn = api.connect();
            conn.send(begun).unwrap();
            conn
        })
        .collect();
    // Answered once, so that they may stay for a minute.
    let idle = |_| {
        let mut conn = Conn::plain(api.addr);
        conn.send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        conn.answer().unwrap().expect(200);
        conn
    };
    let mut oldest: Vec<_> = (0..100).map(idle).collect();
    let mut younger: Vec<_> = (0..500).map(idle).collect();
    honest(api, 30);
    // Those in the kernel's queue count as established too, for a moment.
    until("512 connections at most", PATIENCE, || {
        (established(api.addr) <= 512).then_some(())
    });
    // 606 and 30 came, 512 have room: at least 94 had to go, the oldest first.
    let closed = |conns: &mut Vec<Conn>| {
        conns
            .iter_mut()
            .filter_map(|conn| {
                conn.is_closed_within(Duration::from_millis(1))
                    .then_some(())
            })
            .count()
    };
    assert!(closed(&mut oldest) >= 90, "the longest idle were kept");
    assert!(closed(&mut younger) <= 60, "the younger ones were closed");
    for conn in &mut busy {
        conn.send(rest).unwrap();
        conn.answer().unwrap().expect(201);
    }
    assert!(!stream.has_ended(), "an authenticated stream was closed");
    let id = api.create_id(SERVER);
    stream.first("create", &id);
}

#[test]
fn half_requests_without_a_key_make_room_for_honest_ones() {
    raise_descriptor_limit();
    let master = Master::start();
    let stream = Stream::open(&master.api);
    stream.first("initial", "********");
    let _slow: Vec<_> = (0..530)
        .map(|_| {
            let mut conn = Conn::plain(master.api.addr);
            drop(conn.send(HALF_HEAD));
            conn
        })
        .collect();
    honest(&master.api, 20);
    assert!(!stream.has_ended());
}

#[test]
fn ten_megabytes_are_refused_and_leave_nothing() {
    let master = Master::start();
    honest(&master.api, 3);
    let before = pss(master.process.id());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut conn = master.api.connect();
                conn.send(post(&master.api, 10 << 20)).unwrap();
                let block = vec![b' '; 64 * 1024];
                // It is refused and closed long before the end.
                for _ in 0..160 {
                    if conn.send(&block).is_err() {
                        break;
                    }
                }
                if let Ok(answer) = conn.answer() {
                    answer.expect_error(413, "Request body too large");
                }
            });
        }
        honest(&master.api, 10);
    });
    let grown = pss(master.process.id()).saturating_sub(before);
    assert!(grown < 16 << 20, "{} MiB more", grown >> 20);
}

/// One wrong key from `source`; how long the answer took, `None` if the connection was closed.
fn wrong_key(api: &Api, source: IpAddr) -> Option<Duration> {
    let began = Instant::now();
    let mut conn = Conn::from(source, api.addr);
    let request = api
        .request("GET", "/info", "")
        .replace(&api.key, &"0".repeat(32));
    conn.send(request).ok()?;
    let answer = conn.answer().ok()?;
    assert_eq!(answer.status, 401);
    answer.expect_manners("a wrong key");
    Some(began.elapsed())
}

#[test]
fn after_ten_wrong_keys_an_address_waits_and_the_right_key_never() {
    let master = Master::start();
    let api = &master.api;
    let delayed = |took: &Duration| *took >= Duration::from_millis(950);
    let first: Vec<_> = (0..10)
        .map(|_| wrong_key(api, ELSEWHERE).expect("an answer"))
        .collect();
    // A busy machine may delay one or two of them.
    let late = first.iter().filter(|took| delayed(took)).count();
    assert!(late < 5, "{first:?}");
    for _ in 0..2 {
        let took = wrong_key(api, ELSEWHERE).expect("an answer");
        assert!(delayed(&took), "only {took:?}");
    }
    // Another address is another matter, and so are the right key and none at all.
    let limit = Duration::from_millis(950);
    promptly("another address", limit, || {
        let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 78));
        wrong_key(api, other).expect("an answer")
    });
    let asked = |request: &str, status: u16| {
        let began = Instant::now();
        let mut conn = Conn::from(ELSEWHERE, api.addr);
        conn.send(request).unwrap();
        conn.answer().unwrap().expect(status);
        began.elapsed()
    };
    promptly("the right key", limit, || {
        asked(&api.request("GET", "/info", ""), 200)
    });
    promptly("no key", limit, || {
        asked("GET /api/v1/info HTTP/1.1\r\nHost: x\r\n\r\n", 401)
    });
}

#[test]
fn wrong_keys_in_bulk_delay_nobody_and_cost_nothing() {
    raise_descriptor_limit();
    let master = Master::start();
    let api = &master.api;
    honest(api, 3);
    let before = pss(master.process.id());
    let total: usize = if full() { 100_000 } else { 250 };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    (0..total / 50)
                        .filter(|_| wrong_key(api, ELSEWHERE).is_none())
                        .count()
                })
            })
            .collect();
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            honest(api, 5);
        }
        let closed: usize = workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum();
        // 32 answers at once are delayed; the other 18 of 50 are closed without one.
        assert!(closed > 0, "more than 32 delayed answers at once");
    });
    let grown = pss(master.process.id()).saturating_sub(before);
    assert!(grown < 16 << 20, "{} MiB more", grown >> 20);
    honest(api, 5);
}

#[test]
fn garbage_in_bulk_harms_nobody() {
    let master = Master::start();
    for round in 0..300_u64 {
        let mut conn = Conn::plain(master.api.addr);
        let garbage = crate::support::noise(usize::try_from(round * 13 % 3000).unwrap(), round);
        drop(conn.send(garbage));
    }
    honest(&master.api, 5);
}

/// Killed when dropped.
struct Unread(Child);

impl Drop for Unread {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let (scratch, port) = (Scratch::new(), Port::reserve());
    let (_reader, stdout) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&stdout, 4096).unwrap();
    let state = scratch.path().join(STATE);
    let url = format!("master://{}?state={}", port.addr(), state.display());
    let mut command = Command::new(binary::path());
    command.arg(url).stdin(Stdio::null()).stdout(stdout);
    let mut master = Unread(command.spawn().unwrap());
    until_open(port.addr(), PATIENCE);
    let key = until("the key", PATIENCE, || {
        Some(read_json(&state)?["master"]["key"].as_str()?.to_owned())
    });
    let api = Api {
        addr: port.addr(),
        base: "/api/v1".to_owned(),
        key,
        tls: false,
    };
    // Each is several lines of the log.
    for _ in 0..60 {
        let id = api.create_id(SERVER);
        api.until_status(&id, "running");
        api.call("DELETE", &format!("/instances/{id}"), "")
            .expect(204);
    }
    honest(&api, 3);
    let pid = Pid::from_raw(master.0.id().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let ended = until("the end", PATIENCE, || master.0.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
}
