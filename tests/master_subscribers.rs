//! Who subscribes to events: those that come back, those that do not read, and too many of them
//! (`rest.md` §1, §4).

use std::collections::BTreeMap;
use std::thread;

use serde_json::json;

use crate::support::api::{Api, PATIENCE};
use crate::support::kernel::{pss, until_listening};
use crate::support::master::{Master, SERVER};
use crate::support::peers::Target;
use crate::support::ports::Port;
use crate::support::sse::{Stream, changes, plain, position, request};
use crate::support::until::{secs, until};
use crate::support::{full, optimised, users};

#[test]
fn a_reconnect_with_the_last_id_misses_nothing() {
    let master = Master::start();
    let stream = Stream::open(&master.api);
    let first = master.api.create_id(SERVER);
    master.api.until_status(&first, "running");
    let last = stream
        .first("create", &first)
        .number
        .expect("events have numbers");
    drop(stream);
    let second = master.api.create_id(SERVER);
    master.api.until_status(&second, "running");
    master.api.patch(&first, &json!({ "alias": "missed" }));
    master.api.delete(&second);
    let stream = Stream::resume(&master.api, last);
    let delete = stream.first("delete", &second);
    let events = stream.events();
    assert_eq!(
        position(&events, "initial"),
        None,
        "a snapshot instead of a replay"
    );
    assert!(events.iter().any(|event| event.is("create", &second)));
    assert!(
        events
            .iter()
            .any(|event| event.is("update", &first) && event.instance["alias"] == "missed")
    );
    let statuses = changes(&stream.about(&first));
    assert!(statuses.contains(&"running".to_owned()), "{statuses:?}");
    // Numbers only grow, and nothing before the last one comes again.
    let numbers: Vec<_> = events.iter().filter_map(|event| event.number).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "{numbers:?}"
    );
    assert!(numbers.iter().all(|number| *number > last), "{numbers:?}");
    assert!(delete.number.is_some());
}

#[test]
fn a_last_id_that_is_unknown_gets_the_snapshot() {
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    let stream = Stream::resume(&master.api, u64::MAX);
    stream.first("initial", "********");
    stream.first("initial", &id);
}

#[test]
fn a_last_id_of_more_than_1024_events_ago_gets_the_snapshot() {
    let master = Master::start();
    let stream = Stream::open(&master.api);
    let ids: Vec<_> = (0..10).map(|_| master.api.create_id(SERVER)).collect();
    let last = stream.first("create", &ids[0]).number;
    drop(stream);
    thread::scope(|scope| {
        for id in &ids {
            let api = &master.api;
            scope.spawn(move || {
                for round in 0..110 {
                    api.patch(id, &json!({ "alias": format!("round {round}") }));
                }
            });
        }
    });
    let stream = Stream::resume(&master.api, last.expect("events have numbers"));
    for id in &ids {
        assert_eq!(stream.first("initial", id).instance["alias"], "round 109");
    }
}

#[test]
fn a_replay_misses_nothing_however_often_the_connection_breaks() {
    let master = Master::start();
    let ids: Vec<_> = (0..4).map(|_| master.api.create_id(SERVER)).collect();
    for id in &ids {
        master.api.until_status(id, "running");
    }
    let writer = {
        let api = master.api.clone();
        thread::spawn(move || {
            for round in 0..40 {
                let id = &ids[round % ids.len()];
                api.patch(id, &json!({ "alias": format!("round {round}") }));
            }
        })
    };
    let mut seen = BTreeMap::new();
    let mut note = |stream: &Stream| {
        for event in stream.events() {
            if let (Some(number), "update") = (event.number, event.kind.as_str()) {
                seen.insert(number, event.instance["alias"].as_str().unwrap().to_owned());
            }
        }
        let over = seen.values().any(|alias| alias == "round 39");
        (over, seen.keys().last().copied())
    };
    let first = Stream::open(&master.api);
    first.until("the first update", |events| {
        position(events, "update").map(drop)
    });
    let (mut over, mut last) = note(&first);
    drop(first);
    while !over {
        let number = last.expect("updates have numbers");
        let stream = Stream::resume(&master.api, number);
        stream.until("something new", |events| events.last().map(drop));
        let snapshot = position(&stream.events(), "initial");
        assert_eq!(snapshot, None, "a snapshot instead of a replay");
        (over, last) = note(&stream);
    }
    writer.join().unwrap();
    let mut rounds: Vec<_> = seen
        .values()
        .filter(|alias| alias.starts_with("round"))
        .cloned()
        .collect();
    rounds.dedup();
    let first: usize = rounds[0].trim_start_matches("round ").parse().unwrap();
    let expected: Vec<_> = (first..40).map(|round| format!("round {round}")).collect();
    assert_eq!(rounds, expected, "updates were lost between reconnects");
}

