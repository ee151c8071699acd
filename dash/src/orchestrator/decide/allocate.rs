//! What callers ask of budgets: caps, thresholds, status, corrections.

use super::super::effect::Reply;
use super::Decision;
use super::budgets::in_words;
use crate::api::{BudgetOwner, BudgetStatus, NAME_MAX, check_cap, check_text};
use crate::event::{BudgetAllocated, EventSource};
use crate::ids::{AgentId, BudgetId};
use crate::model::message::TOKENS_MAX;
use crate::model::{Amount, StepKey, Thresholds, Usage};
use crate::{Error, Result};

impl Decision<'_> {
    fn budget_id_of(&self, owner: &BudgetOwner) -> Result<BudgetId> {
        let found = match owner {
            BudgetOwner::Project(name) => self.state.projects.get(name).map(|p| p.budget_id),
            BudgetOwner::Swarm(id) => self.state.budget_of.get(&id.to_string()).copied(),
            BudgetOwner::Agent(id) => self.state.budget_of.get(&id.to_string()).copied(),
            BudgetOwner::Task(id) => self.state.budget_of.get(&id.to_string()).copied(),
        };
        found.ok_or_else(|| match owner {
            BudgetOwner::Project(name) => Error::not_found("project", name),
            BudgetOwner::Swarm(id) => Error::not_found("budget of swarm", id),
            BudgetOwner::Agent(id) => Error::not_found("budget of agent", id),
            BudgetOwner::Task(id) => Error::not_found("budget of task", id),
        })
    }

    /// A budget about to be set: a project that is not there yet is made.
    fn budget_to_set(&mut self, owner: &BudgetOwner) -> Result<BudgetId> {
        match owner {
            BudgetOwner::Project(name) => {
                check_text("project", name, NAME_MAX)?;
                Ok(self.project(name).1)
            }
            BudgetOwner::Swarm(_) | BudgetOwner::Agent(_) | BudgetOwner::Task(_) => {
                self.budget_id_of(owner)
            }
        }
    }

    pub(super) fn set_thresholds(
        &mut self,
        owner: &BudgetOwner,
        thresholds: Thresholds,
    ) -> Result<Reply> {
        thresholds.validate()?;
        let id = self.budget_to_set(owner)?;
        if let Some(b) = self.state.budgets.edit(id, self.now) {
            b.thresholds = thresholds;
        }
        self.after_charge(id);
        self.budget_reply(id)
    }

    fn budget_reply(&self, id: BudgetId) -> Result<Reply> {
        match self.state.budgets.get(id) {
            Some(b) => Ok(Reply::Budget(Box::new(b.clone()))),
            None => Err(Error::not_found("budget", id)),
        }
    }

    pub(super) fn allocate(
        &mut self,
        owner: &BudgetOwner,
        allocated: Option<i64>,
    ) -> Result<Reply> {
        if let Some(cap) = allocated {
            check_cap(cap)?;
        }
        let id = self.budget_to_set(owner)?;
        let Some(b) = self.state.budgets.get(id) else {
            return Err(Error::not_found("budget", id));
        };
        let (scope, taken) = (b.scope, b.charged().saturating_add(b.reserved) - b.overrun);
        if let Some(cap) = allocated.filter(|cap| *cap < taken) {
            return Err(Error::invalid(
                "allocated",
                format!(
                    "{} are charged or held already, more than {}",
                    in_words(taken, b.currency),
                    in_words(cap, b.currency)
                ),
            ));
        }
        if let Some(b) = self.state.budgets.edit(id, self.now) {
            b.allocated = allocated;
            // Levels that are above again may fire again; ones newly reached fire below.
            b.fired = b.fired.min(b.level());
        }
        let swarm_id = self.state.budgets.get(id).and_then(|b| self.swarm_of(b));
        let source = swarm_id.map_or(EventSource::System, EventSource::Swarm);
        self.emit(
            swarm_id,
            source,
            BudgetAllocated {
                budget_id: id,
                scope,
                allocated,
            },
        );
        self.state.money_freed = true;
        self.after_charge(id);
        self.budget_reply(id)
    }

    pub(super) fn budget_status(&self, owner: &BudgetOwner) -> Result<Reply> {
        let id = self.budget_id_of(owner)?;
        let Some(budget) = self.state.budgets.get(id).cloned() else {
            return Err(Error::not_found("budget", id));
        };
        let forecast = self.forecast(&budget);
        Ok(Reply::Status(Box::new(BudgetStatus {
            budget,
            burn_per_minute: forecast.per_minute,
            projected: forecast.projected,
            exhausted_in: forecast.exhausted_in,
        })))
    }

    pub(super) fn reconcile_by_caller(
        &mut self,
        id: AgentId,
        key: StepKey,
        usage: Usage,
    ) -> Result<Reply> {
        if usage != usage.clamped() {
            return Err(Error::invalid(
                "usage",
                format!("a count is above {TOKENS_MAX}"),
            ));
        }
        let agent = self.agent(id)?;
        let Some(model) = self.state.models.get(&agent.model) else {
            let issue = format!("its model `{}` is not registered: no prices", agent.model);
            return Err(Error::conflict(issue));
        };
        let used = Amount {
            usd: model.price.cost(usage),
            tokens: usage.total(),
        };
        let Some(reservation) = self.reconcile(id, key, used) else {
            return Err(Error::not_found("uncertain charge of step", key));
        };
        self.edit_agent(id, |a| {
            a.usage += usage;
            a.cost += used.usd;
        });
        Ok(Reply::Reservation(Box::new(reservation)))
    }
}
