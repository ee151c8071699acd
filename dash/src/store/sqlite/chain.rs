//! The hash chain over events: finds damage that SQLite's own checks miss (a random bit flip
//! passes `integrity_check` in nine cases of ten).
//!
//! `hash(n) = first 16 bytes of BLAKE3(hash(n-1) ‖ seq ‖ id ‖ at ‖ swarm ‖ source ‖ type ‖ data)`,
//! where `hash(0)` is zero; numbers are big-endian, `swarm` is 16 bytes (zeros = none), and
//! `source`, `type` and `data` are preceded by their length in 8 bytes. It covers the logical
//! event, not this file's short numbers. It is no seal: whoever can write the file can recompute it.

use rusqlite::Connection;

use super::fault::Fault;
use super::rows::{EVENT_COLUMNS, StoredEvent};
use crate::event::Event;

/// One link.
pub(super) type Link = [u8; 16];

/// How many of the newest events are checked at every start.
pub(super) const TAIL_LEN: u64 = 1_000;

/// The link of an event after the one with link `previous`.
pub(super) fn link(previous: &Link, event: &Event, data: &str) -> Link {
    let mut hasher = blake3::Hasher::new();
    let type_name = event.kind.name();
    let len = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes();
    let mut head = [0_u8; 64];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(slot) = head.get_mut(at..at + bytes.len()) {
            slot.copy_from_slice(bytes);
        }
    };
    put(0, previous);
    put(16, &event.seq.to_be_bytes());
    put(24, &event.id.as_u128().to_be_bytes());
    put(40, &event.at.0.to_be_bytes());
    put(
        48,
        &event.swarm_id.map_or(0, |id| id.as_u128()).to_be_bytes(),
    );
    hasher.update(&head);
    for text in [&event.source, type_name, data] {
        hasher.update(&len(text));
        hasher.update(text.as_bytes());
    }
    let mut out = [0; 16];
    out.copy_from_slice(
        hasher
            .finalize()
            .as_bytes()
            .first_chunk::<16>()
            .unwrap_or(&[0; 16]),
    );
    out
}

/// Number and link of the newest event; `(0, zeros)` without one.
pub(super) fn head(conn: &Connection) -> Result<(u64, Link), Fault> {
    let mut statement = conn.prepare("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1")?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else {
        return Ok((0, [0; 16]));
    };
    let seq: i64 = row.get(0)?;
    Ok((u64::try_from(seq).unwrap_or(0), row.get(1)?))
}

/// Checks the links of at most `limit` events after number `after`, and that no number is missing.
/// Returns how many events it checked; fewer than `limit` means the end.
///
/// # Errors
///
/// [`Corrupt`](crate::store::StoreError::Corrupt), naming the first bad number.
pub(super) fn verify(conn: &Connection, after: u64, limit: u64) -> Result<u64, Fault> {
    let start = i64::try_from(after).unwrap_or(i64::MAX);
    let mut previous: Link = [0; 16];
    if after > 0 {
        previous = conn
            .query_row("SELECT hash FROM events WHERE seq = ?1", [start], |row| {
                row.get(0)
            })
            .map_err(|_reason| bad(after, "is missing"))?;
    }
    let sql = [EVENT_COLUMNS, " WHERE e.seq > ?1 ORDER BY e.seq LIMIT ?2"].concat();
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query([start, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let (mut seq, mut count) = (after, 0);
    while let Some(row) = rows.next()? {
        seq += 1;
        let stored = StoredEvent::read(row).map_err(|_reason| bad(seq, "cannot be read"))?;
        if stored.event.seq != seq {
            return Err(bad(seq, "is missing"));
        }
        let expected = link(&previous, &stored.event, &stored.data);
        if stored.hash != expected {
            return Err(bad(seq, "does not match its hash"));
        }
        previous = expected;
        count += 1;
    }
    Ok(count)
}

/// Checks the newest [`TAIL_LEN`] events.
pub(super) fn verify_tail(conn: &Connection) -> Result<u64, Fault> {
    let (seq, _) = head(conn)?;
    verify(conn, seq.saturating_sub(TAIL_LEN), TAIL_LEN)
}

fn bad(seq: u64, what: &str) -> Fault {
    Fault::corrupt(format!("event {seq} {what}"))
}
