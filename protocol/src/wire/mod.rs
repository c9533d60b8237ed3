//! Bytes ↔ values, both ways, and nothing else: what each message of each generation looks like.

pub mod classic;
pub mod codec;
pub mod data_id;
pub mod datagram;
pub mod hex;
pub mod http;
pub mod launch;
pub mod line;
pub mod native;
pub mod preface;
pub mod signal;
