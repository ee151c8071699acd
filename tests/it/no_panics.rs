//! The engine's own code never panics on purpose, prints nothing and ends no process. The lints
//! say the same; this also sees what a macro or an `expect` of a lint would hide.
#![cfg(test)]

use crate::source;

#[test]
fn the_engine_has_no_panics_prints_or_exits() {
    let banned = [
        ".unwrap()",
        ".unwrap_err()",
        ".expect(",
        ".expect_err(",
        "panic!(",
        "unreachable!(",
        "todo!(",
        "unimplemented!(",
        " assert!(",
        " assert_eq!(",
        "print!(",
        "println!(",
        "dbg!(",
        "process::exit(",
        "process::abort(",
        "mem::forget(",
        "unsafe {",
        "unsafe fn",
    ];
    let mut wrong = Vec::new();
    for source in source::engine() {
        if source.is_test() || source.path.starts_with("testing/") {
            continue;
        }
        for (number, line) in source.code().lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lints_are_silenced_only_with_a_reason() {
    let mut wrong = Vec::new();
    for source in source::engine() {
        let code = source.code();
        for (at, _) in code.match_indices("#[allow(") {
            let line = code[..at].lines().count() + 1;
            wrong.push(format!("{}:{line}: allow", source.path));
        }
        for (at, _) in code.match_indices("[expect(") {
            let end = code[at..].find(")]").map_or(code.len(), |end| at + end);
            if !code[at..end].contains("reason =") {
                let line = code[..at].lines().count() + 1;
                wrong.push(format!("{}:{line}: no reason", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
