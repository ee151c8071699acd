//! Model calls under way per provider: who may go, who waits.

use super::Decision;
use crate::ids::AgentId;
use crate::model::AgentStatus;

impl Decision<'_> {
    /// Frees the slot of the agent's model call, if it holds one.
    pub(super) fn release_slot(&mut self, id: AgentId) {
        if self.live(id).calling.take().is_none() {
            return;
        }
        let provider = self
            .agent(id)
            .ok()
            .and_then(|a| self.state.models.get(&a.model))
            .map(|model| model.provider.clone());
        if let Some(provider) = provider {
            if let Some(gate) = self.state.gates.get_mut(&provider) {
                gate.under_way = gate.under_way.saturating_sub(1);
            }
            self.state.to_wake.insert(provider);
        }
    }

    /// Lets waiting calls go while the provider has free slots.
    pub(super) fn wake_callers(&mut self, provider: &str) {
        let max = self.state.settings.calls_per_provider_max;
        loop {
            let Some(gate) = self.state.gates.get_mut(provider) else {
                return;
            };
            if gate.under_way >= max {
                return;
            }
            let Some(id) = gate.pop() else { return };
            self.unpark(id);
        }
    }

    /// Carries on with a parked request, if its agent still runs.
    pub(super) fn unpark(&mut self, id: AgentId) {
        let runs = self
            .agent(id)
            .is_ok_and(|a| a.status == AgentStatus::Running);
        if !runs {
            return;
        }
        if let Some(parked) = self.live(id).parked.take() {
            self.proceed(id, parked.next, parked.reply);
        }
    }
}
