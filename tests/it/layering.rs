//! Who may import whom within the engine, and what may be named where. The table is explained in
//! `docs/ARCHITECTURE.md`.
#![cfg(test)]

use std::collections::BTreeSet;

use crate::source::{self, Source};

/// Each unit (a module or folder of `dash/src`) and the units it may use. Whatever a unit's path
/// begins with is not enough: `store` does not allow `store/sqlite`.
const MAY_USE: &[(&str, &[&str])] = &[
    // Its own level: what is broken on purpose may use it, see `may_be_broken`.
    ("mutation", &[]),
    // 0: no other module.
    ("ids", &[]),
    ("env", &[]),
    ("error", &[]),
    // 1: plain data.
    ("model", LEVEL_0),
    ("settings", LEVEL_0),
    ("schema", &[]),
    ("telemetry", &[]),
    ("event", &["ids", "env", "error", "model"]),
    ("api", &["ids", "env", "error", "model", "settings"]),
    // 2: pure rules.
    ("policy", &["ids", "env", "error", "model"]),
    ("strategy", &["ids", "env", "error", "model", "api"]),
    // 3: seams.
    ("llm", LEVEL_1),
    ("store", LEVEL_1),
    ("sink", LEVEL_1),
    (
        "tool",
        &["ids", "env", "error", "model", "event", "schema", "llm"],
    ),
    (
        "spawn",
        &[
            "ids",
            "env",
            "error",
            "model",
            "event",
            "schema",
            "telemetry",
            "llm",
            "tool",
        ],
    ),
    // 4: implementations, each on its own seam.
    (
        "llm/openai_chat",
        &["ids", "env", "error", "model", "event", "llm"],
    ),
    ("llm/anthropic", DIALECT),
    ("llm/openai_responses", DIALECT),
    ("llm/gemini", DIALECT),
    (
        "llm/registry",
        &["error", "model", "llm", "llm/openai_chat"],
    ),
    ("llm/layer", &["env", "error", "model", "policy", "llm"]),
    ("llm/scripted", &["ids", "env", "error", "model", "llm"]),
    (
        "llm/http",
        &[
            "ids",
            "env",
            "error",
            "model",
            "llm",
            "llm/openai_chat",
            "llm/openai_responses",
            "llm/anthropic",
            "llm/gemini",
            "llm/registry",
        ],
    ),
    (
        "store/memory",
        &["ids", "env", "error", "model", "event", "store"],
    ),
    (
        "store/sqlite",
        &["ids", "env", "error", "model", "event", "store"],
    ),
    ("sink/broadcast", &["event", "sink"]),
    ("sink/jsonl", &["event", "sink"]),
    ("tool/fs", &["ids", "env", "error", "model", "llm", "tool"]),
    (
        "spawn/local",
        &[
            "ids",
            "env",
            "error",
            "model",
            "event",
            "schema",
            "telemetry",
            "llm",
            "tool",
            "spawn",
        ],
    ),
    // 5: the engine on the seams; only the builder names default implementations.
    ("orchestrator", ENGINE),
    ("orchestrator/decide", ENGINE),
    ("orchestrator/state", ENGINE),
    ("orchestrator/builder", BUILDER),
];

const LEVEL_0: &[&str] = &["ids", "env", "error"];
const DIALECT: &[&str] = &["error", "model", "llm"];
const LEVEL_1: &[&str] = &[
    "ids",
    "env",
    "error",
    "model",
    "event",
    "settings",
    "schema",
    "telemetry",
];
const ENGINE: &[&str] = &[
    "telemetry",
    "ids",
    "env",
    "error",
    "model",
    "settings",
    "event",
    "api",
    "policy",
    "strategy",
    "llm",
    "store",
    "sink",
    "sink/broadcast",
    "tool",
    "spawn",
    "orchestrator",
    "orchestrator/decide",
    "orchestrator/state",
];
const BUILDER: &[&str] = &[
    "env",
    "error",
    "model",
    "settings",
    "llm",
    "store",
    "sink",
    "sink/broadcast",
    "tool",
    "tool/fs",
    "spawn",
    "spawn/local",
    "orchestrator",
    "orchestrator/state",
];

