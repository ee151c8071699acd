//! Exact amounts from decimal texts, without a float between.

use crate::model::NanoUsd;

/// Dollars such as `0.00042`, `1.5e-05` or `"0.1"`. What is less than a nano-dollar rounds up.
/// `None` if it is no amount, or below zero.
pub(crate) fn dollars(json: &str) -> Option<NanoUsd> {
    scaled(json, 9).map(NanoUsd)
}

/// A price in dollars per token as one per million tokens, rounded up to a nano-dollar.
pub(crate) fn dollars_per_token(json: &str) -> Option<NanoUsd> {
    scaled(json, 15).map(NanoUsd)
}

/// xAI's ticks, of which a dollar has 10,000,000,000.
/// Source: docs.x.ai/developers/cost-tracking (2026-11).
pub(crate) fn ticks(ticks: u64) -> Option<NanoUsd> {
    i64::try_from(ticks.div_ceil(10)).ok().map(NanoUsd)
}

/// The number times ten to the `power`, rounded up.
fn scaled(json: &str, power: i32) -> Option<i64> {
    let text = json.trim().trim_matches('"').trim();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let decimals = i32::try_from(fraction.len()).ok()?;
    let shift = exponent.checked_add(power)?.checked_sub(decimals)?;
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let places = usize::try_from(shift.unsigned_abs()).ok()?;
    if shift >= 0 {
        if places > 18 {
            return None;
        }
        return format!("{digits}{}", "0".repeat(places)).parse().ok();
    }
    let (kept, rest) = digits.split_at(digits.len().saturating_sub(places));
    let kept: i64 = if kept.is_empty() {
        0
    } else {
        kept.parse().ok()?
    };
    kept.checked_add(i64::from(rest.bytes().any(|b| b != b'0')))
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn amounts_are_exact_and_round_up() {
        for (text, nanos) in [
            ("0", Some(0)),
            ("0.0", Some(0)),
            ("0.00042", Some(420_000)),
            ("\"0.1\"", Some(100_000_000)),
            ("1.5e-05", Some(15_000)),
            ("1E2", Some(100_000_000_000)),
            ("3", Some(3_000_000_000)),
            // 0.1 + 0.2 as a float would print 0.30000000000000004.
            ("0.30000000000000004", Some(300_000_001)),
            ("0.0000000001", Some(1)),
            ("1e-30", Some(1)),
            ("-1", None),
            ("NaN", None),
            ("", None),
            ("{\"total\":1}", None),
            ("null", None),
            ("99999999999999999999", None),
            ("1e99", None),
            ("1e-99999999999", None),
        ] {
            assert_eq!(dollars(text), nanos.map(NanoUsd), "{text}");
        }
    }

    #[test]
    fn a_price_per_token_is_one_per_million() {
        assert_eq!(
            dollars_per_token("\"0.000003\""),
            Some(NanoUsd::from_usd(3))
        );
        assert_eq!(dollars_per_token("\"-1\""), None);
    }

    #[test]
    fn ticks_are_tenths_of_nano_dollars() {
        assert_eq!(ticks(37_756_000), Some(NanoUsd(3_775_600)));
        assert_eq!(ticks(1), Some(NanoUsd(1)));
        assert_eq!(ticks(u64::MAX), Some(NanoUsd(1_844_674_407_370_955_162)));
    }
}
