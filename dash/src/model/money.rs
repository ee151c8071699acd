//! Integer money. Sums must be exact, so no float ever holds an amount.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Nano-dollars: 1 USD = 1,000,000,000.
///
/// Arithmetic saturates at ±9.2 billion USD, far above [`NanoUsd::MAX_BUDGET`].
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct NanoUsd(pub i64);

const PER_USD: i64 = 1_000_000_000;

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// The largest budget: one billion dollars, so that no sum of budgets can overflow.
    pub const MAX_BUDGET: Self = Self(1_000_000_000 * PER_USD);

    /// Whole dollars.
    #[must_use]
    pub const fn from_usd(usd: i64) -> Self {
        Self(usd.saturating_mul(PER_USD))
    }

    /// The amount as a float of dollars, for display and for JSON bodies that carry dollars.
    /// Never computed with.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a display value; the integer stays the truth"
    )]
    pub fn as_usd_f64(self) -> f64 {
        self.0 as f64 / PER_USD as f64
    }

    /// Whether this is below zero.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
}

impl FromStr for NanoUsd {
    type Err = Error;

    /// Reads decimal dollars such as `12`, `0.000001` or `3.50` exactly; at most nine decimals.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |issue: &str| Err(Error::invalid("amount", format!("`{text}` {issue}")));
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
            return wrong("is not a decimal amount of dollars");
        }
        if fraction.len() > 9 {
            return wrong("has more than nine decimals");
        }
        let whole: i64 = if whole.is_empty() {
            0
        } else {
            match whole.parse() {
                Ok(n) => n,
                Err(_) => return wrong("is too large"),
            }
        };
        let nanos: i64 = format!("{fraction:0<9}").parse().unwrap_or(0);
        match whole
            .checked_mul(PER_USD)
            .and_then(|n| n.checked_add(nanos))
        {
            Some(total) => Ok(Self(sign * total)),
            None => wrong("is too large"),
        }
    }
}

impl fmt::Display for NanoUsd {
    /// Dollars with at least two and at most nine decimals: `$1.50`, `$0.000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let abs = self.0.unsigned_abs();
        let fraction = format!("{:09}", abs % PER_USD.unsigned_abs());
        let short = fraction.trim_end_matches('0');
        let sign = if self.0 < 0 { "-" } else { "" };
        f.pad(&format!(
            "{sign}${}.{short:0<2}",
            abs / PER_USD.unsigned_abs()
        ))
    }
}

impl Add for NanoUsd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for NanoUsd {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl AddAssign for NanoUsd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for NanoUsd {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Neg for NanoUsd {
    type Output = Self;
    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

impl Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_read_exactly() {
        for (text, nanos) in [
            ("0.000001", 1_000),
            ("12", 12_000_000_000),
            ("3.50", 3_500_000_000),
            (".5", 500_000_000),
            ("-1", -1_000_000_000),
            ("0.000000001", 1),
        ] {
            assert_eq!(text.parse::<NanoUsd>().unwrap(), NanoUsd(nanos), "{text}");
        }
        for text in [
            "",
            ".",
            "1e3",
            "0.0000000001",
            "abc",
            "99999999999999",
            "1.2.3",
            "NaN",
        ] {
            assert!(text.parse::<NanoUsd>().is_err(), "{text}");
        }
    }

    #[test]
    fn dollars_are_shown_short_and_exact() {
        assert_eq!(NanoUsd(1_500_000_000).to_string(), "$1.50");
        assert_eq!(NanoUsd(1_000).to_string(), "$0.000001");
        assert_eq!(NanoUsd(-1).to_string(), "-$0.000000001");
    }
}
