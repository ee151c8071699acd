use pretty_assertions::assert_eq;

use super::*;
use crate::llm::{ThinkingLevel, ThinkingMode, api};
use crate::model::{NanoUsd, Usage};

fn entry(name: &str) -> ModelEntry {
    ModelRegistry::builtin().find(name).unwrap().clone()
}

/// The cost of input, output, cache reads and cache writes, in nano-dollars.
fn cost(name: &str, [input, output, cache_read, cache_write]: [u64; 4]) -> i64 {
    let usage = Usage {
        input,
        output,
        cache_read,
        cache_write,
        ..Usage::default()
    };
    entry(name).model().price.cost(usage).0
}

#[test]
fn the_table_that_comes_along_can_be_read_and_says_where_it_is_from() {
    let mut registry = ModelRegistry::empty();
    registry.extend_from_json(BUILTIN).unwrap();
    assert_eq!(registry, ModelRegistry::builtin());
    assert_eq!(registry.models().count(), 9);
    for model in registry.models() {
        assert_eq!(
            model.priced_on.as_deref(),
            Some("2026-08-22"),
            "{}",
            model.id
        );
        assert!(
            model
                .source
                .as_deref()
                .is_some_and(|text| text.starts_with("https://"))
        );
        assert!(registry.provider(&model.provider).is_some(), "{}", model.id);
        assert!(!model.price.output.is_zero(), "{}", model.id);
        assert!(
            model.context_window >= model.max_output_tokens,
            "{}",
            model.id
        );
    }
}

#[test]
fn every_row_costs_what_a_hand_computed_call_costs() {
    // 1,000 of input, 100 of output, 10,000 read from a cache, 2,000 written to one. Where writing
    // has no price of its own it costs what input does.
    let usage = [1_000, 100, 10_000, 2_000];
    for (name, nanos) in [
        // 1,000 * 5,000 + 100 * 25,000 + 10,000 * 500 + 2,000 * 6,250
        (
            "claude-opus-5",
            5_000_000 + 2_500_000 + 5_000_000 + 12_500_000,
        ),
        // 1,000 * 2,000 + 100 * 10,000 + 10,000 * 200 + 2,000 * 2,500
        (
            "claude-sonnet-5",
            2_000_000 + 1_000_000 + 2_000_000 + 5_000_000,
        ),
        // 1,000 * 1,000 + 100 * 5,000 + 10,000 * 100 + 2,000 * 1,250
        (
            "claude-haiku-4-5",
            1_000_000 + 500_000 + 1_000_000 + 2_500_000,
        ),
        // 1,000 * 2,500 + 100 * 15,000 + 10,000 * 250 + 2,000 * 2,500
        ("gpt-5.4", 2_500_000 + 1_500_000 + 2_500_000 + 5_000_000),
        // 1,000 * 250 + 100 * 2,000 + 10,000 * 25 + 2,000 * 250
        ("gpt-5-mini", 250_000 + 200_000 + 250_000 + 500_000),
        // 1,000 * 400 + 100 * 1,600 + 10,000 * 100 + 2,000 * 400
        ("gpt-4.1-mini", 400_000 + 160_000 + 1_000_000 + 800_000),
        // 1,000 * 1,250 + 100 * 10,000 + 10,000 * 125 + 2,000 * 1,250
        (
            "gemini-2.5-pro",
            1_250_000 + 1_000_000 + 1_250_000 + 2_500_000,
        ),
        // 1,000 * 300 + 100 * 2,500 + 10,000 * 30 + 2,000 * 300
        ("gemini-2.5-flash", 300_000 + 250_000 + 300_000 + 600_000),
        // 1,000 * 750 + 100 * 3,750 + 10,000 * 75 + 2,000 * 750
        ("gemini-3.8-flash", 750_000 + 375_000 + 750_000 + 1_500_000),
    ] {
        assert_eq!(cost(name, usage), nanos, "{name}");
    }
}

#[test]
fn long_prompts_are_billed_whole_at_their_tier() {
    // Up to 272,000: 200,000 * 2,500 + 72,000 * 250 + 1,000 * 15,000.
    assert_eq!(cost("gpt-5.4", [200_000, 1_000, 72_000, 0]), 533_000_000);
    // Above: 200,001 * 5,000 + 72,000 * 500 + 1,000 * 22,500.
    assert_eq!(cost("gpt-5.4", [200_001, 1_000, 72_000, 0]), 1_058_505_000);
    // Up to 200,000: 150,000 * 1,250 + 50,000 * 125 + 1,000 * 10,000.
    assert_eq!(
        cost("gemini-2.5-pro", [150_000, 1_000, 50_000, 0]),
        203_750_000
    );
    // Above: 150,001 * 2,500 + 50,000 * 250 + 1,000 * 15,000.
    assert_eq!(
        cost("gemini-2.5-pro", [150_001, 1_000, 50_000, 0]),
        402_502_500
    );
}

