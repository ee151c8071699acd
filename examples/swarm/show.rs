//! What the person sees: progress while the swarm runs, a table at the end.

use std::collections::HashMap;
use std::path::Path;

use dash::event::{Event, EventKind};
use dash::ids::AgentId;
use dash::model::{Agent, Budget, Currency, NanoUsd, Swarm, SwarmStatus};

/// Turns events into lines.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    names: HashMap<AgentId, String>,
    began_ms: Option<i64>,
}

impl Progress {
    /// The line that shows an event; `None` for what would only be noise.
    pub(crate) fn line(&mut self, event: &Event) -> Option<String> {
        let began = *self.began_ms.get_or_insert(event.at.0);
        if let EventKind::AgentSpawned(e) = &event.kind {
            self.names.insert(e.agent_id, e.name.clone());
        }
        let name = |id: &AgentId| {
            self.names
                .get(id)
                .cloned()
                .unwrap_or_else(|| id.to_string())
        };
        let (who, what) = match &event.kind {
            EventKind::AgentStarted(e) => {
                let how = if e.resumed { "goes on" } else { "starts" };
                (name(&e.agent_id), how.to_owned())
            }
            EventKind::AgentTurn(e) => {
                let tokens = e.usage.total();
                (
                    name(&e.agent_id),
                    format!("{} {tokens} tokens, {}", e.step, NanoUsd(e.cost_nanos)),
                )
            }
            EventKind::ToolCompleted(e) => {
                let result = if e.is_error { "failed" } else { "ok" };
                (name(&e.agent_id), format!("{} {} {result}", e.step, e.tool))
            }
            EventKind::AgentRetrying(e) => (
                name(&e.agent_id),
                format!("retries in {} ms: {}", e.delay_ms, e.error),
            ),
            EventKind::AgentCompleted(e) => (name(&e.agent_id), "is done".to_owned()),
            EventKind::AgentFailed(e) => (name(&e.agent_id), format!("failed: {}", e.error)),
            EventKind::StepInDoubt(e) => (
                name(&e.agent_id),
                format!("{} {} is in doubt", e.step, e.tool),
            ),
            EventKind::BudgetThreshold(e) => {
                ("budget".to_owned(), format!("{} % used", e.threshold))
            }
            EventKind::BudgetExceeded(_) => ("budget".to_owned(), "exceeded".to_owned()),
            EventKind::SystemRecovered(e) => (
                "engine".to_owned(),
                format!(
                    "recovered: {} agents go on, {} steps run again, {} in doubt",
                    e.agents_resumed, e.steps_rerun, e.steps_in_doubt
                ),
            ),
            EventKind::SwarmCompleted(_) => ("swarm".to_owned(), "completed".to_owned()),
            EventKind::SwarmFailed(e) => ("swarm".to_owned(), format!("failed: {}", e.error)),
            _ => return None,
        };
        let (ms, seq) = (event.at.0 - began, event.seq);
        Some(format!(
            "{:>4}.{:03}s  #{seq:<5} {who:<12} {what}",
            ms / 1_000,
            ms % 1_000
        ))
    }
}

/// The table at the end.
pub(crate) fn table(
    swarm: &Swarm,
    agents: &[Agent],
    budget: &Budget,
    events: usize,
    db: &Path,
    report: &Path,
) -> String {
    let turns: u32 = agents.iter().map(|a| a.turns).sum();
    let calls: u32 = agents.iter().map(|a| a.tool_calls).sum();
    let tokens: u64 = agents.iter().map(|a| a.usage.total()).sum();
    let cost: NanoUsd = agents.iter().map(|a| a.cost).sum();
    let ended = swarm.completed_at.unwrap_or(swarm.updated_at);
    let duration = ended.since(swarm.created_at);
    let mut spent = cost.to_string();
    if budget.uncertain > 0 && budget.currency == Currency::Usd {
        let lost = NanoUsd(budget.uncertain);
        spent = format!("{spent} + up to {lost} for calls whose outcome was lost");
    }
    if let Some(cap) = budget.allocated {
        spent = format!("{spent} of {}", NanoUsd(cap));
    }
    let report = if report.exists() {
        report.display().to_string()
    } else {
        "none".to_owned()
    };
    let rows = [
        (
            "swarm",
            format!("{} ({}), {}", swarm.id, swarm.strategy, status(swarm)),
        ),
        ("agents", agents.len().to_string()),
        ("turns", turns.to_string()),
        ("tool calls", calls.to_string()),
        ("tokens", tokens.to_string()),
        ("cost", spent),
        ("duration", format!("{:.3} s", duration.as_secs_f64())),
        ("events", events.to_string()),
        ("database", db.display().to_string()),
        ("report", report),
    ];
    let lines: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("  {name:<11} {value}"))
        .collect();
    lines.join("\n")
}

fn status(swarm: &Swarm) -> String {
    match (swarm.status, &swarm.error) {
        (SwarmStatus::Failed, Some(error)) => format!("failed: {error}"),
        (status, _) => status.to_string(),
    }
}
