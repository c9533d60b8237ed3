//! What `/info` and `/tcping` tell (`rest.md` §3).

use std::thread;
use std::time::Instant;

use crate::support::api::{Api, PATIENCE};
use crate::support::binary::processor;
use crate::support::master::{Master, Setup};
use crate::support::ports::Port;
use crate::support::until::{millis, secs, until};

#[test]
fn info_tells_of_the_master_and_its_machine() {
    let master = Setup::default().param("log=debug").start();
    let answer = master.api.call("GET", "/info", "").expect(200);
    let info = answer.json();
    for (name, value) in [
        ("os", "linux"),
        ("name", "127.0.0.1"),
        ("log", "debug"),
        ("tls", "0"),
        ("crt", ""),
        ("key", ""),
        ("alias", ""),
    ] {
        assert_eq!(info[name], value, "{name}: {info}");
    }
    assert_eq!(info["arch"], processor());
    assert!(info["mid"].is_string());
    let version = info["ver"].as_str().unwrap().trim_start_matches('v');
    let numbers: Vec<u32> = version
        .split('.')
        .map(|part| part.parse().unwrap())
        .collect();
    assert!(numbers >= vec![1, 10, 0], "{version}");
    for name in [
        "uptime",
        "sysup",
        "mem_total",
        "mem_used",
        "swap_total",
        "swap_used",
        "netrx",
        "nettx",
        "diskr",
        "diskw",
        "noc",
    ] {
        assert!(info[name].is_u64(), "{name}: {info}");
    }
    let cpu = info["cpu"].as_i64().expect("cpu is an integer");
    assert!((-1..=100).contains(&cpu), "{cpu}");
    assert!(info["mem_total"].as_u64() >= info["mem_used"].as_u64());
    assert!(info["noc"].as_u64() >= Some(1));
    assert_eq!(info.as_object().unwrap().len(), 22, "{info}");
    assert!(
        !answer.text().contains('.') || !answer.text().contains("e+"),
        "a float: {info}"
    );
}

#[test]
fn info_does_not_pause_to_measure() {
    let master = Master::start();
    let times = (0..20).map(|_| {
        let began = Instant::now();
        master.api.get("/info");
        began.elapsed()
    });
    let quickest = times.min().unwrap();
    assert!(quickest < millis(90), "{quickest:?}");
}

#[test]
fn the_alias_of_the_master_is_set_by_post_info() {
    let master = Master::start();
    let info = master
        .api
        .call("POST", "/info", "{\"alias\":\"home\"}")
        .expect(200)
        .json();
    assert_eq!(info["alias"], "home");
    assert_eq!(master.api.get("/info")["alias"], "home");
    assert_eq!(master.api.instance("********")["alias"], "home");
}

#[test]
fn tcping_tells_who_answers() {
    let master = Master::start();
    let (open, closed) = (crate::support::peers::Target::echo(), Port::reserve());
    let ping = |target: &str| master.api.get(&format!("/tcping?target={target}"));
    let found = ping(&open.addr().to_string());
    assert_eq!(found["target"], open.addr().to_string());
    assert_eq!(found["connected"], true);
    assert!(found["latency"].is_u64(), "{found}");
    assert!(found["error"].is_null(), "{found}");
    assert_eq!(found.as_object().unwrap().len(), 4);
    let found = ping(&closed.addr().to_string());
    assert_eq!(found["connected"], false);
    assert!(!found["error"].as_str().unwrap().is_empty(), "{found}");
    for odd in [
        "nonsense",
        "127.0.0.1",
        "127.0.0.1:x",
        "no.such.host.invalid:80",
        "%20",
    ] {
        let answer = master.api.call("GET", &format!("/tcping?target={odd}"), "");
        match answer.status {
            200 => assert_eq!(answer.json()["connected"], false, "{odd}"),
            status => assert_eq!(status, 400, "{odd}"),
        }
    }
    // Percent-encoded, as browsers send it.
    let encoded = open.addr().to_string().replace(':', "%3A");
    assert_eq!(ping(&encoded)["connected"], true);
}

/// A listener whose queue is full: connecting to it takes forever.
struct Deaf {
    listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl Deaf {
    fn new() -> Self {
        use socket2::{Domain, Socket, Type};
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        let dial = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // In progress, which is what it is for.
            drop(socket.connect(&addr));
            socket
        };
        Self {
            listener,
            _queued: (0..4).map(|_| dial()).collect(),
        }
    }

    fn addr(&self) -> std::net::SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}

#[test]
fn tcping_serves_ten_at_once_for_five_seconds_each() {
    let master = Master::start();
    let deaf = Deaf::new();
    let path = format!("/tcping?target={}", deaf.addr());
    let ping = |api: Api, path: String| {
        thread::spawn(move || {
            let began = Instant::now();
            (api.get(&path), began.elapsed())
        })
    };
    let pings: Vec<_> = (0..30)
        .map(|_| ping(master.api.clone(), path.clone()))
        .collect();
    let answers: Vec<_> = pings.into_iter().map(|ping| ping.join().unwrap()).collect();
    let (refused, timed_out): (Vec<_>, Vec<_>) = answers
        .iter()
        .partition(|(answer, _)| answer["error"] == "too many requests");
    assert!(
        timed_out.len() >= 10 && !refused.is_empty(),
        "{} refused",
        refused.len()
    );
    for (answer, took) in &timed_out {
        assert_eq!(answer["connected"], false);
        assert!(answer["error"].is_string(), "{answer}");
        assert!(*took >= secs(4), "gave up after {took:?}");
    }
    // And then there is room again.
    until("tcping has room again", PATIENCE, || {
        let target = format!("/tcping?target={}", master.api.addr);
        (master.api.get(&target)["connected"] == true).then_some(())
    });
}
