//! The fence: which directories an agent's file tools may reach, held as directory handles.
//!
//! ```text
//!  "docs/a/b.md" ─▶ root `docs` (or `.`) ─▶ "a/b.md" ─▶ resolved by the kernel beneath the handle
//! ```
//!
//! No check here looks at a resolved path string: the kernel (`openat2`, or one `openat` per name)
//! resolves beneath a handle, and what was opened is judged through its own handle. So a link that
//! is swapped between a check and its use gains nothing.
//!
//! # Rules
//!
//! * A path is relative, uses `/`, and is at most [`PATH_BYTES_MAX`] bytes. If its first part is
//!   the name of a root, the rest is looked up there; otherwise all of it below the root `.`.
//!   A leading `./` always means the root `.`.
//! * `..` and symbolic links are followed as long as they stay beneath the root. An absolute link
//!   never does.
//! * A file is read or replaced only if it is regular and has exactly one name (hard link).
//! * Writing replaces a file by renaming a new one over it, refuses symbolic links, roots that are
//!   not writable, and everything below a `.git` (in any case), existing or not.
//!
//! The engine's own account still counts: what the operating system denies to it stays denied. The
//! fence does not hold programs; that is the sandbox's work.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::model::swarm::WorkspaceRoot;

mod error;
mod read;
mod walk;
mod write;

#[cfg(test)]
mod tests;

pub use error::{FenceError, PathError, PathProblem};
pub(crate) use read::is_binary;
pub(crate) use walk::{EntryKind, Start, Visit, Walk, WalkEntry};
pub use write::Parents;

/// Roots one fence may have.
pub const ROOTS_MAX: usize = 16;
/// Longest path a tool takes, bytes.
pub const PATH_BYTES_MAX: usize = 4_096;
/// Directories below a root that a walk or a write goes down.
pub const DEPTH_MAX: usize = 64;
/// Largest file that is read, bytes.
pub const READ_BYTES_MAX: u64 = 16 * 1_024 * 1_024;
/// Largest file that is written, bytes.
pub const WRITE_BYTES_MAX: u64 = 16 * 1_024 * 1_024;
/// Longest name of a root, bytes.
const NAME_BYTES_MAX: usize = 64;

/// Never blocks on a FIFO, never takes a terminal, never leaks into a child.
const SAFE_FLAGS: OFlags = OFlags::from_bits_retain(
    OFlags::NONBLOCK.bits() | OFlags::NOCTTY.bits() | OFlags::CLOEXEC.bits(),
);

/// A directory within reach.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) name: String,
    pub(crate) writable: bool,
    dir: Dir,
}

/// The directories an agent may reach. See the module's rules.
///
/// All calls block on the file system: use them inside `spawn_blocking`.
#[derive(Debug, Default)]
pub struct Fence {
    roots: Vec<Root>,
}

/// A path, split into its root and the rest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Located<'a> {
    pub(crate) root: &'a Root,
    /// What follows the root's name; `.` for the root itself.
    pub(crate) rest: &'a str,
}

impl Fence {
    /// A fence with nothing in it: every path is refused.
    #[must_use]
    pub const fn none() -> Self {
        Self { roots: Vec::new() }
    }

    /// Opens the directories. An empty list is [`Fence::none`]. Links in the roots' own paths are
    /// followed: they are the operator's. The handles stay on the same directories if those are
    /// renamed later.
    ///
    /// # Errors
    ///
    /// The first root that is not usable, with what to do about it.
    pub fn open(roots: &[WorkspaceRoot]) -> Result<Self, FenceError> {
        if roots.len() > ROOTS_MAX {
            return Err(FenceError::TooManyRoots {
                count: roots.len(),
                max: ROOTS_MAX,
            });
        }
        let mut opened: Vec<Root> = Vec::with_capacity(roots.len());
        for root in roots {
            if !is_root_name(&root.name) {
                return Err(FenceError::BadName {
                    name: root.name.clone(),
                    max: NAME_BYTES_MAX,
                });
            }
            if opened
                .iter()
                .any(|o| o.name.eq_ignore_ascii_case(&root.name))
            {
                return Err(FenceError::DuplicateName {
                    name: root.name.clone(),
                });
            }
            let dir = open_root(root)?;
            opened.push(Root {
                name: root.name.clone(),
                writable: root.writable,
                dir,
            });
        }
        Ok(Self { roots: opened })
    }

    /// Whether nothing is within reach.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The names of the roots and whether they are writable, in the order they were given.
    pub fn roots(&self) -> impl Iterator<Item = (&str, bool)> {
        self.roots
            .iter()
            .map(|root| (root.name.as_str(), root.writable))
    }