/// Names that are exported elsewhere than where they live.
const LIVES_IN: &[(&str, &str)] = &[
    ("Error", "error"),
    ("ErrorKind", "error"),
    ("Result", "error"),
    ("Settings", "settings"),
    ("Orchestrator", "orchestrator"),
    ("OrchestratorBuilder", "orchestrator/builder"),
    ("EventStream", "orchestrator"),
    ("llm::ScriptedLlm", "llm/scripted"),
    ("llm::ScriptedReply", "llm/scripted"),
    ("store::MemoryStore", "store/memory"),
    ("store::SqliteStore", "store/sqlite"),
    ("sink::BroadcastSink", "sink/broadcast"),
    ("sink::JsonLinesSink", "sink/jsonl"),
    ("spawn::LocalSpawner", "spawn/local"),
];

/// Whether a file is of the parts that only tests use: all that lies below is theirs.
fn is_for_tests(path: &str) -> bool {
    path.starts_with("testing/") || path.starts_with("sim/")
}

/// Whether a part of a unit may be broken on purpose.
fn may_be_broken(unit: &str) -> bool {
    unit.starts_with("orchestrator") || ["spawn/local", "store/memory"].contains(&unit)
}

/// The unit of a module path such as `store/sqlite/read`: the longest one it begins with.
fn unit(module: &str) -> Option<&'static str> {
    let within = |unit: &&str| {
        module == *unit || (module.starts_with(*unit) && module[unit.len()..].starts_with('/'))
    };
    let units = MAY_USE.iter().map(|(unit, _)| *unit);
    units.filter(within).max_by_key(|unit| unit.len())
}

/// The module of a file: `store/sqlite/mod.rs` is `store/sqlite`.
fn module(path: &str) -> &str {
    let path = path.strip_suffix(".rs").unwrap();
    path.strip_suffix("/mod").unwrap_or(path)
}

/// Every path in the code that begins with `crate` or `super`, from the root of the crate.
fn paths(source: &Source) -> BTreeSet<String> {
    let code = source.code();
    let mut found = BTreeSet::new();
    let module: Vec<&str> = module(&source.path).split('/').collect();
    for word in ["crate::", "super::"] {
        for (at, _) in code.match_indices(word) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' || before == '$' {
                continue;
            }
            let mut rest = &code[at..];
            let mut base = if word == "crate::" {
                rest = &rest["crate::".len()..];
                Vec::new()
            } else {
                module.clone()
            };
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            let mut prefix = base.join("::");
            if !prefix.is_empty() {
                prefix.push_str("::");
            }
            tree(&prefix, rest, &mut found);
        }
    }
    found
}

