//! A strict reader of the event stream: what the known front ends do to it, step by step, and
//! nothing that they do not tolerate.

use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::api::{Answer, Api, Conn, PATIENCE};
use super::master::expect_object;

/// No block may be as long as this.
const BLOCK: usize = 64 * 1024;

/// One `event: instance` block.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// `initial`, `create`, …
    pub(crate) kind: String,
    /// The number of its `id:` line.
    pub(crate) number: Option<u64>,
    /// The object, or null.
    pub(crate) instance: Value,
    /// The line of a `log`.
    pub(crate) logs: String,
    /// When it arrived.
    pub(crate) at: Instant,
}

impl Event {
    /// The id of its instance; empty without one.
    pub(crate) fn id(&self) -> &str {
        self.instance["id"].as_str().unwrap_or_default()
    }

    /// The status of its instance; empty without one.
    pub(crate) fn status(&self) -> &str {
        self.instance["status"].as_str().unwrap_or_default()
    }

    /// Whether it is of this kind and about this instance.
    pub(crate) fn is(&self, kind: &str, id: &str) -> bool {
        self.kind == kind && self.id() == id
    }
}

#[derive(Debug, Default)]
struct Seen {
    events: Vec<Event>,
    /// When `retry:` blocks came.
    retries: Vec<Instant>,
    /// What was wrong with a block.
    fault: Option<String>,
    ended: bool,
}

/// An open stream, read by a thread of its own.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The head of the answer.
    pub(crate) head: Answer,
    socket: std::net::TcpStream,
    seen: Arc<(Mutex<Seen>, Condvar)>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Stream {
    /// Connects as a new subscriber.
    pub(crate) fn open(api: &Api) -> Self {
        Self::open_with(api, "")
    }

    /// Reconnects after the event with this number.
    pub(crate) fn resume(api: &Api, last: u64) -> Self {
        Self::open_with(api, &format!("Last-Event-ID: {last}\r\n"))
    }

    fn open_with(api: &Api, headers: &str) -> Self {
        let mut conn = api.connect();
        conn.send(request(api, headers)).unwrap();
        Self::read(conn)
    }

    /// Reads from now on what `conn` has asked for.
    pub(crate) fn read(mut conn: Conn) -> Self {
        let head = conn.head().expect("the head of a stream");
        head.expect_manners("GET /events");
        assert_eq!(head.status, 200, "{}", head.head);
        let field = |name| head.header(name).unwrap_or_default().to_owned();
        assert_eq!(field("Content-Type"), "text/event-stream", "{}", head.head);
        assert_eq!(field("Cache-Control"), "no-cache", "{}", head.head);
        assert_eq!(field("Transfer-Encoding"), "chunked", "{}", head.head);
        let seen = Arc::<(Mutex<Seen>, Condvar)>::default();
        let (shared, socket) = (Arc::clone(&seen), conn.socket().try_clone().unwrap());
        let reader = thread::spawn(move || read(conn, &shared));
        Self {
            head,
            socket,
            seen,
            reader: Some(reader),
        }
    }

    /// Everything so far; fails if anything in it broke a rule.
    pub(crate) fn events(&self) -> Vec<Event> {
        let seen = self.seen.0.lock().unwrap();
        assert_eq!(seen.fault, None, "a block that clients cannot read");
        seen.events.clone()
    }

    /// The events about one instance.
    pub(crate) fn about(&self, id: &str) -> Vec<Event> {
        let mut events = self.events();
        events.retain(|event| event.id() == id);
        events
    }

    /// When the `retry:` blocks came.
    pub(crate) fn retries(&self) -> Vec<Instant> {
        self.events();
        self.seen.0.lock().unwrap().retries.clone()
    }

    /// Waits until the events so far are as `wanted` has them.
    pub(crate) fn until<T>(&self, what: &str, wanted: impl Fn(&[Event]) -> Option<T>) -> T {
        self.within(what, PATIENCE, wanted)
    }

    /// The same within `limit`.
    pub(crate) fn within<T>(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&[Event]) -> Option<T>,
    ) -> T {
        self.wait(what, limit, |seen| wanted(&seen.events))
    }

    /// Waits for the first event of this kind about this instance.
    pub(crate) fn first(&self, kind: &str, id: &str) -> Event {
        self.until(&format!("{kind} of {id}"), |events| {
            events.iter().find(|event| event.is(kind, id)).cloned()
        })
    }

    /// Waits until `count` blocks with `retry:` have come.
    pub(crate) fn until_retries(&self, count: usize, limit: Duration) {
        self.wait("more `retry:` blocks", limit, |seen| {
            (seen.retries.len() >= count).then_some(())
        });
    }

    /// Waits until the master ends it.
    pub(crate) fn until_end(&self, limit: Duration) {
        self.wait("the end of the stream", limit, |seen| {
            seen.ended.then_some(())
        });
    }

    /// Whether the master has ended it.
    pub(crate) fn has_ended(&self) -> bool {
        self.seen.0.lock().unwrap().ended
    }

    fn wait<T>(&self, what: &str, limit: Duration, wanted: impl Fn(&Seen) -> Option<T>) -> T {
        let end = Instant::now() + limit;
        let mut seen = self.seen.0.lock().unwrap();
        loop {
            assert_eq!(seen.fault, None, "a block that clients cannot read");
            if let Some(found) = wanted(&seen) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let list: Vec<_> = seen.events.iter().map(summary).collect();
                drop(seen);
                panic!("not within {limit:?}: {what}; events:\n{}", list.join("\n"));
            }
            seen = self.seen.1.wait_timeout(seen, left).unwrap().0;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.socket.shutdown(Shutdown::Both));
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}

