//! How fast a budget burns, where it will end, and when it will be exhausted.

use std::collections::VecDeque;
use std::time::Duration;

use crate::env::UnixMillis;
use crate::model::Budget;

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(300);

/// Samples kept; closer ones than a 64th of the window are merged.
const SAMPLES_MAX: usize = 64;

/// Charges of one budget over the last five minutes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BurnWindow {
    samples: VecDeque<(UnixMillis, i64)>,
}

/// A forecast, in the budget's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// Charged per minute over the last five minutes.
    pub per_minute: i64,
    /// The predicted final charge.
    pub projected: i64,
    /// Time until the cap at this rate; `None` without a cap or without a rate.
    pub exhausted_in: Option<Duration>,
}

impl BurnWindow {
    /// Notes what is charged at an instant.
    pub fn note(&mut self, at: UnixMillis, charged: i64) {
        let merge = WINDOW.as_millis() / SAMPLES_MAX as u128;
        let several = self.samples.len() > 1;
        match self.samples.back_mut() {
            Some(last) if several && at.since(last.0).as_millis() < merge => last.1 = charged,
            _ => self.samples.push_back((at, charged)),
        }
        while self.samples.len() > SAMPLES_MAX
            || self
                .samples
                .get(1)
                .is_some_and(|second| at.since(second.0) > WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// The forecast at an instant. `done` of `total` tasks have ended: once some have, the final
    /// charge is extrapolated from them; before, the burn goes on for as long as it has lasted.
    #[must_use]
    pub fn forecast(&self, budget: &Budget, now: UnixMillis, done: u32, total: u32) -> Forecast {
        let charged = budget.charged();
        let (since, base) = match self.samples.front() {
            Some((at, charged)) => (*at, *charged),
            None => (budget.created_at, 0),
        };
        let elapsed_ms = i128::try_from(now.since(since).as_millis().max(1)).unwrap_or(i128::MAX);
        let burnt = i128::from(charged.saturating_sub(base).max(0));
        let per_minute = clamp(burnt * 60_000 / elapsed_ms);
        let projected = if total == 0 || done >= total {
            charged
        } else if done > 0 {
            clamp(i128::from(charged) * i128::from(total) / i128::from(done))
        } else {
            clamp(i128::from(charged) + burnt)
        };
        let exhausted_in = budget.allocated.filter(|_| per_minute > 0).map(|cap| {
            let left = i128::from(cap.saturating_sub(charged).max(0));
            let millis = left * 60_000 / i128::from(per_minute);
            Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
        });
        Forecast {
            per_minute,
            projected: projected.max(charged),
            exhausted_in,
        }
    }
}

fn clamp(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BudgetId;
    use crate::model::{BudgetScope, Currency, Thresholds};

    fn budget(cap: i64, spent: i64) -> Budget {
        Budget {
            id: BudgetId::from_u128(1),
            scope: BudgetScope::Swarm,
            entity_id: String::new(),
            parent_id: None,
            currency: Currency::Usd,
            allocated: Some(cap),
            spent,
            uncertain: 0,
            reserved: 0,
            overrun: 0,
            thresholds: Thresholds::default(),
            fired: 0,
            created_at: UnixMillis(0),
            updated_at: UnixMillis(0),
            version: 1,
        }
    }

    #[test]
    fn a_steady_burn_is_extrapolated() {
        let mut window = BurnWindow::default();
        for minute in 0..=4 {
            window.note(UnixMillis(minute * 60_000), minute * 100);
        }
        let forecast = window.forecast(&budget(1_000, 400), UnixMillis(240_000), 4, 8);
        assert_eq!(forecast.per_minute, 100);
        assert_eq!(forecast.projected, 800);
        assert_eq!(forecast.exhausted_in, Some(Duration::from_secs(360)));
    }

    #[test]
    fn old_burn_leaves_the_window_and_samples_stay_bounded() {
        let mut window = BurnWindow::default();
        window.note(UnixMillis(0), 0);
        for second in 1..=2_000 {
            window.note(UnixMillis(second * 1_000), 1_000_000);
        }
        assert!(window.samples.len() <= SAMPLES_MAX);
        let forecast = window.forecast(&budget(2_000_000, 1_000_000), UnixMillis(2_000_000), 0, 1);
        assert_eq!(forecast.per_minute, 0);
        assert_eq!(forecast.exhausted_in, None);
    }
}
