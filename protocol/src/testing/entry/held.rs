use crate::handshake::legacy::{Held, Judged, LegacyKeys, Peer, Seen};
use crate::key::TunnelKey;
use crate::limits;
use crate::proof::Proof;
use crate::testing::script::Script;

/// Bytes: whether the peer is ingress, whether the stream begins with a good request, 16 lengths of
/// pieces, the stream.
///
/// # Panics
/// If bytes get lost or outgrow their limit, what was seen is taken back, depends on how it was cut or is
/// judged though nothing was shown, a session would be dropped for a handshake without the key, or a user
/// refused.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let key = TunnelKey::new("KEY");
    let keys = LegacyKeys::new(&key, None);
    let token = Proof::token(&key);
    let peer = if script.bool() { Peer::Ingress } else { Peer::Egress };
    let mut stream = alloc::vec::Vec::new();
    if script.bool() {
        crate::wire::http::encode_request("h", &token, &mut stream);
    }
    let mut cuts = Script::new(script.bytes(16));
    stream.extend_from_slice(script.rest());

    let mut held = Held::of(peer);
    let mut shown = false;
    for piece in cuts.pieces(&stream) {
        let room = held.room();
        match held.feed(piece) {
            Seen::Early => {}
            Seen::Shown => assert!(!core::mem::replace(&mut shown, true), "seen once"),
            Seen::Foreign => assert!(!shown && peer == Peer::Egress, "may be a user's"),
        }
        assert_eq!(held.room(), room - room.min(piece.len()));
    }
    let mut at_once = Held::of(peer);
    assert_eq!(at_once.feed(&stream) == Seen::Shown, shown);
    let judged = held.judge(&keys);
    assert_eq!(at_once.judge(&keys), judged);
    let kept = held.into_bytes();
    assert_eq!(kept.len(), stream.len().min(limits::EARLY_BYTES));
    assert!(stream.starts_with(&kept));
    match judged {
        Judged::Returned => {
            let token = token.to_hex();
            let has = |part: &[u8]| kept.windows(part.len()).any(|window| window == part);
            assert!(has(token.as_bytes()) || kept.starts_with(b"HFZ\n"));
        }
        Judged::Users => assert!(!shown || peer == Peer::Ingress),
        Judged::Refused { .. } => assert!(shown && peer == Peer::Egress),
    }
    let mut at_client = Held::of(Peer::Server);
    assert_eq!(at_client.feed(&stream), Seen::Early);
}