#[test]
fn a_cache_kept_for_an_hour_costs_twice_the_input() {
    // 600 for minutes and 400 for an hour.
    let usage = Usage {
        cache_write: 1_000,
        cache_write_long: 400,
        ..Usage::default()
    };
    for (name, nanos) in [
        // 600 * 6,250 + 400 * 10,000
        ("claude-opus-5", 3_750_000 + 4_000_000),
        // 600 * 2,500 + 400 * 4,000
        ("claude-sonnet-5", 1_500_000 + 1_600_000),
        // 600 * 1,250 + 400 * 2,000
        ("claude-haiku-4-5", 750_000 + 800_000),
    ] {
        assert_eq!(
            entry(name).model().price.cost(usage),
            NanoUsd(nanos),
            "{name}"
        );
    }
    for model in ModelRegistry::builtin().models() {
        let has_own_price = !model.price.cache_write_long.is_zero();
        assert_eq!(has_own_price, model.provider == "anthropic", "{}", model.id);
    }
}

#[test]
fn an_entry_is_the_model_the_engine_takes() {
    let model = entry("openai/gpt-5.4").model();
    assert_eq!((model.id.as_str(), model.wire_id()), ("gpt-5.4", "gpt-5.4"));
    assert_eq!(
        (model.context_window, model.max_output_tokens),
        (272_000, 128_000)
    );
    assert!(model.images);
    let thinking = model.thinking.unwrap();
    assert_eq!(thinking.mode, ThinkingMode::Effort);
    assert_eq!(thinking.word(ThinkingLevel::Off), Some("none"));
    assert_eq!(thinking.word(ThinkingLevel::Minimal), None);
    let model = Model::priced("m", "p", NanoUsd(1), NanoUsd(2));
    assert_eq!(ModelEntry::from(model.clone()).model(), model);
}

const OWN: &str = r#"{
  "providers": [
    {"id": "box", "api": "openai-chat", "baseUrl": "http://127.0.0.1:8080", "preset": "llama.cpp"}
  ],
  "models": [
    {"id": "gpt-5.4", "provider": "openai", "price": {"input": "1", "output": "2"}},
    {"id": "gpt-5.4", "provider": "box", "wireId": "gpt", "aliases": ["mine"],
     "price": {"input": "0", "output": "0"}, "class": "small"},
    {"id": "org/qwen", "provider": "box", "price": {"input": "0", "output": "0"}}
  ]
}"#;

#[test]
fn a_file_replaces_entries_whole_and_adds_its_own() {
    let mut registry = ModelRegistry::builtin();
    registry.extend_from_json(OWN).unwrap();
    let own = registry.find("openai/gpt-5.4").unwrap();
    assert_eq!(own.price.input, NanoUsd::from_usd(1));
    assert_eq!(own.price.tiers, []);
    assert_eq!((own.context_window, own.max_output_tokens), (0, 4_096));
    // What is not said about caches costs what other input does.
    assert_eq!(own.price.cache_read, NanoUsd::from_usd(1));
    assert_eq!(own.price.cache_write, NanoUsd::from_usd(1));
    assert_eq!(registry.find("mine").unwrap().full_name(), "box/gpt-5.4");
    assert_eq!(
        registry.find("box/mine").unwrap().full_name(),
        "box/gpt-5.4"
    );
    for name in ["org/qwen", "box/org/qwen"] {
        assert_eq!(
            registry.find(name).unwrap().full_name(),
            "box/org/qwen",
            "{name}"
        );
    }
    assert_eq!(registry.provider("box").unwrap().api, api::OPENAI_CHAT);
    assert_eq!(registry.models().count(), 11);
}

#[test]
fn a_name_that_several_providers_have_must_say_which() {
    let mut registry = ModelRegistry::builtin();
    registry.extend_from_json(OWN).unwrap();
    let err = registry.find("gpt-5.4").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Invalid);
    let text = "invalid `model`: `gpt-5.4` may be several models: say which of box/gpt-5.4, openai/gpt-5.4";
    assert_eq!(err.to_string(), text);
}

#[test]
fn an_unknown_name_lists_near_ones_and_how_to_declare_it() {
    let registry = ModelRegistry::builtin();
    let err = registry.find("claude-opus-4").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    let text = err.to_string();
    assert!(text.contains("did you mean claude-opus-5?"), "{text}");
    assert!(text.contains("\"models\": [{\"id\""), "{text}");
    assert!(text.contains("registry.add("), "{text}");
    let err = registry
        .find("antropic/claude-opus-5")
        .unwrap_err()
        .to_string();
    assert!(
        err.contains("did you mean anthropic/claude-opus-5"),
        "{err}"
    );
    let err = ModelRegistry::empty().find("x").unwrap_err().to_string();
    assert!(
        err.starts_with("no model `x`: a model is declared"),
        "{err}"
    );
}

