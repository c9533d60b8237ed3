//! Heads of the handshake: one GET, one answer with a JSON body (`wire.md` §3).
//!
//! Only as much of HTTP/1.1 as these two messages need. Neither end keeps the connection.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::proof::Proof;
use crate::terms::{DataTls, Flow};

const END: &[u8] = b"\r\n\r\n";

/// A head that is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// Longer than [`limits::HTTP_HEAD`], or more lines than [`limits::HTTP_HEADERS`].
    #[error(
        "http head above {} bytes or {} headers",
        limits::HTTP_HEAD,
        limits::HTTP_HEADERS
    )]
    TooLong,
    /// Not HTTP/1.
    #[error("not an http/1 head")]
    Malformed,
}

/// Collects a head that arrives in pieces.
#[derive(Clone, Debug, Default)]
pub struct Head(Vec<u8>);

impl Head {
    /// The next bytes of the stream; something, once the head is complete.
    ///
    /// # Errors
    /// [`BadHead::TooLong`], however the bytes are cut.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Whole>, BadHead> {
        // The end may have begun in the piece before.
        let from = self.0.len().saturating_sub(END.len() - 1);
        let room = limits::HTTP_HEAD.saturating_sub(self.0.len());
        let (fits, beyond) = bytes.split_at(room.min(bytes.len()));
        self.0.extend_from_slice(fits);
        let fresh = self.0.get(from..).unwrap_or_default();
        let Some(at) = fresh.windows(END.len()).position(|four| four == END) else {
            return match self.0.len() >= limits::HTTP_HEAD {
                true => Err(BadHead::TooLong),
                false => Ok(None),
            };
        };
        let mut rest = self.0.split_off(from + at + END.len());
        rest.extend_from_slice(beyond);
        let head = core::mem::take(&mut self.0);
        Ok(Some(Whole { head, rest }))
    }

    /// What came so far of a head that is not complete.
    #[must_use]
    pub fn so_far(&self) -> &[u8] {
        &self.0
    }
}

/// A complete head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The head, with the empty line that ends it.
    pub head: Vec<u8>,
    /// What came behind it.
    pub rest: Vec<u8>,
}

/// A client's request, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, in the case it came in.
    pub method: String,
    /// The path, without a query.
    pub path: String,
    /// The token; `None` if there is none, or it does not look like one.
    pub token: Option<Proof>,
}

impl Request {
    /// Reads a complete head.
    ///
    /// # Errors
    /// [`BadHead`].
    pub fn parse(head: &[u8]) -> Result<Self, BadHead> {
        let (first, headers) = split(head)?;
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(BadHead::Malformed);
        };
        if method.is_empty() || !version.starts_with("HTTP/1.") {
            return Err(BadHead::Malformed);
        }
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let token = value(&headers, "authorization").and_then(|it| it.strip_prefix("Bearer "));
        Ok(Self {
            method: method.to_string(),
            path: path.to_string(),
            token: token.and_then(|hex| Proof::from_hex(hex.trim())),
        })
    }
}

/// A server's answer, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// How long the body is; `None`: until the end of the stream.
    pub body: Option<usize>,
}

impl Answer {
    /// What every answer begins with.
    pub const MAGIC: &[u8] = b"HTTP/";

    /// Reads a complete head.
    ///
    /// # Errors
    /// [`BadHead`]; also for a body in chunks, which no server of these generations sends, and for
    /// one above [`limits::HTTP_BODY`].
    pub fn parse(head: &[u8]) -> Result<Self, BadHead> {
        let (first, headers) = split(head)?;
        let mut words = first.split(' ');
        let version = words.next().unwrap_or_default();
        let status = words.next().unwrap_or_default();
        if !version.starts_with("HTTP/1.") || status.len() != 3 {
            return Err(BadHead::Malformed);
        }
        let status = status.parse().map_err(|_| BadHead::Malformed)?;
        if value(&headers, "transfer-encoding").is_some() {
            return Err(BadHead::Malformed);
        }
        let body = match value(&headers, "content-length") {
            None => None,
            Some(len) => Some(len.parse().map_err(|_| BadHead::Malformed)?),
        };
        if body.is_some_and(|len| len > limits::HTTP_BODY) {
            return Err(BadHead::TooLong);
        }
        Ok(Self { status, body })
    }
}

/// What a server says about the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Which end is ingress.
    pub flow: Flow,
    /// Most idle data connections.
    pub max: u32,
    /// How data connections are protected.
    pub tls: DataTls,
}

