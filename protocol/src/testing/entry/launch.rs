use alloc::vec::Vec;

use crate::wire::launch::Launch;

/// Any bytes: a launch that was read is written as the same bytes, and needs every one of them.
pub fn run(data: &[u8]) {
    let Ok(Some((launch, len))) = Launch::decode(data) else {
        return;
    };
    let mut again = Vec::new();
    launch.encode(&mut again);
    assert_eq!(data.get(..len), Some(again.as_slice()));
    for cut in 0..len {
        let part = data.get(..cut).unwrap_or_default();
        assert_eq!(Launch::decode(part), Ok(None));
    }
}
