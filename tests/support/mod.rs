//! What the tests share: processes, ports, peers, and waiting with a deadline.

pub(crate) mod api;
pub(crate) mod attacker;
pub(crate) mod binary;
pub(crate) mod certificates;
pub(crate) mod course;
pub(crate) mod cutter;
pub(crate) mod distant;
pub(crate) mod exchange;
pub(crate) mod http;
pub(crate) mod kernel;
pub(crate) mod legacy;
pub(crate) mod lossy;
pub(crate) mod master;
pub(crate) mod mixed;
pub(crate) mod moved_clock;
pub(crate) mod peers;
pub(crate) mod ports;
pub(crate) mod scratch;
pub(crate) mod sse;
pub(crate) mod tools;
pub(crate) mod tunnel;
pub(crate) mod until;
pub(crate) mod users;

/// `NODEPASS_TEST_FULL=1`: the sizes of the acceptance list, not the reduced ones of every day.
pub(crate) fn full() -> bool {
    std::env::var("NODEPASS_TEST_FULL").is_ok_and(|value| value == "1")
}

/// Whether the binary under test is an optimised one, so that figures about it mean something.
pub(crate) fn optimised() -> bool {
    std::env::var_os("NODEPASS_BIN").is_some() || !cfg!(debug_assertions)
}

/// `len` bytes that never look alike at two places.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}