/// The request of a front end.
pub(crate) fn request(api: &Api, headers: &str) -> String {
    let Api { base, key, .. } = api;
    format!(
        "GET {base}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\
         Cache-Control: no-cache\r\nX-API-Key: {key}\r\n{headers}\r\n"
    )
}

fn summary(event: &Event) -> String {
    let (kind, id, status) = (&event.kind, event.id(), event.status());
    format!("  {kind} {id} {status} {}", event.logs)
}

fn read(mut conn: Conn, shared: &(Mutex<Seen>, Condvar)) {
    // Nothing is said for 15 s at most.
    conn.patience(Duration::from_secs(40));
    let mut text = Vec::new();
    loop {
        let chunk = conn.chunk().unwrap_or_default();
        let last = chunk.is_empty();
        text.extend(chunk);
        let mut seen = shared.0.lock().unwrap();
        while let Some(at) = text.windows(2).position(|two| two == b"\n\n") {
            let block: Vec<u8> = text.drain(..at + 2).collect();
            if let Err(fault) = seen.take(&block) {
                seen.fault.get_or_insert(fault);
            }
        }
        if text.len() > 2 * BLOCK {
            seen.fault
                .get_or_insert_with(|| "a block without end".to_owned());
        }
        seen.ended = last;
        shared.1.notify_all();
        if last || seen.fault.is_some() {
            return;
        }
    }
}

impl Seen {
    fn take(&mut self, block: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(block).map_err(|_| "not UTF-8".to_owned())?;
        let wrong = |why: &str| Err(format!("{why}: {text}"));
        if block.len() >= BLOCK {
            return wrong("a block of 64 KiB");
        }
        if text.contains('\r') {
            return wrong("CR");
        }
        if text == "retry: 3000\n\n" {
            self.retries.push(Instant::now());
            return Ok(());
        }
        if self.retries.is_empty() {
            return wrong("the first block is not `retry: 3000`");
        }
        let mut number = None;
        for line in text.lines().take_while(|line| !line.is_empty()) {
            match line.split_once(": ") {
                Some(("id", value)) => number = Some(value.parse::<u64>().unwrap_or_default()),
                Some(("event", "instance")) | Some(("data", _)) => {}
                _ => return wrong("a line that clients do not know"),
            }
        }
        // `^event: (.+)$` and `^data: (.+)$`, the first match of each.
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let (Some("instance"), Some(data)) = (field("event: "), field("data: ")) else {
            return wrong("not an `instance` event");
        };
        if text.lines().filter(|line| line.starts_with("data")).count() != 1 {
            return wrong("more than one line of data");
        }
        let event = decode(data, number).map_err(|why| format!("{why}: {text}"))?;
        self.events.push(event);
        Ok(())
    }
}

fn decode(data: &str, number: Option<u64>) -> Result<Event, String> {
    let value: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
    let names: Vec<_> = value.as_object().ok_or("not an object")?.keys().collect();
    if names.len() != 4 {
        return Err(format!("members {names:?}"));
    }
    if !data.starts_with("{\"type\":\"") {
        return Err("`type` is not the first".to_owned());
    }
    let text = |name: &str| {
        let text = value[name].as_str().map(str::to_owned);
        text.ok_or_else(|| format!("{name} is no string"))
    };
    let (kind, logs) = (text("type")?, text("logs")?);
    is_time(&text("time")?)?;
    match kind.as_str() {
        "log" if !is_log_line(&logs) => return Err("not a log line".to_owned()),
        "log" => {}
        "initial" | "create" | "update" | "delete" | "shutdown" if !logs.is_empty() => {
            return Err("logs in an event that is no `log`".to_owned());
        }
        "initial" | "create" | "update" | "delete" => {}
        "shutdown" if value["instance"].is_null() => {}
        _ => return Err(format!("type {kind}")),
    }
    if kind != "shutdown" {
        let (_, object) = data.split_once("\"instance\":").ok_or("no instance")?;
        let (object, _) = object.rsplit_once(",\"logs\":").ok_or("logs not last")?;
        // It says what is wrong by failing: make that a fault of this block.
        std::panic::catch_unwind(|| expect_object(object)).map_err(|_| "not the object of §2")?;
    }
    Ok(Event {
        kind,
        number,
        instance: value["instance"].clone(),
        logs,
        at: Instant::now(),
    })
}

