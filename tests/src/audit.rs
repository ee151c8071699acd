//! One audit for all tests: what must hold of a store whatever has happened.

use std::collections::{HashMap, HashSet};

use dash::event::EventKind;
use dash::ids::{AgentId, BudgetId};
use dash::model::{
    Agent, AgentStatus, Budget, NanoUsd, Reservation, ReservationState, StepKey, StepState,
    SwarmStatus, Usage,
};
use dash::store::{BudgetFilter, Page, StepFilter, SwarmFilter};

use crate::Engine;

/// More than any test stores.
const ALL: usize = 1_000;

/// Checks everything that must hold of what an engine has stored:
///
/// * events are numbered from 1 without a gap, and time never goes back in them;
/// * agents, swarms and tasks made only legal moves, as far as events tell;
/// * each budget's figures are the sums of the reservations below it, within its cap;
/// * nothing is alive in a swarm that has ended;
/// * each step was done at most once;
/// * what agents used and cost is what the ledger says.
pub async fn audit(engine: &Engine) {
    numbers(engine).await;
    moves(engine).await;
    once(engine).await;
    let agents = rows(engine).await;
    ledger(engine, &agents).await;
}

async fn numbers(engine: &Engine) {
    let events = engine.events().await;
    let mut last = dash::env::UnixMillis(0);
    for (event, seq) in events.iter().zip(1..) {
        assert_eq!(event.seq, seq, "a gap before {event:?}");
        assert!(event.at >= last, "time went back at {event:?}");
        last = event.at;
    }
    let head = engine.store.head_seq().await.unwrap();
    assert_eq!(head, events.len() as u64);
}

/// Where an agent may be after an event, given where it was; `None` = the event is illegal there.
fn agent_move(from: Option<AgentStatus>, kind: &EventKind) -> Option<AgentStatus> {
    use AgentStatus::{Completed, Failed, Idle, Killed, Paused, Running, Spawning};
    match (kind, from) {
        (EventKind::AgentSpawned(_), None) => Some(Idle),
        (EventKind::TaskStarted(_), Some(Idle)) => Some(Spawning),
        // A new engine finds an agent at work, and takes it up again.
        (EventKind::AgentStarted(_), Some(Spawning | Running)) => Some(Running),
        (EventKind::AgentStarted(_), Some(Paused)) => Some(Paused),
        (EventKind::AgentPaused(_), Some(Spawning | Running)) => Some(Paused),
        (EventKind::AgentResumed(_), Some(Paused)) => Some(Spawning),
        (EventKind::AgentRetrying(_) | EventKind::AgentEscalated(_), Some(Spawning | Running)) => {
            Some(Spawning)
        }
        (EventKind::AgentRetrying(_) | EventKind::AgentEscalated(_), Some(Paused)) => Some(Paused),
        (
            EventKind::AgentTurn(_)
            | EventKind::AgentTurnFailed(_)
            | EventKind::AgentCompacted(_)
            | EventKind::BranchSummarised(_)
            | EventKind::AgentBranched(_),
            Some(at),
        ) if !at.is_terminal() => Some(at),
        (EventKind::ToolStarted(_), Some(Running | Spawning)) => Some(Running),
        (EventKind::ToolCompleted(_), Some(at)) if !at.is_terminal() => Some(at),
        (EventKind::AgentCompleted(_), Some(Running | Spawning)) => Some(Completed),
        (EventKind::AgentFailed(_), Some(Spawning | Running | Paused)) => Some(Failed),
        (EventKind::AgentKilled(_), Some(at)) if !at.is_terminal() => Some(Killed),
        _ => None,
    }
}

