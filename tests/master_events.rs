//! The event stream, as the known front ends read it (`rest.md` §4, §6, §7). What every block must
//! look like is in `support/sse.rs`, which checks all of them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::api::Api;
use crate::support::master::{Master, SERVER, Setup};
use crate::support::ports::Port;
use crate::support::sse::{Event, Stream, changes, plain, position};
use crate::support::until::{never, secs};

#[test]
fn a_new_stream_begins_with_the_state_of_everything() {
    let master = Master::start();
    let ids: Vec<_> = (0..3).map(|_| master.api.create_id(SERVER)).collect();
    for id in &ids {
        master.api.until_status(id, "running");
    }
    let began = Instant::now();
    let stream = Stream::open(&master.api);
    let initial = stream.until("four initial events", |events| {
        (events
            .iter()
            .filter(|event| event.kind == "initial")
            .count()
            == 4)
            .then(|| events.to_vec())
    });
    assert!(began.elapsed() < secs(10), "{:?}", began.elapsed());
    assert_eq!(stream.retries().len(), 1);
    let known: Vec<_> = initial
        .iter()
        .filter(|event| event.kind == "initial")
        .map(Event::id)
        .collect();
    assert_eq!(known[0], "********");
    assert_eq!(known[1..], ids);
    assert_eq!(initial[0].instance["url"], master.api.key.as_str());
    for event in &initial {
        if event.id() != "********" {
            assert_eq!(event.status(), "running");
        }
    }
    assert_eq!(stream.head.header("Content-Length"), None);
}

#[test]
fn the_life_of_an_instance_is_told_in_order_and_once() {
    let master = Setup::default().param("log=debug").start();
    let stream = Stream::open(&master.api);
    let began = Instant::now();
    let id = master.api.create_id(SERVER);
    stream.first("create", &id);
    assert!(
        began.elapsed() < secs(3),
        "create came after {:?}",
        began.elapsed()
    );
    master.api.until_status(&id, "running");
    stream.until("running", |events| {
        events
            .iter()
            .find(|event| event.is("update", &id) && event.status() == "running")
            .map(drop)
    });
    master.api.act(&id, "stop");
    master.api.until_status(&id, "stopped");
    master.api.act(&id, "start");
    master.api.until_status(&id, "running");
    master.api.act(&id, "restart");
    master.api.until_status(&id, "stopped");
    master.api.until_status(&id, "running");
    master.api.delete(&id);
    stream.first("delete", &id);
    let events = stream.about(&id);
    assert_eq!(events[0].kind, "create", "{events:?}");
    assert_eq!(events[0].status(), "stopped");
    assert_eq!(
        position(&events, "delete"),
        Some(events.len() - 1),
        "delete is not the last"
    );
    assert_eq!(
        changes(&events),
        [
            "running", "stopped", "running", "stopped", "running", "stopped"
        ]
    );
    // Exactly one `update` per change: a second one with the same status can only be telemetry,
    // which is at most one per report interval and one at the end of a run.
    let updates = events.iter().filter(|event| event.kind == "update").count();
    assert!(updates <= 6 + 3 + 2, "{updates} updates for 6 changes");
    for event in events.iter().filter(|event| event.kind == "log") {
        let line = plain(&event.logs);
        assert!(!line.contains(&format!("[{id}]")), "{line}");
        assert!(!line.contains("EVENT"), "{line}");
    }
    assert!(position(&events, "log").is_some(), "no log line at all");
    // The same lines go to the log of the master, with the id behind them.
    let echoed = master.process.lines_with(&[&format!("[{id}]")]);
    assert!(!echoed.is_empty(), "nothing was echoed");
    assert!(
        echoed
            .iter()
            .all(|line| line.ends_with(&format!(" [{id}]"))),
        "{echoed:?}"
    );
    // Standard output is no terminal here: no colour.
    for line in master.process.lines() {
        let level = ["DEBUG", "INFO", "WARN", "ERROR", "EVENT"].map(|level| format!("  {level}  "));
        let after_time = line.get(23..).unwrap_or_default();
        assert!(
            level.iter().any(|level| after_time.starts_with(level)),
            "{line}"
        );
    }
}

#[test]
fn one_update_for_each_change_of_configuration() {
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.until_status(&id, "running");
    master.api.act(&id, "stop");
    master.api.until_status(&id, "stopped");
    let stream = Stream::open(&master.api);
    stream.first("initial", &id);
    for patch in [
        json!({ "alias": "a" }),
        json!({ "restart": false }),
        json!({ "meta": { "tags": { "a": "b" } } }),
        json!({ "meta": { "peer": { "sid": "x", "type": "", "alias": "" } } }),
        json!({ "alias": "b", "restart": true }),
        // None of these changes anything.
        json!({}),
        json!({ "alias": "" }),
        json!({ "alias": "b" }),
        json!({ "restart": true }),
        json!({ "action": "stop" }),
        json!({ "meta": { "tags": { "a": "b" } } }),
    ] {
        master.api.patch(&id, &patch);
    }
    master.api.patch(&id, &json!({ "alias": "last" }));
    let aliases = stream.until("the last update", |events| {
        let updates: Vec<_> = events
            .iter()
            .filter(|event| event.is("update", &id))
            .collect();
        let last = updates.last()?.instance["alias"] == "last";
        last.then(|| {
            updates
                .iter()
                .map(|event| event.instance["alias"].clone())
                .collect::<Vec<_>>()
        })
    });
    assert_eq!(aliases, ["a", "a", "a", "a", "b", "last"]);
    stream.events();
    assert_eq!(stream.about(&id).len(), 7, "{:?}", stream.about(&id));
}

