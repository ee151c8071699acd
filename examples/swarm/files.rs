//! Which files the swarm works on, and how they are shared out.

use std::io;
use std::path::{Path, PathBuf};

/// The most files one run takes.
const FILES_MAX: usize = 200;

/// Endings of files that hold text.
const TEXT: &[&str] = &[
    "md", "txt", "rst", "rs", "py", "ts", "js", "toml", "yaml", "yml", "json",
];

/// The folder to work on, the files to take as paths relative to it, and how many there are.
pub(crate) fn find(path: Option<&Path>) -> io::Result<(PathBuf, Vec<String>, usize)> {
    let (root, mut files) = match path {
        Some(path) => {
            let root = path.canonicalize()?;
            let files = walk(&root, "")?;
            (root, files)
        }
        None => {
            let here = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("..")
                .canonicalize()?;
            let mut files = walk(&here.join("docs"), "docs/")?;
            files.push("README.md".to_owned());
            (here, files)
        }
    };
    files.sort();
    let found = files.len();
    files.truncate(FILES_MAX);
    Ok((root, files, found))
}

fn walk(dir: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let kind = entry.file_type()?;
        if kind.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            files.extend(walk(&entry.path(), &format!("{prefix}{name}/"))?);
        } else if kind.is_file() && TEXT.iter().any(|e| name.ends_with(&format!(".{e}"))) {
            files.push(format!("{prefix}{name}"));
        }
    }
    Ok(files)
}

/// Shares files out to at most `count` groups of nearly the same size.
pub(crate) fn share_out(files: &[String], count: u32) -> Vec<Vec<String>> {
    let groups = (count as usize).clamp(1, files.len().max(1));
    let mut shared = vec![Vec::new(); groups];
    for (file, group) in files.iter().zip((0..groups).cycle()) {
        if let Some(group) = shared.get_mut(group) {
            group.push(file.clone());
        }
    }
    shared
}
