//! Black-box tests of the binary: real processes and sockets, ports that each test holds, and no
//! sleeps: a test waits for the thing itself, with a deadline. `TESTING.md` says how to run them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    reason = "the whole crate is tests, helpers included"
)]

mod balance;
mod certificates;
mod cli;
mod docs;
mod limits;
mod memory;
mod recovery;
mod second_driver;
mod security;
mod single_end;
mod stop;
mod support;
mod tunnel_tcp;
mod tunnel_tls;
mod tunnel_udp;