    /// Finds the root a path belongs to.
    pub(crate) fn locate<'a>(&'a self, path: &'a str) -> Result<Located<'a>, PathProblem> {
        check_text(path)?;
        if self.is_empty() {
            return Err(PathProblem::NoWorkspace);
        }
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        let named = self
            .roots
            .iter()
            .find(|root| root.name == first && first != ".");
        if let Some(root) = named {
            // `docs//x` must not become the absolute `/x`.
            let rest = rest.trim_start_matches('/');
            return Ok(Located {
                root,
                rest: if rest.is_empty() { "." } else { rest },
            });
        }
        match self.default_root() {
            Some(root) => Ok(Located { root, rest: path }),
            None => Err(PathProblem::UnknownRoot {
                roots: self.names(),
            }),
        }
    }

    /// Where a search begins: at `path`, or without one (or with `.` where no root has that name)
    /// at every root.
    pub(crate) fn starts<'a>(
        &'a self,
        path: Option<&'a str>,
    ) -> Result<Vec<Located<'a>>, PathError> {
        let everywhere = match path {
            None => true,
            Some(path) => matches!(path, "." | "./") && self.default_root().is_none(),
        };
        if !everywhere {
            let path = path.unwrap_or(".");
            return Ok(vec![self.locate(path).map_err(|problem| problem.at(path))?]);
        }
        if self.is_empty() {
            return Err(PathProblem::NoWorkspace.at("."));
        }
        Ok(self
            .roots
            .iter()
            .map(|root| Located { root, rest: "." })
            .collect())
    }

    /// How tools name a path below a root: so that it leads back to the same place.
    pub(crate) fn display(&self, root: &Root, rest: &str) -> String {
        if root.name != "." {
            return format!("{}/{rest}", root.name);
        }
        let first = rest.split('/').next().unwrap_or(rest);
        if self.roots.iter().any(|r| r.name != "." && r.name == first) {
            return format!("./{rest}");
        }
        rest.to_owned()
    }

    fn default_root(&self) -> Option<&Root> {
        self.roots.iter().find(|root| root.name == ".")
    }

    fn names(&self) -> String {
        let names: Vec<String> = self
            .roots
            .iter()
            .map(|root| format!("`{}`", root.name))
            .collect();
        names.join(", ")
    }
}

fn is_root_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(plain)
        && name != ".."
        && !write::is_protected_name(name.as_ref())
}

fn open_root(root: &WorkspaceRoot) -> Result<Dir, FenceError> {
    let (name, path) = (root.name.clone(), root.path.clone());
    if !path.is_absolute() {
        return Err(FenceError::NotAbsolute { name, path });
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | SAFE_FLAGS;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(fd) => Ok(Dir::from_std_file(File::from(fd))),
        Err(Errno::NOENT) => Err(FenceError::Missing { name, path }),
        Err(Errno::NOTDIR) => Err(FenceError::NotADirectory { name, path }),
        Err(err) => Err(FenceError::Unreadable {
            name,
            path,
            source: err.into(),
        }),
    }
}

fn check_text(path: &str) -> Result<(), PathProblem> {
    if path.is_empty() {
        return Err(PathProblem::Empty);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(PathProblem::TooLong {
            max: PATH_BYTES_MAX,
        });
    }
    if path.contains('\0') {
        return Err(PathProblem::Nul);
    }
    if path.starts_with('/') {
        return Err(PathProblem::Absolute);
    }
    Ok(())
}

/// Opens `rest` beneath `dir` for reading, links beneath it followed, without ever blocking.
fn open_beneath(dir: &Dir, rest: &str) -> Result<File, PathProblem> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(SAFE_FLAGS.bits().cast_signed());
    match dir.open_with(rest, &options) {
        Ok(file) => Ok(file.into_std()),
        Err(err) => Err(PathProblem::from_io("open it", &err)),
    }
}

/// Opens the entry `name` of `dir` itself: `name` is one part, and a link is not followed.
fn open_entry(dir: &Dir, name: &std::ffi::OsStr, extra: OFlags) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | SAFE_FLAGS | extra;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from)
}

/// Accepts a regular file with one name, by its open handle. Returns its metadata.
fn check_file(file: &File) -> Result<std::fs::Metadata, PathProblem> {
    let meta = file
        .metadata()
        .map_err(|err| PathProblem::from_io("look at it", &err))?;
    check_meta(&meta)?;
    Ok(meta)
}

fn check_meta(meta: &std::fs::Metadata) -> Result<(), PathProblem> {
    let kind = meta.file_type();
    if kind.is_dir() {
        return Err(PathProblem::IsDirectory);
    }
    if !kind.is_file() || kind.is_fifo() {
        return Err(PathProblem::NotRegular);
    }
    // 0 is a file that was deleted after it was opened: it has no other name either.
    if meta.nlink() > 1 {
        return Err(PathProblem::HardLinked {
            links: meta.nlink(),
        });
    }
    Ok(())
}

/// Opens a directory beneath `dir`, links beneath it followed.
fn open_dir_beneath(dir: &Dir, rest: &str) -> io::Result<Dir> {
    dir.open_dir(rest)
}
