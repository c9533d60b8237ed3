use alloc::collections::BTreeSet;

use crate::limits::REPLAY_WINDOW;
use crate::replay::Window;

/// Sequence numbers of two bytes each: no number is accepted twice, and a new highest one always is.
pub fn run(data: &[u8]) {
    let mut window = Window::new();
    let (mut accepted, mut highest) = (BTreeSet::new(), 0);
    for pair in data.chunks_exact(2) {
        let &[high, low] = pair else { return };
        let seq = u64::from(u16::from_be_bytes([high, low]));
        let is_recent = seq > 0 && seq + REPLAY_WINDOW > highest;
        let is_new = is_recent && accepted.insert(seq);
        assert_eq!(window.accept(seq), is_new);
        highest = highest.max(seq);
    }
}
