//! Who stands outside: sends commands, and at the end puts right what a person would.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{BudgetOwner, CreateTask, Resolution, SpawnAgent};
use crate::env::Clock as _;
use crate::ids::{AgentId, SwarmId, TaskId};
use crate::model::budget::ReservationState;
use crate::model::{AgentStatus, BudgetScope, Reservation, StepKey, StepState, SwarmStatus, Usage};
use crate::sim::check::{Ack, Broken, History, rows};
use crate::sim::plan::{self, Action};
use crate::sim::world::World;
use crate::{ErrorKind, Orchestrator, Result};

/// How often the outside looks whether all is over, once faults have ended.
const LOOK: Duration = Duration::from_millis(500);

/// How long a run may take after faults have ended, in virtual time: every attempt of every agent at
/// its longest takes less.
const END_MAX: Duration = Duration::from_secs(3 * 3_600);

/// How a life went on to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The engine has ended; another one shall go on.
    Stopped,
    /// All swarms have ended, and the engine after them.
    Over,
}

/// Does what the plan says from `next` on, then waits until all is over.
pub(crate) async fn act(world: &Arc<World>, engine: &Orchestrator, next: &mut usize) -> End {
    while let Some((at, action)) = world.plan.actions.get(*next).copied() {
        wait_until(world, at).await;
        let done = perform(world, engine, action).await;
        if done == Some(End::Stopped) {
            *next += 1;
            return End::Stopped;
        }
        // What an engine that has stopped did not take is asked again of the next one.
        if done.is_none() {
            *next += 1;
        } else {
            std::future::pending::<()>().await;
        }
    }
    if !world.is_healing() {
        wait_until(world, world.plan.chaos_ms).await;
        world.heal();
    }
    put_right(world, engine).await
}

async fn wait_until(world: &World, at_ms: u64) {
    let wait = Duration::from_millis(at_ms).saturating_sub(world.elapsed());
    if !wait.is_zero() {
        world.clock.sleep(wait).await;
    }
}

/// Ends the engine in good order, and looks whether anything of it still runs.
async fn shut_down(world: &Arc<World>, engine: &Orchestrator, deadline: Duration) {
    world.note("outside", "shutdown");
    world.with(|truth| truth.ending = true);
    let ended = engine.shutdown(deadline).await;
    let left = world.alive();
    if !left.is_empty()
        || ended
            .as_ref()
            .is_err_and(|err| err.kind() == ErrorKind::Unavailable)
    {
        let why = format!("a shutdown leaves {left:?} and answers {ended:?}");
        world.breaks(Broken::new("a_stop_leaves_nothing_running", why));
    }
}

/// `None` = done, or refused for good; `Some(Over)` = the engine has stopped under it.
async fn perform(world: &Arc<World>, engine: &Orchestrator, action: Action) -> Option<End> {
    world.effect("a command").await;
    if action == Action::Shutdown {
        let deadline = world.with(|truth| truth.rng.between(0, 3_000));
        world.count("outside: shutdown");
        shut_down(world, engine, Duration::from_millis(deadline)).await;
        return Some(End::Stopped);
    }
    let answer = ask(world, engine, action).await;
    match answer {
        Ok(None) => None,
        Ok(Some(what)) => {
            world.note("outside", &format!("{action:?}: {what}"));
            world.with(|truth| truth.count("outside: done"));
            None
        }
        Err(err) => {
            world.note("outside", &format!("{action:?}: {}", err.chain()));
            let is_bug = matches!(err.kind(), ErrorKind::Internal);
            if is_bug {
                let why = format!("{action:?} is answered by {}", err.chain());
                world.breaks(Broken::new("commits_are_accepted", why));
            }
            let again = matches!(action, Action::Create(_))
                && matches!(err.kind(), ErrorKind::Closed | ErrorKind::Unavailable);
            match (again, err.kind()) {
                // It has stopped: the next engine is asked.
                (true, ErrorKind::Closed) => Some(End::Over),
                (true, _) => Box::pin(retry(world, engine, action)).await,
                _ => None,
            }
        }
    }
}

/// Asks again, as whoever was told that the store is full would.
async fn retry(world: &Arc<World>, engine: &Orchestrator, action: Action) -> Option<End> {
    world.clock.sleep(LOOK).await;
    perform(world, engine, action).await
}

/// Notes what a caller was told, and whether it is true.
fn told(world: &World, ack: Ack) {
    let found = world.with(|truth| {
        truth.history.acks.insert(ack);
        rows::acknowledged_write_is_there(&truth.history, ack)
    });
    world.check(found);
}