/// Reads a wrong file: the error names this field and says this, and nothing has changed.
fn assert_refused(text: &str, field: &str, issue: &str) {
    let mut registry = ModelRegistry::builtin();
    let err = registry.extend_from_json(text).unwrap_err();
    let place = (err.kind(), err.field());
    assert_eq!(place, (ErrorKind::Invalid, Some(field)), "{text}: {err}");
    assert!(err.to_string().contains(issue), "{text}: {err}");
    assert_eq!(registry, ModelRegistry::builtin(), "{text}");
}

#[test]
fn a_wrong_file_names_the_place_and_changes_nothing() {
    let unknown = "unknown field `model`, expected `providers` or `models`";
    let trailing = "trailing characters at line 1 column 4";
    let not_declared = "declare it under `providers`, or use one of: anthropic, google, openai";
    let free = r#"{"input": "0", "output": "0"}"#;
    let lost = format!(r#"{{"models": [{{"id": "m", "provider": "opnai", "price": {free}}}]}}"#);
    let provider = |api: &str| format!(r#"{{"id": "p", "api": "{api}", "baseUrl": "http://x"}}"#);
    let dialect = format!(r#"{{"providers": [{}]}}"#, provider("openai"));
    let one = provider("openai-chat");
    let twice = format!(r#"{{"providers": [{one}, {one}]}}"#);
    for (text, field, issue) in [
        ("{", "models file", "EOF"),
        ("{} x", "models file", trailing),
        (r#"{"model": []}"#, "model", unknown),
        (&lost, "models[0].provider", not_declared),
        (
            &dialect,
            "providers[0].api",
            "`openai` is not a dialect; there are: anthropic",
        ),
        (&twice, "providers[1].id", "is in the file twice"),
    ] {
        assert_refused(text, field, issue);
    }
}

#[test]
fn a_wrong_entry_names_its_field() {
    let id = r#""id": "m", "provider": "openai""#;
    let free = r#""price": {"input": "0", "output": "0"}"#;
    for (fields, field, issue) in [
        (r#""contextWindow": 1"#, "", "missing field `price`"),
        (
            r#""price": {"input": "0"}"#,
            ".price",
            "missing field `output`",
        ),
        (
            r#""maxOutputTokens": 0"#,
            ".maxOutputTokens",
            "must be at least 1",
        ),
        (
            r#""pricedOn": "May 2026""#,
            ".pricedOn",
            "`May 2026` is not a day",
        ),
        (r#""class": "huge""#, ".class", "unknown variant `huge`"),
        (
            r#""thinking": {"mode": "effort", "level": "x"}"#,
            ".thinking.level",
            "unknown field `level`",
        ),
    ] {
        let priced = fields.contains("price\"") || field.is_empty();
        let fields = if priced {
            fields.to_owned()
        } else {
            format!("{free}, {fields}")
        };
        let text = format!(r#"{{"models": [{{{id}, {fields}}}]}}"#);
        assert_refused(&text, &format!("models[0]{field}"), issue);
    }
    let model = format!("{{{id}, {free}}}");
    let twice = format!(r#"{{"models": [{model}, {model}]}}"#);
    assert_refused(&twice, "models[1].id", "`openai/m` is in the file twice");
}

#[test]
fn a_wrong_price_names_its_field() {
    for (fields, field, issue) in [
        (
            r#""cacheReed": "1""#,
            "cacheReed",
            "unknown field `cacheReed`",
        ),
        (r#""cacheRead": 0.1"#, "cacheRead", "as text, e.g. \"0.25\""),
        (r#""cacheRead": "a""#, "cacheRead", "`a` is not a price"),
        (
            r#""cacheRead": "0.0000000001""#,
            "cacheRead",
            "at most nine decimals",
        ),
        (r#""cacheRead": "-1""#, "cacheRead", "is negative"),
        (
            r#""tiers": [{"inputAbove": 0, "input": "1", "output": "1"}]"#,
            "tiers[0].inputAbove",
            "must be more than 0",
        ),
        (
            r#""tiers": [{"inputAbove": 2, "input": "1", "output": "1"},
                {"inputAbove": 2, "input": "1", "output": "1"}]"#,
            "tiers[1].inputAbove",
            "must be more than 2",
        ),
    ] {
        let price = format!(r#"{{"input": "1", "output": "2", {fields}}}"#);
        let model = format!(r#"{{"id": "m", "provider": "openai", "price": {price}}}"#);
        let text = format!(r#"{{"models": [{model}]}}"#);
        assert_refused(&text, &format!("models[0].price.{field}"), issue);
    }
}

#[test]
fn a_model_added_in_code_is_checked() {
    let mut registry = ModelRegistry::empty();
    let mut model = Model::free("m", "p");
    model.price.output = NanoUsd(-1);
    let err = registry.add(model.into()).unwrap_err();
    assert_eq!(err.field(), Some("model.price"));
    let err = registry.add(Model::free("m", "").into()).unwrap_err();
    assert_eq!(err.field(), Some("model.provider"));
    registry.add(Model::free("m", "p").into()).unwrap();
    assert_eq!(registry.models().count(), 1);
}