#[test]
fn a_new_key_ends_every_stream_and_closes_the_door() {
    let master = Master::start();
    let streams: Vec<_> = (0..3).map(|_| Stream::open(&master.api)).collect();
    for stream in &streams {
        stream.first("initial", "********");
    }
    let mut kept_alive = master.api.connect();
    kept_alive
        .send(master.api.request("GET", "/info", ""))
        .unwrap();
    kept_alive.answer().unwrap().expect(200);
    let answer = master.api.act("********", "restart");
    let new = answer["url"].as_str().unwrap().to_owned();
    assert_eq!(new.len(), 32);
    assert_ne!(new, master.api.key);
    master
        .api
        .call("GET", "/info", "")
        .expect_error(401, "Unauthorized: Invalid API key");
    // On a connection from before as well.
    kept_alive
        .send(master.api.request("GET", "/info", ""))
        .unwrap();
    assert_eq!(kept_alive.answer().unwrap().status, 401);
    for stream in &streams {
        stream.until_end(secs(10));
        let events = stream.events();
        assert_eq!(events.last().unwrap().kind, "shutdown", "{events:?}");
        let told = events
            .iter()
            .any(|event| event.instance.to_string().contains(&new));
        assert!(!told, "the new key was told to holders of the old one");
    }
    let mut api = master.api.clone();
    api.key = new;
    api.get("/info");
    let stream = Stream::open(&api);
    assert_eq!(
        stream.first("initial", "********").instance["url"],
        api.key.as_str()
    );
    let printed = master.process.lines_with(&[&api.key]);
    assert!(
        printed.len() <= 1 && printed.iter().all(|line| line.contains("API Key created")),
        "{printed:?}"
    );
}

#[test]
fn a_stop_of_the_master_is_announced() {
    let mut master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.until_status(&id, "running");
    let stream = Stream::open(&master.api);
    stream.first("initial", &id);
    master.stop();
    stream.until_end(secs(10));
    let events = stream.events();
    assert_eq!(events.last().unwrap().kind, "shutdown", "{events:?}");
}

#[test]
fn a_head_request_for_events_is_no_stream() {
    let master = Master::start();
    let mut conn = master.api.connect();
    conn.send(master.api.request("HEAD", "/events", ""))
        .unwrap();
    let answer = conn.answer_to("HEAD").unwrap().expect(200);
    assert_eq!(answer.header("Content-Type"), Some("text/event-stream"));
    conn.send(master.api.request("GET", "/info", "")).unwrap();
    conn.answer().unwrap().expect(200);
}

#[test]
fn an_http_1_0_reader_gets_the_stream_unchunked() {
    let master = Master::start();
    let Api { base, key, .. } = &master.api;
    let mut conn = master.api.connect();
    conn.send(format!(
        "GET {base}/events HTTP/1.0\r\nX-API-Key: {key}\r\n\r\n"
    ))
    .unwrap();
    let head = conn.head().unwrap().expect(200);
    assert_eq!(head.header("Transfer-Encoding"), None, "{}", head.head);
    assert_eq!(conn.take_until(b"\n\n").unwrap(), b"retry: 3000");
    let block = String::from_utf8(conn.take_until(b"\n\n").unwrap()).unwrap();
    assert!(
        block.contains("event: instance\ndata: {\"type\":\"initial\""),
        "{block}"
    );
}

#[test]
fn streams_work_through_tls() {
    let master = Setup::default().param("tls=1").start();
    let stream = Stream::open(&master.api);
    let id = master.api.create_id(SERVER);
    stream.first("create", &id);
    master.api.delete(&id);
    stream.first("delete", &id);
}

#[test]
fn log_levels_are_those_of_the_instance_and_keys_are_never_in_a_line() {
    let master = Setup::default().param("log=info").start();
    let stream = Stream::open(&master.api);
    let (port, secret) = (Port::reserve(), "a-very-secret-key");
    let url = |log: &str| {
        format!(
            "server://{secret}@{}/127.0.0.1:0?mode=1&log={log}",
            port.addr()
        )
    };
    let chatty = master.api.create_id(&url("debug"));
    master.api.until_status(&chatty, "running");
    stream.first("log", &chatty);
    master.api.delete(&chatty);
    stream.first("delete", &chatty);
    let quiet = master.api.create_id(&url("none"));
    master.api.until_status(&quiet, "running");
    master.api.delete(&quiet);
    stream.first("delete", &quiet);
    let events = stream.events();
    assert!(!events.iter().any(|event| event.is("log", &quiet)));
    for event in events {
        assert!(!event.logs.contains(secret), "{}", event.logs);
        assert!(!event.logs.contains(&master.api.key), "{}", event.logs);
    }
    assert!(master.process.lines_with(&[secret]).is_empty());
}

#[test]
fn an_instance_that_cannot_start_says_error_and_is_tried_again() {
    let master = Master::start();
    let port = Port::reserve();
    let holder = std::net::TcpListener::bind(port.addr()).unwrap();
    let stream = Stream::open(&master.api);
    let url = format!("server://key@{}/127.0.0.1:0?mode=1", port.addr());
    let id = master.api.create_id(&url);
    master.api.until_status(&id, "error");
    stream.until("an update with error", |events| {
        events
            .iter()
            .find(|event| event.is("update", &id) && event.status() == "error")
            .map(drop)
    });
    stream.first("log", &id);
    drop(holder);
    master.api.until_status(&id, "running");
    let events = stream.until("running in the end", |events| {
        let last = events.iter().rfind(|event| event.is("update", &id))?;
        (last.status() == "running").then(|| events.to_vec())
    });
    assert_eq!(
        events.iter().find(|event| event.id() == id).unwrap().kind,
        "create"
    );
    never("it falls back", Duration::from_millis(300), || {
        (master.api.instance(&id)["status"] != "running").then_some(())
    });
}
