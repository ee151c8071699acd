//! What response headers say about trying again.

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::env::UnixMillis;
use crate::llm::LlmErrorKind;

/// How long the server asks to wait, ms: `retry-after-ms`, else `retry-after` as seconds (may have
/// a fraction) or as an HTTP date.
pub(super) fn retry_after_ms(headers: &HeaderMap, now: UnixMillis) -> Option<u64> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(ms) = text("retry-after-ms").and_then(|ms| millis(ms, 1.0)) {
        return Some(ms);
    }
    let after = text(RETRY_AFTER.as_str())?;
    millis(after, 1_000.0).or_else(|| {
        let wait = http_date(after)?.since(now);
        u64::try_from(wait.as_millis()).ok()
    })
}

/// A number of `unit` milliseconds, rounded up.
fn millis(text: &str, unit: f64) -> Option<u64> {
    let number: f64 = text.parse().ok()?;
    let ms = (number * unit).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked before"
    )]
    (0.0..=1e15).contains(&ms).then_some(ms as u64)
}

/// Reads an HTTP date such as `Wed, 21 Oct 2015 07:28:00 GMT`; the two obsolete forms are not read.
fn http_date(text: &str) -> Option<UnixMillis> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_weekday, rest) = text.split_once(", ")?;
    let mut fields = rest.split(' ');
    let (day, month, year) = (fields.next()?, fields.next()?, fields.next()?);
    let (time, zone) = (fields.next()?, fields.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    if zone != "GMT" || fields.next().is_some() {
        return None;
    }
    UnixMillis::from_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z"))
}

/// Lets `x-should-retry` decide, where kinds leave room: a failure the server calls final loses its
/// retryable kind and the reverse. Keys, money and overflow are never worth a retry. No failure
/// becomes one of money, which only the server's words or its 402 tell.
pub(super) fn with_should_retry(kind: LlmErrorKind, headers: &HeaderMap) -> LlmErrorKind {
    match (
        headers.get("x-should-retry").map(|value| value.as_bytes()),
        kind,
    ) {
        (
            Some(b"false"),
            LlmErrorKind::RateLimited | LlmErrorKind::Server | LlmErrorKind::Overloaded,
        ) => LlmErrorKind::InvalidRequest,
        (Some(b"true"), LlmErrorKind::InvalidRequest | LlmErrorKind::NotFound) => {
            LlmErrorKind::Server
        }
        (_, kind) => kind,
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn the_wait_is_read_in_every_form() {
        let now = UnixMillis::from_rfc3339("2015-10-21T07:27:30Z").unwrap();
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        for (pairs, wait) in [
            (&[("retry-after", "20")][..], Some(20_000)),
            (&[("retry-after", "1.5")], Some(1_500)),
            (
                &[("retry-after", "20"), ("retry-after-ms", "12.3")],
                Some(13),
            ),
            (&[("retry-after", date)], Some(30_000)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT")], Some(0)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-3")], None),
            (&[("retry-after", "NaN")], None),
            (&[], None),
        ] {
            assert_eq!(retry_after_ms(&headers(pairs), now), wait, "{pairs:?}");
        }
    }

    #[test]
    fn the_server_decides_whether_to_retry() {
        use LlmErrorKind as Kind;
        for (value, kind, expected) in [
            ("false", Kind::RateLimited, Kind::InvalidRequest),
            ("false", Kind::Server, Kind::InvalidRequest),
            ("false", Kind::Overloaded, Kind::InvalidRequest),
            ("false", Kind::Quota, Kind::Quota),
            ("false", Kind::ContextOverflow, Kind::ContextOverflow),
            ("true", Kind::InvalidRequest, Kind::Server),
            ("true", Kind::NotFound, Kind::Server),
            ("true", Kind::Server, Kind::Server),
            ("true", Kind::RateLimited, Kind::RateLimited),
            ("true", Kind::Quota, Kind::Quota),
            ("true", Kind::Auth, Kind::Auth),
            ("maybe", Kind::RateLimited, Kind::RateLimited),
        ] {
            let decided = with_should_retry(kind, &headers(&[("x-should-retry", value)]));
            assert_eq!(decided, expected, "{value} {kind:?}");
        }
    }
}
