//! Reads stored rows into snapshots: everything alive at the start, one swarm later on.

use super::decide::Snapshot;
use crate::Result;
use crate::ids::{AgentId, BudgetId, SwarmId, TaskId};
use crate::model::budget::ReservationState;
use crate::model::{
    Agent, AgentStatus, Budget, BudgetScope, Project, StepKey, StepState, Swarm, SwarmStatus, Task,
    TicketState,
};
use crate::store::{
    AgentFilter, BudgetFilter, PAGE_MAX, Page, ReservationFilter, StepFilter, Store, SwarmFilter,
    TaskFilter, TicketFilter,
};

/// Reads a list page by page to its end.
macro_rules! all {
    ($store:ident.$list:ident($filter:expr), $id:expr) => {{
        let mut items = Vec::new();
        let mut after = None;
        loop {
            let page = $store
                .$list(
                    &$filter,
                    Page {
                        after,
                        limit: PAGE_MAX,
                    },
                )
                .await?;
            let Some(last) = page.last() else { break };
            after = Some($id(last));
            let full = page.len() == PAGE_MAX;
            items.extend(page);
            if !full {
                break;
            }
        }
        items
    }};
}

/// Everything that is alive.
pub(crate) async fn alive(store: &dyn Store) -> Result<Snapshot> {
    let filter = SwarmFilter {
        project_id: None,
        statuses: vec![
            SwarmStatus::Creating,
            SwarmStatus::Active,
            SwarmStatus::Paused,
        ],
    };
    let swarms = all!(store.list_swarms(filter), |s: &Swarm| s.id);
    let mut snapshot = Snapshot::default();
    for swarm in swarms {
        load_into(store, swarm, &mut snapshot).await?;
    }
    let filter = StepFilter {
        agent_id: None,
        states: vec![StepState::Intended, StepState::InDoubt],
    };
    snapshot.steps = all!(
        store.list_steps(filter),
        |s: &crate::model::Step| -> (AgentId, StepKey) { (s.agent_id, s.key) }
    );
    let filter = ReservationFilter {
        agent_id: None,
        states: vec![ReservationState::Held],
    };
    snapshot.reservations = all!(
        store.list_reservations(filter),
        |r: &crate::model::Reservation| r.id
    );
    let filter = TicketFilter {
        agent_id: None,
        state: Some(TicketState::Queued),
    };
    snapshot.tickets = all!(store.list_tickets(filter), |t: &crate::model::Ticket| t.id);
    Ok(snapshot)
}

/// One swarm with its plan and budgets, whatever its state; `None` if there is none.
pub(crate) async fn swarm(store: &dyn Store, id: SwarmId) -> Result<Option<Snapshot>> {
    let Some(swarm) = store.find_swarm(id).await? else {
        return Ok(None);
    };
    let mut snapshot = Snapshot::default();
    load_into(store, swarm, &mut snapshot).await?;
    Ok(Some(snapshot))
}

async fn load_into(store: &dyn Store, swarm: Swarm, into: &mut Snapshot) -> Result<()> {
    let filter = TaskFilter {
        swarm_id: Some(swarm.id),
        statuses: Vec::new(),
    };
    let mut tasks = all!(store.list_tasks(filter), |t: &Task| -> TaskId { t.id });
    tasks.sort_by_key(|task| task.ordinal);
    let open = vec![
        AgentStatus::Idle,
        AgentStatus::Spawning,
        AgentStatus::Running,
        AgentStatus::Paused,
    ];
    let filter = AgentFilter {
        swarm_id: Some(swarm.id),
        parent_id: None,
        statuses: open,
    };
    let agents = all!(store.list_agents(filter), |a: &Agent| -> AgentId { a.id });
    budgets_above(store, swarm.budget_id, into).await?;
    budgets_below(store, swarm.budget_id, into).await?;
    into.tasks.extend(tasks);
    into.agents.extend(agents);
    into.swarms.push(swarm);
    Ok(())
}

async fn budgets_above(store: &dyn Store, id: BudgetId, into: &mut Snapshot) -> Result<()> {
    let mut at = Some(id);
    while let Some(id) = at {
        let Some(budget) = store.find_budget(id).await? else {
            return Ok(());
        };
        at = budget.parent_id;
        if !into.budgets.iter().any(|b| b.id == id) {
            into.budgets.push(budget);
        }
    }
    Ok(())
}

async fn budgets_below(store: &dyn Store, id: BudgetId, into: &mut Snapshot) -> Result<()> {
    let mut open = vec![id];
    while let Some(parent) = open.pop() {
        let filter = BudgetFilter {
            entity: None,
            parent_id: Some(parent),
        };
        let children = all!(store.list_budgets(filter), |b: &Budget| b.id);
        open.extend(children.iter().map(|b| b.id));
        into.budgets.extend(children);
    }
    Ok(())
}

/// The charges at worst case of an agent's lost calls.
pub(crate) async fn uncertain(
    store: &dyn Store,
    agent: AgentId,
) -> Result<Vec<crate::model::Reservation>> {
    let filter = ReservationFilter {
        agent_id: Some(agent),
        states: vec![ReservationState::Uncertain],
    };
    Ok(all!(
        store.list_reservations(filter),
        |r: &crate::model::Reservation| r.id
    ))
}

/// A project and its budget, by name.
pub(crate) async fn project(store: &dyn Store, name: &str) -> Result<Option<(Project, Budget)>> {
    let Some(project) = store.find_project(name).await? else {
        return Ok(None);
    };
    match store.find_budget(project.budget_id).await? {
        Some(budget) if budget.scope == BudgetScope::Project => Ok(Some((project, budget))),
        _ => Err(crate::Error::internal(format!(
            "the project `{name}` has no budget"
        ))),
    }
}
