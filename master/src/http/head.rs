//! The head of a request: a pure function of the bytes so far, with httparse's grammar and this
//! server's limits and refusals.

use httparse::Status;

use super::limits::{FIELDS, HEAD};
use crate::api::{Fields, Method};

/// How far a head has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More bytes are needed.
    Partial,
    /// It is complete.
    Complete(Head),
    /// It never will be.
    Refused(Refusal),
}

/// Why a head is refused; the connection is closed after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It makes no sense.
    Malformed,
    /// It is above its limits.
    TooLarge,
}

/// A request's head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its bytes, the empty line included.
    pub(crate) length: usize,
    pub(crate) method: Method,
    /// The request target as sent.
    pub(crate) target: String,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    /// Whether the connection may go on after the answer.
    pub(crate) persistent: bool,
    /// HTTP/1.0: the caller understands no chunks, and wants to be told that the connection goes on.
    pub(crate) old: bool,
    /// The caller sends the body only when told to.
    pub(crate) expects: bool,
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// At once.
    None,
    /// After so many bytes.
    Length(u64),
    /// With an empty chunk.
    Chunked,
}

/// Whether it is worth to call [`parse`]: a head ends with a line, and what begins with no letter is
/// none. `new` bytes were added to what is now `buffer`.
pub(crate) fn is_due(buffer: &[u8], new: usize) -> bool {
    let added = buffer.len().saturating_sub(new);
    let added = buffer.get(added..).unwrap_or_default();
    let strange = |first: &u8| !first.is_ascii_graphic() && !matches!(first, b'\r' | b'\n');
    buffer.len() >= HEAD || added.contains(&b'\n') || buffer.first().is_some_and(strange)
}

/// Reads the head at the beginning of `buffer`.
pub(crate) fn parse(buffer: &[u8]) -> Progress {
    let within = buffer.get(..HEAD).unwrap_or(buffer);
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(within) {
        Ok(Status::Complete(length)) => match head(length, &request) {
            Some(head) => Progress::Complete(head),
            None => Progress::Refused(Refusal::Malformed),
        },
        Ok(Status::Partial) if within.len() < HEAD => Progress::Partial,
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            Progress::Refused(Refusal::TooLarge)
        }
        Err(_) => Progress::Refused(Refusal::Malformed),
    }
}

/// `None`: two fields contradict each other, one is missing, or one makes no sense.
fn head(length: usize, request: &httparse::Request<'_, '_>) -> Option<Head> {
    let old = request.version? == 0;
    let mut found = Found::default();
    for field in request.headers.iter() {
        found.note(field.name, field.value)?;
    }
    let framing = match (found.length, found.chunked) {
        (None, false) => Framing::None,
        (Some(length), false) => Framing::Length(length),
        (None, true) if !old => Framing::Chunked,
        (_, true) => return None,
    };
    if found.hosts != 1 && !(old && found.hosts == 0) {
        return None;
    }
    Some(Head {
        length,
        method: Method::of(request.method?),
        target: request.path?.to_owned(),
        fields: found.fields,
        framing,
        persistent: !found.close && (!old || found.keep_alive),
        old,
        expects: found.expects && !old,
    })
}

/// What the header fields have said so far.
#[derive(Default)]
struct Found {
    fields: Fields,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects: bool,
}

impl Found {
    /// `None` if the field makes the request ambiguous.
    fn note(&mut self, name: &str, value: &[u8]) -> Option<()> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("x-api-key") {
            self.fields.api_key.get_or_insert_with(|| value.to_vec());
        } else if is("authorization") {
            self.fields
                .authorization
                .get_or_insert_with(|| value.to_vec());
        } else if is("last-event-id") {
            let number = std::str::from_utf8(value).ok();
            self.fields.last_event_id = number.and_then(|number| number.parse().ok());
        } else if is("host") {
            self.hosts += 1;
        } else if is("content-length") {
            let length = digits(value)?;
            return self.length.replace(length).is_none().then_some(());
        } else if is("transfer-encoding") {
            let again = std::mem::replace(&mut self.chunked, true);
            return (value.eq_ignore_ascii_case(b"chunked") && !again).then_some(());
        } else if is("connection") {
            for word in value.split(|byte| *byte == b',') {
                self.close |= word.trim_ascii().eq_ignore_ascii_case(b"close");
                self.keep_alive |= word.trim_ascii().eq_ignore_ascii_case(b"keep-alive");
            }
        } else if is("expect") {
            self.expects |= value.eq_ignore_ascii_case(b"100-continue");
        }
        Some(())
    }
}

