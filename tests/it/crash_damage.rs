//! Files that are damaged: flipped bits, torn pages, missing ends.
//!
//! Damage is to be found, with an error that says what to do, or to make no difference to anything
//! that can be read. Figures of both are told.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};

use dash::store::{SqliteStore, Store as _, StoreError};

use crate::crash::mix;
use crate::crash_audit::{Records, audit, read};
use crate::crash_child::tell;
use crate::crash_open::half_done;

/// Bytes of a page.
const PAGE: usize = 4_096;
/// What a disk writes at once.
const SECTOR: usize = 512;
/// Copies with a flipped bit.
const FLIPS: u64 = 300;
/// Copies with a larger damage of each kind.
const WOUNDS: u64 = 40;

/// What became of a damaged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Opening it failed.
    FoundAtOpen,
    /// A check of the whole file failed.
    FoundByVerify,
    /// It opened, and a read failed.
    FoundByRead,
    /// Everything that was written is read as it was.
    Harmless,
    /// Something is read that was never written.
    Unseen,
}

/// A database that was closed properly, and what is read from it.
struct Whole {
    bytes: Vec<u8>,
    records: Records,
}

impl Whole {
    async fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        half_done(dir.path()).await;
        let db = dir.path().join("run.db");
        let store = SqliteStore::open(&db).await.unwrap();
        let records = read(&store).await.unwrap();
        store.close().await.unwrap();
        let bytes = std::fs::read(&db).unwrap();
        assert_eq!(bytes.len() % PAGE, 0);
        Self { bytes, records }
    }

    /// Looks at a file with these bytes in every way there is.
    async fn fate(&self, bytes: &[u8], what: &str) -> Fate {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("run.db");
        std::fs::write(&db, bytes).unwrap();
        let verified = SqliteStore::verify(&db).await;
        let store = match SqliteStore::open(&db).await {
            Ok(store) => store,
            Err(err) => {
                check_error(&err, what);
                return Fate::FoundAtOpen;
            }
        };
        if let Err(err) = verified {
            check_error(&err, what);
            return Fate::FoundByVerify;
        }
        match read(&store).await {
            Err(err) => {
                check_error(&err, what);
                Fate::FoundByRead
            }
            Ok(records) if records == self.records => Fate::Harmless,
            Ok(records) => {
                self.check_unseen(&records, what);
                Fate::Unseen
            }
        }
    }

    /// What has a hash of its own is never read as something that was not written.
    fn check_unseen(&self, found: &Records, what: &str) {
        assert_eq!(found.events, self.records.events, "{what}");
        let pairs = [
            ("agents", found.agents == self.records.agents),
            ("tasks", found.tasks == self.records.tasks),
            ("swarms", found.swarms == self.records.swarms),
            ("steps", found.steps == self.records.steps),
            ("budgets", found.budgets == self.records.budgets),
            (
                "reservations",
                found.reservations == self.records.reservations,
            ),
            ("tickets", found.tickets == self.records.tickets),
            ("entries", found.paths == self.records.paths),
        ];
        let changed = pairs.iter().filter(|(_, is_same)| !is_same);
        let changed: Vec<&str> = changed.map(|(name, _)| *name).collect();
        eprintln!("{what}: not seen in {changed:?}");
    }
}

/// An error that tells of damage says what to do.
fn check_error(err: &StoreError, what: &str) {
    let text = err.to_string();
    let advice = match err {
        StoreError::Corrupt { .. } => "restore a backup",
        StoreError::NotDash { .. } => "choose another file",
        StoreError::Newer { .. } => "use a newer Dash",
        StoreError::Checksum { .. } => "migration",
        other => panic!("{what}: not an error of a damaged file: {other:?}"),
    };
    assert!(text.contains(advice), "{what}: {text}");
}

/// A number below `end` that follows from `chance`.
fn below(chance: u64, end: usize) -> usize {
    usize::try_from(chance % end as u64).unwrap()
}

type Fates = BTreeMap<Fate, u64>;

