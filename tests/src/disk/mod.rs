//! What a disk holds after a power cut, rebuilt from the journal of the shim in `tests/shim`.
//!
//! ```text
//!  program + shim ──journal──▶ Recording ──▶ Disk::run_to(moment) ──▶ Disk::lose_power(seed, dir)
//! ```
//!
//! # The model
//!
//! * What was written to a file before a flush of it began is there once the flush has ended.
//! * Of what was written since, anything may be there: nothing, all, a beginning, some of the
//!   writes, or some sectors of some writes, of 512 or 4,096 bytes, as if in any order. So with
//!   changes of a file's length. Where a file grew around what is missing there are zeros or rubbish.
//! * A name that was made, removed or changed is durable once its directory has been flushed. A
//!   flush of the file alone is not enough here, though it is with most file systems.
//! * `-shm` is memory: after a cut it is not there, or it holds rubbish.
//! * Files that do not belong to the database are the world outside: the cut does not reach them,
//!   and what they were told has happened. So has what standard output was told.
#![expect(
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a harness: a panic says that a journal is not what it should be"
)]

mod cut;
mod dice;
#[path = "../../shim/src/record.rs"]
pub mod record;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

pub use cut::Disk;
pub use dice::Dice;

use record::{HEAD_BYTES, Head, Kind};

/// A record with the place of its data in the journal.
#[derive(Debug, Clone)]
struct Op {
    head: Head,
    data: Range<usize>,
}

/// The journal of one run of a program.
#[derive(Debug)]
pub struct Recording {
    bytes: Vec<u8>,
    ops: Vec<Op>,
}

impl Recording {
    /// Reads a journal.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut ops = Vec::new();
        let mut at = 0;
        // A program that was killed may leave a record unfinished; then it told nobody.
        while let Some(head) = bytes.get(at..).and_then(Head::decode) {
            let start = at + HEAD_BYTES;
            let end = start + usize::try_from(head.len).unwrap();
            if end > bytes.len() {
                break;
            }
            let data = start..end;
            ops.push(Op { head, data });
            at = end;
        }
        Self { bytes, ops }
    }

    /// How many moments there are: a cut may come after any number of records.
    #[must_use]
    pub fn moments(&self) -> usize {
        self.ops.len()
    }

    /// How many records of a kind there are for files whose names begin like this.
    #[must_use]
    pub fn count(&self, kind: Kind, prefix: &str) -> usize {
        let names = self.names(kind);
        names.iter().filter(|name| name.starts_with(prefix)).count()
    }

    /// The name of the file of each record of a kind.
    #[must_use]
    pub fn names(&self, kind: Kind) -> Vec<String> {
        let mut opened: HashMap<u64, &[u8]> = HashMap::new();
        let mut names = Vec::new();
        for op in &self.ops {
            if op.head.kind == Kind::Open {
                opened.insert(op.head.file, self.data(op));
            }
            if op.head.kind == kind {
                let name = opened.get(&op.head.file).copied();
                let name = name.unwrap_or_else(|| self.data(op));
                names.push(String::from_utf8(name.to_vec()).unwrap());
            }
        }
        names
    }

    /// The moments before everything but writes and what standard output was told.
    #[must_use]
    pub fn turning_points(&self) -> Vec<usize> {
        self.points(|kind| !matches!(kind, Kind::Write | Kind::Told))
    }

    /// The moments before standard output was told something.
    #[must_use]
    pub fn told_points(&self) -> Vec<usize> {
        self.points(|kind| kind == Kind::Told)
    }

    fn points(&self, is_one: impl Fn(Kind) -> bool) -> Vec<usize> {
        let ops = self.ops.iter().enumerate();
        ops.filter(|(_, op)| is_one(op.head.kind))
            .map(|(at, _)| at)
            .collect()
    }

    /// How many writes to a file of this name came between two that standard output was told of in
    /// one life of the store: `open` begins one.
    #[must_use]
    pub fn writes_between_told(&self, name: &str) -> usize {
        let (mut file, mut count, mut since) = (None, 0, 0);
        for op in &self.ops {
            match op.head.kind {
                Kind::Open if self.data(op) == name.as_bytes() => file = Some(op.head.file),
                Kind::Write if Some(op.head.file) == file => since += 1,
                Kind::Told => {
                    if self.data(op) != b"open\n" {
                        count += since;
                    }
                    since = 0;
                }
                _ => {}
            }
        }
        count
    }

    /// The lines that standard output was told before a moment.
    #[must_use]
    pub fn told(&self, moment: usize) -> Vec<String> {
        let before = self.ops.iter().take(moment);
        let told = before.filter(|op| op.head.kind == Kind::Told);
        let bytes: Vec<u8> = told.flat_map(|op| self.data(op)).copied().collect();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn data(&self, op: &Op) -> &[u8] {
        &self.bytes[op.data.clone()]
    }
}
