//! Any bytes as a schema and a value.

#![no_main]

mod schema;

libfuzzer_sys::fuzz_target!(|input: &[u8]| schema::check(input));