/// Digits and nothing else.
fn digits(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = is_number.then(|| std::str::from_utf8(value).ok()).flatten();
    text.and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complete(text: &str) -> Head {
        let progress = parse(text.as_bytes());
        let Progress::Complete(head) = progress else {
            panic!("{text:?}: {progress:?}");
        };
        head
    }

    #[test]
    fn heads_are_read() {
        let text = "PUT /api/v1/x?y HTTP/1.1\r\nHost: h\r\nX-API-KEY: k \r\ncontent-length: 12\r\n\
                    Expect: 100-Continue\r\nLast-Event-ID: 7\r\n\r\nrest";
        let expected = Head {
            length: text.len() - 4,
            method: Method::Put,
            target: "/api/v1/x?y".to_owned(),
            fields: Fields {
                api_key: Some(b"k".to_vec()),
                authorization: None,
                last_event_id: Some(7),
            },
            framing: Framing::Length(12),
            persistent: true,
            old: false,
            expects: true,
        };
        assert_eq!(complete(text), expected);
    }

    #[test]
    fn connections_go_on_as_the_version_has_it() {
        let persistent = |text: &str| complete(text).persistent;
        assert!(persistent("GET / HTTP/1.1\r\nHost:\r\n\r\n"));
        assert!(!persistent(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n"
        ));
        assert!(!persistent("GET / HTTP/1.0\r\n\r\n"));
        assert!(persistent(
            "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
        ));
        assert!(complete("\r\n\r\nGET / HTTP/1.1\nHost: h\n\n").persistent);
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for fields in [
            "",
            "Host: a\r\nHost: a\r\n",
            "Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
            "Host: a\r\nContent-Length: 1, 1\r\n",
            "Host: a\r\nContent-Length: +1\r\n",
            "Host: a\r\nContent-Length:\r\n",
            "Host: a\r\nContent-Length: 99999999999999999999\r\n",
            "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
            "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Host: a\r\nContent-Length : 1\r\n",
            "Host: a\r\n folded\r\n",
            "Host: a\r\nx\0: y\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{fields}\r\n");
            let refused = Progress::Refused(Refusal::Malformed);
            assert_eq!(parse(text.as_bytes()), refused, "{fields:?}");
        }
        for line in [
            "GET /",
            "GET / HTTP/2.0",
            "GET  HTTP/1.1",
            "\u{16}\u{3}",
            "{}",
        ] {
            let text = format!("{line}\r\nHost: a\r\n\r\n");
            let refused = Progress::Refused(Refusal::Malformed);
            assert_eq!(parse(text.as_bytes()), refused, "{line:?}");
        }
        let chunks = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parse(chunks), Progress::Refused(Refusal::Malformed));
    }

    #[test]
    fn limits_are_hit_whether_the_head_arrives_whole_or_not() {
        let too_large = Progress::Refused(Refusal::TooLarge);
        let of = |size: usize| {
            let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
            let filling = size - start.len() - 4;
            format!("{start}{}\r\n\r\n", "x".repeat(filling))
        };
        assert!(matches!(parse(of(HEAD).as_bytes()), Progress::Complete(_)));
        assert_eq!(parse(of(HEAD + 1).as_bytes()), too_large);
        assert_eq!(parse(&of(HEAD + 1).as_bytes()[..HEAD]), too_large);
        assert_eq!(parse(&of(HEAD).as_bytes()[..HEAD - 1]), Progress::Partial);
        let many = "X: y\r\n".repeat(FIELDS);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
        assert_eq!(parse(many.as_bytes()), too_large);
    }

    #[test]
    fn garbage_is_refused_at_once() {
        assert!(is_due(b"\x16\x03\x01", 3));
        assert!(!is_due(b"GET / HT", 4));
        assert!(is_due(b"GET / HTTP/1.1\r\n", 1));
        assert!(!is_due(b"GET / HTTP/1.1\r\nX", 1));
    }

    proptest! {
        /// Parsing whenever it is due comes to what parsing the whole comes to.
        #[test]
        fn chunking_does_not_matter(
            text in "(GET|PO ST|\u{1}) /[a-z?%]{0,9} HTTP/1\\.[012]\r\n(Host: [a-z]{0,3}\r\n|[A-Za-z-]{1,9}: ?[ -~]{0,9}\r?\n|Content-Length: [0-9]{1,3}\r\n){0,6}\r\n[a-z]{0,5}",
            size in 1_usize..40,
        ) {
            let bytes = text.as_bytes();
            let mut stepwise = Progress::Partial;
            let mut seen = 0;
            while seen < bytes.len() && stepwise == Progress::Partial {
                let new = size.min(bytes.len() - seen);
                seen += new;
                if is_due(&bytes[..seen], new) {
                    stepwise = parse(&bytes[..seen]);
                }
            }
            prop_assert_eq!(stepwise, parse(bytes));
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Progress::Complete(head) = parse(&bytes) {
                prop_assert!(head.length <= bytes.len());
            }
        }
    }
}
