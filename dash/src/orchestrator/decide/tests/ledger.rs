//! The books: after every decision each budget is what the reservations below it add up to, reckoned
//! here from the stored rows alone, and no cap is passed at any level.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::random::Drivers;
use crate::api::{BudgetOwner, BudgetRequest, CreateSwarm, SpawnAgent};
use crate::ids::{AgentId, BudgetId, SwarmId};
use crate::model::budget::{ReservationState, ThresholdAction};
use crate::model::{Budget, NanoUsd, Reservation, Strategy as Plan, Thresholds, Usage};
use crate::orchestrator::effect::Command;
use crate::settings::Settings;
use crate::store::{Page, ReservationFilter, Store as _};

/// What a caller or an agent does.
#[derive(Debug, Clone)]
enum Op {
    /// An agent makes its next step.
    Step {
        who: u8,
        choice: u8,
    },
    /// A cap is set: of the project, the swarm, or an agent of its own budget.
    Allocate {
        which: u8,
        cap: Option<i64>,
    },
    Kill {
        who: u8,
    },
    Resume,
    /// The oldest charge whose outcome was lost becomes known.
    Reconcile,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        24 => (any::<u8>(), any::<u8>()).prop_map(|(who, choice)| Op::Step { who, choice }),
        2 => (0..4_u8, prop::option::weighted(0.8, 0..3_000_i64))
            .prop_map(|(which, cap)| Op::Allocate { which, cap }),
        1 => any::<u8>().prop_map(|who| Op::Kill { who }),
        2 => Just(Op::Resume),
        1 => Just(Op::Reconcile),
        1 => Just(Op::Crash),
    ]
}

/// All reservations, from the store.
fn reservations(drivers: &Drivers) -> Vec<Reservation> {
    let filter = ReservationFilter::default();
    let page = Page::first(crate::store::PAGE_MAX);
    let listed = drivers.world.store.list_reservations(&filter, page);
    let listed = listed.now_or_never().expect("memory does not wait");
    let listed = listed.unwrap();
    assert!(
        listed.len() < crate::store::PAGE_MAX,
        "all of them are seen"
    );
    listed
}

/// Charged, uncertain, held.
type Sums = (i64, i64, i64);

/// What the reservations add up to, by budget.
fn sums(budgets: &[Budget], reservations: &[Reservation]) -> BTreeMap<BudgetId, Sums> {
    let by_id: BTreeMap<BudgetId, &Budget> = budgets.iter().map(|b| (b.id, b)).collect();
    let mut sums: BTreeMap<BudgetId, Sums> = BTreeMap::new();
    for reservation in reservations {
        let mut at = Some(reservation.budget_id);
        while let Some(budget) = at.and_then(|id| by_id.get(&id)) {
            let sum = sums.entry(budget.id).or_default();
            let held = reservation.held.in_currency(budget.currency);
            let actual = reservation.actual.unwrap_or_default();
            match reservation.state {
                ReservationState::Held => sum.2 += held,
                ReservationState::Uncertain => sum.1 += held,
                ReservationState::Settled | ReservationState::Released => {
                    sum.0 += actual.in_currency(budget.currency);
                }
            }
            at = budget.parent_id;
        }
    }
    sums
}

fn check_books(drivers: &Drivers) {
    let budgets: Vec<Budget> = drivers.world.state.budgets.iter().cloned().collect();
    let reservations = reservations(drivers);
    let sums = sums(&budgets, &reservations);
    for budget in &budgets {
        let known = sums.get(&budget.id).copied().unwrap_or_default();
        let booked = (budget.spent, budget.uncertain, budget.reserved);
        assert_eq!(booked, known, "{budget:#?}\n{reservations:#?}");
        let taken = booked.0 + booked.1 + booked.2;
        assert!(
            budget.allocated.is_none_or(|cap| taken <= cap),
            "over its cap: {budget:#?}"
        );
    }
}

fn run(caps: [Option<i64>; 3], action: ThresholdAction, ops: &[Op]) {
    let mut drivers = Drivers::new(Settings {
        calls_per_provider_max: 3,
        ..Settings::default()
    });
    let mut request = CreateSwarm::new("s", "go");
    request.strategy = Plan::Parallel;
    request.initial_agents = 2;
    request.config.max_retries = 2;
    let thresholds = Thresholds {
        critical_action: action,
        ..Thresholds::default()
    };
    let budget = |cap: i64| BudgetRequest {
        thresholds,
        ..BudgetRequest::usd(NanoUsd(cap))
    };
    request.budget = caps[0].map(budget);
    let swarm = drivers.world.swarm(request);
    for (name, cap) in ["own-1", "own-2"].into_iter().zip(&caps[1..]) {
        let mut agent = SpawnAgent::new(swarm, name, "a task of its own");
        agent.budget = cap.map(budget);
        drop(drivers.world.command(Command::SpawnAgent(Box::new(agent))));
    }
    for op in ops {
        drivers.follow_effects();
        apply(&mut drivers, swarm, op);
        drivers.check();
        check_books(&drivers);
    }
    drop(drivers.world.command(Command::DestroySwarm(swarm)));
    drivers.follow_effects();
    drivers.check();
    check_books(&drivers);
    let is_held = |r: &Reservation| r.state == ReservationState::Held;
    assert!(
        !reservations(&drivers).iter().any(is_held),
        "held at the end"
    );
}

fn apply(drivers: &mut Drivers, swarm: SwarmId, op: &Op) {
    let at_work: Vec<AgentId> = drivers.doing.keys().copied().collect();
    let chosen = |who: u8| {
        at_work
            .get(usize::from(who) % at_work.len().max(1))
            .copied()
    };
    match *op {
        Op::Step { who, choice } => {
            if let Some(id) = chosen(who) {
                drivers.step(id, choice);
            }
        }
        Op::Allocate { which, cap } => {
            let owner = match which {
                0 => BudgetOwner::Project("default".to_owned()),
                1 => BudgetOwner::Swarm(swarm),
                who => match chosen(who) {
                    Some(id) => BudgetOwner::Agent(id),
                    None => return,
                },
            };
            // Less than is taken is refused.
            let allocated = cap;
            drop(
                drivers
                    .world
                    .command(Command::Allocate { owner, allocated }),
            );
        }
        Op::Kill { who } => {
            if let Some(id) = chosen(who) {
                drop(drivers.world.command(Command::KillAgent(id)));
            }
        }
        Op::Resume => {
            drop(drivers.world.command(Command::ResumeSwarm(swarm)));
            for id in at_work {
                drop(drivers.world.command(Command::ResumeAgent(id)));
            }
        }
        Op::Reconcile => {
            let lost = reservations(drivers);
            let lost = lost.iter().find(|r| r.state == ReservationState::Uncertain);
            if let Some(lost) = lost {
                let usage = Usage {
                    input: lost.held.tokens / 2,
                    ..Usage::default()
                };
                let (agent_id, key) = (lost.agent_id, lost.step);
                let command = Command::Reconcile {
                    agent_id,
                    key,
                    usage,
                };
                drop(drivers.world.command(command));
            }
        }
        Op::Crash => drivers.crash(),
    }
}

proptest! {
    #![proptest_config(crate::testing::random::cases(150))]

    #[test]
    fn budgets_are_what_their_reservations_add_up_to(
        caps in prop::array::uniform3(prop::option::weighted(0.8, 60..4_000_i64)),
        action in prop::sample::select(vec![ThresholdAction::Notify, ThresholdAction::Pause]),
        ops in prop::collection::vec(op(), 1..100),
    ) {
        run(caps, action, &ops);
    }
}
