//! Lines out of a byte stream, each at most so long (`wire.md` §2.2, §3, §5).

use alloc::vec::Vec;

/// Collects bytes and gives whole lines, the same ones however the bytes were cut.
///
/// It holds one incomplete line of less than the limit, and the complete lines that
/// [`feed`](Self::feed) brought until [`poll_line`](Self::poll_line) takes them.
#[derive(Clone, Debug)]
pub struct LineDecoder {
    max: usize,
    buffer: Vec<u8>,
    /// Where the first line not yet taken starts.
    start: usize,
    /// Where the incomplete line starts.
    tail: usize,
    /// A line was too long: nothing after it is a line.
    failed: bool,
}

impl LineDecoder {
    /// A decoder of lines of at most `max` bytes, `\n` included.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            buffer: Vec::new(),
            start: 0,
            tail: 0,
            failed: false,
        }
    }

    /// Takes the next bytes of the stream. Drain [`poll_line`](Self::poll_line) before feeding
    /// more.
    ///
    /// # Errors
    /// When a line is too long, and ever after. The lines before it can still be taken.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), LineTooLong> {
        if self.failed {
            return Err(LineTooLong(self.max));
        }
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let len = self.buffer.len() - self.tail + part.len();
            let is_complete = part.ends_with(b"\n");
            if len > self.max || (len == self.max && !is_complete) {
                self.failed = true;
                self.buffer.truncate(self.tail);
                return Err(LineTooLong(self.max));
            }
            self.buffer.extend_from_slice(part);
            if is_complete {
                self.tail = self.buffer.len();
            }
        }
        Ok(())
    }

    /// The next complete line, without its `\n`.
    pub fn poll_line(&mut self) -> Option<Vec<u8>> {
        let lines = self.buffer.get(self.start..self.tail)?;
        let line = lines.split(|&byte| byte == b'\n').next()?;
        if lines.is_empty() {
            return None;
        }
        let line = line.to_vec();
        self.start += line.len() + 1;
        if self.start == self.tail {
            self.buffer.drain(..self.tail);
            (self.start, self.tail) = (0, 0);
        }
        Some(line)
    }
}

/// A line is longer than its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line too long; at most {0} bytes are allowed")]
pub struct LineTooLong(pub usize);

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 8;

    /// The lines of a stream that arrives in `chunks`, whether it failed, and what is left.
    fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, bool, Vec<u8>) {
        let mut decoder = LineDecoder::new(MAX);
        let (mut lines, mut failed) = (Vec::new(), false);
        for chunk in chunks {
            failed = decoder.feed(chunk).is_err();
            while let Some(line) = decoder.poll_line() {
                lines.push(line);
            }
            assert!(decoder.buffer.len() < MAX);
        }
        (lines, failed, decoder.buffer)
    }

    fn whole(bytes: &[u8]) -> (Vec<Vec<u8>>, bool, Vec<u8>) {
        decode(core::iter::once(bytes))
    }

    #[test]
    fn lines_come_without_their_end() {
        let (lines, failed, rest) = whole(b"one\n\ntwo\r\nthr");
        assert_eq!(lines, [&b"one"[..], b"", b"two\r"]);
        assert_eq!((failed, rest.as_slice()), (false, &b"thr"[..]));
    }

    #[test]
    fn the_limit_counts_the_line_feed() {
        let (lines, failed, _) = whole(b"1234567\n");
        assert_eq!((lines.len(), failed), (1, false));
        for bytes in [&b"12345678"[..], b"12345678\n", b"ok\n12345678\nlost\n"] {
            let (lines, failed, _) = whole(bytes);
            assert!(failed, "{bytes:?}");
            assert!(lines.len() <= 1);
        }
    }

    #[test]
    fn a_failed_decoder_gives_the_lines_before_and_none_after() {
        let mut decoder = LineDecoder::new(MAX);
        assert_eq!(decoder.feed(b"a\nb\n123456789"), Err(LineTooLong(MAX)));
        assert_eq!(decoder.feed(b"\nc\n"), Err(LineTooLong(MAX)));
        assert_eq!(decoder.poll_line().as_deref(), Some(&b"a"[..]));
        assert_eq!(decoder.poll_line().as_deref(), Some(&b"b"[..]));
        assert_eq!(decoder.poll_line(), None);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(
            bytes in vec(prop_oneof![1 => Just(b'\n'), 4 => any::<u8>()], 0..60),
            chunk in 1_usize..20,
        ) {
            let (lines, failed, rest) = whole(&bytes);
            let chunked = decode(bytes.chunks(chunk));
            prop_assert_eq!(&chunked.0, &lines);
            prop_assert_eq!(chunked.1, failed);
            if !failed {
                prop_assert_eq!(&chunked.2, &rest);
                let mut joined: Vec<u8> = lines.concat();
                joined.extend(rest);
                let stream = bytes.into_iter().filter(|&byte| byte != b'\n');
                prop_assert!(joined.into_iter().eq(stream));
            }
        }
    }
}
