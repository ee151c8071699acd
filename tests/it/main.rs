//! The engine through its public API. One module per topic.

#[cfg(test)]
mod attempts;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod events;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod input;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod steering;
#[cfg(test)]
mod strategies;
#[cfg(test)]
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
