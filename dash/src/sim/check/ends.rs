//! What holds when all is over.

use std::collections::BTreeMap;

use super::rows::acknowledged_write_is_there;
use super::{Broken, Found, History};
use crate::ids::BudgetId;
use crate::model::Amount;
use crate::model::budget::ReservationState;

/// Every check of an end, and once more the one of what callers were told.
///
/// # Errors
///
/// The first that does not hold.
pub fn all(history: &History) -> Found {
    acknowledged_writes_are_kept(history)?;
    everything_ends(history)?;
    tasks_of_finished_swarms_are_terminal(history)?;
    no_agent_is_orphaned(history)?;
    reservations_sum_to_zero_at_the_end(history)?;
    bills_are_charged(history)
}

/// What callers were told is still there.
///
/// # Errors
///
/// If something is not.
pub fn acknowledged_writes_are_kept(history: &History) -> Found {
    history
        .acks
        .iter()
        .try_for_each(|ack| acknowledged_write_is_there(history, *ack))
}

/// Every swarm has ended.
///
/// # Errors
///
/// If one has not.
pub fn everything_ends(history: &History) -> Found {
    for swarm in history.swarms.values() {
        if !swarm.status.is_terminal() {
            let why = format!("{} ({}) is `{}`", swarm.name, swarm.strategy, swarm.status);
            return Err(Broken::new("everything_ends", why));
        }
    }
    Ok(())
}

/// No task of a swarm that has ended is open.
///
/// # Errors
///
/// If one is.
pub fn tasks_of_finished_swarms_are_terminal(history: &History) -> Found {
    for task in history.tasks.values().filter(|t| !t.status.is_terminal()) {
        let swarm = history.swarms.get(&task.swarm_id);
        if swarm.is_none_or(|swarm| swarm.status.is_terminal()) {
            let why = format!("task {} ({}) is `{}`", task.id, task.key, task.status);
            return Err(Broken::new("tasks_of_finished_swarms_are_terminal", why));
        }
    }
    Ok(())
}

/// No agent is alive in a swarm that has ended, or below an agent that has.
///
/// # Errors
///
/// If one is.
pub fn no_agent_is_orphaned(history: &History) -> Found {
    for agent in history.agents.values().filter(|a| !a.status.is_terminal()) {
        let swarm = history.swarms.get(&agent.swarm_id);
        let no_swarm = swarm.is_none_or(|swarm| swarm.status.is_terminal());
        let parent = agent.parent_id.and_then(|id| history.agents.get(&id));
        let no_parent = parent.is_some_and(|parent| parent.status.is_terminal());
        if no_swarm || no_parent {
            let why = format!("agent {} ({}) is `{}`", agent.id, agent.name, agent.status);
            return Err(Broken::new("no_agent_is_orphaned", why));
        }
    }
    Ok(())
}

/// Nothing is held any more, and what each budget has charged is the sum of what was settled or is
/// uncertain below it.
///
/// # Errors
///
/// If something is held, or a sum is wrong.
pub fn reservations_sum_to_zero_at_the_end(history: &History) -> Found {
    const NAME: &str = "reservations_sum_to_zero_at_the_end";
    let mut sums: BTreeMap<BudgetId, (i64, i64)> = BTreeMap::new();
    for row in history.reservations.values() {
        if row.state == ReservationState::Held {
            let why = format!("{} of {}/{} is held", row.id, row.agent_id, row.step);
            return Err(Broken::new(NAME, why));
        }
        let mut at = Some(row.budget_id);
        while let Some(budget) = at.and_then(|id| history.budgets.get(&id)) {
            let (spent, uncertain) = sums.entry(budget.id).or_default();
            if row.state == ReservationState::Uncertain {
                *uncertain += row.held.in_currency(budget.currency);
            } else {
                *spent += row.actual.unwrap_or_default().in_currency(budget.currency);
            }
            at = budget.parent_id;
        }
    }
    for budget in history.budgets.values() {
        let (spent, uncertain) = sums.get(&budget.id).copied().unwrap_or_default();
        if (budget.spent, budget.uncertain, budget.reserved) != (spent, uncertain, 0) {
            let why = format!(
                "the {} budget {} says spent {}, uncertain {}, reserved {}; its reservations add \
                 up to {spent} and {uncertain}",
                budget.scope.as_str(),
                budget.id,
                budget.spent,
                budget.uncertain,
                budget.reserved
            );
            return Err(Broken::new(NAME, why));
        }
    }
    Ok(())
}

/// What was really billed is charged: part of `spent_is_within_caps`.
///
/// # Errors
///
/// If a step was billed more than its reservations charge. A server that broke its own limit is
/// left out where the call was lost: its budget could not know.
pub fn bills_are_charged(history: &History) -> Found {
    for (key, bills) in &history.bills {
        let Some((agent, step)) = History::step_of(key) else {
            continue;
        };
        let (mut charged, mut is_lost) = (Amount::default(), false);
        for row in history.reservations_of(agent, step) {
            let counts = match row.state {
                ReservationState::Uncertain | ReservationState::Held => row.held,
                ReservationState::Settled | ReservationState::Released => {
                    row.actual.unwrap_or_default()
                }
            };
            is_lost |= row.state == ReservationState::Uncertain;
            charged.usd.0 += counts.usd.0;
            charged.tokens += counts.tokens;
        }
        let usd: i64 = bills.iter().map(|bill| bill.amount.usd.0).sum();
        let tokens: u64 = bills.iter().map(|bill| bill.amount.tokens).sum();
        let is_over = is_lost && bills.iter().any(|bill| bill.is_over);
        if !is_over && (usd > charged.usd.0 || tokens > charged.tokens) {
            let why = format!(
                "{key} was billed {usd} nano-dollars and {tokens} tokens, charged {} and {}",
                charged.usd.0, charged.tokens
            );
            return Err(Broken::new("spent_is_within_caps", why));
        }
    }
    Ok(())
}
