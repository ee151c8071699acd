//! The documents say what the code says: events, statuses, settings, links, and which Rust blocks
//! are compiled.
//!
//! Tables between `<!-- table: name -->` and `<!-- end -->` are made by these tests; with
//! `DASH_UPDATE_DOCS=1` they are written, without it they are compared.
#![cfg(test)]

use std::fmt::Write as _;

use dash::Settings;
use dash::api::CreateSwarm;
use dash::event::EventKind;
use dash::llm::registry::ModelRegistry;
use dash::model::{
    AgentStatus, ReservationState, SideEffect, StepState, SwarmConfig, SwarmStatus, TaskStatus,
    TicketState,
};
use serde_json::{Value, json};

use crate::source;

/// Compares a table of a document with what it should be, or writes it.
#[expect(
    clippy::disallowed_methods,
    reason = "the one switch of these tests is a variable"
)]
fn check_table(path: &str, name: &str, expected: &str) {
    let text = source::read(path);
    let begin = format!("<!-- table: {name} -->\n");
    let at = text
        .find(&begin)
        .unwrap_or_else(|| panic!("{path}: no {begin}"));
    let start = at + begin.len();
    let end = start + text[start..].find("<!-- end -->").expect("an end");
    if std::env::var("DASH_UPDATE_DOCS").is_ok() {
        let new = format!("{}{expected}{}", &text[..start], &text[end..]);
        std::fs::write(source::root().join(path), new).unwrap();
        return;
    }
    assert_eq!(
        &text[start..end],
        expected,
        "{path}, table {name}: run the tests with DASH_UPDATE_DOCS=1"
    );
}