/// A subscriber that reads nothing at all.
fn deaf(api: &Api) -> crate::support::api::Conn {
    let mut conn = api.connect();
    drop(socket2::SockRef::from(conn.socket()).set_recv_buffer_size(4096));
    conn.send(request(api, "")).unwrap();
    conn
}

#[test]
fn who_does_not_read_costs_little_and_delays_nobody() {
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.until_status(&id, "running");
    let attentive = Stream::open(&master.api);
    attentive.first("initial", &id);
    let deaf: Vec<_> = (0..8).map(|_| deaf(&master.api)).collect();
    let before = pss(master.process.id());
    // Big objects, so that buffers of the kernel are full soon.
    let tags: BTreeMap<_, _> = (0..60)
        .map(|tag| (format!("t{tag}"), "x".repeat(256)))
        .collect();
    master.api.patch(&id, &json!({ "meta": { "tags": tags } }));
    let rounds = if full() { 4000 } else { 600 };
    for round in 0..rounds {
        master
            .api
            .patch(&id, &json!({ "alias": format!("round {round}") }));
    }
    let other = master.api.create_id(SERVER);
    master.api.until_status(&other, "running");
    master.api.delete(&other);
    attentive.first("create", &other);
    attentive.first("delete", &other);
    let aliases = attentive
        .events()
        .iter()
        .filter(|event| {
            event.kind == "update"
                && event.instance["alias"]
                    .as_str()
                    .is_some_and(|alias| alias.starts_with("round"))
        })
        .count();
    assert!(aliases >= rounds, "{aliases} of {rounds} updates");
    let grown = pss(master.process.id()).saturating_sub(before);
    assert!(grown < 48 << 20, "{} MiB more", grown >> 20);
    if optimised() {
        assert!(grown < 24 << 20, "{} MiB more", grown >> 20);
    }
    drop(deaf);
}

