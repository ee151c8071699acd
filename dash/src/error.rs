//! The one error of the engine: what a caller should do ([`ErrorKind`]), one line of what
//! happened, and the cause.
//!
//! Each seam has an enum of its own for its implementers
//! ([`StoreError`](crate::store::StoreError), [`LlmError`](crate::llm::LlmError), …). `Display`
//! never repeats the source; [`Error::chain`] prints all of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The result of every fallible call of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller should do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request breaks a rule; change it. [`Error::field`] names the field where there is one.
    Invalid,
    /// No such thing; check the id.
    NotFound,
    /// The thing's state forbids this, or it changed meanwhile; reload and decide again.
    Conflict,
    /// A budget on the path does not cover this; raise the budget or lower the ask.
    BudgetExceeded,
    /// A permission or fence forbids this; ask whoever runs the engine.
    Denied,
    /// Too much at once; wait and send it again.
    RateLimited,
    /// Something the engine needs is not usable right now (disk full, file locked, provider
    /// down); wait or mend it, then send it again.
    Unavailable,
    /// The engine is shutting down or has stopped; start it again.
    Closed,
    /// Stored state is unreadable or not ours; restore a backup or point to the right file.
    Data,
    /// The engine contradicts itself; report it.
    Internal,
}

impl ErrorKind {
    /// Every kind, for tables that must cover all of them.
    pub const ALL: [Self; 10] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::BudgetExceeded,
        Self::Denied,
        Self::RateLimited,
        Self::Unavailable,
        Self::Closed,
        Self::Data,
        Self::Internal,
    ];

    /// The code of this kind, as error bodies of the HTTP API carry it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Invalid => "VALIDATION_ERROR",
            Self::NotFound => "NOT_FOUND",
            Self::Conflict => "CONFLICT",
            Self::BudgetExceeded => "BUDGET_EXCEEDED",
            Self::Denied => "FORBIDDEN",
            Self::RateLimited => "RATE_LIMITED",
            Self::Unavailable | Self::Closed => "UNAVAILABLE",
            Self::Data | Self::Internal => "INTERNAL_ERROR",
        }
    }
}

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error of the engine.
pub struct Error {
    kind: ErrorKind,
    message: String,
    field: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// A new error of `kind`. `message` is a lower-case fragment without a full stop.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            field: None,
            source: None,
        }
    }

    /// A request whose `field` breaks a rule.
    #[must_use]
    pub fn invalid(field: impl Into<String>, issue: impl Into<String>) -> Self {
        let (field, issue) = (field.into(), issue.into());
        let mut err = Self::new(ErrorKind::Invalid, format!("invalid `{field}`: {issue}"));
        err.field = Some(field);
        err
    }

    /// No `what` with this id.
    #[must_use]
    pub fn not_found(what: &str, id: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("no {what} `{id}`"))
    }

    /// A state that forbids what was asked.
    #[must_use]
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// The engine contradicts itself.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The engine has stopped.
    #[must_use]
    pub fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the orchestrator has stopped")
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the caller should do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The field of the request that is wrong, as a path such as `config.model`.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The error and all its causes in one line, joined by `: `.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut out = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(err) = cause {
            out.push_str(": ");
            out.push_str(&err.to_string());
            cause = err.source();
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {})", self.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|s| s.as_ref() as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_and_chain_has_the_cause() {
        let err = Error::new(ErrorKind::Unavailable, "failed to open `x.db`")
            .with_source(std::io::Error::other("disk gone"));
        assert_eq!(err.to_string(), "failed to open `x.db`");
        assert_eq!(err.chain(), "failed to open `x.db`: disk gone");
    }

    #[test]
    fn an_invalid_request_names_its_field() {
        assert_eq!(
            Error::invalid("config.model", "unknown").field(),
            Some("config.model")
        );
    }
}