/// Reads a use tree such as `a::{b, c::{d, e}}`; returns what follows it.
fn tree<'a>(prefix: &str, text: &'a str, found: &mut BTreeSet<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(rest) = text.strip_prefix("super::") {
        let parent = prefix.trim_end_matches("::").rsplit_once("::");
        let parent = parent.map_or_else(String::new, |(above, _)| format!("{above}::"));
        return tree(&parent, rest, found);
    }
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = tree(prefix, rest, found).trim_start();
            if let Some(after) = rest.strip_prefix(',') {
                rest = after.trim_start();
            }
            if rest.is_empty() || rest.starts_with('}') {
                return rest.get(1..).unwrap_or_default();
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    let end = end.unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    match rest.strip_prefix("::") {
        // A method or constant of a type ends the path.
        Some(after) if !name.starts_with(char::is_uppercase) => {
            tree(&format!("{prefix}{name}::"), after, found)
        }
        _ => {
            found.insert(format!("{prefix}{name}"));
            // `as other`, `*`, arguments: up to what separates.
            let end = rest.find([',', '}', ';', '\n']).unwrap_or(rest.len());
            &rest[end..]
        }
    }
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    let sources = source::engine();
    let library = sources
        .iter()
        .filter(|s| !s.is_test() && s.path != "lib.rs" && !is_for_tests(&s.path));
    let mut checked = 0;
    for source in library {
        let from = unit(module(&source.path));
        let from = from.unwrap_or_else(|| panic!("{} is in no unit: add it", source.path));
        let (_, allowed) = MAY_USE.iter().find(|(unit, _)| *unit == from).unwrap();
        for path in paths(source) {
            let lives = LIVES_IN.iter().find(|(name, _)| *name == path);
            let to = match lives {
                Some((_, unit)) => Some(*unit),
                None => unit(&path.replace("::", "/")),
            };
            checked += 1;
            match to {
                Some(to) if to == from || allowed.contains(&to) => {}
                Some("mutation") if may_be_broken(from) => {}
                // Items at the root of the crate that are not modules: macros.
                None if !path.contains("::") && path.starts_with(char::is_lowercase) => {}
                _ => wrong.push(format!("{} uses crate::{path}", source.path)),
            }
        }
    }
    assert!(checked > 200, "only {checked} paths were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_use_trees_finds_every_path() {
    let source = Source {
        path: "store/sqlite/read.rs".to_owned(),
        text: "use crate::{a::{b, c::D}, Error};\nuse super::{x, super::Y};\n\
               use crate::model::Z as W; // crate::no\nfn f() { crate::q::R::new(crate::s::t()) }"
            .to_owned(),
    };
    let found: Vec<String> = paths(&source).into_iter().collect();
    let expected = [
        "Error",
        "a::b",
        "a::c::D",
        "model::Z",
        "q::R",
        "s::t",
        "store::Y",
        // The inner `super` is met twice; from the file it leads only to the same folder.
        "store::sqlite::Y",
        "store::sqlite::x",
    ];
    assert_eq!(found, expected);
}

/// Whether `name` is used as a path in code.
fn names(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path)
        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn libraries_are_named_only_where_they_belong() {
    let mut wrong = Vec::new();
    for source in source::engine() {
        let (path, code) = (source.path.as_str(), source.code());
        let pure = [
            "event/",
            "orchestrator/decide/",
            "policy/",
            "strategy/",
            "model/",
        ];
        let pure_files = [
            "orchestrator/state.rs",
            "orchestrator/effect.rs",
            "api.rs",
            "ids.rs",
            "error.rs",
            "settings.rs",
            "spawn/run.rs",
        ];
        let is_pure = pure.iter().any(|p| path.starts_with(p)) || pure_files.contains(&path);
        let rules = [
            ("rusqlite", path.starts_with("store/sqlite/")),
            ("reqwest", path.starts_with("llm/http/")),
            ("eventsource_stream", path.starts_with("llm/http/")),
            ("memchr", path.starts_with("llm/http/")),
            ("tokio", !is_pure),
        ];
        for (name, allowed) in rules {
            if !allowed && names(&code, name) {
                wrong.push(format!("{path} names {name}"));
            }
        }
        let test_only = source.is_test() || is_for_tests(path) || path == "lib.rs";
        if !test_only && (code.contains("crate::testing") || code.contains("super::testing")) {
            wrong.push(format!("{path} imports dash::testing"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_engine_depends_on_no_front_end() {
    let manifest = source::read("dash/Cargo.toml");
    let banned = [
        "axum",
        "tower",
        "ratatui",
        "crossterm",
        "clap",
        "pyo3",
        "anyhow",
        "tracing-subscriber",
        "openssl",
        "native-tls",
    ];
    for line in manifest.lines().map(str::trim) {
        for name in banned {
            let names = line
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '.', '=']));
            assert!(!names, "dash/Cargo.toml: {line}");
        }
    }
}

#[test]
fn nothing_is_pretended_outside_tests() {
    let words = [
        "mock",
        "fake",
        "simulat",
        "dummy",
        "placeholder",
        "todo!",
        "unimplemented!",
    ];
    let mut wrong = Vec::new();
    for source in source::engine() {
        let path = source.path.as_str();
        if source.is_test() || is_for_tests(path) || path.contains("scripted") {
            continue;
        }
        let end = source.text.find("#[cfg(test)]\nmod tests {");
        let text = &source.text[..end.unwrap_or(source.text.len())];
        for (number, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            let found = words.iter().find(|word| lower.contains(**word));
            // Docs may say that a simulation can own a clock; code may not be one.
            let says_who = lower.trim_start().starts_with("//");
            if let Some(word) = found
                && !(says_who && *word == "simulat")
            {
                wrong.push(format!("{path}:{}: {word}: {line}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_owns() {
    let mut silent: Vec<String> = Vec::new();
    for source in source::engine() {
        if !source.is_test() && !source.text.starts_with("//! ") {
            silent.push(source.path);
        }
    }
    assert!(silent.is_empty(), "no module doc: {silent:?}");
}

/// Lines a file may have.
const LINES_MAX: usize = 800;

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<String> = source::engine()
        .into_iter()
        .filter(|s| s.text.lines().count() > LINES_MAX)
        .map(|s| format!("{} ({})", s.path, s.text.lines().count()))
        .collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines: {long:?}");
}
