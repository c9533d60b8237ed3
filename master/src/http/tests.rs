//! The API as callers see it: bytes in, bytes out, over real sockets.

use std::time::Duration;

use smol::io::AsyncWriteExt as _;

use super::limits::{HEAD, Limits};
use super::testing::{events, text, with_limits, with_site};
use crate::api::BODY;
use crate::testing::url;

const SHORT: Duration = Duration::from_millis(50);
const CORS: &str = "Access-Control-Allow-Headers: \
                    Content-Type, Authorization, X-API-Key, Cache-Control\r\n";

#[test]
fn a_body_that_comes_after_the_key_was_changed_changes_nothing() {
    with_site(async |site| {
        let fields = format!(
            "X-API-Key: {}\r\nContent-Length: 13\r\nExpect: 100-continue\r\n",
            site.key()
        );
        let mut line = site.connect().await;
        line.send(&text("POST", "/info", &fields, "")).await;
        // The key was right: the body is asked for.
        let head = line.head().await;
        assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
        let change = site.with_key("PATCH", "/instances/********", "{\"action\":\"restart\"}");
        assert_eq!(change.await.status, 200);
        line.send("{\"alias\":\"x\"}").await;
        assert_eq!(line.answer().await.status, 401);
        assert_eq!(&*site.master.control.info().alias, "");
    });
}

#[test]
fn checks_come_in_their_order() {
    with_site(async |site| {
        let id = site.master.create(1).await.id;
        let one = format!("/instances/{id}");
        let wrong = "X-API-Key: wrong\r\n";
        let key = format!("x-api-KEY: {}\r\n", site.key());
        let required = Some("Unauthorized: API key required");
        let invalid = Some("Unauthorized: Invalid API key");
        for (method, path, fields, body, status, problem) in [
            ("OPTIONS", "/instances", "", "", 200, None),
            ("OPTIONS", "/nosuch", wrong, "", 200, None),
            ("GET", "/nosuch", "", "", 404, Some("Not found")),
            ("GET", "", "", "", 404, Some("Not found")),
            ("DELETE", "/docs/", "", "", 404, Some("Not found")),
            ("GET", "/instances", "", "", 401, required),
            ("GET", "/instances", "X-API-Key:\r\n", "", 401, required),
            (
                "GET",
                "/instances",
                "Authorization: Bearer x\r\n",
                "",
                401,
                required,
            ),
            ("POST", "/tcping", wrong, "", 401, invalid),
            ("PATCH", "/instances/nosuch", wrong, "{", 401, invalid),
            (
                "POST",
                "/openapi.json",
                "",
                "",
                405,
                Some("Method not allowed"),
            ),
            (
                "GET",
                "/instances/",
                &key,
                "",
                400,
                Some("Instance ID is required"),
            ),
            (
                "POST",
                "/instances/nosuch",
                &key,
                "{",
                404,
                Some("Instance not found"),
            ),
            (
                "PUT",
                "/instances/a/b",
                &key,
                "{",
                404,
                Some("Instance not found"),
            ),
            ("POST", &one, &key, "{", 405, Some("Method not allowed")),
            (
                "DELETE",
                "/instances",
                &key,
                "",
                405,
                Some("Method not allowed"),
            ),
            (
                "POST",
                "/instances",
                &key,
                "{",
                400,
                Some("Invalid request body"),
            ),
            (
                "POST",
                "/instances",
                &key,
                "[\"a\"]",
                400,
                Some("Invalid request body"),
            ),
            (
                "PATCH",
                &one,
                &key,
                "{\"meta\":[]}",
                400,
                Some("Invalid request body"),
            ),
            ("PATCH", &one, &key, "", 400, Some("Invalid request body")),
            ("PATCH", &one, &key, "{\"alias\":null,\"x\":1}", 200, None),
            (
                "PUT",
                "/instances/********",
                &key,
                "{}",
                403,
                Some("Forbidden: API Key"),
            ),
            (
                "GET",
                "/tcping",
                &key,
                "",
                400,
                Some("Target address required"),
            ),
            (
                "GET",
                "/instances/%2A%2A%2A%2A%2A%2A%2A%2A",
                &key,
                "",
                200,
                None,
            ),
        ] {
            let answer = site.ask(&text(method, path, fields, body)).await;
            let what = format!("{method} {path} {fields} {body}: {answer:?}");
            assert_eq!(answer.status, status, "{what}");
            assert!(answer.head.contains(CORS), "{what}");
            if let Some(problem) = problem {
                assert_eq!(answer.problem(), problem, "{what}");
                assert_eq!(answer.field("content-type"), Some("application/json"));
            }
            assert_eq!(answer.field("allow").is_some(), status == 405, "{what}");
        }
    });
}

