use crate::handshake::legacy::{Held, LegacyKeys, Seen};
use crate::key::TunnelKey;
use crate::limits;
use crate::proof::Proof;
use crate::testing::script::Script;

/// Bytes: whether the peer is ingress, whether the stream begins with a good request, 16 lengths of
/// pieces, the stream.
///
/// # Panics
/// If bytes get lost or outgrow their limit, what was seen is taken back, or a session would be
/// dropped for a handshake without the key.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let key = TunnelKey::new("KEY");
    let keys = LegacyKeys::new(&key, None);
    let token = Proof::token(&key);
    let launches = script.bool();
    let mut stream = alloc::vec::Vec::new();
    if script.bool() {
        crate::wire::http::encode_request("h", &token, &mut stream);
    }
    let mut cuts = Script::new(script.bytes(16));
    stream.extend_from_slice(script.rest());

    let mut held = Held::default();
    let mut last = Seen::Early;
    for piece in cuts.pieces(&stream) {
        let room = held.room();
        let seen = held.feed(piece, Some(&keys), launches);
        assert!(last == Seen::Early || seen == last);
        assert!(!launches || seen != Seen::Foreign, "may be a user's");
        last = seen;
        assert_eq!(held.room(), room - room.min(piece.len()));
    }
    let kept = held.into_bytes();
    assert_eq!(kept.len(), stream.len().min(limits::EARLY_BYTES));
    assert!(stream.starts_with(&kept));
    if last == Seen::Returned {
        let token = token.to_hex();
        let has = |part: &[u8]| kept.windows(part.len()).any(|window| window == part);
        assert!(has(token.as_bytes()) || kept.starts_with(b"HFZ\n"));
    }
    let mut at_client = Held::default();
    assert_eq!(at_client.feed(&stream, None, launches), Seen::Early);
}
