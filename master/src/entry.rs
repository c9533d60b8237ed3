//! One harness per fuzz target, as in `protocol::testing::entry`: any bytes are a scenario, and a
//! broken promise panics. For tests and fuzzing of this workspace only.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "to panic is what a harness is for"
)]

use std::sync::Arc;

use crate::api::{BODY, BodyError, Target};
use crate::events::{Event, Kind};
use crate::http::body::Decoder;
use crate::http::head::{self, Framing, Progress};
use crate::http::sse::{self, BLOCK};
use crate::object::{Meta, Object, Status};

/// The name of a fuzz target, and its harness.
pub type Entry = (&'static str, fn(&[u8]));

/// Every entry under the name of its fuzz target.
pub const ALL: &[Entry] = &[
    ("api_body", api_body),
    ("api_head", api_head),
    ("api_target", api_target),
    ("sse", sse),
];

/// A chunk size, then a request: parsing whenever it is due comes to what parsing the whole does.
pub fn api_head(data: &[u8]) {
    let Some((&size, bytes)) = data.split_first() else {
        return;
    };
    let mut progress = Progress::Partial;
    let mut seen = 0;
    for piece in bytes.chunks(usize::from(size) + 1) {
        seen += piece.len();
        let so_far = bytes.get(..seen).unwrap_or(bytes);
        if progress == Progress::Partial && head::is_due(so_far, piece.len()) {
            progress = head::parse(so_far);
        }
    }
    let whole = head::parse(bytes);
    if progress == Progress::Partial {
        // What is not due yet is a line without an end.
        assert!(!matches!(whole, Progress::Complete(_)));
    } else {
        assert_eq!(progress, whole);
    }
    if let Progress::Complete(head) = whole {
        assert!(head.length <= bytes.len());
    }
}

/// A chunk size and a framing, then a body: pieces come to what the whole does, within the limit.
pub fn api_body(data: &[u8]) {
    let [size, framing, bytes @ ..] = data else {
        return;
    };
    let framing = match framing {
        255 => Framing::Chunked,
        length => Framing::Length(u64::from(*length) << (length % 16)),
    };
    let pieces = decode(framing, bytes.chunks(usize::from(*size) + 1));
    assert_eq!(pieces, decode(framing, std::iter::once(bytes)));
}

/// The body and how many bytes it took, if it is complete.
fn decode<'a>(
    framing: Framing,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<(Vec<u8>, usize)>, BodyError> {
    let mut decoder = Decoder::new(framing)?;
    let mut taken = 0;
    for piece in pieces {
        let count = decoder.decode(piece)?;
        taken += count;
        if count < piece.len() {
            assert!(decoder.is_done(), "what is no body is left");
            break;
        }
    }
    let done = decoder.is_done();
    let body = decoder.take();
    assert!(body.len() <= BODY);
    Ok(done.then_some((body, taken)))
}

/// A prefix and a line feed, then a request target: what a router is shown is plain.
pub fn api_target(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (prefix, raw) = text.split_once('\n').unwrap_or(("/api", &text));
    let target = Target::parse(raw, prefix);
    let routable = target.routable();
    assert!(routable.starts_with('/') && !routable.contains("//"));
    let plain = |char: char| char.is_ascii_alphanumeric() || "/.-~".contains(char);
    assert!(routable.chars().all(plain), "{routable}");
    assert!(
        !routable
            .split('/')
            .any(|segment| segment == "." || segment == "..")
    );
    target.rest("/instances/");
    target.parameter("target");
}

/// An alias and a line feed, then a log line: one block below its limit, and JSON in it.
pub fn sse(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (alias, logs) = text.split_once('\n').unwrap_or(("", &text));
    // The domain keeps objects below 48 KiB.
    let alias: String = alias.chars().take(8 * 1024).collect();
    let mut out = Vec::new();
    let event = Event {
        number: Some(u64::MAX),
        kind: Kind::Log,
        time: "2026-01-02T03:04:05.678901234Z".into(),
        instance: Some(Arc::new(object(&alias))),
        logs: logs.into(),
    };
    sse::encode(&event, &mut out);
    let block = String::from_utf8(out).expect("text");
    assert!(block.len() < BLOCK && block.ends_with("\n\n"));
    let lines: Vec<_> = block.lines().collect();
    let ["event: instance", data, number, ""] = lines.as_slice() else {
        panic!("{block}");
    };
    assert_eq!(*number, format!("id: {}", u64::MAX));
    let json = data.strip_prefix("data: ").expect("one line of data");
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let read = json.pointer("/logs").and_then(serde_json::Value::as_str);
    let read = read.expect("always there");
    let is_cut = read
        .strip_suffix('…')
        .is_some_and(|start| logs.starts_with(start));
    assert!(read == logs || is_cut);
}

fn object(alias: &str) -> Object {
    Object {
        id: "d2ef74c9".into(),
        alias: alias.into(),
        kind: "server",
        status: Status::Running,
        url: "server://:1/:2".into(),
        config: "".into(),
        restart: true,
        meta: Arc::new(Meta::default()),
        mode: 1,
        ping: 0,
        pool: 0,
        tcps: 0,
        udps: 0,
        tcprx: 0,
        tcptx: 0,
        udprx: 0,
        udptx: 0,
    }
}
