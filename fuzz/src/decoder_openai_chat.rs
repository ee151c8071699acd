//! Any bytes as an answer in this dialect.

#![no_main]

mod decoder;

use dash::llm::openai_chat::ChatDialect;

libfuzzer_sys::fuzz_target!(|input: &[u8]| decoder::check(&ChatDialect::default(), input));