/// Draws one of what is known.
fn draw<T: Clone>(world: &World, from: impl FnOnce(&History) -> Vec<T>) -> Option<T> {
    world.with(|truth| {
        let all = from(&truth.history);
        truth.rng.pick(&all).cloned()
    })
}

fn a_swarm(world: &World) -> Option<SwarmId> {
    draw(world, |history| history.swarms.keys().copied().collect())
}

/// An agent; of those that have this status, if there are any.
fn an_agent(world: &World, wanted: &[AgentStatus]) -> Option<AgentId> {
    let fits = draw(world, |history| {
        let fits = history
            .agents
            .values()
            .filter(|a| wanted.contains(&a.status));
        fits.map(|a| a.id).collect()
    });
    fits.or_else(|| draw(world, |history| history.agents.keys().copied().collect()))
}

fn a_task(world: &World) -> Option<TaskId> {
    draw(world, |history| history.tasks.keys().copied().collect())
}

fn in_doubt(history: &History) -> Vec<(AgentId, StepKey)> {
    let doubtful = history
        .steps
        .values()
        .filter(|s| s.state == StepState::InDoubt);
    doubtful.map(|s| (s.agent_id, s.key)).collect()
}

fn an_owner(world: &World) -> Option<BudgetOwner> {
    let (scope, id) = draw(world, |history| {
        let owners = history
            .budgets
            .values()
            .map(|b| (b.scope, b.entity_id.clone()));
        owners.collect()
    })?;
    match scope {
        BudgetScope::Project => Some(BudgetOwner::Project("default".to_owned())),
        BudgetScope::Swarm => id.parse().ok().map(BudgetOwner::Swarm),
        BudgetScope::Agent => id.parse().ok().map(BudgetOwner::Agent),
        BudgetScope::Task => id.parse().ok().map(BudgetOwner::Task),
    }
}

/// Sends one command; `None` = there is nobody to send it about.
async fn ask(world: &World, engine: &Orchestrator, action: Action) -> Result<Option<String>> {
    use AgentStatus::{Completed, Failed, Paused, Running, Spawning};
    let at_work = [Running, Spawning];
    match action {
        Action::Create(at) => {
            let Some(request) = world.plan.swarms.get(at).cloned() else {
                return Ok(None);
            };
            let id = request.id;
            // Sent again after an answer that was lost: it may be there.
            if id.is_some_and(|id| world.with(|truth| truth.history.swarms.contains_key(&id))) {
                return Ok(None);
            }
            let swarm = engine.create_swarm(request).await?;
            told(world, Ack::Swarm(swarm.id));
            Ok(Some(swarm.id.to_string()))
        }
        Action::PauseSwarm | Action::ResumeSwarm | Action::ScaleSwarm | Action::DestroySwarm => {
            match a_swarm(world) {
                Some(id) => ask_swarm(world, engine, action, id).await,
                None => Ok(None),
            }
        }
        Action::SpawnAgent | Action::CreateTask => match a_swarm(world) {
            Some(id) => add(world, engine, action, id).await,
            None => Ok(None),
        },
        Action::RetryAgent | Action::RetryAgentFrom => match an_agent(world, &[Failed]) {
            Some(id) => ask_agent(world, engine, action, id).await,
            None => Ok(None),
        },
        Action::ResumeAgent => match an_agent(world, &[Paused]) {
            Some(id) => ask_agent(world, engine, action, id).await,
            None => Ok(None),
        },
        Action::PauseAgent | Action::KillAgent | Action::ClearInbox => {
            match an_agent(world, &at_work) {
                Some(id) => ask_agent(world, engine, action, id).await,
                None => Ok(None),
            }
        }
        Action::Steer | Action::FollowUp => {
            match an_agent(world, &[Running, Spawning, Paused, Completed]) {
                Some(id) => ask_agent(world, engine, action, id).await,
                None => Ok(None),
            }
        }
        Action::CompleteTask | Action::CancelTask => {
            let Some(id) = a_task(world) else {
                return Ok(None);
            };
            let task = if action == Action::CancelTask {
                engine.cancel_task(id).await?
            } else {
                engine.complete_task(id, "by hand").await?
            };
            Ok(Some(format!("{} is {}", task.key, task.status)))
        }
        Action::ResolveStep => {
            let Some((agent, key)) = draw(world, in_doubt) else {
                return Ok(None);
            };
            resolve(world, engine, agent, key).await?;
            Ok(Some(key.to_string()))
        }
        Action::Allocate | Action::SetThresholds => ask_budget(world, engine, action).await,
        Action::Reconcile => reconcile(world, engine).await,
        Action::Shutdown => Ok(None),
    }
}

