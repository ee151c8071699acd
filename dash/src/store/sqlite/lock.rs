//! The lock that lets only one engine own a file.
//!
//! `flock` on `<file>.lock`: the system drops it when the process dies, however it dies. The lock
//! file stays; while a store is open it holds a line, so that the next start can tell a crash from
//! a clean end. Network file systems without `flock` are not supported.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::store::StoreError;

/// The lock, held until dropped.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    /// Whether the last owner ended without [`FileLock::release`].
    pub(super) was_unclean: bool,
}

/// An IO error of opening `path`.
pub(super) fn open_error(path: &Path, err: &std::io::Error) -> StoreError {
    match err.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly {
            path: path.to_path_buf(),
        },
        _ => StoreError::Open {
            detail: format!("`{}`: {err}", path.display()),
        },
    }
}

/// The lock file's path of a store's.
pub(super) fn lock_path(path: &Path) -> PathBuf {
    suffixed(path, ".lock")
}

/// `path` with `suffix` after its name.
pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl FileLock {
    /// Takes the lock of the store at `path`, without waiting.
    pub(super) fn acquire(path: &Path) -> Result<Self, StoreError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(lock_path(path))
            .map_err(|err| open_error(path, &err))?;
        if let Err(err) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            let err = std::io::Error::from(err);
            return Err(if err.kind() == ErrorKind::WouldBlock {
                StoreError::Locked {
                    path: path.to_path_buf(),
                }
            } else {
                open_error(path, &err)
            });
        }
        let mut line = String::new();
        // A line that is not text is a line all the same.
        let read = file.read_to_string(&mut line);
        Ok(Self {
            file,
            was_unclean: read.is_err() || !line.is_empty(),
        })
    }

    /// Notes that the store is in use.
    pub(super) fn mark(&mut self) -> std::io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        writeln!(self.file, "in use by process {}", std::process::id())
    }

    /// Notes a clean end and gives the lock back.
    pub(super) fn release(self) -> std::io::Result<()> {
        self.file.set_len(0)
    }
}
