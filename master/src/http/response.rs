//! Answers as bytes.

use std::fmt::Write as _;

use super::date;
use super::head::Refusal;
use crate::api::{Content, EVENTS, Reply};

/// On every answer (`rest.md` §1).
const CORS: &str = "Access-Control-Allow-Origin: *\r\n\
                    Access-Control-Allow-Methods: GET, PATCH, POST, PUT, DELETE, OPTIONS\r\n\
                    Access-Control-Allow-Headers: Content-Type, Authorization, X-API-Key, Cache-Control\r\n\
                    Access-Control-Max-Age: 600\r\n\
                    X-Content-Type-Options: nosniff\r\n";

/// Asks for the body that the caller holds back.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How a body is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// After so many bytes.
    Length(usize),
    /// With an empty chunk.
    Chunks,
    /// With the connection.
    Close,
    /// There never is one (204).
    None,
}

/// What the caller is told about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It goes on, as is usual.
    GoesOn,
    /// It goes on, which an HTTP/1.0 caller must be told.
    GoesOnAsAsked,
    /// It is closed.
    Closes,
}

/// The head of `reply`.
pub(crate) fn head(reply: &Reply, ending: Ending, then: Then) -> String {
    let mut head = String::with_capacity(640);
    let status = reply.status;
    // Writing to a string cannot fail.
    write!(head, "HTTP/1.1 {status} {}\r\n{CORS}", phrase(status)).ok();
    for (name, value) in &reply.fields {
        write!(head, "{name}: {value}\r\n").ok();
    }
    if let Some(kind) = kind(&reply.content) {
        write!(head, "Content-Type: {kind}\r\n").ok();
    }
    match ending {
        Ending::Length(length) => {
            write!(head, "Content-Length: {length}\r\n").ok();
        }
        Ending::Chunks => head.push_str("Transfer-Encoding: chunked\r\n"),
        Ending::Close | Ending::None => {}
    }
    head.push_str(match then {
        Then::GoesOn => "",
        Then::GoesOnAsAsked => "Connection: keep-alive\r\n",
        Then::Closes => "Connection: close\r\n",
    });
    head.push_str("Date: ");
    date::push_now(&mut head);
    head.push_str("\r\n\r\n");
    head
}

/// The bytes that follow the head at once.
pub(crate) fn body(content: &Content) -> &[u8] {
    match content {
        Content::Text { text, .. } => text,
        Content::File { bytes, .. } => bytes,
        Content::None | Content::Events(_) | Content::HangUp => &[],
    }
}

fn kind(content: &Content) -> Option<&'static str> {
    match content {
        Content::Text { kind, .. } | Content::File { kind, .. } => Some(kind),
        Content::Events(_) => Some(EVENTS),
        Content::None | Content::HangUp => None,
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed => Self::error(400, "Malformed request"),
            Refusal::TooLarge => Self::error(431, "Request header fields too large"),
        }
    }
}

const fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All but the date.
    fn written(reply: &Reply, ending: Ending, then: Then) -> String {
        let head = head(reply, ending, then);
        let (before, date) = head.split_once("Date: ").unwrap();
        assert!(date.ends_with(" GMT\r\n\r\n"));
        before.replace(CORS, "<cors>\r\n")
    }

    #[test]
    fn an_answer_with_content() {
        let reply = Reply::error(405, "Method not allowed").field("Allow", "GET");
        let expected = "HTTP/1.1 405 Method Not Allowed\r\n<cors>\r\nCache-Control: no-store\r\n\
                        Allow: GET\r\nContent-Type: application/json\r\nContent-Length: 9\r\n";
        assert_eq!(written(&reply, Ending::Length(9), Then::GoesOn), expected);
    }

    #[test]
    fn an_answer_without_content() {
        let expected = "HTTP/1.1 204 No Content\r\n<cors>\r\nConnection: close\r\n";
        assert_eq!(
            written(&Reply::empty(204), Ending::None, Then::Closes),
            expected
        );
    }

    #[test]
    fn every_answer_can_be_read_by_any_origin() {
        let head = head(&Reply::empty(200), Ending::Length(0), Then::GoesOnAsAsked);
        for line in [
            "Access-Control-Allow-Origin: *\r\n",
            "Access-Control-Allow-Methods: GET, PATCH, POST, PUT, DELETE, OPTIONS\r\n",
            "Access-Control-Allow-Headers: Content-Type, Authorization, X-API-Key, Cache-Control\r\n",
            "Access-Control-Max-Age: 600\r\n",
            "Connection: keep-alive\r\n",
            "Content-Length: 0\r\n",
        ] {
            assert!(head.contains(line), "{head}");
        }
    }
}
