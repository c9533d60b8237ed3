use alloc::vec::Vec;

use crate::handshake::legacy::{LegacyKeys, Spoken};
use crate::key::TunnelKey;
use crate::limits;
use crate::proof::Side;
use crate::terms::DataTls;
use crate::testing::script::Script;
use crate::wire::codec::Codec;

/// Bytes: the generation, then a line as the peer wrote it; half of the time the text inside it.
///
/// # Panics
/// If what is understood does not survive being written again, or a line is too long or several.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let spoken = match script.u32_below(3) {
        0 => Spoken::Http,
        1 => Spoken::Https,
        _ => Spoken::Classic,
    };
    let keys = LegacyKeys::new(&TunnelKey::new("KEY"), None);
    let Ok(dialect) = keys.dialect(spoken, DataTls::Pinned, Side::Client) else {
        unreachable!("a good key");
    };
    let clear = script.bool();
    let line = match (clear, &dialect.codec) {
        (true, Codec::Classic(_)) => script.rest().iter().map(|byte| byte ^ 3).collect(),
        (true, Codec::Http(_)) => {
            let key = b"KEY".iter().cycle();
            let text: Vec<u8> = script.rest().iter().zip(key).map(|(a, b)| a ^ b).collect();
            data_encoding::BASE64.encode(&text).into_bytes()
        }
        _ => script.rest().to_vec(),
    };
    let codec = dialect.codec;
    let Ok(Some(signal)) = codec.decode(&line) else {
        return;
    };
    let mut again = Vec::new();
    codec.encode(&signal, &mut again);
    assert!(again.len() <= codec.max_line());
    let lines = again.iter().filter(|&&byte| byte == b'\n').count();
    let Some(again) = again.strip_suffix(b"\n") else {
        // A source address that no URL can carry.
        assert!(matches!(codec, Codec::Classic(_)) && line.len() <= limits::CLASSIC_LINE);
        return;
    };
    assert_eq!(lines, 1);
    let read = codec.decode(again);
    if spoken != Spoken::Classic {
        assert_eq!(read, Ok(Some(signal)));
    } else {
        assert!(matches!(read, Ok(Some(_))), "though perhaps without a zone");
    }
}
