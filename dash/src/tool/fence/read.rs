//! Reading files within a fence.

use std::fs::File;
use std::io::{self, Read as _};

use super::{Fence, PathError, PathProblem, READ_BYTES_MAX, check_file, open_beneath};

/// How much of a file's head is searched for a NUL byte, bytes.
const BINARY_PROBE_BYTES: usize = 8_192;

impl Fence {
    /// Reads a whole file, at most [`READ_BYTES_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// [`PathError`] if the path leaves its root, or the file is missing, not regular, known by
    /// more than one name, or too large.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, PathError> {
        self.read_located(path).map_err(|problem| problem.at(path))
    }

    fn read_located(&self, path: &str) -> Result<Vec<u8>, PathProblem> {
        let at = self.locate(path)?;
        let file = open_beneath(&at.root.dir, at.rest)?;
        read_checked(file)
    }
}

/// Reads an open file if it may be read.
pub(super) fn read_checked(file: File) -> Result<Vec<u8>, PathProblem> {
    let meta = check_file(&file)?;
    let too_large = |size| PathProblem::TooLarge {
        size,
        max: READ_BYTES_MAX,
    };
    if meta.len() > READ_BYTES_MAX {
        return Err(too_large(meta.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    // It may grow meanwhile, and some file systems report a size of 0.
    file.take(READ_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|err: io::Error| PathProblem::from_io("read it", &err))?;
    let size = bytes.len() as u64;
    if size > READ_BYTES_MAX {
        Err(too_large(size))
    } else {
        Ok(bytes)
    }
}

/// Whether these bytes are no text: a NUL among the first 8 KiB.
pub(crate) fn is_binary(bytes: &[u8]) -> bool {
    bytes.iter().take(BINARY_PROBE_BYTES).any(|b| *b == 0)
}