fn agent_of(kind: &EventKind) -> Option<AgentId> {
    Some(match kind {
        EventKind::AgentSpawned(e) => e.agent_id,
        EventKind::TaskStarted(e) => e.agent_id,
        EventKind::AgentStarted(e) => e.agent_id,
        EventKind::AgentPaused(e) => e.agent_id,
        EventKind::AgentResumed(e) => e.agent_id,
        EventKind::AgentRetrying(e) => e.agent_id,
        EventKind::AgentTurn(e) => e.agent_id,
        EventKind::AgentTurnFailed(e) => e.agent_id,
        EventKind::AgentCompacted(e) => e.agent_id,
        EventKind::AgentEscalated(e) => e.agent_id,
        EventKind::AgentBranched(e) => e.agent_id,
        EventKind::BranchSummarised(e) => e.agent_id,
        EventKind::ToolStarted(e) => e.agent_id,
        EventKind::ToolCompleted(e) => e.agent_id,
        EventKind::AgentCompleted(e) => e.agent_id,
        EventKind::AgentFailed(e) => e.agent_id,
        EventKind::AgentKilled(e) => e.agent_id,
        _ => return None,
    })
}

fn swarm_status(kind: &EventKind) -> Option<SwarmStatus> {
    Some(match kind {
        EventKind::SwarmCreated(_) | EventKind::SwarmResumed(_) => SwarmStatus::Active,
        EventKind::SwarmPaused(_) => SwarmStatus::Paused,
        EventKind::SwarmCompleted(_) => SwarmStatus::Completed,
        EventKind::SwarmFailed(_) => SwarmStatus::Failed,
        EventKind::SwarmDestroyed(_) => SwarmStatus::Destroyed,
        _ => return None,
    })
}

/// Walks all status moves that events tell of.
async fn moves(engine: &Engine) {
    let mut agents: HashMap<AgentId, AgentStatus> = HashMap::new();
    let mut swarms = HashMap::new();
    for event in engine.events().await {
        if let Some(id) = agent_of(&event.kind) {
            let from = agents.get(&id).copied();
            let failed = from == Some(AgentStatus::Failed);
            let next = match agent_move(from, &event.kind) {
                // A retry by hand has no event of its own before the agent starts again, pauses or
                // ends.
                None if failed => agent_move(Some(AgentStatus::Spawning), &event.kind),
                next => next,
            };
            let Some(next) = next else {
                panic!("an agent that is {from:?} cannot have {event:?}");
            };
            agents.insert(id, next);
        }
        if let (Some(id), Some(next)) = (event.swarm_id, swarm_status(&event.kind)) {
            let from: Option<SwarmStatus> = swarms.insert(id, next);
            let legal = from.map_or(next == SwarmStatus::Active, |from| from.can_become(next));
            assert!(legal, "a swarm that is {from:?} cannot have {event:?}");
        }
    }
    for (id, told) in agents {
        let row = engine.store.find_agent(id).await.unwrap().unwrap();
        // Between a resume or retry and its next step an agent may be taken up already.
        let alive = !told.is_terminal() && !row.status.is_terminal();
        let retried = told == AgentStatus::Failed && row.status == AgentStatus::Spawning;
        assert!(
            row.status == told || alive || retried,
            "events say {told}, the row {}",
            row.status
        );
    }
    for (id, told) in swarms {
        let row = engine.store.find_swarm(id).await.unwrap().unwrap();
        assert_eq!(row.status, told);
    }
}

/// Each model and tool step was done at most once.
async fn once(engine: &Engine) {
    let mut done: HashSet<(AgentId, StepKey)> = HashSet::new();
    for event in engine.events().await {
        let step = match &event.kind {
            EventKind::AgentTurn(e) => (e.agent_id, e.step),
            EventKind::AgentCompacted(e) => (e.agent_id, e.step),
            EventKind::BranchSummarised(e) => (e.agent_id, e.step),
            EventKind::ToolCompleted(e) => (e.agent_id, e.step),
            _ => continue,
        };
        assert!(done.insert(step), "done twice: {step:?}");
    }
    let states = vec![StepState::Done];
    let filter = StepFilter {
        agent_id: None,
        states,
    };
    let mut stored = HashSet::new();
    let mut page = Page::first(ALL);
    loop {
        let steps = engine.store.list_steps(&filter, page).await.unwrap();
        let Some(last) = steps.last() else { break };
        page.after = Some((last.agent_id, last.key));
        stored.extend(steps.iter().map(|s| (s.agent_id, s.key)));
    }
    assert_eq!(stored, done, "steps that are done, and events that say so");
}

