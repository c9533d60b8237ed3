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
mod faults_clock;
mod faults_control;
mod faults_data;
mod faults_descriptors;
mod faults_disk;
mod faults_frozen;
mod faults_loss;
mod legacy_downgrade;
mod legacy_matrix;
mod legacy_peers_agree;
mod legacy_quirks;
mod legacy_security;
mod legacy_sessions;
mod limits;
mod limits_crowd;
mod limits_door;
mod master_api;
mod master_docs;
mod master_events;
mod master_files;
mod master_hostile;
mod master_http;
mod master_info;
mod master_instances;
mod master_races;
mod master_replay;
mod master_state;
mod master_subscribers;
mod master_tunnels;
mod memory;
mod port_443;
mod recovery;
mod second_driver;
mod security;
mod single_end;
mod stop;
mod support;
mod system_roots;
mod tunnel_tcp;
mod tunnel_tls;
mod tunnel_udp;
