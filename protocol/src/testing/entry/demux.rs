use crate::config::Generations;
use crate::demux::{self, Demux, Expected, Inside, Verdict};
use crate::proof::ALPN;
use crate::terms::Generation;
use crate::testing::script::Script;
use crate::time::{Duration, Instant};

/// Bytes: the set of generations, the protocol negotiated, four lengths of pieces, the stream.
///
/// # Panics
/// If a verdict depends on how the bytes arrive, changes, comes too late, or names a generation that
/// is not allowed.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let allowed = generations(script.u8());
    let alpn = match script.u32_below(3) {
        0 => None,
        1 => Some(ALPN),
        _ => Some(&b"http/1.1"[..]),
    };
    let mut cuts = Script::new(script.bytes(4));
    let stream = script.rest();
    let (now, timeout) = (Instant::default(), Duration::from_secs(5));
    let new = || Demux::new(allowed, Expected::Nothing, now, timeout);

    let whole = new().handle_bytes(stream);
    assert!(stream.len() < 4 || whole != Verdict::NeedMore);
    let mut demux = new();
    let mut verdict = Verdict::NeedMore;
    for piece in cuts.pieces(stream) {
        let next = demux.handle_bytes(piece);
        assert!(verdict == Verdict::NeedMore || verdict == next);
        verdict = next;
    }
    assert_eq!(verdict, whole);
    match whole {
        Verdict::Legacy(spoken) => check(allowed, spoken.generation()),
        Verdict::NativePreface => check(allowed, Generation::Native),
        Verdict::NeedMore | Verdict::Tls | Verdict::Close(_) => {}
        Verdict::Silent => unreachable!("bytes are no silence"),
    }

    let whole = demux::after_tls(allowed, alpn, stream);
    for end in 0..stream.len().min(8) {
        let early = demux::after_tls(allowed, alpn, stream.get(..end).unwrap_or_default());
        assert!(early == Inside::NeedMore || early == whole);
    }
    match whole {
        Inside::Legacy(spoken) => check(allowed, spoken.generation()),
        Inside::Control | Inside::Preface => check(allowed, Generation::Native),
        Inside::NeedMore => assert!(stream.len() < 4),
        Inside::Close(_) => {}
        Inside::Silent => unreachable!("bytes are no silence"),
    }
}

fn check(allowed: Generations, generation: Generation) {
    assert!(allowed.allows(generation));
}

/// A set that is never empty.
pub(super) fn generations(bits: u8) -> Generations {
    let mut chosen = Generation::ALL.into_iter().filter(|&g| bits >> g as u8 & 1 == 1);
    let first = chosen.next().map_or(Generations::AUTO, Generations::only);
    chosen.fold(first, Generations::with)
}
