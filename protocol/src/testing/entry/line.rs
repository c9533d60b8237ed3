use alloc::vec::Vec;

use crate::wire::line::LineDecoder;

/// A chunk size, then a stream: byte by byte gives the lines that chunks give, and nothing is lost.
pub fn run(data: &[u8]) {
    let Some((&chunk, stream)) = data.split_first() else {
        return;
    };
    let (lines, failed) = decode(stream.chunks(usize::from(chunk) + 1));
    let by_byte = decode(stream.chunks(1));
    assert_eq!((&lines, failed), (&by_byte.0, by_byte.1));
    let mut joined = Vec::new();
    for line in lines {
        joined.extend(line);
        joined.push(b'\n');
    }
    let rest = stream.strip_prefix(joined.as_slice());
    assert!(rest.is_some_and(|rest| failed || !rest.contains(&b'\n')));
}

/// The lines, and whether one was too long.
fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, bool) {
    let mut decoder = LineDecoder::new(64);
    let (mut lines, mut failed) = (Vec::new(), false);
    for chunk in chunks {
        failed = decoder.feed(chunk).is_err();
        while let Some(line) = decoder.poll_line() {
            assert!(line.len() < 64 && !line.contains(&b'\n'));
            lines.push(line);
        }
    }
    (lines, failed)
}
