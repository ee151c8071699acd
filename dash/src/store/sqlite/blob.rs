//! Contents of entries: small ones beside the entry, large ones stored once and compressed.

use std::borrow::Cow;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::Fault;
use crate::model::EntryBody;

/// Contents of at least this many bytes go to `blobs`: below, the row there and its index cost
/// more than compression and sharing save.
const INLINE_MAX: usize = 512;

/// The largest content, bytes; also the bound on what a stored block may claim to unpack to.
pub(super) const SIZE_MAX: usize = 64 << 20;

const PLAIN: i64 = 0;
const LZ4: i64 = 1;

/// Where an entry's content went.
pub(super) enum Place {
    /// The JSON, to be kept in the entry's row.
    Inline(String),
    /// `blobs.num`.
    Blob(i64),
}

fn digest(content: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    let hash = blake3::hash(content);
    out.copy_from_slice(hash.as_bytes().first_chunk::<16>().unwrap_or(&[0; 16]));
    out
}

/// Stores an entry's content.
pub(super) fn put(conn: &Connection, body: &EntryBody) -> Result<Place, Fault> {
    let json = serde_json::to_string(body)
        .map_err(|err| Fault::constraint(format!("an entry is not JSON: {err}")))?;
    if json.len() < INLINE_MAX {
        return Ok(Place::Inline(json));
    }
    if json.len() > SIZE_MAX {
        return Err(Fault::constraint(format!(
            "an entry has {} bytes, {SIZE_MAX} are allowed",
            json.len()
        )));
    }
    let hash = digest(json.as_bytes());
    let known = conn
        .prepare_cached("SELECT num, size, codec, data FROM blobs WHERE hash = ?1")?
        .query_row([hash], |row| {
            let same = unpack(row.get(1)?, row.get(2)?, row.get_ref(3)?)
                .is_ok_and(|content| *content == *json.as_bytes());
            Ok((row.get::<_, i64>(0)?, same))
        })
        .optional()?;
    match known {
        Some((num, true)) => return Ok(Place::Blob(num)),
        // Another content with this hash: keep this one by itself.
        Some((_, false)) => return Ok(Place::Inline(json)),
        None => {}
    }
    let packed = lz4_flex::block::compress(json.as_bytes());
    let (codec, data) = if packed.len() < json.len() {
        (LZ4, packed.as_slice())
    } else {
        (PLAIN, json.as_bytes())
    };
    let size = i64::try_from(json.len()).unwrap_or(i64::MAX);
    let num = conn
        .prepare_cached("INSERT INTO blobs (hash, size, codec, data) VALUES (?1, ?2, ?3, ?4)")?
        .insert(params![hash, size, codec, data])?;
    Ok(Place::Blob(num))
}

fn unpack(size: i64, codec: i64, data: ValueRef<'_>) -> Result<Cow<'_, [u8]>, Fault> {
    let bad = |what: &str| Fault::corrupt(format!("a stored content {what}"));
    let bytes = data.as_blob().map_err(|_reason| bad("is no blob"))?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > SIZE_MAX {
        return Err(bad("claims to be larger than any"));
    }
    let content = match codec {
        PLAIN => Cow::Borrowed(bytes),
        LZ4 => Cow::Owned(
            lz4_flex::block::decompress(bytes, size)
                .map_err(|_reason| bad("cannot be unpacked"))?,
        ),
        _ => return Err(bad("has an unknown codec")),
    };
    if content.len() == size {
        Ok(content)
    } else {
        Err(bad("has another size than recorded"))
    }
}

/// Reads the content that `blobs` holds with these columns, and checks its hash.
pub(super) fn get(
    hash: [u8; 16],
    size: i64,
    codec: i64,
    data: ValueRef<'_>,
) -> Result<EntryBody, Fault> {
    let content = unpack(size, codec, data)?;
    if digest(&content) != hash {
        return Err(Fault::corrupt("a stored content does not match its hash"));
    }
    decode(&content)
}

/// Reads the JSON of a content.
pub(super) fn decode(json: &[u8]) -> Result<EntryBody, Fault> {
    serde_json::from_slice(json)
        .map_err(|err| Fault::corrupt(format!("a stored entry cannot be read: {err}")))
}
