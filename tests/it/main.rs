//! Tests of the whole through public APIs, as one binary. One module per topic.
#![cfg(test)]

mod answers;
mod attempts;
mod branches;
mod budgets;
mod commits;
mod compaction;
mod crash;
mod crash_audit;
mod crash_child;
mod crash_conversations;
mod crash_damage;
mod crash_migration;
mod crash_open;
mod crash_served;
mod docs;
mod escalation;
mod events;
mod example;
mod example_servers;
mod examples;
mod faults;
mod final_results;
mod fuzz;
mod hooks;
mod input;
mod layering;
mod lifecycle;
mod no_panics;
mod power;
mod profiles;
mod real_model;
mod real_model_dialects;
mod recovery;
mod recovery_aborts;
mod recovery_branches;
mod recovery_hooks;
mod recovery_inbox;
mod requests;
mod shutdown;
mod simulate;
mod source;
mod steering;
mod strategies;
mod telemetry;
mod wire;

/// Every file here is a module of this binary.
#[test]
fn no_forgotten_files() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("it");
    let main = include_str!("main.rs");
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|m| *m != "main") {
            assert!(main.contains(&format!("mod {module};")), "{name}");
        }
    }
}
