//! The source tree as text, for tests that look at it.
#![cfg(test)]

use std::path::{Path, PathBuf};

/// A source file of the engine.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its path below `dash/src`, with `/`, e.g. `store/sqlite/mod.rs`.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

impl Source {
    /// Whether it is only compiled for tests.
    pub(crate) fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("tests/")
    }

    /// Its code: without comments, texts and what is compiled for tests only.
    pub(crate) fn code(&self) -> String {
        without_tests(&strip(&self.text))
    }
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap().to_owned()
}

/// A file of the repository.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// Every Rust file below `dash/src`.
pub(crate) fn engine() -> Vec<Source> {
    let base = root().join("dash/src");
    let source = |path: PathBuf| Source {
        text: std::fs::read_to_string(&path).unwrap(),
        path: relative(&path, &base),
    };
    files(&base, "rs").into_iter().map(source).collect()
}

/// Every file with this ending below a directory, sorted.
pub(crate) fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A path below another, with `/`.
pub(crate) fn relative(path: &Path, base: &Path) -> String {
    let rest = path.strip_prefix(base).unwrap();
    rest.to_str().unwrap().replace('\\', "/")
}

/// Rust code with comments blanked and texts emptied.
fn strip(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = |n: usize| bytes.get(at + n).copied().unwrap_or(' ');
        match bytes[at] {
            '/' if rest(1) == '/' => {
                while at < bytes.len() && bytes[at] != '\n' {
                    at += 1;
                }
            }
            'r' if rest(1) == '"' || (rest(1) == '#' && (rest(2) == '"' || rest(2) == '#')) => {
                let hashes = bytes[at + 1..].iter().take_while(|c| **c == '#').count();
                at += hashes + 2;
                let end = |i: usize| {
                    bytes[i] == '"'
                        && bytes[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
                };
                out.push('"');
                while at < bytes.len() && !end(at) {
                    if bytes[at] == '\n' {
                        out.push('\n');
                    }
                    at += 1;
                }
                at += hashes + 1;
                out.push('"');
            }
            '"' => {
                at += 1;
                out.push('"');
                while at < bytes.len() && bytes[at] != '"' {
                    // Lines keep their numbers, also where a backslash ends one.
                    let step = if bytes[at] == '\\' { 2 } else { 1 };
                    let taken = bytes.get(at..at + step).unwrap_or_default();
                    out.extend(taken.iter().filter(|c| **c == '\n'));
                    at += step;
                }
                at += 1;
                out.push('"');
            }
            // A character, not a lifetime.
            '\'' if rest(2) == '\'' || rest(1) == '\\' => {
                at += if rest(1) == '\\' { 3 } else { 2 };
                while at < bytes.len() && bytes[at] != '\'' {
                    at += 1;
                }
                at += 1;
                out.push_str("' '");
            }
            c => {
                out.push(c);
                at += 1;
            }
        }
    }
    out
}

/// Code without the items, arms and fields behind `#[cfg(test)]`; lines keep their numbers.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        // Up to the block's end, or to the `;` or `,` of what has none.
        let (mut depth, mut had_block) = (0, false);
        let end = rest.find(|c: char| {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth -= 1,
                _ => {}
            }
            had_block |= c == '{';
            let closed = depth == 0 && c == '}' && had_block;
            closed || (depth == 0 && matches!(c, ';' | ',')) || depth < 0
        });
        let end = end.map_or(rest.len(), |end| end + 1);
        out.extend(rest[..end].chars().filter(|c| *c == '\n'));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[test]
fn what_is_for_tests_only_is_not_code() {
    let code = "a\n#[cfg(test)]\nmod tests;\nb { #[cfg(test)]\nX(c, d) => { e }\nf }\n#[cfg(test)]\nmod t { g }";
    assert_eq!(without_tests(code), "a\n\n\nb { \n\nf }\n\n");
}

#[test]
fn comments_and_texts_are_not_code() {
    let code = strip("a // b\nlet c = \"d \\\" e\"; r#\"f\"# 'g' '\\'' '\\u{1}' &'h i");
    assert_eq!(code, "a \nlet c = \"\"; \"\" ' ' ' ' ' ' &'h i");
}