async fn ask_swarm(
    world: &World,
    engine: &Orchestrator,
    action: Action,
    id: SwarmId,
) -> Result<Option<String>> {
    let swarm = match action {
        Action::PauseSwarm => engine.pause_swarm(id).await?,
        Action::ResumeSwarm => engine.resume_swarm(id).await?,
        Action::ScaleSwarm => {
            let agents = world.with(|truth| truth.rng.small(1, 5));
            engine.scale_swarm(id, agents).await?
        }
        _ => {
            let swarm = engine.destroy_swarm(id).await?;
            told(world, Ack::Destroyed(id));
            world.swarm_stopped(id);
            swarm
        }
    };
    Ok(Some(format!("{id} is {}", swarm.status)))
}

async fn add(
    world: &World,
    engine: &Orchestrator,
    action: Action,
    id: SwarmId,
) -> Result<Option<String>> {
    let (budget, has_task) = world.with(|truth| {
        let budget = truth.rng.chance(50).then(|| plan::budget(&mut truth.rng));
        (budget, truth.rng.chance(80))
    });
    if action == Action::SpawnAgent {
        let mut request = SpawnAgent::new(id, "another", "Help.");
        request.task = request.task.filter(|_| has_task);
        request.budget = budget;
        let agent = engine.spawn_agent(request).await?;
        told(world, Ack::Agent(agent.id));
        return Ok(Some(agent.id.to_string()));
    }
    let (key, depends_on) = world.with(|truth| {
        let of_swarm = truth.history.tasks.values().filter(|t| t.swarm_id == id);
        let all: Vec<TaskId> = of_swarm.map(|t| t.id).collect();
        let before = truth
            .rng
            .pick(&all)
            .copied()
            .filter(|_| truth.rng.chance(50));
        (format!("extra/{}", truth.rng.next()), before)
    });
    let task = engine
        .create_task(CreateTask {
            swarm_id: id,
            key,
            prompt: "One thing more.".to_owned(),
            depends_on: depends_on.into_iter().collect(),
            budget,
        })
        .await?;
    told(world, Ack::Task(task.id));
    Ok(Some(task.key))
}

async fn ask_agent(
    world: &World,
    engine: &Orchestrator,
    action: Action,
    id: AgentId,
) -> Result<Option<String>> {
    let agent = match action {
        Action::PauseAgent => engine.pause_agent(id).await?,
        Action::ResumeAgent => engine.resume_agent(id).await?,
        Action::RetryAgent => engine.retry_agent(id).await?,
        Action::RetryAgentFrom => {
            let entry = draw(world, |history| {
                history.entries.get(&id).cloned().unwrap_or_default()
            });
            let Some(entry) = entry else { return Ok(None) };
            let summarise = world.with(|truth| truth.rng.chance(50));
            engine.retry_agent_from(id, entry, summarise).await?
        }
        Action::Steer | Action::FollowUp => {
            let ticket = if action == Action::Steer {
                engine.steer(id, "Look here first.").await?
            } else {
                engine.follow_up(id, "And then this.").await?
            };
            told(world, Ack::Ticket(ticket));
            return Ok(Some(ticket.to_string()));
        }
        Action::ClearInbox => {
            let dropped = engine.clear_inbox(id).await?;
            return Ok(Some(format!("{} messages", dropped.len())));
        }
        _ => {
            let agent = engine.kill_agent(id).await?;
            told(world, Ack::Killed(id));
            world.agent_stopped(id);
            agent
        }
    };
    Ok(Some(format!("{id} is {}", agent.status)))
}

async fn resolve(world: &World, engine: &Orchestrator, agent: AgentId, key: StepKey) -> Result<()> {
    let resolution = world.with(|truth| match truth.rng.between(0, 2) {
        0 => Resolution::Retry,
        1 => Resolution::Skip,
        _ => Resolution::Result {
            text: "it happened".to_owned(),
        },
    });
    engine.resolve_step(agent, key, resolution).await?;
    told(world, Ack::Resolved(agent, key));
    Ok(())
}

async fn ask_budget(
    world: &World,
    engine: &Orchestrator,
    action: Action,
) -> Result<Option<String>> {
    let Some(owner) = an_owner(world) else {
        return Ok(None);
    };
    let request = world.with(|truth| plan::budget(&mut truth.rng));
    let budget = if action == Action::Allocate {
        engine.allocate(owner, Some(request.allocated)).await?
    } else {
        engine.set_thresholds(owner, request.thresholds).await?
    };
    Ok(Some(format!("{} {:?}", budget.id, budget.allocated)))
}

