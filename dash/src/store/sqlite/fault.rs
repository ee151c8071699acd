//! What goes wrong below the seam, and what it means above it.

use std::path::Path;

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::store::StoreError;

/// An error on its way to becoming a [`StoreError`].
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite's own.
    Sql(rusqlite::Error),
    /// Already classified.
    Store(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(err: rusqlite::Error) -> Self {
        Self::Sql(err)
    }
}

impl From<StoreError> for Fault {
    fn from(err: StoreError) -> Self {
        Self::Store(err)
    }
}

impl Fault {
    /// Stored data that cannot be read.
    pub(super) fn corrupt(detail: impl Into<String>) -> Self {
        Self::Store(StoreError::Corrupt {
            detail: detail.into(),
        })
    }

    /// A write that breaks a rule.
    pub(super) fn constraint(rule: impl Into<String>) -> Self {
        Self::Store(StoreError::Constraint { rule: rule.into() })
    }

    /// What it means for a caller. `path` is the store's file.
    pub(super) fn classify(self, path: &Path) -> StoreError {
        match self {
            Self::Store(err) => err,
            Self::Sql(err) => classify(&err, path),
        }
    }

    /// Whether this is the changeset's own fault, so that its neighbours in the batch may go on.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            Self::Store(err) => {
                matches!(
                    err,
                    StoreError::Conflict { .. } | StoreError::Constraint { .. }
                )
            }
            Self::Sql(rusqlite::Error::SqliteFailure(err, _)) => matches!(
                err.code,
                ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch
            ),
            Self::Sql(_) => false,
        }
    }
}

/// Whether `err` says that the row is there already.
pub(super) fn is_duplicate(err: &rusqlite::Error) -> bool {
    matches!(
        err,
        rusqlite::Error::SqliteFailure(failure, _) if matches!(
            failure.extended_code,
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                | ffi::SQLITE_CONSTRAINT_UNIQUE
                | ffi::SQLITE_CONSTRAINT_ROWID
        )
    )
}

/// What SQLite says of a schema format it does not know. No release of it writes one, and the code of
/// the error is the general one, so that only the words tell.
const UNSUPPORTED_FORMAT: &str = "unsupported file format";

/// The one table from SQLite's codes to ours. Whatever it does not name is unknown, hence `Io`.
fn classify(err: &rusqlite::Error, path: &Path) -> StoreError {
    let detail = err.to_string();
    let rusqlite::Error::SqliteFailure(failure, words) = err else {
        return StoreError::Corrupt { detail };
    };
    if failure.extended_code == ffi::SQLITE_ERROR && words.as_deref() == Some(UNSUPPORTED_FORMAT) {
        return StoreError::Corrupt { detail };
    }
    let path = || path.to_path_buf();
    match failure.code {
        ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => {
            StoreError::Constraint { rule: detail }
        }
        ErrorCode::DiskFull => StoreError::Full,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Locked { path: path() },
        ErrorCode::ReadOnly => StoreError::ReadOnly { path: path() },
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreError::Corrupt { detail },
        ErrorCode::CannotOpen => StoreError::Io { detail },
        _ => StoreError::Io { detail },
    }
}

/// The same error again: one failed batch answers many callers.
pub(super) fn replicate(err: &StoreError) -> StoreError {
    match err {
        StoreError::Conflict { what, id } => StoreError::Conflict {
            what,
            id: id.clone(),
        },
        StoreError::Constraint { rule } => StoreError::Constraint { rule: rule.clone() },
        StoreError::Full => StoreError::Full,
        StoreError::Locked { path } => StoreError::Locked { path: path.clone() },
        StoreError::ReadOnly { path } => StoreError::ReadOnly { path: path.clone() },
        StoreError::NotDash { path } => StoreError::NotDash { path: path.clone() },
        StoreError::Newer { found, known } => StoreError::Newer {
            found: *found,
            known: *known,
        },
        StoreError::Checksum { version } => StoreError::Checksum { version: *version },
        StoreError::Corrupt { detail } => StoreError::Corrupt {
            detail: detail.clone(),
        },
        StoreError::Io { detail } => StoreError::Io {
            detail: detail.clone(),
        },
        StoreError::Open { detail } => StoreError::Open {
            detail: detail.clone(),
        },
        StoreError::Closed => StoreError::Closed,
    }
}
