//! What holds for the line gate: whole lines only, nothing lost, the same however they are cut.

use bytes::Bytes;
use dash::testing::sse::{gate, pieces, read};

/// Bytes of a line or event, at most: small, so that the limit is met too.
const LINE_BYTES_MAX: usize = 1_024;

/// The last byte says how the others are cut.
pub(super) fn check(input: &[u8]) {
    let (seed, body) = input
        .split_last()
        .map_or((0, input), |(last, body)| (*last, body));
    let body = Bytes::copy_from_slice(body);
    let (whole, is_long) = gate(std::slice::from_ref(&body), LINE_BYTES_MAX);
    let (cut, is_cut_long) = gate(&pieces(&body, seed), LINE_BYTES_MAX);
    assert_eq!(whole.concat(), cut.concat(), "cut by {seed}");
    assert_eq!(is_long, is_cut_long, "cut by {seed}");
    for part in cut {
        assert!(
            part.is_empty() || part.ends_with(b"\n"),
            "not whole lines: {part:?}"
        );
    }
    let all = whole.concat();
    let mut plain = &body[..];
    while let Some(rest) = plain.strip_prefix(b"\xef\xbb\xbf") {
        plain = rest;
    }
    if is_long {
        assert!(plain.starts_with(&all), "not what came");
    } else {
        let kept = all.strip_suffix(b"\n\n").expect("a blank line at the end");
        assert!(plain.starts_with(kept), "not what came");
        assert!(
            plain.len() - kept.len() < 4,
            "more than half a character is lost"
        );
    }
    // The parser behind the gate: no panic, and the same events.
    let events = read(vec![body.clone()], LINE_BYTES_MAX);
    assert_eq!(
        read(pieces(&body, seed), LINE_BYTES_MAX),
        events,
        "cut by {seed}"
    );
}