/// Nothing is alive in what has ended; every row hangs together.
async fn rows(engine: &Engine) -> Vec<Agent> {
    let page = Page::first(ALL);
    let filter = SwarmFilter::default();
    let swarms = engine.store.list_swarms(&filter, page).await.unwrap();
    let mut all = Vec::new();
    for swarm in swarms {
        let agents = engine.agents(swarm.id).await;
        let tasks = engine.tasks(swarm.id).await;
        assert_eq!(agents.len(), swarm.agent_count as usize);
        if swarm.status.is_terminal() {
            for task in &tasks {
                assert!(task.status.is_terminal(), "{} in an ended swarm", task.key);
            }
            for agent in &agents {
                let (name, status) = (&agent.name, agent.status);
                assert!(status.is_terminal(), "{name} is {status} in an ended swarm");
            }
        }
        for agent in &agents {
            let steps = engine.steps(agent.id).await;
            let open = steps.iter().filter(|s| !s.state.is_terminal()).count();
            assert!(open == 0 || !agent.status.is_terminal(), "{steps:?}");
            let task = tasks.iter().find(|t| Some(t.id) == agent.task_id);
            if let Some(task) = task.filter(|t| t.agent_id == Some(agent.id)) {
                let same = agent.status.is_terminal() == task.status.is_terminal();
                assert!(
                    same,
                    "{} is {}, its task {}",
                    agent.name, agent.status, task.status
                );
            }
        }
        all.extend(agents);
    }
    all
}

async fn budgets(engine: &Engine) -> HashMap<BudgetId, Budget> {
    let mut all = HashMap::new();
    let filter = BudgetFilter::default();
    let mut page = Page::first(ALL);
    loop {
        let budgets = engine.store.list_budgets(&filter, page).await.unwrap();
        let Some(last) = budgets.last() else {
            return all;
        };
        page.after = Some(last.id);
        all.extend(budgets.into_iter().map(|b| (b.id, b)));
    }
}

async fn ledger(engine: &Engine, agents: &[Agent]) {
    let budgets = budgets(engine).await;
    let reservations: Vec<Reservation> = engine.reservations().await;
    let mut sums: HashMap<BudgetId, [i64; 3]> = HashMap::new();
    for r in &reservations {
        let mut at = Some(r.budget_id);
        while let Some(budget) = at.and_then(|id| budgets.get(&id)) {
            let actual = r.actual.map_or(0, |a| a.in_currency(budget.currency));
            let held = r.held.in_currency(budget.currency);
            let sum = sums.entry(budget.id).or_default();
            match r.state {
                ReservationState::Settled => sum[0] += actual,
                ReservationState::Uncertain => sum[1] += held,
                ReservationState::Held => sum[2] += held,
                ReservationState::Released => assert_eq!(actual, 0),
            }
            at = budget.parent_id;
        }
    }
    for budget in budgets.values() {
        let sum = sums.get(&budget.id).copied().unwrap_or_default();
        let figures = [budget.spent, budget.uncertain, budget.reserved];
        assert_eq!(figures, sum, "spent, uncertain, reserved of {budget:?}");
        if let Some(cap) = budget.allocated {
            let taken = budget.charged() + budget.reserved;
            assert!(taken <= cap + budget.overrun, "over its cap: {budget:?}");
        }
    }
    let alive = agents
        .iter()
        .any(|a| !matches!(a.status, AgentStatus::Idle) && !a.status.is_terminal());
    let held = reservations
        .iter()
        .filter(|r| r.state == ReservationState::Held);
    assert!(alive || held.count() == 0, "money is held and nobody works");
    for agent in agents {
        let own = reservations.iter().filter(|r| r.agent_id == agent.id);
        let settled: Vec<_> = own.filter_map(|r| r.actual).collect();
        let cost: NanoUsd = settled.iter().map(|a| a.usd).sum();
        let tokens: u64 = settled.iter().map(|a| a.tokens).sum();
        let used: Usage = agent.usage;
        let found = (agent.cost, used.total());
        assert_eq!(found, (cost, tokens), "cost and tokens of {}", agent.name);
    }
}
