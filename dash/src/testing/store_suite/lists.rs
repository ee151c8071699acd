//! Lists by filter, in order, page by page.

use std::sync::Arc;

use super::super::samples::{World, new};
use super::{WORLD, seed};
use crate::ids::{AgentId, BudgetId, TaskId};
use crate::model::budget::ReservationState;
use crate::model::{
    Agent, AgentStatus, Amount, Budget, BudgetScope, NanoUsd, StepKey, StepState, SwarmStatus,
    Task, TaskStatus, TicketState,
};
use crate::store::{
    AgentFilter, BudgetFilter, Changeset, EventFilter, Page, ReservationFilter, StepFilter, Store,
    SwarmFilter, TaskFilter, TicketFilter,
};

pub(super) async fn swarms_are_listed_and_paged(store: &Arc<dyn Store>) {
    let worlds: Vec<World> = (1..=4).map(World::new).collect();
    for world in &worlds {
        let mut changeset = world.all();
        changeset.swarms[0].row.status = if world.swarm_id == worlds[1].swarm_id {
            SwarmStatus::Failed
        } else {
            SwarmStatus::Active
        };
        store.commit(changeset).await.unwrap();
    }
    let list = async |filter: SwarmFilter, after, limit| {
        let rows = store
            .list_swarms(&filter, Page { after, limit })
            .await
            .unwrap();
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let id = |n: usize| worlds[n].swarm_id;
    let all = SwarmFilter::default();
    assert_eq!(
        list(all.clone(), None, 9).await,
        [id(0), id(1), id(2), id(3)]
    );
    assert_eq!(list(all.clone(), Some(id(1)), 1).await, [id(2)]);
    assert_eq!(list(all, Some(id(3)), 9).await, []);
    let active = SwarmFilter {
        statuses: vec![SwarmStatus::Active],
        ..SwarmFilter::default()
    };
    assert_eq!(list(active, None, 2).await, [id(0), id(2)]);
    let ended = vec![SwarmStatus::Failed, SwarmStatus::Completed];
    let ended = SwarmFilter {
        statuses: ended,
        ..SwarmFilter::default()
    };
    assert_eq!(list(ended, None, 9).await, [id(1)]);
    let of = SwarmFilter {
        project_id: Some(worlds[2].project_id),
        ..SwarmFilter::default()
    };
    assert_eq!(list(of, None, 9).await, [id(2)]);
}

pub(super) async fn agents_are_listed_and_paged(store: &Arc<dyn Store>) {
    seed(store).await;
    let other = World::new(2);
    store.commit(other.all()).await.unwrap();
    let done = Agent {
        status: AgentStatus::Completed,
        ..WORLD.child(2)
    };
    // Not in the order of their ids.
    let agents = vec![new(WORLD.child(3)), new(WORLD.child(1)), new(done)];
    store
        .commit(Changeset {
            agents,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let list = async |filter: AgentFilter, after, limit| {
        let rows = store
            .list_agents(&filter, Page { after, limit })
            .await
            .unwrap();
        rows.iter().map(|row| row.id).collect::<Vec<AgentId>>()
    };
    let id = |n: u128| AgentId::from_u128(WORLD.agent_id.as_u128() + n);
    let all = AgentFilter::default();
    assert_eq!(
        list(all.clone(), None, 9).await,
        [id(0), id(1), id(2), id(3), other.agent_id]
    );
    assert_eq!(list(all, Some(id(1)), 2).await, [id(2), id(3)]);
    let mine = AgentFilter {
        swarm_id: Some(WORLD.swarm_id),
        ..AgentFilter::default()
    };
    assert_eq!(
        list(mine.clone(), None, 9).await,
        [id(0), id(1), id(2), id(3)]
    );
    let running = AgentFilter {
        statuses: vec![AgentStatus::Running],
        ..mine
    };
    assert_eq!(list(running, None, 9).await, [id(0), id(1), id(3)]);
    let children = AgentFilter {
        parent_id: Some(WORLD.agent_id),
        ..AgentFilter::default()
    };
    assert_eq!(list(children, Some(id(1)), 9).await, [id(2), id(3)]);
    let ended = vec![AgentStatus::Completed, AgentStatus::Killed];
    let ended = AgentFilter {
        statuses: ended,
        ..AgentFilter::default()
    };
    assert_eq!(list(ended, None, 9).await, [id(2)]);
}

pub(super) async fn tasks_are_listed_and_paged(store: &Arc<dyn Store>) {
    seed(store).await;
    let task = |n: u32, status| Task {
        id: TaskId::from_u128(WORLD.task_id.as_u128() + u128::from(n)),
        key: format!("map/{n}"),
        status,
        ..WORLD.task()
    };
    let rows = [
        task(1, TaskStatus::Ready),
        task(2, TaskStatus::Pending),
        task(3, TaskStatus::Ready),
    ];
    let tasks = rows.iter().cloned().map(new).collect();
    store
        .commit(Changeset {
            tasks,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let filter = TaskFilter {
        swarm_id: Some(WORLD.swarm_id),
        statuses: vec![TaskStatus::Ready],
    };
    let found = store.list_tasks(&filter, Page::first(9)).await.unwrap();
    assert_eq!(found, [rows[0].clone(), rows[2].clone()]);
    let page = Page {
        after: Some(rows[0].id),
        limit: 1,
    };
    assert_eq!(
        store
            .list_tasks(&TaskFilter::default(), page)
            .await
            .unwrap(),
        [rows[1].clone()]
    );
}

pub(super) async fn budgets_are_listed_and_paged(store: &Arc<dyn Store>) {
    seed(store).await;
    let child = |n: u128| Budget {
        id: BudgetId::from_u128(WORLD.budget_id.as_u128() + n),
        scope: BudgetScope::Swarm,
        entity_id: WORLD.swarm_id.to_string(),
        parent_id: Some(WORLD.budget_id),
        ..WORLD.budget()
    };
    let budgets = vec![new(child(1)), new(child(2))];
    store
        .commit(Changeset {
            budgets,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let below = BudgetFilter {
        parent_id: Some(WORLD.budget_id),
        ..BudgetFilter::default()
    };
    let found = store.list_budgets(&below, Page::first(9)).await.unwrap();
    assert_eq!(found, [child(1), child(2)]);
    let page = Page {
        after: Some(child(1).id),
        limit: 9,
    };
    assert_eq!(store.list_budgets(&below, page).await.unwrap(), [child(2)]);
    let of = Some((BudgetScope::Project, WORLD.project_id.to_string()));
    let of = BudgetFilter {
        entity: of,
        ..BudgetFilter::default()
    };
    assert_eq!(
        store.list_budgets(&of, Page::first(9)).await.unwrap(),
        [WORLD.budget()]
    );
}

pub(super) async fn steps_are_listed_in_the_order_of_their_keys(store: &Arc<dyn Store>) {
    seed(store).await;
    let child = WORLD.child(1);
    let mut steps = Vec::new();
    for turn in [1, 2, 10] {
        steps.push(WORLD.step(StepKey::Tool { turn, index: 10 }));
        steps.push(WORLD.step(StepKey::Tool { turn, index: 9 }));
        steps.push(WORLD.step(StepKey::Model { turn, attempt: 0 }));
        steps.push(WORLD.step(StepKey::Summary { turn, attempt: 1 }));
    }
    steps.push(WORLD.step(StepKey::Model {
        turn: u32::MAX,
        attempt: u32::MAX,
    }));
    let mut other = WORLD.step(StepKey::Model {
        turn: 1,
        attempt: 0,
    });
    other.agent_id = child.id;
    steps.push(other);
    for step in steps.iter_mut().step_by(2) {
        step.state = StepState::Done;
    }
    let changeset = Changeset {
        agents: vec![new(child)],
        steps: steps.clone(),
        ..Changeset::default()
    };
    store.commit(changeset).await.unwrap();
    steps.sort_by_key(|step| (step.agent_id, step.key));
    let of = |agent_id, states: &[StepState]| StepFilter {
        agent_id,
        states: states.to_vec(),
    };
    let mine = Some(WORLD.agent_id);
    let open = [StepState::Intended, StepState::InDoubt];
    for filter in [
        of(None, &[]),
        of(mine, &[]),
        of(None, &[StepState::Intended]),
        of(None, &open),
        of(mine, &open),
        of(mine, &[StepState::Done]),
        of(None, &[StepState::Done, StepState::Intended]),
    ] {
        let keep = |step: &&crate::model::Step| {
            filter.agent_id.is_none_or(|id| id == step.agent_id)
                && (filter.states.is_empty() || filter.states.contains(&step.state))
        };
        let expected: Vec<_> = steps.iter().filter(keep).cloned().collect();
        let mut found = Vec::new();
        let mut page = Page::first(3);
        loop {
            let rows = store.list_steps(&filter, page).await.unwrap();
            let Some(last) = rows.last() else { break };
            page.after = Some((last.agent_id, last.key));
            found.extend(rows);
        }
        assert_eq!(found, expected, "{filter:?}");
    }
}

pub(super) async fn reservations_are_listed_and_settled(store: &Arc<dyn Store>) {
    seed(store).await;
    let mut rows: Vec<_> = (1..=3).map(|n| WORLD.reservation(n)).collect();
    let commit = |reservations| {
        store.commit(Changeset {
            reservations,
            ..Changeset::default()
        })
    };
    commit(rows.clone()).await.unwrap();
    rows[1].state = ReservationState::Settled;
    rows[1].actual = Some(Amount {
        usd: NanoUsd(7),
        tokens: 8,
    });
    commit(vec![rows[1].clone()]).await.unwrap();
    let list = |agent_id, states: &[ReservationState]| {
        let filter = ReservationFilter {
            agent_id,
            states: states.to_vec(),
        };
        async move {
            store
                .list_reservations(&filter, Page::first(9))
                .await
                .unwrap()
        }
    };
    assert_eq!(list(Some(WORLD.agent_id), &[]).await, rows);
    assert_eq!(
        list(None, &[ReservationState::Held]).await,
        [rows[0].clone(), rows[2].clone()]
    );
    assert_eq!(
        list(None, &[ReservationState::Settled]).await,
        [rows[1].clone()]
    );
    let page = Page {
        after: Some(rows[1].id),
        limit: 9,
    };
    let rest = store
        .list_reservations(&ReservationFilter::default(), page)
        .await
        .unwrap();
    assert_eq!(rest, [rows[2].clone()]);
}

pub(super) async fn tickets_are_listed_and_delivered(store: &Arc<dyn Store>) {
    seed(store).await;
    let mut rows = vec![WORLD.ticket(1), WORLD.ticket(2)];
    let commit = |tickets| {
        store.commit(Changeset {
            tickets,
            ..Changeset::default()
        })
    };
    commit(rows.clone()).await.unwrap();
    rows[0].state = TicketState::Delivered;
    commit(vec![rows[0].clone()]).await.unwrap();
    let list = |agent_id, state| async move {
        store
            .list_tickets(&TicketFilter { agent_id, state }, Page::first(9))
            .await
            .unwrap()
    };
    assert_eq!(list(None, None).await, rows);
    assert_eq!(
        list(None, Some(TicketState::Queued)).await,
        [rows[1].clone()]
    );
    assert_eq!(
        list(Some(WORLD.agent_id), Some(TicketState::Delivered)).await,
        [rows[0].clone()]
    );
    assert_eq!(list(Some(WORLD.child(1).id), None).await, []);
}

pub(super) async fn limits_are_cut(store: &Arc<dyn Store>) {
    seed(store).await;
    store.commit(WORLD.events(1_100)).await.unwrap();
    let events = store
        .list_events(&EventFilter::default(), 0, usize::MAX)
        .await
        .unwrap();
    assert_eq!(events.len(), crate::store::PAGE_MAX);
    assert_eq!(
        store
            .list_events(&EventFilter::default(), 0, 0)
            .await
            .unwrap(),
        []
    );
    let tickets = (1..=1_100).map(|n| WORLD.ticket(n)).collect();
    store
        .commit(Changeset {
            tickets,
            ..Changeset::default()
        })
        .await
        .unwrap();
    let page = Page::first(usize::MAX);
    let tickets = store
        .list_tickets(&TicketFilter::default(), page)
        .await
        .unwrap();
    assert_eq!(tickets.len(), crate::store::PAGE_MAX);
}
