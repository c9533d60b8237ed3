use alloc::vec::Vec;

use crate::wire::datagram::{encode, split};

/// Any bytes: the frames that were read are written as the same bytes.
pub fn run(data: &[u8]) {
    let (mut rest, mut again) = (data, Vec::new());
    while let Ok(Some(frame)) = split(rest) {
        assert_eq!(encode(frame.datagram, &mut again), Ok(()));
        rest = frame.rest;
    }
    assert!(again.iter().chain(rest).eq(data));
}
