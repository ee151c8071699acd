//! Any bytes as an answer in this dialect.

#![no_main]

mod decoder;

use dash::llm::gemini::GeminiDialect;

libfuzzer_sys::fuzz_target!(|input: &[u8]| decoder::check(&GeminiDialect::default(), input));