/// `2026-01-02T03:04:05.678901234Z`, with up to nine digits of a second.
fn is_time(text: &str) -> Result<(), String> {
    let digits: String = text.chars().map(shape).collect();
    let fixed = digits.starts_with("0000-00-00T00:00:00") && digits.ends_with('Z');
    if fixed && digits.len() <= "0000-00-00T00:00:00.000000000Z".len() {
        Ok(())
    } else {
        Err(format!("time {text}"))
    }
}

const fn shape(letter: char) -> char {
    if letter.is_ascii_digit() { '0' } else { letter }
}

/// Takes ANSI colours off a line.
pub(crate) fn plain(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once('m').map_or(part, |(_, rest)| rest)
    })
}

/// `^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3})\s+([A-Z]+)\s+(.*)$` once ANSI is off, and before that
/// the level in its colour with two blanks on both sides.
pub(crate) fn is_log_line(line: &str) -> bool {
    let (plain, stamp) = (plain(line), "0000-00-00 00:00:00.000");
    let (Some(time), Some(rest)) = (plain.get(..stamp.len()), plain.get(stamp.len()..)) else {
        return false;
    };
    let shaped: String = time.chars().map(shape).collect();
    let Some((level, _)) = rest
        .strip_prefix("  ")
        .and_then(|rest| rest.split_once("  "))
    else {
        return false;
    };
    let colour = match level {
        "DEBUG" => 34,
        "INFO" => 32,
        "WARN" => 33,
        "ERROR" => 31,
        _ => return false,
    };
    let coloured = format!("  \u{1b}[{colour}m{level}\u{1b}[0m  ");
    shaped == stamp && line.contains(&coloured)
}

/// The status of every `update` in order, those that repeat one left out.
pub(crate) fn changes(events: &[Event]) -> Vec<String> {
    let updates = events.iter().filter(|event| event.kind == "update");
    let mut changes: Vec<String> = updates.map(|event| event.status().to_owned()).collect();
    changes.dedup();
    changes
}

/// Where the first event of this kind is.
pub(crate) fn position(events: &[Event], kind: &str) -> Option<usize> {
    events.iter().position(|event| event.kind == kind)
}

#[test]
fn log_lines_of_the_original_program_are_recognised() {
    let line = "2026-11-22 09:53:25.593  \u{1b}[34mDEBUG\u{1b}[0m  Init log level: DEBUG";
    assert!(is_log_line(line));
    assert!(!is_log_line(&plain(line)), "colour is missing");
    assert!(!is_log_line(&line.replace("DEBUG", "EVENT")));
    assert!(!is_log_line(&line[1..]));
    assert_eq!(
        plain(line),
        "2026-11-22 09:53:25.593  DEBUG  Init log level: DEBUG"
    );
}

#[test]
fn blocks_that_clients_cannot_read_are_faults() {
    let mut seen = Seen::default();
    assert!(seen.take(b"event: instance\ndata: {}\n\n").is_err());
    assert!(seen.take(b"retry: 3000\n\n").is_ok());
    let shutdown = "{\"type\":\"shutdown\",\"time\":\"2026-11-22T09:53:04.82912564Z\",\
                    \"instance\":null,\"logs\":\"\"}";
    let good = format!("id: 7\nevent: instance\ndata: {shutdown}\n\n");
    assert_eq!(seen.take(good.as_bytes()), Ok(()));
    assert_eq!(seen.events[0].number, Some(7));
    for bad in [
        good.replace("data: ", "data:"),
        good.replace('\n', "\r\n"),
        good.replace(",\"logs\":\"\"", ""),
        good.replace("event: instance\n", ""),
        good.replace("null", "{}").replace("shutdown", "update"),
    ] {
        assert!(seen.take(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn the_stream_of_the_original_program_has_no_fault() {
    let recording = include_str!("../vectors/sse-1.14.txt").replace('\r', "");
    let (_, stream) = recording.split_once("\n\n").unwrap();
    let mut seen = Seen::default();
    for block in stream.trim_end().split("\n\n") {
        assert_eq!(seen.take(format!("{block}\n\n").as_bytes()), Ok(()));
    }
    assert!(seen.events.len() > 30);
    let last = seen.events.last().unwrap();
    assert_eq!((last.kind.as_str(), last.id()), ("shutdown", ""));
}
