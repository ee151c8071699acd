//! What the fuzzers check, on their seeds and the goldens: so that it compiles and holds between runs
//! of `scripts/fuzz`, which builds a fuzzer in C++.

use std::fs;
use std::path::Path;

use dash::llm::anthropic::AnthropicDialect;
use dash::llm::dialect::Dialect;
use dash::llm::gemini::GeminiDialect;
use dash::llm::openai_chat::ChatDialect;
use dash::llm::openai_responses::ResponsesDialect;
use pretty_assertions::assert_eq;

#[path = "../../fuzz/src/arguments.rs"]
mod arguments;
#[path = "../../fuzz/src/decoder.rs"]
mod decoder;
#[path = "../../fuzz/src/events.rs"]
mod events;
#[path = "../../fuzz/src/gate.rs"]
mod gate;
#[path = "../../fuzz/src/schema.rs"]
mod schema;

/// Bytes of all seeds together, at most: they are part of every clone.
const SEEDS_BYTES_MAX: u64 = 100_000;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The seeds of a fuzzer.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = root().join("fuzz/seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|err| panic!("{target}: {err}"));
    let seeds: Vec<_> = entries
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(!seeds.is_empty(), "{target} has no seed");
    seeds
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
        for input in [inputs(name), seeds(&format!("decoder_{name}"))].concat() {
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
    for input in seeds("line_gate") {
        gate::check(&input);
    }
}

#[test]
fn what_fuzzers_check_of_events_holds_for_every_event() {
    let wire = include_str!("wire/events.jsonl");
    assert!(wire.lines().count() > 20);
    for line in wire.lines() {
        events::check(line.as_bytes());
    }
    for input in seeds("event_decoding") {
        events::check(&input);
    }
}

#[test]
fn what_fuzzers_check_of_arguments_and_schemas_holds_for_every_seed() {
    for input in seeds("tool_arguments") {
        arguments::check(&input);
    }
    for input in seeds("schema_check") {
        schema::check(&input);
    }
}

#[test]
fn seeds_are_few() {
    let mut bytes = 0;
    for folder in fs::read_dir(root().join("fuzz/seeds")).unwrap() {
        for seed in fs::read_dir(folder.unwrap().path()).unwrap() {
            bytes += seed.unwrap().metadata().unwrap().len();
        }
    }
    assert!(bytes <= SEEDS_BYTES_MAX, "{bytes} bytes");
}

/// The targets themselves are only a line around what is checked above, and each is declared and run.
#[test]
fn every_fuzzer_is_a_line_around_a_check() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let script = fs::read_to_string(root().join("scripts/fuzz")).unwrap();
    let script = script.split_once("all=(").unwrap().1;
    let run: Vec<&str> = script
        .split_once(')')
        .unwrap()
        .0
        .split_whitespace()
        .collect();
    let mut targets = Vec::new();
    for entry in fs::read_dir(root().join("fuzz/src")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if text.contains("fuzz_target!") {
            let checks = ["decoder", "gate", "events", "arguments", "schema"];
            let is_check = |module: &&str| text.contains(&format!("{module}::check("));
            let is_line = checks.iter().any(is_check) && text.len() < 500;
            assert!(is_line, "{name}: {text}");
            let declared = format!("name = \"{name}\"\npath = \"src/{name}.rs\"");
            assert!(manifest.contains(&declared), "{name}");
            assert!(
                run.contains(&name.as_str()),
                "scripts/fuzz leaves out {name}"
            );
            seeds(&name);
            targets.push(name);
        }
    }
    targets.sort();
    let mut run: Vec<String> = run.into_iter().map(str::to_owned).collect();
    run.sort();
    assert_eq!(targets, run);
    assert_eq!(targets.len(), 8);
}
