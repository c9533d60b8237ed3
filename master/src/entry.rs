//! One harness per fuzz target, as in `protocol::testing::entry`: any bytes are a scenario, and a
//! broken promise panics. For tests and fuzzing of this workspace only.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "to panic is what a harness is for"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use protocol::config::{self, Config};
use protocol::terms::DataTls;

use crate::address::Inheritance;
use crate::api::{BODY, BodyError, Target};
use crate::events::{Event, Kind};
use crate::http::body::Decoder;
use crate::http::head::{self, Framing, Progress};
use crate::http::sse::{self, BLOCK};
use crate::object::{KEY_INSTANCE, Meta, Object, Status};
use crate::state::{Change, Disk as _, Document, Fake, Loaded, StateFile};

/// The name of a fuzz target, and its harness.
pub type Entry = (&'static str, fn(&[u8]));

/// Every entry under the name of its fuzz target.
pub const ALL: &[Entry] = &[
    ("api_body", api_body),
    ("api_head", api_head),
    ("api_target", api_target),
    ("sse", sse),
    ("state", state),
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

const STATE: &str = "/d/state.json";

/// A state file, a backup, and when the next save fails, with a zero byte between them: a start
/// finds what can be read, changes nothing else, and then or after a crash finds the same again.
pub fn state(data: &[u8]) {
    let mut pieces = data.splitn(3, |&byte| byte == 0);
    let main = pieces.next().unwrap_or_default();
    let backup = pieces.next();
    let crash = pieces.next().unwrap_or_default();
    let disk = Fake::new(crash.len() % 2 == 1);
    disk.put(Path::new(STATE), main);
    if let Some(backup) = backup {
        disk.put(Path::new(&format!("{STATE}.bak")), backup);
    }
    if let Some(document) = load(&disk, main, backup) {
        check_document(&document);
        save_and_crash(&disk, document, crash);
    }
}

fn load(disk: &Fake, main: &[u8], backup: Option<&[u8]>) -> Option<Document> {
    let before = disk.contents();
    let readable = Document::read(main);
    match StateFile::new(STATE.into()).load(disk) {
        Ok(Loaded::Whole(document)) => {
            assert_eq!(disk.contents(), before);
            assert_eq!(readable.as_ref(), Ok(&document));
            Some(document)
        }
        Ok(Loaded::Backup(document, _)) => {
            let is_kept = |(name, bytes): (&String, &Vec<u8>)| {
                name.starts_with("/d/state.json.corrupt-") && bytes == main
            };
            assert!(readable.is_err() && disk.contents().iter().any(is_kept));
            assert_eq!(
                Document::read(backup.unwrap_or_default()),
                Ok(document.clone())
            );
            Some(document)
        }
        Ok(Loaded::Nothing) => panic!("there is a file"),
        Err(_) => {
            assert!(readable.is_err());
            assert_eq!(disk.contents(), before, "nothing is touched");
            None
        }
    }
}

/// Its instances can be told apart, and their URLs be shown, whatever they are.
fn check_document(document: &Document) {
    let Config::Master(master) = config::parse("master://:1", &|_| None)
        .expect("a URL")
        .config
    else {
        panic!("a master's");
    };
    let inheritance = Inheritance::of(&master, DataTls::Plain);
    let mut ids = BTreeSet::new();
    for record in document.instances.values() {
        assert!(!record.id.is_empty() && *record.id != *KEY_INSTANCE);
        assert!(ids.insert(&record.id), "{} twice", record.id);
        let shown = inheritance.restored(Arc::clone(&record.url));
        assert_eq!(shown.url, record.url);
        let again = inheritance.restored(Arc::clone(&shown.config));
        assert_eq!((again.kind, &again.config), (shown.kind, &shown.config));
    }
}

/// Saves it changed and stops on the way: the old state is found or the new one, each as it was.
fn save_and_crash(disk: &Fake, old: Document, crash: &[u8]) {
    let steps = crash.first().copied().unwrap_or(u8::MAX);
    let part = crash.get(1).copied().unwrap_or_default();
    let file = StateFile::new(STATE.into());
    let mut new = old.clone();
    new.apply(&Change::Alias("changed".into()));
    let crashing = disk.failing_after(steps.into());
    let is_done = file.save(&crashing, &new).is_ok();
    let disk = crashing.after_crash(part.into());
    let (Ok(Loaded::Whole(found)) | Ok(Loaded::Backup(found, _))) = file.load(&disk) else {
        panic!("there is a state");
    };
    assert!(found == new || !is_done && found == old, "{found:?}");
    if is_done {
        let bytes = disk.read(Path::new(STATE)).expect("just saved");
        assert_eq!(found.write().ok(), Some(bytes), "a rewrite changes nothing");
    }
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
