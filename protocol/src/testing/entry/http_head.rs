use alloc::vec::Vec;

use crate::limits;
use crate::testing::script::Script;
use crate::wire::http::{Answer, BadHead, Head, Params, Request, Whole};

/// Bytes: 16 lengths of pieces, the stream.
///
/// # Panics
/// If a head depends on how the bytes arrive or outgrows its limit, or bytes get lost.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut cuts = Script::new(script.bytes(16));
    let stream = script.rest();
    let whole = collect(&[stream]);
    assert_eq!(collect(&cuts.pieces(stream)), whole);
    let Ok(Some(Whole { head, rest })) = whole else {
        return;
    };
    assert!(head.len() <= limits::HTTP_HEAD);
    assert_eq!([&head[..], &rest[..]].concat(), stream);
    if let Ok(request) = Request::parse(&head) {
        assert!(!request.method.is_empty() && !request.path.contains('?'));
    }
    if let Ok(answer) = Answer::parse(&head) {
        assert!(answer.status < 1000);
        assert!(answer.body.is_none_or(|len| len <= limits::HTTP_BODY));
    }
    if let Ok(params) = Params::parse(&rest) {
        let mut again = Vec::new();
        params.encode_answer(&mut again);
        let whole = collect(&[&again]).ok().flatten();
        assert_eq!(whole.and_then(|it| Params::parse(&it.rest).ok()), Some(params));
    }
}

fn collect(pieces: &[&[u8]]) -> Result<Option<Whole>, BadHead> {
    let mut head = Head::default();
    let mut pieces = pieces.iter();
    while let Some(piece) = pieces.next() {
        if let Some(mut whole) = head.feed(piece)? {
            pieces.for_each(|piece| whole.rest.extend_from_slice(piece));
            return Ok(Some(whole));
        }
    }
    Ok(None)
}
