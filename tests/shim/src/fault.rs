//! Which call is to fail, and how.
//!
//! A plan is `CALL:N:HOW:TIMES`, for example `fsync:3:EIO:1`: of the calls to files whose names
//! begin as wanted, the third flush fails once. `TIMES` is a number or `on`, from then on.

use std::sync::atomic::{AtomicU64, Ordering};

/// The calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// `open` and its variants.
    Open,
    /// `write`, `pwrite` and their variants.
    Write,
    /// `fsync` and `fdatasync`.
    Sync,
    /// `ftruncate`, `fallocate` and their variants.
    Truncate,
    /// `unlink`.
    Unlink,
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// With this error and no effect.
    Error(i32),
    /// A write that stops halfway, which is no error.
    Short,
}

/// What fails, and what has been counted.
#[derive(Debug)]
pub(crate) struct Plan {
    call: Call,
    first: u64,
    times: u64,
    how: How,
    seen: AtomicU64,
}

impl Plan {
    /// Reads a plan; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let call = match parts.next()? {
            "open" => Call::Open,
            "write" => Call::Write,
            "fsync" => Call::Sync,
            "truncate" => Call::Truncate,
            "unlink" => Call::Unlink,
            _ => return None,
        };
        let first = parts.next()?.parse().ok()?;
        let how = match parts.next()? {
            "EIO" => How::Error(libc::EIO),
            "ENOSPC" => How::Error(libc::ENOSPC),
            "short" if call == Call::Write => How::Short,
            _ => return None,
        };
        let times = match parts.next()? {
            "on" => u64::MAX,
            number => number.parse().ok()?,
        };
        let plan = Self {
            call,
            first,
            times,
            how,
            seen: AtomicU64::new(0),
        };
        parts.next().is_none().then_some(plan)
    }

    /// Counts a call. How it is to fail, if it is.
    pub(crate) fn count(&self, call: Call) -> Option<How> {
        if call != self.call {
            return None;
        }
        let number = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        let is_due = number >= self.first && number - self.first < self.times;
        is_due.then_some(self.how)
    }
}
