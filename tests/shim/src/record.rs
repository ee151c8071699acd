//! The form of the journal: one record after the other, each a head of 32 bytes and its data.
//!
//! ```text
//! kind u64 │ file u64 │ at u64 │ len u64 │ data, len bytes          (little-endian)
//! ```
//!
//! Written by the shim, read by the tests, which include this file: the shim cannot be linked.

/// Bytes of a head.
pub const HEAD_BYTES: usize = 32;

/// What a record tells. `file` is an inode's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file was opened. `at`: 1 if that made it. Data: its name; empty for the directory itself.
    Open,
    /// Bytes were written at `at`.
    Write,
    /// The file was cut or grown to `at` bytes.
    Truncate,
    /// A flush began. `at`: its number, unique within the journal.
    SyncBegin,
    /// The flush of number `at` succeeded.
    SyncEnd,
    /// The name in the data was removed.
    Unlink,
    /// A file got another name. Data: the old one, a zero byte, the new one.
    Rename,
    /// Standard output was told the data.
    Told,
    /// A call was made to fail. Data: the file's name, if the call gave one.
    Fault,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Open,
        Self::Write,
        Self::Truncate,
        Self::SyncBegin,
        Self::SyncEnd,
        Self::Unlink,
        Self::Rename,
        Self::Told,
        Self::Fault,
    ];
}

/// What stands before the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What happened.
    pub kind: Kind,
    /// To which inode; 0 if to none.
    pub file: u64,
    /// Where, or what [`Kind`] says.
    pub at: u64,
    /// How many bytes of data follow.
    pub len: u64,
}

impl Head {
    /// The head as bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        let words = [self.kind as u64, self.file, self.at, self.len];
        for (place, word) in out.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// The head of these bytes; `None` if they are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.get(..HEAD_BYTES)?.chunks_exact(8).map(|word| {
            let word = <[u8; 8]>::try_from(word).unwrap_or_default();
            u64::from_le_bytes(word)
        });
        let kind = usize::try_from(words.next()?).ok()?;
        Some(Self {
            kind: *Kind::ALL.get(kind)?,
            file: words.next()?,
            at: words.next()?,
            len: words.next()?,
        })
    }
}
