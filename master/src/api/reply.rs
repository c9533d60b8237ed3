//! What a caller is told, without the protocol that carries it.

use std::borrow::Cow;

use serde::Serialize;

use super::request::BodyError;
use super::streams::Stream;
use crate::error::Error;

/// `Content-Type` of almost everything.
const JSON: &str = "application/json";
/// `Content-Type` of event streams.
pub(crate) const EVENTS: &str = "text/event-stream";

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Further header fields, names as they are written.
    pub(crate) fields: Vec<(&'static str, Cow<'static, str>)>,
    /// What follows.
    pub(crate) content: Content,
}

/// What follows the header of an answer.
#[derive(Debug)]
pub(crate) enum Content {
    /// Nothing.
    None,
    /// Text made for this answer.
    Text {
        /// `Content-Type`.
        kind: &'static str,
        /// The text.
        text: Vec<u8>,
    },
    /// A file of the binary.
    File {
        /// `Content-Type`.
        kind: &'static str,
        /// Its bytes.
        bytes: &'static [u8],
    },
    /// A stream of events.
    Events(Box<Stream>),
    /// No answer at all: the connection is closed.
    HangUp,
}

impl Reply {
    /// `status` without content.
    pub(crate) const fn empty(status: u16) -> Self {
        Self::with(status, Content::None)
    }

    /// `content` under `status`.
    pub(crate) const fn with(status: u16, content: Content) -> Self {
        Self {
            status,
            fields: Vec::new(),
            content,
        }
    }

    /// Compact JSON and a line feed. Not to be kept by caches: it may hold keys.
    pub(crate) fn json(status: u16, value: &impl Serialize) -> Self {
        let mut text = Vec::with_capacity(1024);
        if serde_json::to_writer(&mut text, value).is_err() {
            // Only maps with keys that are not text cannot be written, and there are none.
            return Self::error(500, "Internal error");
        }
        text.push(b'\n');
        let kind = JSON;
        Self::with(status, Content::Text { kind, text }).field("Cache-Control", "no-store")
    }

    /// A problem, in the two spellings that clients know.
    pub(crate) fn error(status: u16, text: &str) -> Self {
        #[derive(Serialize)]
        struct Problem<'a> {
            error: &'a str,
            message: &'a str,
        }
        let problem = Problem {
            error: text,
            message: text,
        };
        Self::json(status, &problem)
    }

    /// With one more header field.
    pub(crate) fn field(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

impl From<Error> for Reply {
    fn from(error: Error) -> Self {
        Self::error(error.status(), &error.to_string())
    }
}

impl From<BodyError> for Reply {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::error(413, "Request body too large"),
            BodyError::Malformed => Self::error(400, "Invalid request body"),
            BodyError::Slow => Self::error(408, "Request timeout"),
            BodyError::Gone => Self::with(400, Content::HangUp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_both_spellings() {
        let reply = Reply::from(Error::NotFound);
        assert_eq!(reply.status, 404);
        let Content::Text { kind, text } = reply.content else {
            panic!("no text");
        };
        assert_eq!(kind, "application/json");
        let expected = r#"{"error":"Instance not found","message":"Instance not found"}"#;
        assert_eq!(String::from_utf8(text).unwrap(), format!("{expected}\n"));
    }
}
