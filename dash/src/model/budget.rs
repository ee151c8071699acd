//! Budgets: a tree of caps (project > swarm > agent > task) and what is held against them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NanoUsd, StepKey, Version};
use crate::env::UnixMillis;
use crate::ids::{AgentId, BudgetId, ReservationId};

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum Currency {
    /// Nano-dollars.
    #[default]
    #[serde(rename = "USD")]
    Usd,
    /// Tokens, input and output together.
    #[serde(rename = "tokens")]
    Tokens,
}

impl Currency {
    /// The wire and SQL form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usd => "USD",
            Self::Tokens => "tokens",
        }
    }
}

/// What a call costs or may cost, in both currencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Amount {
    /// Money.
    pub usd: NanoUsd,
    /// Tokens.
    pub tokens: u64,
}

impl Amount {
    /// The part a budget of `currency` counts, in its unit (nano-dollars or tokens).
    #[must_use]
    pub fn in_currency(self, currency: Currency) -> i64 {
        match currency {
            Currency::Usd => self.usd.0,
            Currency::Tokens => i64::try_from(self.tokens).unwrap_or(i64::MAX),
        }
    }
}

/// Whose budget it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetScope {
    /// A project's.
    Project,
    /// A swarm's.
    Swarm,
    /// An agent's.
    Agent,
    /// A task's.
    Task,
}

impl BudgetScope {
    /// The wire and SQL form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Swarm => "swarm",
            Self::Agent => "agent",
            Self::Task => "task",
        }
    }
}

/// What happens when a threshold is crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdAction {
    /// Nothing.
    None,
    /// An event.
    Notify,
    /// An event, and everything below the budget is paused.
    Pause,
    /// An event, and everything below the budget is killed.
    Kill,
}

impl ThresholdAction {
    /// The wire and SQL form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Notify => "notify",
            Self::Pause => "pause",
            Self::Kill => "kill",
        }
    }
}

/// The three thresholds of a budget, in per cent of the cap, and their actions. Each fires once
/// per crossing: again only after a raised cap has brought the level below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Thresholds {
    /// Warning level, 1 to 100.
    pub warning: u32,
    /// What a warning does.
    pub warning_action: ThresholdAction,
    /// Critical level, 1 to 100.
    pub critical: u32,
    /// What reaching it does.
    pub critical_action: ThresholdAction,
    /// Hard-stop level, 1 to 100.
    pub hard_stop: u32,
    /// What reaching it does.
    pub hard_stop_action: ThresholdAction,
}

impl Thresholds {
    /// Checks that levels lie in 1 to 100 and do not fall.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) with the field.
    pub fn validate(&self) -> crate::Result<()> {
        for (field, level) in [
            ("budget.thresholds.warning", self.warning),
            ("budget.thresholds.critical", self.critical),
            ("budget.thresholds.hardStop", self.hard_stop),
        ] {
            if !(1..=100).contains(&level) {
                let issue = format!("must be between 1 and 100, is {level}");
                return Err(crate::Error::invalid(field, issue));
            }
        }
        if self.warning > self.critical || self.critical > self.hard_stop {
            let issue = "levels must not fall from warning to critical to hard stop";
            return Err(crate::Error::invalid("budget.thresholds", issue));
        }
        Ok(())
    }
}

impl Default for Thresholds {
    /// 75 notify, 90 pause, 100 kill (the design, section 4.6). A run that nobody watches should
    /// set `critical_action` to `notify`, or it waits at 90 for someone to resume it.
    fn default() -> Self {
        Self {
            warning: 75,
            warning_action: ThresholdAction::Notify,
            critical: 90,
            critical_action: ThresholdAction::Pause,
            hard_stop: 100,
            hard_stop_action: ThresholdAction::Kill,
        }
    }
}

/// One budget node's row. Amounts are in the unit of `currency`.
///
/// Invariant, also a `CHECK` of the database:
/// `spent + uncertain + reserved <= allocated + overrun`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Its id.
    pub id: BudgetId,
    /// Whose it is.
    pub scope: BudgetScope,
    /// The id of the project, swarm, agent or task, as text.
    pub entity_id: String,
    /// The node above.
    pub parent_id: Option<BudgetId>,
    /// What it counts.
    pub currency: Currency,
    /// The cap; `None` = only counted, never refused here.
    pub allocated: Option<i64>,
    /// Settled with actual usage.
    pub spent: i64,
    /// Charged at worst case, because the call's outcome was lost (a crash, a kill). May have been
    /// billed; counts against the cap.
    pub uncertain: i64,
    /// Held for calls under way.
    pub reserved: i64,
    /// How far servers reported more than the worst case reserved; zero unless a server breaks its
    /// own `max_tokens`.
    pub overrun: i64,
    /// Levels and actions.
    pub thresholds: Thresholds,
    /// The highest threshold level that has fired since the level was last below it.
    pub fired: u32,
    /// When the row was made.
    pub created_at: UnixMillis,
    /// When the row was last written.
    pub updated_at: UnixMillis,
    /// How often the row was written.
    pub version: Version,
}

impl Budget {
    /// What counts against the cap for good: settled and uncertain.
    #[must_use]
    pub const fn charged(&self) -> i64 {
        self.spent.saturating_add(self.uncertain)
    }

    /// What is left for new reservations; `None` = no cap.
    #[must_use]
    pub fn available(&self) -> Option<i64> {
        self.allocated.map(|cap| {
            cap.saturating_sub(self.charged())
                .saturating_sub(self.reserved)
                .max(0)
        })
    }

    /// Charged part of the cap in whole per cent, rounded down; 0 without a cap.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self.allocated {
            Some(cap) if cap > 0 => {
                let percent = i128::from(self.charged()) * 100 / i128::from(cap);
                u32::try_from(percent.clamp(0, 1_000)).unwrap_or(1_000)
            }
            Some(_) if self.charged() > 0 => 100,
            Some(_) | None => 0,
        }
    }
}

status! {
    /// What became of a reservation.
    ReservationState, "reservation" {
        /// Held for a call under way.
        Held = "held" => [Settled, Released, Uncertain];
        /// Replaced by the actual usage.
        Settled = "settled" => [] terminal;
        /// Given back: the call never reached a server that bills.
        Released = "released" => [] terminal;
        /// The outcome was lost; charged at worst case until someone reconciles it.
        Uncertain = "uncertain" => [Settled] terminal;
    }
}

/// One reservation's row: what a model call may cost, held on every budget from the root to the
/// leaf, and what it did cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// Its id.
    pub id: ReservationId,
    /// The lowest budget of the path it is held on.
    pub budget_id: BudgetId,
    /// The agent that makes the call.
    pub agent_id: AgentId,
    /// The step that makes the call.
    pub step: StepKey,
    /// What became of it.
    pub state: ReservationState,
    /// The worst case.
    pub held: Amount,
    /// The actual usage, once settled.
    pub actual: Option<Amount>,
    /// When it was made.
    pub created_at: UnixMillis,
}