#[test]
fn every_event_is_in_the_reference() {
    let mut groups: Vec<&str> = Vec::new();
    for name in EventKind::NAMES {
        let group = name.split('.').next().unwrap();
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let mut out = String::new();
    for group in groups {
        out.push_str("\n| type | when | payload |\n|---|---|---|\n");
        let within = EventKind::schemas();
        let within = within
            .iter()
            .filter(|(name, _)| name.split('.').next() == Some(group));
        for (name, schema) in within {
            let schema = schema.as_value();
            let required: Vec<&str> = schema["required"]
                .as_array()
                .map(|fields| fields.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            let fields: Vec<String> = schema["properties"]
                .as_object()
                .expect("fields")
                .keys()
                .map(|field| {
                    let optional = if required.contains(&field.as_str()) {
                        ""
                    } else {
                        "?"
                    };
                    format!("`{field}{optional}`")
                })
                .collect();
            let about = schema["description"].as_str().expect("a description");
            let about = about.replace('\n', " ");
            let _infallible = writeln!(out, "| `{name}` | {about} | {} |", fields.join(", "));
        }
    }
    out.push('\n');
    check_table("docs/reference/events.md", "events", &out);
}

#[test]
fn every_model_that_comes_along_is_in_the_reference() {
    let mut out = String::from(
        "| model | class | window | output | input | output | cache read | cache write |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for model in ModelRegistry::builtin().models() {
        let (name, price) = (model.full_name(), &model.price);
        let (window, output) = (model.context_window, model.max_output_tokens);
        let class = model.class.map(|class| json!(class));
        let class = class.as_ref().and_then(Value::as_str).unwrap_or("–");
        let prices = [
            price.input,
            price.output,
            price.cache_read,
            price.cache_write,
        ];
        let prices = prices.map(|usd| usd.to_string()).join(" | ");
        let _infallible = writeln!(
            out,
            "| `{name}` | {class} | {window} | {output} | {prices} |"
        );
        for tier in &price.tiers {
            let prices = [tier.input, tier.output, tier.cache_read, tier.cache_write];
            let prices = prices.map(|usd| usd.to_string()).join(" | ");
            let above = tier.input_above;
            let _infallible = writeln!(out, "| – above {above} of prompt | | | | {prices} |");
        }
    }
    check_table("docs/reference/models.md", "models", &out);
}

#[test]
fn the_file_of_models_in_the_reference_can_be_read_and_shows_every_field() {
    let text = source::read("docs/reference/models.md");
    let example = text.split("```json\n").nth(1).expect("an example");
    let example = example.split("```").next().expect("its end");
    let mut registry = ModelRegistry::empty();
    registry.extend_from_json(example).expect("a file");
    assert_eq!(registry.find("fast").expect("the model").id, "qwen");
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let field = line.split('`').nth(1).expect("a name");
        let is_field = field.chars().all(|c| c.is_ascii_alphanumeric());
        assert!(
            !is_field || example.contains(&format!("\"{field}\"")),
            "`{field}` is not in the example"
        );
    }
}

macro_rules! moves {
    ($status:ty) => {{
        let mut out = String::from("| from | may become | ended |\n|---|---|---|\n");
        for status in <$status>::ALL {
            let moves: Vec<String> = status
                .moves()
                .iter()
                .map(|next| format!("`{next}`"))
                .collect();
            let moves = if moves.is_empty() {
                "–".to_owned()
            } else {
                moves.join(", ")
            };
            let ended = if status.is_terminal() { "yes" } else { "" };
            let _infallible = writeln!(out, "| `{status}` | {moves} | {ended} |");
        }
        out
    }};
}

#[test]
fn every_legal_move_is_in_the_reference() {
    let path = "docs/reference/statuses.md";
    check_table(path, "swarm", &moves!(SwarmStatus));
    check_table(path, "task", &moves!(TaskStatus));
    check_table(path, "agent", &moves!(AgentStatus));
    check_table(path, "step", &moves!(StepState));
    check_table(path, "reservation", &moves!(ReservationState));
    check_table(path, "message", &moves!(TicketState));
    let text = source::read(path);
    for class in SideEffect::ALL {
        assert!(
            text.contains(&format!("| `{}` |", class.as_str())),
            "{class:?}"
        );
    }
}

/// A row of a table of settings: the field, its default, and its range if it has one.
#[derive(Debug)]
struct Row {
    field: String,
    default: String,
    range: Option<(u64, u64)>,
}

fn rows(text: &str, section: &str) -> Vec<Row> {
    let at = text.find(section).unwrap_or_else(|| panic!("no {section}"));
    let section = &text[at + section.len()..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    let number = |text: &str| text.trim().replace(',', "").parse().ok();
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let (least, most) = cells[3].split_once(" to ").unwrap_or_default();
            Row {
                field: cells[1].trim_matches('`').to_owned(),
                default: default(cells[2].trim_matches('`')),
                range: number(least).zip(number(most)),
            }
        })
        .collect()
}

/// A default as JSON writes it: numbers without commas.
fn default(shown: &str) -> String {
    if shown.starts_with('{') {
        return shown.to_owned();
    }
    shown.replace(',', "")
}

