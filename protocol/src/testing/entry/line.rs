use alloc::vec::Vec;

use crate::wire::line::LineDecoder;

/// A chunk size, then a stream: byte by byte gives the lines that chunks give, and nothing is lost.
pub fn run(data: &[u8]) {
    let Some((&chunk, stream)) = data.split_first() else {
        return;
    };
    let (lines, rest) = decode(stream.chunks(usize::from(chunk) + 1));
    let by_byte = decode(stream.chunks(1));
    assert_eq!((&lines, &rest), (&by_byte.0, &by_byte.1));
    if let Some(rest) = rest {
        let mut joined = Vec::new();
        for line in lines {
            joined.extend(line);
            joined.push(b'\n');
        }
        joined.extend(rest);
        assert_eq!(joined, stream);
    }
}

/// The lines, and what is left unless a line was too long.
fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
    let mut decoder = LineDecoder::new(64);
    let (mut lines, mut failed) = (Vec::new(), false);
    for chunk in chunks {
        failed = decoder.feed(chunk).is_err();
        while let Some(line) = decoder.poll_line() {
            assert!(line.len() < 64 && !line.contains(&b'\n'));
            lines.push(line);
        }
    }
    (lines, (!failed).then(|| decoder.into_rest()))
}
