//! The handshake in HTTP/1.1, byte for byte as in the transcripts.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::codec::{token, xor};
use super::conn::Conn;
use super::journal::Journal;
use super::script::{Generation, Script};
use crate::support::tunnel::Flow;

/// What a server tells its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Who accepts users.
    pub(crate) flow: Flow,
    /// The mode of the data connections.
    pub(crate) tls: u8,
    /// Most idle ones.
    pub(crate) max: usize,
}

/// What a client asks.
pub(crate) fn request(key: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: none\r\nUser-Agent: Go-http-client/1.1\r\n\
         Authorization: Bearer {}\r\nAccept-Encoding: gzip\r\n\r\n",
        token(key)
    )
}

/// What a server answers.
pub(crate) fn answer(terms: Terms) -> String {
    let body = format!(
        "{{\"flow\":\"{}\",\"max\":{},\"tls\":\"{}\",\"type\":\"0\"}}\n",
        sign(terms.flow),
        terms.max,
        terms.tls
    );
    format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Date: Sun, 22 Nov 2026 09:50:11 GMT\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What a server answers to anything else.
pub(crate) fn refusal(status: u16) -> String {
    let reason = match status {
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => {
            return "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Connection: close\r\n\r\n400 Bad Request"
                .to_owned();
        }
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         X-Content-Type-Options: nosniff\r\nDate: Sun, 22 Nov 2026 09:54:10 GMT\r\n\
         Content-Length: {}\r\n\r\n{reason}\n",
        reason.len() + 1
    )
}

/// The first bytes of a client of any generation.
pub(crate) fn handshake(generation: Generation, key: &str) -> Vec<u8> {
    match generation {
        Generation::Http | Generation::Https => request(key).into_bytes(),
        Generation::Classic => {
            let mut line = xor(generation, key, key.as_bytes());
            line.push(b'\n');
            line
        }
    }
}

/// How a flow is written.
pub(crate) const fn sign(flow: Flow) -> &'static str {
    match flow {
        Flow::Reverse => "-",
        Flow::Forward => "+",
    }
}

/// How a flow is read.
pub(crate) fn flow(sign: &str) -> Option<Flow> {
    match sign {
        "-" => Some(Flow::Reverse),
        "+" => Some(Flow::Forward),
        _ => None,
    }
}

/// Reads a head as the real server does: line by line until an empty one. The status to answer
/// with is the error; 400 comes as soon as the first line is none of HTTP.
pub(crate) fn read_request(conn: &Conn) -> Option<Result<String, u16>> {
    let mut head = Vec::new();
    conn.patience(Some(Duration::from_secs(5)));
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        conn.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
        let first_line = byte == *b"\n" && head.iter().filter(|byte| **byte == b'\n').count() == 1;
        if first_line && !head.ends_with(b" HTTP/1.1\r\n") || head.len() > 8192 {
            return Some(Err(400));
        }
    }
    Some(String::from_utf8(head).map_err(|_| 400))
}

/// Judges a request: `None` grants it, else the status to answer with.
pub(crate) fn judge_request(head: &str, script: &Script, journal: &Journal) -> Option<u16> {
    let mut lines = head.trim_end().lines();
    let line = lines.next().unwrap_or_default();
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    let all = |name: &str| -> Vec<&str> {
        let same = headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        same.map(|(_, value)| *value).collect()
    };
    journal.note(format!("asked {line:?}"));
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["GET", "/", _] => {}
        ["GET", ..] => return Some(404),
        _ => return Some(405),
    }
    let [given] = all("authorization")[..] else {
        return Some(401);
    };
    let wanted = format!("Bearer {}", token(&script.key()));
    if given != wanted {
        if given.eq_ignore_ascii_case(&wanted) {
            journal.foul(format!("the token is in the wrong case: {given}"));
        }
        return Some(401);
    }
    if all("host") != [script.host] {
        let (seen, due) = (all("host"), script.host);
        journal.foul(format!("Host: {seen:?}, where {due} is due"));
    }
    for name in ["content-length", "transfer-encoding"] {
        if !all(name).is_empty() {
            journal.foul(format!("the request has a {name}"));
        }
    }
    None
}

/// Judges all that a server answered. The error is why it is no success.
pub(crate) fn judge_answer(bytes: &[u8], journal: &Journal) -> Result<Terms, String> {
    let odd = || format!("the answer is no HTTP: {}", bytes.escape_ascii());
    let text = str::from_utf8(bytes).map_err(|_| odd())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(odd)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let headers: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let due = |name: &str, value: &str| {
        let seen: Vec<&str> = headers
            .iter()
            .filter(|(other, _)| other == name)
            .map(|(_, value)| *value)
            .collect();
        if seen != [value] {
            journal.foul(format!("{status}: {name} is {seen:?}, due is {value:?}"));
        }
    };
    due("connection", "close");
    due("content-length", &body.len().to_string());
    if !status.starts_with("HTTP/1.1 200 ") {
        return Err(status.to_owned());
    }
    due("content-type", "application/json");
    terms(body, journal)
}

fn terms(body: &str, journal: &Journal) -> Result<Terms, String> {
    let odd = || format!("the answer does not say what it must: {body}");
    let fields: Value = serde_json::from_str(body).map_err(|_| odd())?;
    let mut names: Vec<&String> = fields.as_object().ok_or_else(odd)?.keys().collect();
    names.sort();
    if names != ["flow", "max", "tls", "type"] || fields["type"] != "0" {
        journal.foul(odd());
    }
    let read = || {
        Some(Terms {
            flow: flow(fields["flow"].as_str()?)?,
            tls: fields["tls"].as_str()?.parse().ok()?,
            max: usize::try_from(fields["max"].as_u64()?).ok()?,
        })
    };
    read().ok_or_else(odd).inspect_err(|odd| journal.foul(odd))
}

/// Whether two addresses are one host.
pub(crate) fn same_host(one: IpAddr, other: IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}