#[test]
fn who_pauses_loses_log_lines_and_nothing_else() {
    let master = Master::start();
    let (port, target) = (Port::reserve(), Target::echo());
    let url = format!(
        "client://{}/{}?mode=1&log=debug",
        port.addr(),
        target.addr()
    );
    let id = master.api.create_id(&url);
    until_listening(port.addr());
    let tags: BTreeMap<_, _> = (0..60)
        .map(|tag| (format!("t{tag}"), "x".repeat(256)))
        .collect();
    master.api.patch(&id, &json!({ "meta": { "tags": tags } }));
    let mut paused = master.api.connect();
    paused.send(request(&master.api, "")).unwrap();
    let attentive = Stream::open(&master.api);
    attentive.first("initial", &id);
    // Each user is a line, and each line comes with the whole object: more than sockets hold, and
    // then more than 256 KiB of lines.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1250).for_each(|_| users::served(port.addr())));
        }
    });
    let other = master.api.create_id(SERVER);
    master.api.until_status(&other, "running");
    master.api.delete(&other);
    for action in ["stop", "start", "stop", "start"] {
        let wanted = if action == "stop" {
            "stopped"
        } else {
            "running"
        };
        master.api.act(&id, action);
        master.api.until_status(&id, wanted);
    }
    master.api.patch(&id, &json!({ "alias": "the last" }));
    let stream = Stream::read(paused);
    for stream in [&stream, &attentive] {
        let events = stream.until("the last update", |events| {
            let last = events.last()?;
            events
                .iter()
                .any(|event| event.instance["alias"] == "the last")
                .then(|| (events.to_vec(), last.at))
        });
        let statuses = changes(&stream.about(&id));
        assert!(
            statuses.ends_with(&["stopped", "running", "stopped", "running"].map(str::to_owned)),
            "{statuses:?}"
        );
        let of_other = stream.about(&other);
        assert_eq!(of_other.first().unwrap().kind, "create");
        assert_eq!(of_other.last().unwrap().kind, "delete");
        assert_eq!(changes(&of_other), ["running", "stopped"]);
        drop(events);
    }
    let lines = |stream: &Stream| {
        let events = stream.about(&id);
        let logs = events.iter().filter(|event| event.kind == "log");
        logs.map(|event| plain(&event.logs)).collect::<Vec<_>>()
    };
    let (all, some) = (lines(&attentive), lines(&stream));
    assert!(
        some.len() < all.len(),
        "none of {} lines is lost",
        all.len()
    );
    let counted = |line: &&String| line.contains("WARN") && !all.contains(line);
    assert!(
        some.iter().any(|line| counted(&line)),
        "lost without a word"
    );
}

#[test]
fn who_does_not_read_for_30_s_is_closed_and_comes_back_to_a_snapshot() {
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.until_status(&id, "running");
    let mut slow = deaf(&master.api);
    slow.head().expect("the head of a stream");
    let tags: BTreeMap<_, _> = (0..60)
        .map(|tag| (format!("t{tag}"), "x".repeat(256)))
        .collect();
    master.api.patch(&id, &json!({ "meta": { "tags": tags } }));
    let connections = || crate::support::kernel::established(master.api.addr);
    // More than any socket buffer holds.
    for round in 0..400 {
        master
            .api
            .patch(&id, &json!({ "alias": format!("round {round}") }));
    }
    until("the blocked stream is closed", secs(30) + PATIENCE, || {
        (connections() == 0).then_some(())
    });
    drop(slow);
    let stream = Stream::open(&master.api);
    assert_eq!(stream.first("initial", &id).instance["alias"], "round 399");
}

#[test]
fn a_reader_that_leaves_frees_its_place() {
    let master = Master::start();
    let connections = || crate::support::kernel::established(master.api.addr);
    for _ in 0..200 {
        let mut conn = master.api.connect();
        conn.send(request(&master.api, "")).unwrap();
        assert_eq!(conn.head().unwrap().status, 200);
    }
    until("those who left are noticed", secs(40), || {
        (connections() == 0).then_some(())
    });
    Stream::open(&master.api).first("initial", "********");
}

#[test]
fn sixty_four_streams_are_served_and_the_next_is_told_to_wait() {
    let master = Master::start();
    let mut streams: Vec<_> = (0..64).map(|_| Stream::open(&master.api)).collect();
    let mut conn = master.api.connect();
    conn.send(request(&master.api, "")).unwrap();
    let refused = conn.answer().unwrap();
    refused.expect_manners("the 65th stream");
    refused.expect(503);
    let id = master.api.create_id(SERVER);
    for stream in &streams {
        stream.first("create", &id);
    }
    drop(streams.pop());
    until("a place is free again", PATIENCE, || {
        let mut conn = master.api.connect();
        conn.send(request(&master.api, "")).ok()?;
        (conn.head().ok()?.status == 200).then_some(())
    });
    assert!(streams.iter().all(|stream| !stream.has_ended()));
}
