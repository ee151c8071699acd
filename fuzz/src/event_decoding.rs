//! Any bytes as an event: on the wire and stored.

#![no_main]

mod events;

libfuzzer_sys::fuzz_target!(|input: &[u8]| events::check(input));
