//! The body of a request: a decoder that is given bytes as they come.

use super::head::Framing;
use super::limits::TRIFLES;
use crate::api::{BODY, BodyError};

/// The longest size of a chunk, in digits; more would only be zeros or too large.
const DIGITS: usize = 16;

/// Decodes one body, of at most [`BODY`] bytes.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    /// What was decoded.
    body: Vec<u8>,
    /// Bytes of extensions and trailers so far.
    trifles: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are to come.
    Length(u64),
    /// The size of a chunk, and its digits so far.
    Size(u64, usize),
    /// What follows a size.
    Extension(u64),
    /// The line feed after a size.
    SizeEnd(u64),
    /// So many bytes of a chunk are to come.
    Chunk(u64),
    /// What ends a chunk.
    ChunkReturn,
    ChunkFeed,
    /// Lines after the last chunk, and whether the current one has text.
    Trailer(bool),
    TrailerFeed(bool),
    Done,
}

impl Decoder {
    /// A decoder for a body that ends as `framing` says.
    ///
    /// # Errors
    /// It is too large already.
    pub(crate) fn new(framing: Framing) -> Result<Self, BodyError> {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => {
                fits(0, length)?;
                State::Length(length)
            }
            Framing::Chunked => State::Size(0, 0),
        };
        Ok(Self {
            state,
            body: Vec::new(),
            trifles: 0,
        })
    }

    /// Whether the body is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What was decoded.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// Decodes the beginning of `input`: how much of it belongs to the body.
    ///
    /// # Errors
    /// It is too large or malformed.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every state but those named first waits for one byte"
    )]
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let mut rest = input;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = match self.state {
                State::Done => break,
                State::Length(left) | State::Chunk(left) => self.copy(left, rest),
                framing => {
                    self.state = self.step(framing, byte)?;
                    tail
                }
            };
        }
        Ok(input.len() - rest.len())
    }

    /// Takes what belongs to the chunk or body; the rest.
    fn copy<'a>(&mut self, left: u64, input: &'a [u8]) -> &'a [u8] {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let (data, rest) = input.split_at(most);
        self.body.extend_from_slice(data);
        let left = left.saturating_sub(data.len() as u64);
        self.state = match (self.state, left) {
            (State::Length(_), 0) => State::Done,
            (State::Length(_), _) => State::Length(left),
            (_, 0) => State::ChunkReturn,
            _ => State::Chunk(left),
        };
        rest
    }

    /// One byte of the framing of chunks (RFC 9112 §7.1).
    fn step(&mut self, state: State, byte: u8) -> Result<State, BodyError> {
        let next = match (state, byte) {
            (State::Size(size, digits), _) if byte.is_ascii_hexdigit() && digits < DIGITS => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                State::Size(size << 4 | u64::from(digit), digits + 1)
            }
            (State::Size(size, 1..), b'\r') | (State::Extension(size), b'\r') => {
                State::SizeEnd(size)
            }
            (State::Size(size, 1..), b';' | b' ' | b'\t') => State::Extension(size),
            (State::Extension(size), b' '..=b'~' | b'\t' | 0x80..) => {
                self.trifle()?;
                State::Extension(size)
            }
            (State::SizeEnd(0), b'\n') => State::Trailer(false),
            (State::SizeEnd(size), b'\n') => {
                fits(self.body.len(), size)?;
                State::Chunk(size)
            }
            (State::ChunkReturn, b'\r') => State::ChunkFeed,
            (State::ChunkFeed, b'\n') => State::Size(0, 0),
            (State::Trailer(text), b'\r') => State::TrailerFeed(text),
            (State::Trailer(_), b' '..=b'~' | b'\t' | 0x80..) => {
                self.trifle()?;
                State::Trailer(true)
            }
            (State::TrailerFeed(true), b'\n') => State::Trailer(false),
            (State::TrailerFeed(false), b'\n') => State::Done,
            _ => return Err(BodyError::Malformed),
        };
        Ok(next)
    }

    fn trifle(&mut self) -> Result<(), BodyError> {
        self.trifles += 1;
        if self.trifles > TRIFLES {
            return Err(BodyError::TooLarge);
        }
        Ok(())
    }
}

