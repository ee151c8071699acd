//! What the fuzzers check, on the goldens: so that it compiles and holds between runs of
//! `scripts/fuzz`, which builds a fuzzer in C++.

use std::fs;
use std::path::Path;

use dash::llm::anthropic::AnthropicDialect;
use dash::llm::dialect::Dialect;
use dash::llm::gemini::GeminiDialect;
use dash::llm::openai_chat::ChatDialect;
use dash::llm::openai_responses::ResponsesDialect;
use pretty_assertions::assert_eq;

#[path = "../../fuzz/src/decoder.rs"]
mod decoder;
#[path = "../../fuzz/src/gate.rs"]
mod gate;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The goldens of a dialect, each with last bytes that cut it in several ways.
fn inputs(dialect: &str) -> Vec<Vec<u8>> {
    let goldens = root().join("dash/src/llm").join(dialect).join("goldens");
    let mut inputs = Vec::new();
    for entry in fs::read_dir(goldens).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        for seed in [0, 1, 7, 255] {
            let mut input = bytes.clone();
            input.push(seed);
            inputs.push(input);
        }
    }
    assert!(!inputs.is_empty());
    inputs
}

#[test]
fn what_fuzzers_check_of_decoders_holds_for_every_golden() {
    let dialects: [(&str, &dyn Dialect); 4] = [
        ("anthropic", &AnthropicDialect::default()),
        ("gemini", &GeminiDialect::default()),
        ("openai_chat", &ChatDialect::default()),
        ("openai_responses", &ResponsesDialect::default()),
    ];
    for (name, dialect) in dialects {
        for input in inputs(name) {
            decoder::check(dialect, &input);
        }
    }
}

#[test]
fn what_fuzzers_check_of_the_line_gate_holds_for_every_golden() {
    for dialect in ["anthropic", "gemini", "openai_chat", "openai_responses"] {
        for input in inputs(dialect) {
            gate::check(&input);
        }
    }
}

/// The targets themselves are only a line around what is checked above, and each is declared.
#[test]
fn every_fuzzer_is_a_line_around_a_check() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let mut targets = Vec::new();
    for entry in fs::read_dir(root().join("fuzz/src")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if text.contains("fuzz_target!") {
            let checks = ["decoder::check(", "gate::check("];
            let is_line = checks.iter().any(|check| text.contains(check)) && text.len() < 500;
            assert!(is_line, "{name}: {text}");
            let declared = format!("name = \"{name}\"\npath = \"src/{name}.rs\"");
            assert!(manifest.contains(&declared), "{name}");
            targets.push(name);
        }
    }
    targets.sort();
    let known = ["decoder_anthropic", "decoder_gemini", "decoder_openai_chat"];
    let known = [&known[..], &["decoder_openai_responses", "line_gate"]].concat();
    assert_eq!(targets, known);
}
