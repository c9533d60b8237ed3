//! Bytes ↔ values, both ways, and nothing else: what each message of each generation looks like.

pub mod datagram;
pub mod hex;
pub mod launch;
pub mod line;
pub mod native;
pub mod preface;
pub mod signal;
