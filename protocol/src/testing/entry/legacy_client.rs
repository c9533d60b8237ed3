use alloc::vec::Vec;

use crate::handshake::legacy::{
    AwaitAnswer, LegacyConfig, LegacyHandshake, LegacyKeys, Spoken,
};
use crate::handshake::{Established, HandshakeError, Step};
use crate::key::TunnelKey;
use crate::terms::{DataTls, Flow};
use crate::testing::script::Script;
use crate::time::{Duration, Instant};
use crate::wire::classic::Cipher;
use crate::wire::http::Params;

/// Bytes: the generation, the least `tls`; whether the stream begins with a good answer, and what
/// is in it; 16 lengths of pieces; the stream.
///
/// # Panics
/// If the outcome depends on how the bytes arrive, or a session begins below the least `tls`.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let spoken = spoken(&mut script);
    let least_tls = tls(&mut script);
    let mut stream = Vec::new();
    if script.bool() {
        answer(spoken, &mut script, &mut stream);
    }
    let mut cuts = Script::new(script.bytes(16));
    stream.extend_from_slice(script.rest());

    let Some(whole) = start(spoken, least_tls).map(|wait| outcome(wait, &[&stream])) else {
        return;
    };
    let pieces = cuts.pieces(&stream);
    let again = start(spoken, least_tls).map(|wait| outcome(wait, &pieces));
    assert_eq!(again.as_ref(), Some(&whole));
    if let Ok(established) = whole {
        assert!(established.tls >= least_tls);
        assert!(stream.ends_with(&established.rest));
        assert_eq!(established.dialect.generation, spoken.generation());
    }
}

pub(super) fn spoken(script: &mut Script<'_>) -> Spoken {
    match script.u32_below(3) {
        0 => Spoken::Http,
        1 => Spoken::Https,
        _ => Spoken::Classic,
    }
}

fn start(spoken: Spoken, least_tls: DataTls) -> Option<AwaitAnswer> {
    let config = LegacyConfig { host: "h".into(), least_tls };
    let keys = LegacyKeys::new(&TunnelKey::new("KEY"), None);
    let (now, timeout) = (Instant::default(), Duration::from_secs(5));
    LegacyHandshake::start(spoken, &config, &keys, now, timeout, &mut Vec::new()).ok()
}

fn outcome(mut wait: AwaitAnswer, pieces: &[&[u8]]) -> Result<Established, HandshakeError> {
    let mut pieces = pieces.iter();
    while let Some(piece) = pieces.next() {
        match wait.handle_bytes(piece)? {
            Step::NeedsInput(next) => wait = next,
            Step::Done(mut established) => {
                if established.dialect.generation == Spoken::Classic.generation() {
                    pieces.for_each(|piece| established.rest.extend_from_slice(piece));
                }
                return Ok(established);
            }
        }
    }
    wait.handle_eof()
}

fn answer(spoken: Spoken, script: &mut Script<'_>, out: &mut Vec<u8>) {
    let flow = if script.bool() { Flow::Forward } else { Flow::Reverse };
    let params = Params { flow, max: script.u32(), tls: tls(script) };
    match spoken {
        Spoken::Http | Spoken::Https => params.encode_answer(out),
        Spoken::Classic => {
            if let Ok(cipher) = Cipher::new(TunnelKey::new("KEY")) {
                cipher.encode_answer(flow, params.tls, out);
            }
        }
    }
}

fn tls(script: &mut Script<'_>) -> DataTls {
    match script.u32_below(3) {
        0 => DataTls::Plain,
        1 => DataTls::Pinned,
        _ => DataTls::Verified,
    }
}
