//! Events as bytes (`rest.md` §4).

use serde::Serialize;

use crate::events::{Event, Kind};
use crate::object::Object;

/// The first block of a stream, and a sign of life after a silence.
pub(crate) const RETRY: &[u8] = b"retry: 3000\n\n";

/// A block is smaller than this, in bytes: some clients read with a buffer of this size.
pub(crate) const BLOCK: usize = 64 * 1024;

/// Room for what follows `logs`: the rest of the data, the number, and three line feeds.
const TAIL: usize = 48;

/// The data of an event up to its last member, whose length is up to us.
#[derive(Serialize)]
struct Data<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    time: &'a str,
    instance: Option<&'a Object>,
}

/// Appends the block of `event`.
pub(crate) fn encode(event: &Event, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"event: instance\ndata: ");
    let data = Data {
        kind: name(event.kind),
        time: &event.time,
        instance: event.instance.as_deref(),
    };
    if serde_json::to_writer(&mut *out, &data).is_err() {
        // Only maps with keys that are not text cannot be written, and there are none.
        out.truncate(start);
        return;
    }
    // The closing brace makes room for one member more.
    out.pop();
    out.extend_from_slice(b",\"logs\":\"");
    let room = BLOCK.saturating_sub(out.len() - start + TAIL);
    escape(&event.logs, room, out);
    out.extend_from_slice(b"\"}\n");
    if let Some(number) = event.number {
        out.extend_from_slice(format!("id: {number}\n").as_bytes());
    }
    out.push(b'\n');
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Initial => "initial",
        Kind::Create => "create",
        Kind::Update => "update",
        Kind::Delete => "delete",
        Kind::Log => "log",
        Kind::Shutdown => "shutdown",
    }
}

/// Appends `text` as the inside of a JSON string, at most `room` bytes; what is cut ends with `…`.
fn escape(text: &str, room: usize, out: &mut Vec<u8>) {
    const CUT: &str = "…";
    let start = out.len();
    // Where it can be cut so that the ellipsis fits.
    let mut cut = start;
    for char in text.chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            control if control < ' ' => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(control)).as_bytes());
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        if out.len() - start > room {
            out.truncate(cut);
            out.extend_from_slice(CUT.as_bytes());
            return;
        }
        if out.len() - start + CUT.len() <= room {
            cut = out.len();
        }
    }
}

/// Appends `bytes` as one chunk of a chunked answer.
pub(crate) fn chunk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Ends a chunked answer.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::object::{Meta, Status};

    fn object(alias: &str) -> Arc<Object> {
        Arc::new(Object {
            id: "d2ef74c9".into(),
            alias: alias.into(),
            kind: "server",
            status: Status::Stopped,
            url: "server://KEY@127.0.0.1:12101/127.0.0.1:12201?log=debug&x=1".into(),
            config: "c".into(),
            restart: true,
            meta: Arc::new(Meta::default()),
            mode: 0,
            ping: 0,
            pool: 0,
            tcps: 0,
            udps: 0,
            tcprx: 0,
            tcptx: 0,
            udprx: 0,
            udptx: 0,
        })
    }

    fn encoded(
        kind: Kind,
        number: Option<u64>,
        instance: Option<Arc<Object>>,
        logs: &str,
    ) -> String {
        let time = "2026-11-22T09:52:51.200367153Z".into();
        let logs = logs.into();
        let mut out = Vec::new();
        let event = Event {
            number,
            kind,
            time,
            instance,
            logs,
        };
        encode(&event, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn blocks_are_what_clients_know() {
        let expected = "event: instance\ndata: {\"type\":\"create\",\
            \"time\":\"2026-11-22T09:52:51.200367153Z\",\"instance\":{\"id\":\"d2ef74c9\",\
            \"alias\":\"one\",\"type\":\"server\",\"status\":\"stopped\",\
            \"url\":\"server://KEY@127.0.0.1:12101/127.0.0.1:12201?log=debug&x=1\",\
            \"config\":\"c\",\"restart\":true,\
            \"meta\":{\"peer\":{\"sid\":\"\",\"type\":\"\",\"alias\":\"\"},\"tags\":{}},\
            \"mode\":0,\"ping\":0,\"pool\":0,\"tcps\":0,\"udps\":0,\"tcprx\":0,\"tcptx\":0,\
            \"udprx\":0,\"udptx\":0},\"logs\":\"\"}\nid: 7\n\n";
        assert_eq!(
            encoded(Kind::Create, Some(7), Some(object("one")), ""),
            expected
        );
        let expected = "event: instance\ndata: {\"type\":\"shutdown\",\
            \"time\":\"2026-11-22T09:52:51.200367153Z\",\"instance\":null,\"logs\":\"\"}\n\n";
        assert_eq!(encoded(Kind::Shutdown, None, None, ""), expected);
    }

    #[test]
    fn log_lines_keep_their_colours_and_cannot_forge_events() {
        let line = "\u{1b}[32mINFO\u{1b}[0m  \"a\\b\"\n\nevent: x";
        let block = encoded(Kind::Log, Some(8), Some(object("one")), line);
        let escaped = r#""logs":"\u001b[32mINFO\u001b[0m  \"a\\b\"\n\nevent: x"}"#;
        assert!(block.contains(escaped), "{block}");
        assert_eq!(block.lines().count(), 4);
    }

    #[test]
    fn a_block_stays_below_its_limit() {
        let object = object(&"\u{1}".repeat(47 * 1024 / 6));
        let line = "\u{1b}ä".repeat(5000);
        let block = encoded(Kind::Log, Some(u64::MAX), Some(object), &line);
        assert!(
            block.len() < BLOCK && block.len() > BLOCK - 100,
            "{}",
            block.len()
        );
        assert!(block.contains("…\"}\nid: 18446744073709551615\n\n"));
    }

    #[test]
    fn chunks_are_framed() {
        let mut out = Vec::new();
        chunk(RETRY, &mut out);
        assert_eq!(out, b"d\r\nretry: 3000\n\n\r\n");
    }

    proptest! {
        /// Whatever a line holds: one block, and the line is read back, or its beginning.
        #[test]
        fn lines_are_read_back(line in any::<String>(), room in 3_usize..60) {
            let mut out = Vec::new();
            escape(&line, room, &mut out);
            prop_assert!(out.len() <= room);
            let text = format!("\"{}\"", String::from_utf8(out).unwrap());
            let back: String = serde_json::from_str(&text).unwrap();
            let cut = back.strip_suffix('…').is_some_and(|start| line.starts_with(start));
            prop_assert!(back == line || cut);
            let block = encoded(Kind::Log, None, None, &line);
            prop_assert_eq!(block.matches("\n\n").count(), 1);
        }
    }
}