/// Why a body is no [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadParams {
    Malformed,
    /// A pool transport that is not offered here.
    Transport,
}

#[derive(Serialize, Deserialize)]
struct Body {
    flow: String,
    max: u32,
    tls: String,
    #[serde(rename = "type", default)]
    pool: String,
}

/// `type` of pools of TCP connections.
const TCP: &str = "0";

impl Params {
    /// Appends the answer 200.
    pub fn encode_answer(&self, out: &mut Vec<u8>) {
        let body = Body {
            flow: self.flow.as_str().into(),
            max: self.max,
            tls: self.tls.as_str().into(),
            pool: TCP.into(),
        };
        // A struct of texts and a number always serializes.
        let mut json = serde_json::to_string(&body).unwrap_or_default();
        json.push('\n');
        encode("200 OK", "Content-Type: application/json", &json, out);
    }

    /// Reads the body of an answer 200.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, BadParams> {
        if body.first() != Some(&b'{') {
            return Err(BadParams::Malformed);
        }
        let body: Body = serde_json::from_slice(body).map_err(|_| BadParams::Malformed)?;
        if body.pool != TCP && !body.pool.is_empty() {
            return Err(BadParams::Transport);
        }
        Ok(Self {
            flow: Flow::from_wire(&body.flow).ok_or(BadParams::Malformed)?,
            max: body.max,
            tls: DataTls::from_wire(&body.tls).ok_or(BadParams::Malformed)?,
        })
    }
}

/// Appends a client's request. `host` is the name it calls the server by.
pub fn encode_request(host: &str, token: &Proof, out: &mut Vec<u8>) {
    let host: String = host.chars().filter(|c| c.is_ascii_graphic()).collect();
    let token = token.to_hex();
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
    out.extend_from_slice(head.as_bytes());
}

/// Appends a server's answer to anything but a good request: 401, 404 or 405.
pub fn encode_error(status: u16, out: &mut Vec<u8>) {
    let reason = match status {
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Unauthorized",
    };
    let headers = "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff";
    encode(
        &format!("{status} {reason}"),
        headers,
        &format!("{reason}\n"),
        out,
    );
}

fn encode(status: &str, headers: &str, body: &str, out: &mut Vec<u8>) {
    let len = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\nContent-Length: {len}\r\n\r\n{body}"
    );
    out.extend_from_slice(answer.as_bytes());
}

/// Header lines as names and values.
type Headers<'a> = Vec<(&'a str, &'a str)>;

/// The first line, and the others.
fn split(head: &[u8]) -> Result<(&str, Headers<'_>), BadHead> {
    let text = core::str::from_utf8(head).map_err(|_| BadHead::Malformed)?;
    let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
    let first = lines.next().ok_or(BadHead::Malformed)?;
    let mut headers = Vec::new();
    for line in lines {
        if headers.len() >= limits::HTTP_HEADERS {
            return Err(BadHead::TooLong);
        }
        let (name, value) = line.split_once(':').ok_or(BadHead::Malformed)?;
        headers.push((name, value.trim_matches([' ', '\t'])));
    }
    Ok((first, headers))
}