/// Checks fields and defaults of a table against a value's JSON, and ranges by trying them.
fn check_settings(section: &str, defaults: &Value, is_valid: impl Fn(&Value) -> bool) {
    let text = source::read("docs/reference/settings.md");
    let rows = rows(&text, section);
    let listed: Vec<&str> = rows.iter().map(|row| row.field.as_str()).collect();
    let fields: Vec<&str> = defaults
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(listed, fields, "{section}");
    for row in rows {
        let value = match &defaults[&row.field] {
            Value::String(text) if text.is_empty() => "–".to_owned(),
            Value::Null => "–".to_owned(),
            Value::Array(items) if items.is_empty() => "–".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        assert_eq!(row.default, value, "default of {}", row.field);
        let Some((least, most)) = row.range else {
            assert!(
                !defaults[&row.field].is_number(),
                "{} has no range",
                row.field
            );
            continue;
        };
        let with = |n: u64| {
            let mut changed = defaults.clone();
            changed[&row.field] = match &defaults[&row.field] {
                Value::String(_) => json!("x".repeat(usize::try_from(n).unwrap())),
                _ => json!(n),
            };
            is_valid(&changed)
        };
        assert!(with(least) && with(most), "range of {}", row.field);
        assert!(!with(most + 1), "{} may be more than {most}", row.field);
        assert!(
            least == 0 || !with(least - 1),
            "{} may be less than {least}",
            row.field
        );
    }
}

#[test]
fn every_setting_is_in_the_reference() {
    let defaults = serde_json::to_value(Settings::default()).unwrap();
    check_settings("## Settings of an orchestrator", &defaults, |value| {
        serde_json::from_value::<Settings>(value.clone()).is_ok_and(|s| s.validate().is_ok())
    });
}

#[test]
fn every_setting_of_a_swarm_is_in_the_reference() {
    let defaults = serde_json::to_value(SwarmConfig::default()).unwrap();
    check_settings("## Settings of a swarm", &defaults, |value| {
        let mut request = CreateSwarm::new("name", "task");
        serde_json::from_value(value.clone()).is_ok_and(|config| {
            request.config = config;
            request.validate(100).is_ok()
        })
    });
}

#[test]
fn the_limits_in_the_readme_are_the_defaults() {
    let text = source::read("README.md");
    let defaults = serde_json::to_value(Settings::default()).unwrap();
    let of_swarms = serde_json::to_value(SwarmConfig::default()).unwrap();
    let rows = rows(&text, "## Limits");
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let value = defaults
            .get(&row.field)
            .or_else(|| of_swarms.get(&row.field));
        let value = value.unwrap_or_else(|| panic!("no setting {}", row.field));
        assert_eq!(row.default, value.to_string(), "{}", row.field);
    }
}

/// The documents: `README.md` and the like, and all below `docs/`.
fn documents() -> Vec<(String, String)> {
    let root = source::root();
    let mut files = source::files(&root.join("docs"), "md");
    files.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name)));
    let read = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (source::relative(&path, &root), text)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut dead = Vec::new();
    for (path, text) in documents() {
        let folder = source::root().join(&path);
        let folder = folder.parent().unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            if target.starts_with("http") || target.starts_with('#') || target.contains('\n') {
                continue;
            }
            let file = target.split('#').next().unwrap_or_default();
            if !folder.join(file).exists() {
                dead.push(format!("{path}: {target}"));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn every_file_that_a_document_names_exists() {
    let mut gone = Vec::new();
    for (path, text) in documents() {
        for word in text.split('`').skip(1).step_by(2) {
            let folders = [
                "dash/src/",
                "docs/",
                "tests/",
                "scripts/",
                "migrations/",
                "examples/",
            ];
            let is_path = folders.iter().any(|folder| word.starts_with(folder))
                && !word.contains(['*', ' ', '…', '<', '{', '\n', ':']);
            if is_path && !source::root().join(word).exists() {
                gone.push(format!("{path}: {word}"));
            }
        }
    }
    assert!(gone.is_empty(), "{}", gone.join("\n"));
}

#[test]
fn every_document_with_rust_in_it_is_compiled() {
    let compiled = source::read("examples/src/lib.rs");
    for (path, text) in documents() {
        let has_rust = text.lines().any(|line| {
            line.starts_with("```rust") || line == "```no_run" || line.starts_with("```should")
        });
        let included = compiled.contains(&format!("include_str!(\"../../{path}\")"));
        assert!(
            !has_rust || included,
            "examples/src/lib.rs does not include {path}"
        );
        assert!(
            !text.contains("```rust,ignore"),
            "{path}: a block is not compiled"
        );
    }
}

#[test]
fn every_module_of_the_engine_is_on_the_code_map() {
    let map = source::read("docs/ARCHITECTURE.md");
    for module in source::engine() {
        let path = module.path.as_str();
        let own = path
            .strip_suffix("/mod.rs")
            .map(|folder| format!("{folder}/"));
        let own = own.unwrap_or_else(|| path.to_owned());
        let inner = module.is_test()
            || (path.starts_with("testing/") && path != "testing/mod.rs")
            || path == "lib.rs";
        let listed = map
            .lines()
            .any(|line| line.starts_with(&format!("| `{own}` |")));
        assert!(
            inner || listed,
            "docs/ARCHITECTURE.md does not list `{own}`"
        );
    }
}
