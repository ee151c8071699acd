//! Any bytes as an answer in this dialect.

#![no_main]

mod decoder;

use dash::llm::anthropic::AnthropicDialect;

libfuzzer_sys::fuzz_target!(|input: &[u8]| decoder::check(&AnthropicDialect::default(), input));