/// Damages copies of a file, and asks what became of each. What only a read finds is a fault of the
/// check of the whole file, which promises to find it.
async fn wound(
    whole: &Whole,
    kind: &str,
    wounds: u64,
    damage: impl Fn(u64, &mut Vec<u8>),
) -> Fates {
    let mut fates = Fates::new();
    for number in 0..wounds {
        let mut bytes = whole.bytes.clone();
        damage(mix(number), &mut bytes);
        let what = format!("{kind} {number}");
        *fates.entry(whole.fate(&bytes, &what).await).or_default() += 1;
    }
    tell(&format!("damaged files, {kind}: {fates:?}"));
    assert_eq!(fates.get(&Fate::FoundByRead), None, "{kind}");
    fates
}

/// Of a few rows the letters have no hash. All else is found; how much is not, is told.
#[tokio::test]
async fn a_flipped_bit_is_found_or_harmless_but_for_rows_without_a_hash() {
    let whole = Whole::make().await;
    let fates = wound(&whole, "flipped bits", FLIPS, |chance, bytes| {
        let at = below(chance >> 3, bytes.len());
        bytes[at] ^= 1 << (chance & 7);
    })
    .await;
    let count = |fate| fates.get(&fate).copied().unwrap_or_default();
    let found = count(Fate::FoundAtOpen) + count(Fate::FoundByVerify);
    assert!(found > FLIPS / 10, "{fates:?}");
}

#[tokio::test]
async fn a_torn_file_is_found_or_harmless() {
    let whole = Whole::make().await;
    let len = whole.bytes.len();
    let page = move |chance: u64| below(chance, len / PAGE) * PAGE;
    let lost = wound(&whole, "pages of zeros", WOUNDS, |chance, bytes| {
        bytes[page(chance)..][..PAGE].fill(0);
    })
    .await;
    let misplaced = wound(
        &whole,
        "pages in the place of others",
        WOUNDS,
        |chance, bytes| {
            let (from, to) = (page(chance), page(chance >> 32));
            bytes.copy_within(from..from + PAGE, to);
        },
    )
    .await;
    let garbage = wound(&whole, "sectors of garbage", WOUNDS, |chance, bytes| {
        let at = below(chance, len / SECTOR) * SECTOR;
        for (number, byte) in (chance..).zip(&mut bytes[at..at + SECTOR]) {
            *byte = mix(number).to_le_bytes()[0];
        }
    })
    .await;
    // An empty file is a new one, as is said where files are opened.
    let short = wound(&whole, "ends cut off", WOUNDS, |chance, bytes| {
        bytes.truncate(1 + below(chance, len - 1));
    })
    .await;
    for fates in [lost, misplaced, garbage, short] {
        assert_eq!(fates.get(&Fate::Unseen), None, "{fates:?}");
    }
}

/// A log that has lost its end is an earlier moment of the same run: all that is there is whole.
#[tokio::test]
async fn a_log_without_its_end_is_an_earlier_moment() {
    let dir = tempfile::tempdir().unwrap();
    half_done(dir.path()).await;
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let (db, log) = (read("run.db"), read("run.db-wal"));
    let whole = audit(&dir.path().join("run.db")).await.events;
    let mut lengths = BTreeSet::new();
    for number in 0..WOUNDS {
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join("run.db");
        std::fs::write(&path, &db).unwrap();
        let end = below(mix(number), log.len());
        std::fs::write(copy.path().join("run.db-wal"), &log[..end]).unwrap();
        let events = match SqliteStore::verify(&path).await {
            Ok(_) => audit(&path).await.events,
            // Cut within the first commit, which makes the tables.
            Err(err) => {
                assert!(db.len() <= PAGE, "{end}: {err}");
                continue;
            }
        };
        assert_eq!(events, whole[..events.len()], "{end}");
        lengths.insert(events.len());
    }
    tell(&format!(
        "logs without their end: {} different moments",
        lengths.len()
    ));
    assert!(lengths.len() > 5, "{lengths:?}");
}
