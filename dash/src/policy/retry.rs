//! How long to wait before the next attempt.

use std::time::Duration;

/// The delay before retry number `retry` (from 1): `base × 2^(retry − 1)`, at most `cap`, less up
/// to a quarter of it by `random` (any 64 random bits), so that agents that failed together do not
/// come back together. A server's own wish (`at_least`) wins when it is longer, up to `cap`.
#[must_use]
pub fn delay(
    retry: u32,
    base: Duration,
    cap: Duration,
    at_least: Option<Duration>,
    random: u64,
) -> Duration {
    let doublings = retry.saturating_sub(1).min(31);
    let full = base.saturating_mul(1 << doublings).min(cap);
    let quarter = u64::try_from(full.as_millis() / 4).unwrap_or(u64::MAX);
    let jitter = if quarter == 0 {
        0
    } else {
        random % (quarter + 1)
    };
    let jittered = full.saturating_sub(Duration::from_millis(jitter));
    jittered.max(at_least.unwrap_or_default().min(cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_secs(1);
    const CAP: Duration = Duration::from_secs(300);

    #[test]
    fn delays_double_up_to_the_cap() {
        let seconds: Vec<u64> = (1..=11)
            .map(|retry| delay(retry, BASE, CAP, None, 0).as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn jitter_takes_off_at_most_a_quarter() {
        for random in [1, 999, u64::MAX, 123_456_789] {
            let waited = delay(4, BASE, CAP, None, random);
            assert!((6_000..=8_000).contains(&waited.as_millis()), "{waited:?}");
        }
    }

    #[test]
    fn the_servers_wish_wins_when_longer_but_not_over_the_cap() {
        assert_eq!(
            delay(1, BASE, CAP, Some(Duration::from_secs(40)), 0).as_secs(),
            40
        );
        assert_eq!(
            delay(1, BASE, CAP, Some(Duration::from_secs(4_000)), 0),
            CAP
        );
    }
}
