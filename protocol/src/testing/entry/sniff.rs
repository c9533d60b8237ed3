use crate::config::Block;
use crate::limits::SNIFFED;
use crate::sniff::{Sniffer, Verdict};

/// What is blocked, then a user's bytes: a verdict is reached within the limit and does not change.
pub fn run(data: &[u8]) {
    let Some((&block, first_bytes)) = data.split_first() else {
        return;
    };
    let sniffer = Sniffer::new(Block {
        socks: block & 1 != 0,
        http: block & 2 != 0,
        tls: block & 4 != 0,
    });
    let mut verdict = Verdict::NeedMore;
    for len in 0..=first_bytes.len().min(64) {
        let next = sniffer.feed(first_bytes.get(..len).unwrap_or_default());
        assert!(verdict == Verdict::NeedMore || next == verdict);
        assert!(next != Verdict::NeedMore || len < SNIFFED);
        verdict = next;
    }
}
