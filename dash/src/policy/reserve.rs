//! Reservations: whether the worst case of a model call fits every budget from leaf to root, and
//! with how many output tokens.

use crate::model::pricing::ModelPrice;
use crate::model::{Amount, Budget};

/// What a call asks of its budgets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Upper bound of the prompt's tokens.
    pub input_tokens: u64,
    /// Output tokens wanted.
    pub output_tokens: u32,
    /// Output tokens below which the call is not worth making.
    pub floor: u32,
    /// The model's prices.
    pub price: ModelPrice,
}

impl Ask {
    fn worst_case(&self, output: u32) -> Amount {
        self.price.worst_case(self.input_tokens, u64::from(output))
    }
}

/// What the budgets say to an [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It fits with this many output tokens; hold this much.
    Fits {
        /// Output tokens the call may produce.
        output_tokens: u32,
        /// What to hold on every budget of the path.
        hold: Amount,
    },
    /// It does not fit now, but will once calls under way have been settled.
    Later,
    /// It does not fit what is left, even alone. The index of the budget that refuses.
    Never {
        /// Place in the path.
        index: usize,
        /// The least the call would need, in that budget's unit.
        needed: i64,
    },
}

/// Checks an ask against the budgets of a path (any order).
///
/// The full ask is taken if it fits. Otherwise, if the call at its floor fits, the output is
/// shrunk to what fits the tightest budget; but while other calls hold reservations and the full
/// ask would fit without them, it waits instead: a shrunk answer is worse than a later one.
#[must_use]
pub fn check(path: &[&Budget], ask: &Ask) -> Verdict {
    let fits = |output: u32, left: fn(&Budget) -> Option<i64>| {
        let worst = ask.worst_case(output);
        path.iter()
            .all(|b| left(b).is_none_or(|left| worst.in_currency(b.currency) <= left))
    };
    if fits(ask.output_tokens, Budget::available) {
        return grant(ask, ask.output_tokens);
    }
    if fits(ask.output_tokens, without_held) {
        return Verdict::Later;
    }
    let floor = ask.floor.min(ask.output_tokens);
    if !fits(floor, without_held) {
        return refusal(path, ask, floor);
    }
    if !fits(floor, Budget::available) {
        return Verdict::Later;
    }
    // The largest output that fits now; costs grow with the output, so halving finds it.
    let (mut low, mut high) = (floor, ask.output_tokens);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle, Budget::available) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    grant(ask, low)
}

fn grant(ask: &Ask, output_tokens: u32) -> Verdict {
    Verdict::Fits {
        output_tokens,
        hold: ask.worst_case(output_tokens),
    }
}

fn refusal(path: &[&Budget], ask: &Ask, floor: u32) -> Verdict {
    let worst = ask.worst_case(floor);
    let index = path
        .iter()
        .position(|b| without_held(b).is_some_and(|left| worst.in_currency(b.currency) > left))
        .unwrap_or(0);
    let needed = path.get(index).map_or(0, |b| worst.in_currency(b.currency));
    Verdict::Never { index, needed }
}

/// What would be left if every call under way cost nothing.
fn without_held(budget: &Budget) -> Option<i64> {
    budget
        .allocated
        .map(|cap| cap.saturating_sub(budget.charged()).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::UnixMillis;
    use crate::ids::BudgetId;
    use crate::model::{BudgetScope, Currency, NanoUsd, Thresholds};
    use proptest::prelude::*;

    fn budget(allocated: Option<i64>, spent: i64, reserved: i64) -> Budget {
        Budget {
            id: BudgetId::from_u128(1),
            scope: BudgetScope::Swarm,
            entity_id: String::new(),
            parent_id: None,
            currency: Currency::Usd,
            allocated,
            spent,
            uncertain: 0,
            reserved,
            overrun: 0,
            thresholds: Thresholds::default(),
            fired: 0,
            created_at: UnixMillis(0),
            updated_at: UnixMillis(0),
            version: 1,
        }
    }

    /// One nano-dollar a token, in and out.
    fn ask(input: u64, output: u32, floor: u32) -> Ask {
        let price = ModelPrice {
            input: NanoUsd(1_000_000),
            output: NanoUsd(1_000_000),
            ..ModelPrice::default()
        };
        Ask {
            input_tokens: input,
            output_tokens: output,
            floor,
            price,
        }
    }

    fn verdict(allocated: i64, spent: i64, reserved: i64) -> Verdict {
        check(
            &[
                &budget(None, 0, 0),
                &budget(Some(allocated), spent, reserved),
            ],
            &ask(10, 100, 20),
        )
    }

    #[test]
    fn a_call_is_granted_shrunk_held_back_or_refused() {
        let fits = |n| matches!(n, Verdict::Fits { .. });
        assert!(fits(verdict(110, 0, 0)));
        // 60 left, nobody else: shrunk to 50 of output.
        let Verdict::Fits {
            output_tokens,
            hold,
        } = verdict(100, 40, 0)
        else {
            panic!()
        };
        assert_eq!((output_tokens, hold.usd), (50, NanoUsd(60)));
        // The rest is only held by others: wait.
        assert_eq!(verdict(200, 0, 150), Verdict::Later);
        assert_eq!(verdict(100, 40, 50), Verdict::Later);
        // 29 left for good, 30 needed at least.
        assert_eq!(
            verdict(100, 71, 0),
            Verdict::Never {
                index: 1,
                needed: 30
            }
        );
    }

    #[test]
    fn a_cap_of_zero_refuses_and_a_free_model_passes_it() {
        assert!(matches!(verdict(0, 0, 0), Verdict::Never { .. }));
        let free = Ask {
            price: ModelPrice::default(),
            ..ask(10, 100, 20)
        };
        assert!(matches!(
            check(&[&budget(Some(0), 0, 0)], &free),
            Verdict::Fits { .. }
        ));
    }

    proptest! {
        #[test]
        fn what_is_granted_never_exceeds_what_is_left(
            cap in 0_i64..5_000, spent in 0_i64..5_000, held in 0_i64..5_000,
            input in 0_u64..2_000, output in 1_u32..2_000, floor in 1_u32..2_000,
        ) {
            let b = budget(Some(cap), spent.min(cap), held.min(cap - spent.min(cap)));
            let ask = ask(input, output, floor);
            match check(&[&b], &ask) {
                Verdict::Fits { output_tokens, hold } => {
                    prop_assert!(hold.usd.0 <= b.available().unwrap());
                    prop_assert!(output_tokens >= floor.min(output) && output_tokens <= output);
                }
                Verdict::Later => prop_assert!(b.reserved > 0),
                Verdict::Never { needed, .. } => prop_assert!(needed > cap - b.charged()),
            }
        }
    }
}