fn value<'a>(headers: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    let named = |(known, _): &&(&str, &str)| known.eq_ignore_ascii_case(name);
    headers.iter().find(named).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    use proptest::prelude::*;

    use crate::key::TunnelKey;

    /// What a 1.14 client sent.
    const REAL_REQUEST: &[u8] =
        b"GET / HTTP/1.1\r\nHost: none\r\nUser-Agent: Go-http-client/1.1\r\n\
        Authorization: Bearer 9e599712811af9f7f000b9f1d0f4a4e4a463ecb5c4fae7bdaa13e33c4642c86e\r\n\
        Accept-Encoding: gzip\r\n\r\n";
    /// What a 1.14 server answered.
    const REAL_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\
        Content-Type: application/json\r\nDate: Sun, 22 Nov 2026 09:50:11 GMT\r\n\
        Content-Length: 45\r\n\r\n";
    const REAL_BODY: &[u8] = b"{\"flow\":\"-\",\"max\":1024,\"tls\":\"0\",\"type\":\"0\"}\n";

    #[test]
    fn the_request_of_a_1_14_client() {
        let Whole { head, rest } = Head::default().feed(REAL_REQUEST).unwrap().unwrap();
        assert_eq!(rest, b"");
        let request = Request::parse(&head).unwrap();
        assert_eq!((&*request.method, &*request.path), ("GET", "/"));
        assert_eq!(request.token, Some(Proof::token(&TunnelKey::new("KEY"))));
    }

    #[test]
    fn the_answer_of_a_1_14_server() {
        let answer = Answer::parse(REAL_HEAD).unwrap();
        let body = Some(REAL_BODY.len());
        assert_eq!(answer, Answer { status: 200, body });
        let params = Params {
            flow: Flow::Reverse,
            max: 1024,
            tls: DataTls::Plain,
        };
        assert_eq!(Params::parse(REAL_BODY), Ok(params));

        let mut ours = Vec::new();
        params.encode_answer(&mut ours);
        let Whole { head, rest: body } = Head::default().feed(&ours).unwrap().unwrap();
        assert_eq!(Answer::parse(&head), Ok(answer));
        assert_eq!(body, REAL_BODY);
    }

    #[test]
    fn errors_read_as_those_of_1_14() {
        let mut out = Vec::new();
        encode_error(401, &mut out);
        assert_eq!(
            core::str::from_utf8(&out).unwrap(),
            "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\
             Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Length: 13\r\n\r\nUnauthorized\n"
        );
        for (status, reason) in [(404, "404 Not Found"), (405, "405 Method Not Allowed")] {
            out.clear();
            encode_error(status, &mut out);
            let text = core::str::from_utf8(&out).unwrap();
            assert!(
                text.starts_with(&format!("HTTP/1.1 {reason}\r\n")),
                "{text}"
            );
        }
    }

    #[test]
    fn our_request_is_read_back() {
        let token = Proof::token(&TunnelKey::new("KEY"));
        let mut out = Vec::new();
        encode_request("a\r\nb", &token, &mut out);
        let request = Request::parse(&out).unwrap();
        assert_eq!(request.token, Some(token));
        assert!(out.starts_with(b"GET / HTTP/1.1\r\nHost: ab\r\n"));
    }

    #[test]
    fn heads_that_are_none() {
        for head in [
            &b"GET /\r\n\r\n"[..],
            b"GET / HTTP/2\r\n\r\n",
            b" / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1 x\r\n\r\n",
            b"GET / HTTP/1.1\r\nnothing\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(Request::parse(head), Err(BadHead::Malformed), "{head:?}");
        }
        for head in [
            &b"HTTP/1.1 abc\r\n\r\n"[..],
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        ] {
            assert_eq!(Answer::parse(head), Err(BadHead::Malformed), "{head:?}");
        }
        let endless = b"HTTP/1.1 200 OK\r\nContent-Length: 4097\r\n\r\n";
        assert_eq!(Answer::parse(endless), Err(BadHead::TooLong));
        let longest = b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n";
        assert_eq!(Answer::parse(longest).unwrap().body, Some(4096));
    }

    #[test]
    fn a_token_that_is_none_does_not_count_as_one() {
        for value in ["Basic abc", "Bearer short", "bearer", ""] {
            let head = format!("GET / HTTP/1.1\r\nAuthorization: {value}\r\n\r\n");
            assert_eq!(Request::parse(head.as_bytes()).unwrap().token, None);
        }
    }

    #[test]
    fn limits_hold() {
        let line = "x: y\r\n";
        for (lines, expected) in [(64, Ok(())), (65, Err(BadHead::TooLong))] {
            let head = format!("GET / HTTP/1.1\r\n{}\r\n", line.repeat(lines));
            assert_eq!(Request::parse(head.as_bytes()).map(|_| ()), expected);
        }
        let endless = vec![b'x'; limits::HTTP_HEAD];
        assert_eq!(Head::default().feed(&endless), Err(BadHead::TooLong));
        assert_eq!(Head::default().feed(&endless[1..]), Ok(None));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_head(
            len in limits::HTTP_HEAD - 8..limits::HTTP_HEAD + 8,
            small: bool,
            chunk in 1_usize..5000,
            rest: Vec<u8>,
        ) {
            let len = if small { len % 64 } else { len };
            let mut bytes = vec![b'x'; len];
            bytes.extend_from_slice(END);
            bytes.extend(rest);
            let whole = Head::default().feed(&bytes);
            let mut head = Head::default();
            let mut outcome = Ok(None);
            let mut behind = Vec::new();
            for piece in bytes.chunks(chunk) {
                if outcome == Ok(None) {
                    outcome = head.feed(piece);
                } else {
                    behind.extend_from_slice(piece);
                }
            }
            if let Ok(Some(whole)) = &mut outcome {
                whole.rest.extend(behind);
            }
            prop_assert_eq!(outcome, whole);
        }
    }
}