#[test]
fn paths_answer_with_and_without_v1_and_head_as_get() {
    with_site(async |site| {
        let key = site.key();
        let mut line = site.connect().await;
        for path in ["/api/v1/instances", "/api/instances"] {
            let fields = format!("HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n");
            line.send(&format!("GET {path} {fields}")).await;
            let got = line.answer().await;
            assert!(got.body.starts_with("[{\"id\":\"********\"") && got.body.ends_with("]\n"));
            line.send(&format!("HEAD {path} {fields}GET {path} {fields}"))
                .await;
            let head = line.head().await;
            assert!(
                head.contains(&format!("Content-Length: {}\r\n", got.body.len())),
                "{head}"
            );
            assert_eq!(line.answer().await.body, got.body);
        }
    });
}

#[test]
fn metrics_are_also_for_bearers() {
    with_site(async |site| {
        site.master.create(1).await;
        let bearer = format!("Authorization: bearer {}\r\n", site.key());
        let answer = site.ask(&text("GET", "/metrics", &bearer, "")).await;
        assert_eq!(answer.status, 200);
        let line = "nodepass_instance_received_bytes_total{id=\"";
        assert!(answer.body.contains(line), "{}", answer.body);
    });
}

#[test]
fn what_makes_no_sense_is_answered_and_the_connection_closed() {
    with_site(async |site| {
        let long = "x".repeat(HEAD);
        for (text, status) in [
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("\u{16}\u{3}\u{1}".to_owned(), 400),
            ("GET / HTTP/2.0\r\n\r\n".to_owned(), 400),
            (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
            (format!("GET / HTTP/1.1\r\nHost: x\r\nx: {long}"), 431),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\
              Transfer-Encoding: chunked\r\n\r\n"
                    .to_owned(),
                400,
            ),
        ] {
            let mut line = site.connect().await;
            line.send(&text).await;
            let answer = line.answer().await;
            assert_eq!(answer.status, status, "{text}");
            assert_eq!(answer.field("connection"), Some("close"));
            assert!(answer.head.contains(CORS));
            assert_eq!(line.end().await, "");
        }
    });
}

