//! Event streams as callers see them.

use std::time::Duration;

use super::super::limits::Limits;
use super::super::testing::{events, text, with_limits, with_site};
use crate::object::KEY_INSTANCE;
use crate::testing::until;

const SHORT: Duration = Duration::from_millis(50);

#[test]
fn events_begin_with_a_snapshot_and_go_on() {
    with_site(async |site| {
        let object = site.master.running(1).await;
        let mut line = events(&site, "").await;
        assert!(line.until("\n\n").await.contains("\"initial\""));
        let path = format!("/instances/{}", object.id);
        site.with_key("PATCH", &path, "{\"alias\":\"new\"}").await;
        let update = line.until("\n\n").await;
        let (before, number) = update.split_once("\nid: ").unwrap();
        assert!(
            before.contains("event: instance\ndata: {\"type\":\"update\""),
            "{update}"
        );
        site.with_key("DELETE", &path, "").await;
        assert!(line.until("\"delete\"").await.contains("\"stopped\""));
        // Back again, it is told what it missed and nothing else.
        let mut back = site.connect().await;
        let number: u64 = number.trim().parse().unwrap();
        let fields = format!("X-API-Key: {}\r\nLast-Event-ID: {number}\r\n", site.key());
        back.send(&text("GET", "/events", &fields, "")).await;
        let missed = back.until("\"delete\"").await;
        assert!(!missed.contains("\"initial\"") && !missed.contains(&format!("id: {number}\n")));
    });
}

#[test]
fn a_stream_ends_with_its_key() {
    with_site(async |site| {
        let mut line = events(&site, "").await;
        let path = format!("/instances/{KEY_INSTANCE}");
        let old = site.key();
        let answer = site
            .with_key("PATCH", &path, "{\"action\":\"restart\"}")
            .await;
        assert_eq!(answer.json()["url"], site.key());
        let last = line.end().await;
        assert!(
            last.contains("\"shutdown\"") && last.ends_with("0\r\n\r\n"),
            "{last}"
        );
        assert!(!last.contains(&site.key()));
        let fields = format!("X-API-Key: {old}\r\n");
        assert_eq!(
            site.ask(&text("GET", "/events", &fields, "")).await.status,
            401
        );
    });
}

#[test]
fn an_old_caller_gets_events_without_chunks() {
    with_site(async |site| {
        let mut line = site.connect().await;
        let fields = format!("X-API-Key: {}\r\n\r\n", site.key());
        line.send(&format!("GET /api/v1/events HTTP/1.0\r\n{fields}"))
            .await;
        let head = line.head().await;
        assert!(!head.contains("Transfer-Encoding") && head.contains("Connection: close"));
        assert_eq!(line.until("\n\n").await, "retry: 3000\n\n");
        let mut head = site.connect().await;
        head.send(&site.text("HEAD", "/events", "")).await;
        assert_eq!(head.answer().await.status, 200);
        head.send(&site.text("GET", "/info", "")).await;
        assert_eq!(head.answer().await.status, 200);
    });
}

#[test]
fn silence_is_broken() {
    let limits = Limits {
        silence: SHORT,
        ..Limits::REST
    };
    with_limits(limits, async |site| {
        let mut line = events(&site, "").await;
        assert_eq!(line.until("\n\n").await, "\r\nd\r\nretry: 3000\n\n");
        assert_eq!(line.until("\n\n").await, "\r\nd\r\nretry: 3000\n\n");
    });
}

#[test]
fn there_are_64_streams_and_one_that_is_gone_makes_room() {
    with_site(async |site| {
        let mut lines = Vec::new();
        for _ in 0..64 {
            lines.push(events(&site, "").await);
        }
        let refused = site.with_key("GET", "/events", "").await;
        assert_eq!(refused.status, 503);
        assert_eq!(refused.problem(), "Too many event streams");
        drop(lines.pop());
        until(|| (site.master.control.metrics().subscribers == 63).then_some(())).await;
        lines.push(events(&site, "").await);
    });
}

#[test]
fn one_who_does_not_read_is_given_up_and_delays_nobody() {
    let limits = Limits {
        write: SHORT,
        ..Limits::REST
    };
    with_limits(limits, async |site| {
        let id = site.master.running(1).await.id;
        let blocked = events(&site, "").await;
        let path = format!("/instances/{id}");
        let run = site.master.runner.run_of(1).unwrap();
        let line = "x".repeat(8 * 1024);
        while site.master.control.metrics().subscribers > 0 {
            run.say(&line);
            assert_eq!(site.with_key("GET", &path, "").await.status, 200);
        }
        drop(blocked);
    });
}
