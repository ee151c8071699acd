//! Walking a tree within a fence: bounded, in a fixed order, links never followed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use cap_std::fs::Dir;
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::read::read_checked;
use super::{DEPTH_MAX, Located, PathProblem, open_beneath, open_dir_beneath, open_entry};

/// Entries one walk looks at.
pub(crate) const WALK_ENTRIES_MAX: usize = 100_000;

/// What an entry is, its link not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Dir,
    Link,
    Other,
}

/// Whether a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visit {
    /// Into this directory, or to the next entry.
    On,
    /// Past this directory.
    Skip,
    /// No further.
    Stop,
}

/// One entry met on the way.
#[derive(Debug)]
pub(crate) struct WalkEntry<'a> {
    dir: &'a Dir,
    pub(crate) name: &'a OsStr,
    /// Its path from where the walk began; what is not UTF-8 is replaced.
    pub(crate) path: String,
    pub(crate) kind: EntryKind,
    /// 1 for what lies directly where the walk began.
    pub(crate) depth: usize,
}

impl WalkEntry<'_> {
    /// Reads it, under the rules for reading files.
    pub(crate) fn read(&self) -> Result<Vec<u8>, PathProblem> {
        match open_entry(self.dir, self.name, OFlags::empty()) {
            Ok(file) => read_checked(file),
            Err(Errno::LOOP) => Err(PathProblem::Symlink),
            Err(err) => Err(PathProblem::from_errno("open it", err)),
        }
    }
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Walk {
    /// Entries looked at.
    pub(crate) entries: usize,
    /// Directories that could not be opened.
    pub(crate) unreadable: usize,
    /// Whether [`WALK_ENTRIES_MAX`] was reached.
    pub(crate) is_full: bool,
    /// Whether something lay deeper than [`DEPTH_MAX`].
    pub(crate) is_too_deep: bool,
}

/// What a walk begins at.
pub(crate) enum Start {
    /// A directory.
    Dir(Dir),
    /// A file's content.
    File(Vec<u8>),
}

struct Frame {
    dir: Dir,
    prefix: String,
    /// Sorted the wrong way round: the next one is at the end.
    names: Vec<(OsString, EntryKind)>,
}

impl Located<'_> {
    /// Opens where a search begins.
    pub(crate) fn start(&self) -> Result<Start, PathProblem> {
        match open_dir_beneath(&self.root.dir, self.rest) {
            Ok(dir) => Ok(Start::Dir(dir)),
            Err(err) if Errno::from_io_error(&err) == Some(Errno::NOTDIR) => {
                read_checked(open_beneath(&self.root.dir, self.rest)?).map(Start::File)
            }
            Err(err) => Err(PathProblem::from_io("open it", &err)),
        }
    }
}

impl Walk {
    /// Walks below `dir`, each directory's entries sorted by the bytes of their names, a directory
    /// before what is in it. Adds to what earlier walks counted.
    ///
    /// # Errors
    ///
    /// [`PathProblem::Cancelled`], or what went wrong with `dir` itself.
    pub(crate) fn run(
        &mut self,
        dir: Dir,
        cancel: &CancellationToken,
        visit: &mut dyn FnMut(&WalkEntry<'_>) -> Visit,
    ) -> Result<Visit, PathProblem> {
        let names = self.names(&dir)?;
        let mut stack = vec![Frame {
            dir,
            prefix: String::new(),
            names,
        }];
        while let Some(frame) = stack.last_mut() {
            let Some((name, kind)) = frame.names.pop() else {
                stack.pop();
                continue;
            };
            if cancel.is_cancelled() {
                return Err(PathProblem::Cancelled);
            }
            let path = format!("{}{}", frame.prefix, name.to_string_lossy());
            let depth = stack.len();
            let Some(frame) = stack.last() else { break };
            let entry = WalkEntry {
                dir: &frame.dir,
                name: &name,
                path,
                kind,
                depth,
            };
            match visit(&entry) {
                Visit::Stop => return Ok(Visit::Stop),
                Visit::On if kind == EntryKind::Dir => {}
                Visit::On | Visit::Skip => continue,
            }
            if depth >= DEPTH_MAX {
                self.is_too_deep = true;
                continue;
            }
            let prefix = format!("{}/", entry.path);
            let below = open_entry(&frame.dir, &name, OFlags::DIRECTORY).map(Dir::from_std_file);
            let Ok(dir) = below else {
                self.unreadable += 1;
                continue;
            };
            match self.names(&dir) {
                Ok(names) => stack.push(Frame { dir, prefix, names }),
                Err(_) => self.unreadable += 1,
            }
        }
        Ok(Visit::On)
    }

    /// The entries of one directory, in reverse order, as far as the limit allows.
    fn names(&mut self, dir: &Dir) -> Result<Vec<(OsString, EntryKind)>, PathProblem> {
        let entries = dir
            .entries()
            .map_err(|err| PathProblem::from_io("list it", &err))?;
        let mut names = Vec::new();
        for entry in entries {
            if self.entries >= WALK_ENTRIES_MAX {
                self.is_full = true;
                break;
            }
            let entry = entry.map_err(|err| PathProblem::from_io("list it", &err))?;
            self.entries += 1;
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_dir() => EntryKind::Dir,
                Ok(kind) if kind.is_file() => EntryKind::File,
                Ok(kind) if kind.is_symlink() => EntryKind::Link,
                _ => EntryKind::Other,
            };
            names.push((entry.file_name(), kind));
        }
        names.sort_unstable_by(|a, b| b.0.as_bytes().cmp(a.0.as_bytes()));
        Ok(names)
    }
}