/// Whether `more` bytes are allowed after `have`.
fn fits(have: usize, more: u64) -> Result<(), BodyError> {
    if (have as u64).saturating_add(more) > BODY as u64 {
        return Err(BodyError::TooLarge);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body and how many bytes it took; `None` if it is not complete.
    fn decoded(
        framing: Framing,
        input: &[u8],
        size: usize,
    ) -> Result<Option<(Vec<u8>, usize)>, BodyError> {
        let mut decoder = Decoder::new(framing)?;
        let mut taken = 0;
        for piece in input.chunks(size) {
            let count = decoder.decode(piece)?;
            taken += count;
            if count < piece.len() {
                assert!(decoder.is_done());
                break;
            }
        }
        let done = decoder.is_done();
        Ok(done.then(|| (decoder.take(), taken)))
    }

    fn chunked(text: &str) -> Result<Option<(Vec<u8>, usize)>, BodyError> {
        decoded(Framing::Chunked, text.as_bytes(), text.len())
    }

    #[test]
    fn chunks_are_joined() {
        let text = "3;x=\"y\"\r\nabc\r\n0A \r\n0123456789\r\n00\r\nTrailer: x\r\n\r\n";
        let expected = (b"abc0123456789".to_vec(), text.len());
        assert_eq!(chunked(&format!("{text}GET")), Ok(Some(expected)));
        assert_eq!(chunked("3\r\nab"), Ok(None));
        assert_eq!(chunked("0\r\n\r"), Ok(None));
    }

    #[test]
    fn bad_chunks_are_refused() {
        for text in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\na",
            "3\nabc",
            "3\r\nabcd",
            "3\r\nabc\n",
            " 3\r\n",
            "0\r\nx\n",
            "3;\n",
            "00000000000000003\r\nabc",
            "0x3\r\n",
            "3\rabc",
        ] {
            assert_eq!(chunked(text), Err(BodyError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn limits_are_hit() {
        let most = BODY as u64;
        assert!(Decoder::new(Framing::Length(most)).is_ok());
        assert_eq!(
            Decoder::new(Framing::Length(most + 1)).unwrap_err(),
            BodyError::TooLarge
        );
        assert_eq!(chunked("100001\r\n"), Err(BodyError::TooLarge));
        assert_eq!(chunked("ffffffffffffffff\r\n"), Err(BodyError::TooLarge));
        let whole = format!("100000\r\n{}\r\n", "x".repeat(BODY));
        assert_eq!(chunked(&whole), Ok(None));
        assert_eq!(chunked(&format!("{whole}1\r\n")), Err(BodyError::TooLarge));
        let trifles = format!("0;{}", "x".repeat(TRIFLES + 1));
        assert_eq!(chunked(&trifles), Err(BodyError::TooLarge));
        let trifles = format!("0\r\n{}", "x: y\r\n".repeat(TRIFLES));
        assert_eq!(chunked(&trifles), Err(BodyError::TooLarge));
    }

    #[test]
    fn lengths_are_kept() {
        let of = |length, size| decoded(Framing::Length(length), b"abcdef", size);
        assert_eq!(of(4, 1), Ok(Some((b"abcd".to_vec(), 4))));
        assert_eq!(of(0, 6), Ok(Some((Vec::new(), 0))));
        assert_eq!(of(7, 6), Ok(None));
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter(
            text in "([0-9a-f]{1,2}(;[a-z]{0,3})?\r\n[a-z]{0,20}\r\n|0\r\n(x\r\n)?\r\n|[ -~\r\n]){1,9}",
            size in 1_usize..20,
        ) {
            let whole = decoded(Framing::Chunked, text.as_bytes(), text.len());
            prop_assert_eq!(decoded(Framing::Chunked, text.as_bytes(), size), whole);
        }
    }
}
