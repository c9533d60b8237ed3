//! The same worlds from the bytes of a fuzzer: the target `two_nodes` of `fuzz/Cargo.toml`.
#![no_main]
#![allow(dead_code, reason = "some of it is for the sweep of seeds")]

mod carrier;
mod contract;
mod net;
mod node_client;
mod node_server;
mod oracle;
mod plan;
mod world;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    world::World::new(&plan::Plan::from_script(bytes), false).run();
});
