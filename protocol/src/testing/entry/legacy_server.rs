use alloc::vec::Vec;

use super::legacy_client::spoken;
use crate::handshake::HandshakeError;
use crate::handshake::legacy::{AwaitLegacy, LegacyKeys, LegacyStep};
use crate::key::TunnelKey;
use crate::proof::Proof;
use crate::testing::script::Script;
use crate::time::{Duration, Instant};
use crate::wire::http::encode_request;

/// Bytes: the generation; whether the stream begins with a good request; 16 lengths of pieces; the
/// stream.
///
/// # Panics
/// If the outcome depends on how the bytes arrive, or a client without the key is accepted.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let spoken = spoken(&mut script);
    let token = Proof::token(&TunnelKey::new("KEY"));
    let mut stream = Vec::new();
    if script.bool() {
        encode_request("h", &token, &mut stream);
    }
    let mut cuts = Script::new(script.bytes(16));
    stream.extend_from_slice(script.rest());

    let keys = LegacyKeys::new(&TunnelKey::new("KEY"), None);
    let (now, timeout) = (Instant::default(), Duration::from_secs(5));
    let new = || AwaitLegacy::new(spoken, &keys, now, timeout).ok();
    let whole = outcome(new(), &[&stream]);
    assert_eq!(outcome(new(), &cuts.pieces(&stream)), whole);
    if whole == Outcome::Verified {
        let token = token.to_hex();
        let mut windows = stream.windows(token.len());
        let has_token = windows.any(|window| window == token.as_bytes());
        assert!(has_token || stream.starts_with(b"HFZ\n"));
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    NeedsInput,
    Verified,
    Refused(Vec<u8>, HandshakeError),
    Failed(HandshakeError),
}

fn outcome(wait: Option<AwaitLegacy>, pieces: &[&[u8]]) -> Outcome {
    let Some(mut wait) = wait else {
        return Outcome::NeedsInput;
    };
    for piece in pieces {
        match wait.handle_bytes(piece) {
            Ok(LegacyStep::NeedsInput(next)) => wait = next,
            Ok(LegacyStep::Verified(_)) => return Outcome::Verified,
            Ok(LegacyStep::Refused { answer, why }) => return Outcome::Refused(answer, why),
            Err(why) => {
                assert!(!why.counts_for_ban());
                return Outcome::Failed(why);
            }
        }
    }
    Outcome::NeedsInput
}
