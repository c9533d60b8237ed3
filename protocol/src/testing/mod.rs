//! What tests, proptest and libFuzzer share: the contract's checks and one harness per machine.
//!
//! A harness takes bytes and runs a scenario; a fuzz target, the committed corpus and tests feed it.
//! Nothing here is part of the public interface.

pub mod contract;
pub mod entry;
pub mod script;
