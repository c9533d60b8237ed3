#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| master::entry::state(data));
