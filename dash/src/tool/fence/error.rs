//! Why a fence could not be put up, and why a path was refused.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::super::ToolError;

/// Longest part of a path that an error repeats, characters.
const SHOWN_CHARS_MAX: usize = 200;

/// Why a [`Fence`](super::Fence) could not be opened. Each says what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// More roots than [`ROOTS_MAX`](super::ROOTS_MAX).
    #[error("{count} workspace roots are too many: name at most {max}")]
    TooManyRoots {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A name that could not be told from something else in a path.
    #[error(
        "workspace root name {name:?} is not usable: use `.` or 1 to {max} of A-Za-z0-9_.- that \
         are not `..` or `.git`"
    )]
    BadName {
        /// The name.
        name: String,
        /// How long a name may be, bytes.
        max: usize,
    },
    /// Two roots of one name; names that differ only by case count as one.
    #[error("workspace root name `{name}` is used twice: give each root its own name")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A relative directory, which would depend on where the engine was started.
    #[error("workspace root `{name}`: `{}` is not absolute: give the full path", path.display())]
    NotAbsolute {
        /// The root's name.
        name: String,
        /// Its directory.
        path: PathBuf,
    },
    /// No such directory.
    #[error("workspace root `{name}`: `{}` does not exist: create it first", path.display())]
    Missing {
        /// The root's name.
        name: String,
        /// Its directory.
        path: PathBuf,
    },
    /// Something else than a directory.
    #[error(
        "workspace root `{name}`: `{}` is not a directory: name the directory that holds it",
        path.display()
    )]
    NotADirectory {
        /// The root's name.
        name: String,
        /// Its directory.
        path: PathBuf,
    },
    /// The system refused to open it.
    #[error(
        "workspace root `{name}`: failed to open `{}`: check that the engine may read it",
        path.display()
    )]
    Unreadable {
        /// The root's name.
        name: String,
        /// Its directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A path that was refused, and why. The text goes to the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}`: {problem}")]
pub struct PathError {
    /// The path as it was given, control characters escaped, at most 200 characters.
    pub path: String,
    /// What is wrong with it.
    pub problem: PathProblem,
}

/// What is wrong with a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathProblem {
    /// No text at all.
    #[error("the path is empty: give a relative path such as `src/main.rs`")]
    Empty,
    /// Over [`PATH_BYTES_MAX`](super::PATH_BYTES_MAX) or one name over the system's limit.
    #[error("the path is too long: at most {max} bytes, and 255 for each name in it")]
    TooLong {
        /// The limit, bytes.
        max: usize,
    },
    /// More parts than [`DEPTH_MAX`](super::DEPTH_MAX).
    #[error("the path is too deep: at most {max} directories")]
    TooDeep {
        /// The limit.
        max: usize,
    },
    /// A NUL character.
    #[error("the path contains a NUL character")]
    Nul,
    /// Begins with `/`.
    #[error("absolute paths are not allowed: give a path relative to the workspace")]
    Absolute,
    /// The agent may reach no directory at all.
    #[error("no directory is within reach: this agent has no workspace")]
    NoWorkspace,
    /// The first part names no root and there is no root `.`.
    #[error("the path must begin with one of the workspace directories: {roots}")]
    UnknownRoot {
        /// Their names, joined by commas.
        roots: String,
    },
    /// Leaves its root through `..` or a symbolic link.
    #[error("the path leaves the workspace (through `..` or a symbolic link); that is refused")]
    Escapes,
    /// A loop or a very long chain of links.
    #[error("the path goes through too many symbolic links")]
    TooManyLinks,
    /// Nothing there.
    #[error("no such file or directory")]
    NotFound,
    /// A directory where a file is needed.
    #[error("is a directory, not a file")]
    IsDirectory,
    /// A file where a directory is needed.
    #[error("a part of the path is not a directory")]
    NotADirectory,
    /// A FIFO, socket, device or the like.
    #[error("not a regular file (a pipe, socket or device); that is refused")]
    NotRegular,
    /// A file that is known by more than one name.
    #[error(
        "the file has {links} hard links, so it may also lie outside the workspace; that is \
         refused. Ask for a plain copy of it"
    )]
    HardLinked {
        /// How many names it has.
        links: u64,
    },
    /// A write to a symbolic link.
    #[error("is a symbolic link; writing through links is refused. Write to its target's own path")]
    Symlink,
    /// A write below a root that is not writable.
    #[error("the workspace directory `{root}` is read-only for this agent")]
    ReadOnlyRoot {
        /// The root's name.
        root: String,
    },
    /// A write to a file that nobody may write.
    #[error("the file is marked read-only")]
    ReadOnlyFile,
    /// A write below `.git`, from where the host runs programs.
    #[error(
        "files below `.git` may not be written: git runs programs named there on the host. Use \
         git's own commands"
    )]
    Protected,
    /// Too big.
    #[error("too large: {size} bytes; at most {max} are allowed")]
    TooLarge {
        /// Its size, bytes.
        size: u64,
        /// The limit, bytes.
        max: u64,
    },
    /// The call was cancelled before it had an effect.
    #[error("the call was cancelled; nothing was written")]
    Cancelled,
    /// The system refused.
    #[error("failed to {action}: {reason}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the system said.
        reason: String,
    },
}

impl PathProblem {
    /// The problem of `path`.
    pub(crate) fn at(self, path: &str) -> PathError {
        PathError {
            path: shown(path),
            problem: self,
        }
    }

    /// Reads the system's error. cap-std reports an escape as `PermissionDenied` without a code.
    pub(crate) fn from_io(action: &'static str, err: &io::Error) -> Self {
        if err.kind() == io::ErrorKind::PermissionDenied && err.raw_os_error().is_none() {
            return Self::Escapes;
        }
        match Errno::from_io_error(err) {
            Some(Errno::NOENT) => Self::NotFound,
            Some(Errno::NOTDIR) => Self::NotADirectory,
            Some(Errno::ISDIR) => Self::IsDirectory,
            Some(Errno::XDEV) => Self::Escapes,
            Some(Errno::LOOP) => Self::TooManyLinks,
            Some(Errno::NAMETOOLONG) => Self::TooLong {
                max: super::PATH_BYTES_MAX,
            },
            // A socket, or a device without a driver.
            Some(Errno::NXIO | Errno::NODEV) => Self::NotRegular,
            _ => Self::Io {
                action,
                reason: err.to_string(),
            },
        }
    }

    pub(crate) fn from_errno(action: &'static str, err: Errno) -> Self {
        Self::from_io(action, &err.into())
    }
}

impl From<PathError> for ToolError {
    fn from(err: PathError) -> Self {
        Self::new(err.to_string())
    }
}

/// A path as errors show it.
fn shown(path: &str) -> String {
    let mut chars = path.chars();
    let mut out: String = chars
        .by_ref()
        .take(SHOWN_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if chars.next().is_some() {
        out.push('…');
    }
    out
}
