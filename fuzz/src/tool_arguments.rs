//! Any bytes as the arguments of a tool call.

#![no_main]

mod arguments;
mod schema;

libfuzzer_sys::fuzz_target!(|input: &[u8]| arguments::check(input));