/// Tells what a call that was lost has cost: no less than any bill of its step.
async fn reconcile(world: &World, engine: &Orchestrator) -> Result<Option<String>> {
    let lost = draw(world, |history| {
        let uncertain = |r: &&Reservation| r.state == ReservationState::Uncertain;
        let rows = history.reservations.values().filter(uncertain);
        rows.cloned().collect()
    });
    let Some(lost) = lost else { return Ok(None) };
    let model = world.with(|truth| {
        let asked = truth.history.steps.get(&(lost.agent_id, lost.step));
        let now = truth.history.agents.get(&lost.agent_id);
        let same = asked
            .zip(now)
            .filter(|(step, agent)| step.name == agent.model);
        same.map(|(step, _)| step.name.clone())
    });
    // The charge is reckoned at the agent's present price: a bill of another model would not fit.
    let models = &world.plan.models;
    let Some(model) = models.iter().find(|m| Some(&m.id) == model.as_ref()) else {
        return Ok(None);
    };
    // All tokens that were held, at the dearer price: no bill is higher.
    let (mut usage, tokens) = (Usage::default(), lost.held.tokens);
    if model.price.output > model.price.input {
        usage.output = tokens;
    } else {
        usage.input = tokens;
    }
    let key = format!("{}/{}", lost.agent_id, lost.step);
    let is_over = world.with(|truth| {
        let bills = truth.history.bills.get(&key);
        bills.is_some_and(|bills| bills.iter().any(|bill| bill.is_over))
    });
    if is_over {
        return Ok(None);
    }
    let settled = engine.reconcile(lost.agent_id, lost.step, usage).await?;
    Ok(Some(settled.id.to_string()))
}

/// Faults have ended: settles doubts, lifts caps, resumes what is paused, until all swarms end.
async fn put_right(world: &Arc<World>, engine: &Orchestrator) -> End {
    let began = world.elapsed();
    loop {
        // Again and again: an engine that waits for space refuses callers.
        lift_caps(world, engine).await;
        let (doubts, swarms, agents, open) = world.with(|truth| {
            let history = &truth.history;
            let swarms = history.swarms.values();
            let open = swarms.clone().filter(|s| !s.status.is_terminal()).count();
            let paused = swarms.filter(|s| s.status == SwarmStatus::Paused);
            let swarms: Vec<SwarmId> = paused.map(|s| s.id).collect();
            let held = history.agents.values();
            let held = held.filter(|a| a.status == AgentStatus::Paused);
            let agents: Vec<AgentId> = held.map(|a| a.id).collect();
            (in_doubt(history), swarms, agents, open)
        });
        if open == 0 {
            break;
        }
        if world.elapsed().saturating_sub(began) > END_MAX {
            let why = format!("{open} swarms are open {END_MAX:?} after faults ended");
            world.breaks(Broken::new("everything_ends", why));
            return std::future::pending().await;
        }
        for (agent, key) in doubts {
            // What another step of the loop has settled is no doubt any more.
            drop(resolve(world, engine, agent, key).await);
        }
        for id in swarms {
            drop(engine.resume_swarm(id).await);
        }
        for id in agents {
            drop(engine.resume_agent(id).await);
        }
        world.clock.sleep(LOOK).await;
    }
    shut_down(world, engine, Duration::from_secs(60)).await;
    End::Over
}

async fn lift_caps(world: &World, engine: &Orchestrator) {
    let owners = world.with(|truth| {
        let capped = truth
            .history
            .budgets
            .values()
            .filter(|b| b.allocated.is_some());
        let owners = capped.map(|b| (b.scope, b.entity_id.clone()));
        owners.collect::<Vec<_>>()
    });
    for (scope, id) in owners {
        // A budget knows the id of its project, callers its name; there are two.
        let owners: Vec<Option<BudgetOwner>> = match scope {
            BudgetScope::Project => ["default", "other"]
                .map(|name| Some(BudgetOwner::Project(name.to_owned())))
                .to_vec(),
            BudgetScope::Swarm => vec![id.parse().ok().map(BudgetOwner::Swarm)],
            BudgetScope::Agent => vec![id.parse().ok().map(BudgetOwner::Agent)],
            BudgetScope::Task => vec![id.parse().ok().map(BudgetOwner::Task)],
        };
        for owner in owners.into_iter().flatten() {
            drop(engine.allocate(owner, None).await);
        }
    }
}
