//! Any bytes through the line gate.

#![no_main]

mod gate;

libfuzzer_sys::fuzz_target!(|input: &[u8]| gate::check(input));
