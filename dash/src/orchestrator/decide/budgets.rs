//! The ledger: reservations from leaf to root, settlement, thresholds.

use super::Decision;
use crate::api::BUDGET_EXCEEDED;
use crate::event::{BudgetExceeded, BudgetOverrun, BudgetReconciled, BudgetThreshold, EventSource};
use crate::ids::{AgentId, BudgetId, ReservationId, SwarmId, TaskId};
use crate::model::budget::{ReservationState, ThresholdAction};
use crate::model::pricing::ModelPrice;
use crate::model::{
    AgentStatus, Amount, Budget, BudgetScope, Currency, NanoUsd, Reservation, StepKey, SwarmStatus,
    TaskStatus,
};
use crate::mutation::{self, Mutation};
use crate::policy::reserve::{self, Ask, Verdict};
use crate::spawn::ModelIntent;

/// What became of a request for money.
pub(super) enum Reserved {
    /// Held, with this many output tokens.
    Held { output_tokens: u32 },
    /// Others hold what it needs; it waits.
    Later,
    /// Refused, and the budget's action was to pause: the agent is held.
    Paused,
    /// Refused; the agent has ended.
    Refused,
}

impl Decision<'_> {
    /// The budgets of an agent, leaf first.
    pub(super) fn path_of(&self, agent: AgentId) -> Vec<&Budget> {
        let mut path = Vec::with_capacity(4);
        let mut at = self.state.live.get(&agent).and_then(|live| live.budget_id);
        while let Some(budget) = at.and_then(|id| self.state.budgets.get(id)) {
            path.push(budget);
            at = budget.parent_id;
        }
        path
    }

    fn path_ids(&self, from: BudgetId) -> Vec<BudgetId> {
        let mut path = Vec::with_capacity(4);
        let mut at = Some(from);
        while let Some(budget) = at.and_then(|id| self.state.budgets.get(id)) {
            path.push(budget.id);
            at = budget.parent_id;
        }
        path
    }

    /// Makes a task's own budget the agent's leaf. Only agents without a budget of their own take
    /// such tasks, so that one path of parents holds all that counts.
    pub(super) fn attach_task_budget(&mut self, agent: AgentId, task: TaskId) {
        if let Some(id) = self.state.budget_of.get(&task.to_string()).copied() {
            self.live(agent).budget_id = Some(id);
        }
    }

    /// Whether an agent and a task both have a budget of their own.
    pub(super) fn both_have_budgets(&self, agent: AgentId, task: TaskId) -> bool {
        self.state.budget_of.contains_key(&agent.to_string())
            && self.state.budget_of.contains_key(&task.to_string())
    }

    /// Holds the worst case of a call on every budget of the agent's path.
    pub(super) fn reserve(
        &mut self,
        agent: AgentId,
        step: StepKey,
        input_tokens: u64,
        intent: &ModelIntent,
        price: &ModelPrice,
    ) -> Reserved {
        let ask = Ask {
            input_tokens,
            output_tokens: intent.output_tokens,
            floor: intent.output_tokens_floor,
            price: price.clone(),
        };
        let path = self.path_of(agent);
        let verdict = if mutation::active(Mutation::IgnoreCaps) {
            reserve::check(&[], &ask)
        } else {
            reserve::check(&path, &ask)
        };
        match verdict {
            Verdict::Fits {
                output_tokens,
                hold,
            } => {
                let Some(leaf) = path.first().map(|b| b.id) else {
                    return Reserved::Held { output_tokens };
                };
                self.hold(agent, step, leaf, hold);
                Reserved::Held { output_tokens }
            }
            Verdict::Later => Reserved::Later,
            Verdict::Never { index, needed } => match path.get(index).map(|b| b.id) {
                Some(budget) => self.refuse(agent, budget, needed),
                None => Reserved::Later,
            },
        }
    }

    fn hold(&mut self, agent: AgentId, step: StepKey, leaf: BudgetId, held: Amount) {
        let reservation = Reservation {
            id: ReservationId::from_u128(self.id()),
            budget_id: leaf,
            agent_id: agent,
            step,
            state: ReservationState::Held,
            held,
            actual: None,
            created_at: self.now,
        };
        for id in self.path_ids(leaf) {
            if let Some(b) = self.state.budgets.edit(id, self.now) {
                b.reserved = b.reserved.saturating_add(held.in_currency(b.currency));
            }
        }
        self.state
            .out
            .changes
            .reservations
            .push(reservation.clone());
        self.live(agent).held.insert(reservation.id, reservation);
    }

    /// A call that does not fit even alone: the event, then what the budget says shall happen.
    fn refuse(&mut self, agent: AgentId, budget: BudgetId, needed: i64) -> Reserved {
        let Some(b) = self.state.budgets.get(budget).cloned() else {
            return Reserved::Later;
        };
        let exceeded = BudgetExceeded {
            swarm_id: self.agent(agent).ok().map(|a| a.swarm_id),
            budget_id: budget,
            scope: b.scope,
            currency: b.currency,
            agent_id: agent,
            requested: shown(needed, b.currency),
            spent: shown(b.charged(), b.currency),
            allocated: shown(b.allocated.unwrap_or_default(), b.currency),
            projected: shown(self.forecast(&b).projected, b.currency),
        };
        self.emit_agent(agent, exceeded);
        let left = b.available().unwrap_or_default();
        let error = format!(
            "{BUDGET_EXCEEDED}: the {}'s budget has {} left of {}, the next call needs {}",
            b.scope.as_str(),
            in_words(left, b.currency),
            in_words(b.allocated.unwrap_or_default(), b.currency),
            in_words(needed, b.currency),
        );
        match b.thresholds.hard_stop_action {
            ThresholdAction::Pause => {
                self.act(&b, ThresholdAction::Pause, &error);
                Reserved::Paused
            }
            action @ (ThresholdAction::Kill | ThresholdAction::Notify | ThresholdAction::None) => {
                // A swarm's or project's end is told as such; its agent is only part of it.
                if action == ThresholdAction::Kill {
                    self.act(&b, action, &error);
                }
                self.fail_agent(agent, &error);
                Reserved::Refused
            }
        }
    }

    /// The reservation that a step holds.
    pub(super) fn held_by(&self, agent: AgentId, step: StepKey) -> Option<ReservationId> {
        let held = &self.state.live.get(&agent)?.held;
        let holds = |r: &&Reservation| r.step == step && r.state == ReservationState::Held;
        held.values().find(holds).map(|r| r.id)
    }

    /// Ends the reservation of a step: with what was used, or at worst case if that is unknown.
    pub(super) fn settle_step(&mut self, agent: AgentId, step: StepKey, used: Option<Amount>) {
        let used =
            used.or_else(|| mutation::active(Mutation::UncertainIsFree).then(Amount::default));
        let held = self.held_by(agent, step);
        let Some(mut reservation) = held.and_then(|id| self.live(agent).held.remove(&id)) else {
            return;
        };
        reservation.actual = used;
        reservation.state = match used {
            Some(used) if used == Amount::default() => ReservationState::Released,
            Some(_) => ReservationState::Settled,
            None => ReservationState::Uncertain,
        };
        let held = reservation.held;
        for id in self.path_ids(reservation.budget_id) {
            if let Some(b) = self.state.budgets.edit(id, self.now) {
                let currency = b.currency;
                let is_kept = mutation::active(Mutation::KeepReservation);
                if !(is_kept && used == Some(Amount::default())) {
                    b.reserved = b.reserved.saturating_sub(held.in_currency(currency));
                }
                match used {
                    Some(used) => charge(b, used.in_currency(currency)),
                    None => {
                        b.uncertain = b.uncertain.saturating_add(held.in_currency(currency));
                    }
                }
            }
        }
        if let Some(used) = used {
            self.tell_overrun(agent, step, held, used);
        }
        let leaf = reservation.budget_id;
        if reservation.state == ReservationState::Uncertain {
            // Kept while its agent's task runs: the call may still report what it used.
            self.live(agent)
                .held
                .insert(reservation.id, reservation.clone());
        }
        self.state.out.changes.reservations.push(reservation);
        self.state.money_freed = true;
        self.after_charge(leaf);
    }

    /// Says so if a server used more than the worst case that was held.
    fn tell_overrun(&mut self, agent: AgentId, step: StepKey, held: Amount, used: Amount) {
        let excess = used.usd.0.saturating_sub(held.usd.0);
        if excess > 0 {
            let overrun = BudgetOverrun {
                agent_id: agent,
                step,
                excess_nanos: excess,
            };
            self.emit_agent(agent, overrun);
        }
    }

    /// Replaces the oldest uncertain charge of a step by what became known; `None` if there is none.
    pub(super) fn reconcile(
        &mut self,
        agent: AgentId,
        step: StepKey,
        used: Amount,
    ) -> Option<Reservation> {
        let uncertain = |r: &&Reservation| r.step == step && r.state == ReservationState::Uncertain;
        let held = &mut self.live(agent).held;
        let id = held.values().filter(uncertain).map(|r| r.id).min()?;
        let mut reservation = held.remove(&id)?;
        let held = reservation.held;
        for id in self.path_ids(reservation.budget_id) {
            if let Some(b) = self.state.budgets.edit(id, self.now) {
                let currency = b.currency;
                b.uncertain = b.uncertain.saturating_sub(held.in_currency(currency));
                charge(b, used.in_currency(currency));
            }
        }
        reservation.state = ReservationState::Settled;
        reservation.actual = Some(used);
        self.state
            .out
            .changes
            .reservations
            .push(reservation.clone());
        let reconciled = BudgetReconciled {
            agent_id: agent,
            step,
            uncertain_nanos: held.usd.0,
            actual_nanos: used.usd.0,
        };
        self.emit_agent(agent, reconciled);
        self.tell_overrun(agent, step, held, used);
        self.state.money_freed = true;
        self.after_charge(reservation.budget_id);
        Some(reservation)
    }

    /// Notes the burn and fires the thresholds that a charge has crossed.
    pub(super) fn after_charge(&mut self, leaf: BudgetId) {
        for id in self.path_ids(leaf) {
            let Some(b) = self.state.budgets.get(id) else {
                continue;
            };
            let (charged, level, fired) = (b.charged(), b.level(), b.fired);
            let thresholds = b.thresholds;
            self.state
                .burn
                .entry(id)
                .or_default()
                .note(self.now, charged);
            for (threshold, action) in [
                (thresholds.warning, thresholds.warning_action),
                (thresholds.critical, thresholds.critical_action),
                (thresholds.hard_stop, thresholds.hard_stop_action),
            ] {
                if level >= threshold && threshold > fired {
                    self.fire(id, threshold, action);
                }
            }
        }
    }

    fn fire(&mut self, id: BudgetId, threshold: u32, action: ThresholdAction) {
        if let Some(b) = self.state.budgets.edit(id, self.now) {
            b.fired = threshold;
        }
        let Some(b) = self.state.budgets.get(id).cloned() else {
            return;
        };
        if action == ThresholdAction::None {
            return;
        }
        let swarm_id = self.swarm_of(&b);
        let event = BudgetThreshold {
            swarm_id,
            budget_id: id,
            scope: b.scope,
            currency: b.currency,
            threshold,
            action,
            spent: shown(b.charged(), b.currency),
            allocated: shown(b.allocated.unwrap_or_default(), b.currency),
            projected: shown(self.forecast(&b).projected, b.currency),
        };
        let source = swarm_id.map_or(EventSource::System, EventSource::Swarm);
        self.emit(swarm_id, source, event);
        let reason = match action {
            ThresholdAction::Kill => format!("{BUDGET_EXCEEDED}: {threshold} % are used up"),
            _ => format!("its budget is used up to {threshold} %"),
        };
        self.act(&b, action, &reason);
    }

    /// Pauses or ends what a budget pays for.
    fn act(&mut self, budget: &Budget, action: ThresholdAction, reason: &str) {
        let mut swarms: Vec<SwarmId> = match budget.scope {
            BudgetScope::Project => self
                .state
                .swarms
                .iter()
                .filter(|s| !s.status.is_terminal() && s.project_id.to_string() == budget.entity_id)
                .map(|s| s.id)
                .collect(),
            BudgetScope::Swarm => self.swarm_of(budget).into_iter().collect(),
            BudgetScope::Agent | BudgetScope::Task => {
                self.act_on_agent(budget, action, reason);
                return;
            }
        };
        swarms.sort_unstable();
        for swarm in swarms {
            let active = self
                .swarm(swarm)
                .is_ok_and(|s| s.status == SwarmStatus::Active);
            match action {
                ThresholdAction::Kill => self.fail_swarm(swarm, reason),
                // Pausing an active swarm is always legal.
                ThresholdAction::Pause if active => drop(self.pause_swarm(swarm, reason)),
                ThresholdAction::Pause | ThresholdAction::Notify | ThresholdAction::None => {}
            }
        }
    }

    fn act_on_agent(&mut self, budget: &Budget, action: ThresholdAction, reason: &str) {
        let agent = match budget.scope {
            BudgetScope::Task => {
                let task: Option<TaskId> = budget.entity_id.parse().ok();
                task.and_then(|id| self.task(id).ok())
                    .and_then(|t| t.agent_id)
            }
            _ => budget.entity_id.parse().ok(),
        };
        let Some(agent) = agent else { return };
        match action {
            ThresholdAction::Kill => self.fail_agent_and_stop(agent, reason),
            ThresholdAction::Pause => self.pause_with_children(agent, reason),
            ThresholdAction::Notify | ThresholdAction::None => {}
        }
    }

    /// Pauses an agent and all below it, as far as they are at work.
    fn pause_with_children(&mut self, id: AgentId, reason: &str) {
        let Ok(agent) = self.agent(id) else { return };
        let (swarm, status) = (agent.swarm_id, agent.status);
        if status.can_become(AgentStatus::Paused) {
            // Just checked, so it cannot fail.
            drop(self.pause_agent(id, reason));
        }
        for other in self.agents_of(swarm) {
            if self.agent(other).is_ok_and(|a| a.parent_id == Some(id)) {
                self.pause_with_children(other, reason);
            }
        }
    }

    fn fail_agent_and_stop(&mut self, agent: AgentId, reason: &str) {
        let attached = self.live(agent).attached;
        self.fail_agent(agent, reason);
        if attached {
            self.effect(super::super::effect::Effect::Cancel(agent));
        }
    }

    /// The swarm that a budget belongs to, if it is a swarm's or below one.
    pub(super) fn swarm_of(&self, budget: &Budget) -> Option<SwarmId> {
        match budget.scope {
            BudgetScope::Project => None,
            BudgetScope::Swarm => budget.entity_id.parse().ok(),
            BudgetScope::Agent => {
                let agent: AgentId = budget.entity_id.parse().ok()?;
                self.agent(agent).ok().map(|a| a.swarm_id)
            }
            BudgetScope::Task => {
                let task: TaskId = budget.entity_id.parse().ok()?;
                self.task(task).ok().map(|t| t.swarm_id)
            }
        }
    }

    /// Lets waiting calls try again, first come first served within a swarm.
    pub(super) fn wake_budget_waiters(&mut self) {
        let swarms: Vec<SwarmId> = self.state.budget_waiters.keys().copied().collect();
        for swarm in swarms {
            while let Some(queue) = self.state.budget_waiters.get_mut(&swarm) {
                let Some(id) = queue.pop_front() else {
                    self.state.budget_waiters.remove(&swarm);
                    break;
                };
                let length = queue.len();
                self.unpark(id);
                // Back in the queue: what is left does not do for the first in line.
                let Some(queue) = self.state.budget_waiters.get_mut(&swarm) else {
                    break;
                };
                if queue.len() > length {
                    queue.rotate_right(1);
                    break;
                }
            }
        }
    }

    pub(super) fn forecast(&self, budget: &Budget) -> crate::policy::burn::Forecast {
        let plan = self
            .swarm_of(budget)
            .and_then(|id| self.state.plans.get(&id));
        let (done, total) = plan.map_or((0, 0), |plan| {
            let done = plan
                .tasks
                .iter()
                .filter(|t| {
                    self.task(**t)
                        .is_ok_and(|t| t.status == TaskStatus::Completed)
                })
                .count();
            (done, plan.tasks.len())
        });
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let window = self.state.burn.get(&budget.id).cloned().unwrap_or_default();
        // Without tasks to extrapolate from, the burn goes on for as long as it has lasted.
        let total = if total == 0 { 1 } else { total };
        window.forecast(budget, self.now, count(done), count(total))
    }
}

/// Adds actual usage; what exceeds the cap can only come from a server that broke its own limit,
/// and is recorded as such.
fn charge(budget: &mut Budget, used: i64) {
    budget.spent = budget.spent.saturating_add(used);
    if let Some(cap) = budget.allocated {
        let taken = budget.charged().saturating_add(budget.reserved);
        let over = taken.saturating_sub(cap);
        budget.overrun = budget.overrun.max(over);
    }
}

/// An amount as a float for events: dollars or tokens.
#[expect(
    clippy::cast_precision_loss,
    reason = "a display value; the row has the integer"
)]
fn shown(amount: i64, currency: Currency) -> f64 {
    match currency {
        Currency::Usd => NanoUsd(amount).as_usd_f64(),
        Currency::Tokens => amount as f64,
    }
}

pub(super) fn in_words(amount: i64, currency: Currency) -> String {
    match currency {
        Currency::Usd => NanoUsd(amount).to_string(),
        Currency::Tokens => format!("{amount} tokens"),
    }
}