#[test]
fn http_1_0_is_answered_and_closed_unless_asked_otherwise() {
    with_site(async |site| {
        let mut line = site.connect().await;
        line.send("GET /api/openapi.json HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        assert_eq!(line.answer().await.field("connection"), Some("keep-alive"));
        line.send("GET /api/openapi.json HTTP/1.0\r\n\r\n").await;
        assert_eq!(line.answer().await.field("connection"), Some("close"));
        assert_eq!(line.end().await, "");
    });
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    with_site(async |site| {
        let body = format!("{{\"url\":\"{}\"}}", url(7));
        let mut ahead = site.text("POST", "/instances", &body);
        ahead += &site.text("GET", "/nosuch", "");
        ahead += &site.text("OPTIONS", "/info", "");
        let mut line = site.connect().await;
        line.send(&ahead).await;
        let created = line.answer().await;
        assert_eq!(created.status, 201);
        assert!(created.body.starts_with("{\"id\":\""), "{}", created.body);
        assert_eq!(line.answer().await.status, 404);
        assert_eq!(line.answer().await.status, 200);
    });
}

#[test]
fn bodies_come_in_chunks_and_on_demand() {
    with_site(async |site| {
        let key = site.key();
        let start = |method: &str, fields: &str| {
            format!("{method} /api/v1/info HTTP/1.1\r\nHost: x\r\n{fields}")
        };
        let mut line = site.connect().await;
        let fields = format!("X-API-Key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n");
        line.send(&start("POST", &fields)).await;
        for piece in ["9\r\n{\"alias\":", "\r\n5;x=y\r\n\"me\"}\r", "\n0\r\n\r\n"] {
            line.send(piece).await;
        }
        assert_eq!(line.answer().await.json()["alias"], "me");
        let fields =
            format!("X-API-Key: {key}\r\nContent-Length: 14\r\nExpect: 100-continue\r\n\r\n");
        line.send(&start("POST", &fields)).await;
        assert_eq!(line.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        line.send("{\"alias\":\"you\"").await;
        line.stream.flush().await.unwrap();
        assert_eq!(line.answer().await.status, 400);
        // One that is refused is not asked for its body.
        let mut line = site.connect().await;
        let fields = "Content-Length: 15\r\nExpect: 100-continue\r\n\r\n";
        line.send(&start("POST", fields)).await;
        assert_eq!(line.answer().await.status, 401);
        assert_eq!(line.end().await, "");
    });
}

#[test]
fn bodies_are_limited_and_only_if_they_are_wanted() {
    with_site(async |site| {
        let fields = format!(
            "X-API-Key: {}\r\nContent-Length: {}\r\n",
            site.key(),
            BODY + 1
        );
        let answer = site.ask(&text("POST", "/instances", &fields, "")).await;
        assert_eq!(
            (answer.status, answer.problem()),
            (413, "Request body too large".to_owned())
        );
        assert_eq!(
            site.ask(&text("GET", "/instances", &fields, ""))
                .await
                .status,
            200
        );
        let fields = format!(
            "X-API-Key: {}\r\nTransfer-Encoding: chunked\r\n",
            site.key()
        );
        let whole = format!("100000\r\n{}\r\n1\r\nx\r\n", " ".repeat(BODY));
        let mut line = site.connect().await;
        line.send(&text("POST", "/instances", &fields, "")).await;
        line.send(&whole).await;
        assert_eq!(line.answer().await.status, 413);
    });
}

fn hasty() -> Limits {
    Limits {
        head: SHORT,
        body: SHORT,
        idle: SHORT,
        linger: SHORT,
        ..Limits::REST
    }
}

#[test]
fn slow_callers_are_told_so() {
    with_limits(hasty(), async |site| {
        assert_eq!(site.open("").end().await, "");
        let mut head = site.open("GET / HT");
        assert_eq!(head.answer().await.status, 408);
        assert_eq!(head.end().await, "");
        let fields = format!("X-API-Key: {}\r\nContent-Length: 5\r\n", site.key());
        let mut body = site.open(&text("POST", "/info", &fields, ""));
        assert_eq!(body.answer().await.status, 408);
        assert_eq!(body.end().await, "");
        let mut idle = site.open(&text("GET", "/nosuch", "", ""));
        assert_eq!(idle.answer().await.status, 404);
        assert_eq!(idle.end().await, "");
    });
}

#[test]
fn a_new_connection_takes_the_seat_of_an_idle_one() {
    let limits = Limits {
        connections: 2,
        ..Limits::REST
    };
    with_limits(limits, async |site| {
        let mut stream = events(&site, "").await;
        let mut idle = site.connect().await;
        idle.send(&text("GET", "/nosuch", "", "")).await;
        assert_eq!(idle.answer().await.status, 404);
        let mut new = site.connect().await;
        new.send(&text("GET", "/nosuch", "", "")).await;
        assert_eq!(new.answer().await.status, 404);
        assert_eq!(idle.end().await, "");
        site.master.create(1).await;
        assert!(stream.until("\n\n").await.contains("\"type\":\"create\""));
        // Both seats are those of callers with a valid key.
        drop(new);
        let second = events(&site, "").await;
        assert_eq!(site.connect().await.end().await, "");
        drop(second);
    });
}

#[test]
fn a_stop_ends_streams_and_idle_connections() {
    with_site(async |site| {
        let mut stream = events(&site, "").await;
        let mut idle = site.connect().await;
        idle.send(&site.text("GET", "/info", "")).await;
        assert_eq!(idle.answer().await.status, 200);
        site.http.stop();
        assert_eq!(idle.end().await, "");
        site.master.control.stop().await;
        assert!(stream.end().await.contains("\"shutdown\""));
        site.group.idle().await;
    });
}

#[test]
fn nothing_starts_the_threads_of_async_std() {
    with_site(async |site| {
        let expects = format!(
            "POST /api/v1/info HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\n\
             Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{{}}",
            site.key()
        );
        assert_eq!(site.ask(&expects).await.status, 200);
        drop(events(&site, "").await);
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names =
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        let names: Vec<_> = names.collect();
        assert!(!names.is_empty());
        assert!(
            !names.iter().any(|name| name.contains("async-std")),
            "{names:?}"
        );
    });
}
