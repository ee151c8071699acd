//! Stands between a program and its disk: journals what the program writes and flushes, and fails
//! what a test wants to fail. For tests only, on 64-bit Linux with the GNU C library.
//!
//! Loaded with `LD_PRELOAD`, it takes the place of the C library's functions that change files, and
//! passes each call on to the kernel. It watches the files directly in one directory, and standard
//! output. What it does is said by variables of the environment, read once:
//!
//! | variable | meaning |
//! |---|---|
//! | `DASH_SHIM_DIR` | the directory, absolute and without links; without it nothing is watched |
//! | `DASH_SHIM_JOURNAL` | the file to write the journal to, outside the directory |
//! | `DASH_SHIM_FAULT` | a call to fail, as `CALL:N:HOW:TIMES`: `open`, `write`, `fsync`, `truncate` or `unlink`; the first that fails, from 1; `EIO`, `ENOSPC` or `short`; how often, or `on` |
//! | `DASH_SHIM_FAULTY` | how the names of files begin whose calls fail |
//!
//! The order of the journal is the order of the calls: a write and its record are one for all
//! threads. A flush has two records, because other threads may write while it lasts: what was
//! written before it began is on the disk when it has ended.
//!
//! A shim that cannot do its work ends the program, with a line on standard error: what it would
//! miss would make tests pass.
//!
//! Not seen: writes through shared memory, duplicated descriptors, calls past the C library.
#![cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]

pub mod calls;
mod fault;
pub mod record;
mod watch;
