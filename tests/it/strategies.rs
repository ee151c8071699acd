//! How goals become tasks, and outputs results.

use dash::api::TaskSpec;
use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::{FailurePolicy, Strategy, SwarmStatus, TaskRole, TaskStatus};
use dash_tests::{Setup, audit, create, results, task_of, texts, turn};
use pretty_assertions::assert_eq;
use serde_json::json;

fn echo(request: &LlmRequest) -> ScriptedReply {
    ScriptedReply::text(format!("done: {}", task_of(request)))
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

fn spec(key: &str, depends_on: &[&str]) -> TaskSpec {
    TaskSpec {
        key: key.to_owned(),
        prompt: format!("do {key}"),
        depends_on: strings(depends_on),
    }
}

/// Fails the tasks whose prompt says so.
fn obeys(request: &LlmRequest) -> ScriptedReply {
    if task_of(request).ends_with("fail") {
        let kind = dash::llm::LlmErrorKind::InvalidRequest;
        return ScriptedReply::failure(dash::llm::LlmError::unbilled(kind, "told to"));
    }
    echo(request)
}

#[tokio::test]
async fn a_parallel_swarm_tells_each_worker_its_index_and_the_count() {
    let engine = Setup::new(echo).start().await;
    let swarm = engine.run(create("count", 3)).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    let mut prompts: Vec<String> = engine.desk.requests().iter().map(task_of).collect();
    prompts.sort();
    let expected: Vec<String> = (1..=3)
        .map(|i| format!("count\n\nYou are worker {i} of 3."))
        .collect();
    assert_eq!(prompts, expected);
    let result = swarm.result.unwrap();
    for i in 1..=3 {
        let section = format!("## work/{i}\n\ndone: count\n\nYou are worker {i} of 3.");
        assert!(result.contains(&section), "{result}");
    }
    audit(&engine).await;
}

#[tokio::test]
async fn a_parallel_swarm_with_parts_gives_each_worker_its_own() {
    let engine = Setup::new(echo).start().await;
    let mut request = create("read", 1);
    request.parts = strings(&["a.txt", "b.txt"]);
    let swarm = engine.run(request).await;
    let prompts: Vec<String> = engine.desk.requests().iter().map(task_of).collect();
    assert_eq!(
        prompts,
        strings(&["read\n\nYour part: a.txt", "read\n\nYour part: b.txt"])
    );
    assert_eq!(engine.desk.most_at_once(), 1);
    assert_eq!(swarm.agent_count, 2);
    audit(&engine).await;
}

#[tokio::test]
async fn map_reduce_gives_the_outputs_of_all_parts_to_one_task() {
    let script = |request: &LlmRequest| {
        let task = task_of(request);
        match task.split_once("Your part (") {
            Some((_, part)) => ScriptedReply::text(format!("seen ({part}")),
            None => ScriptedReply::text(format!("folded <{task}>")),
        }
    };
    let engine = Setup::new(script).start().await;
    let mut request = create("sum", 2);
    request.strategy = Strategy::MapReduce;
    request.parts = strings(&["x", "y", "z"]);
    let swarm = engine.run(request).await;
    let result = swarm.result.unwrap();
    for output in ["seen (1 of 3): x", "seen (2 of 3): y", "seen (3 of 3): z"] {
        assert!(result.contains(output), "{result}");
    }
    assert!(result.starts_with("folded <sum"));
    assert!(engine.desk.most_at_once() <= 2);
    audit(&engine).await;
}

#[tokio::test]
async fn a_planner_that_answers_badly_is_asked_again() {
    let script = |request: &LlmRequest| {
        let task = task_of(request);
        if !task.contains("Answer with JSON only") {
            return ScriptedReply::text("ok");
        }
        match turn(request) {
            0 => ScriptedReply::text("I would split it in two."),
            1 => ScriptedReply::text("{\"parts\": \"a, b\"}"),
            _ => ScriptedReply::text("{\"parts\": [\"a\", \"b\"]}"),
        }
    };
    let engine = Setup::new(script).start().await;
    let mut request = create("sum", 4);
    request.strategy = Strategy::MapReduce;
    let swarm = engine.run(request).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    let tasks = engine.tasks(swarm.id).await;
    let keys: Vec<&str> = tasks.iter().map(|t| t.key.as_str()).collect();
    assert_eq!(keys, ["plan", "map/1", "map/2", "reduce"]);
    let asked_again = engine.desk.requests().iter().any(|r| {
        texts(r)
            .last()
            .is_some_and(|t| t.contains("Answer again, with the JSON object only"))
    });
    assert!(asked_again);
    audit(&engine).await;
}

#[tokio::test]
async fn a_planner_that_never_answers_well_fails_at_its_turn_limit() {
    let engine = Setup::new(|_| ScriptedReply::text("no")).start().await;
    let mut request = create("sum", 4);
    request.strategy = Strategy::MapReduce;
    request.config.max_turns = 3;
    let swarm = engine.run(request).await;
    assert_eq!(swarm.status, SwarmStatus::Failed);
    assert_eq!(engine.desk.calls(), 3);
    assert!(swarm.error.unwrap().contains("3 model calls"));
    audit(&engine).await;
}

#[tokio::test]
async fn each_stage_of_a_pipeline_reads_the_output_of_the_one_before() {
    let script = |request: &LlmRequest| {
        let task = task_of(request);
        let stage = if task.contains("stage 1 of 2: draft") {
            "DRAFT"
        } else {
            "FINAL"
        };
        ScriptedReply::text(stage)
    };
    let engine = Setup::new(script).start().await;
    let mut request = create("write", 1);
    request.strategy = Strategy::Pipeline;
    request.parts = strings(&["draft", "polish"]);
    let swarm = engine.run(request).await;
    assert_eq!(swarm.result.as_deref(), Some("FINAL"));
    let second = task_of(&engine.desk.requests()[1]);
    assert!(
        second.contains("stage 2 of 2: polish")
            && second.contains("Output of the stage before ---\nDRAFT"),
        "{second}"
    );
    audit(&engine).await;
}

#[tokio::test]
async fn a_pipeline_without_stages_has_one_for_each_agent() {
    let engine = Setup::new(echo).start().await;
    let mut request = create("write", 3);
    request.strategy = Strategy::Pipeline;
    let swarm = engine.run(request).await;
    assert_eq!(engine.tasks(swarm.id).await.len(), 3);
    assert_eq!(engine.desk.most_at_once(), 1);
    audit(&engine).await;
}

/// A coordinator that delegates what its task lists between semicolons, then says what came back.
fn coordinator(request: &LlmRequest) -> ScriptedReply {
    let task = task_of(request);
    let Some(parts) = task.strip_prefix("delegate:") else {
        return obeys(request);
    };
    if turn(request) == 0 {
        return parts.split(';').fold(ScriptedReply::new(), |reply, part| {
            reply.add_tool_call("delegate", json!({"name": part, "task": part}))
        });
    }
    let heard: Vec<String> = results(request)
        .into_iter()
        .map(|(_, text, is_error)| format!("{}{text}", if is_error { "!" } else { "" }))
        .collect();
    ScriptedReply::text(heard.join(" | "))
}

#[tokio::test]
async fn the_children_of_a_tree_work_side_by_side_and_report_to_their_parent() {
    let setup = Setup::new(coordinator);
    setup.desk.hold_after(1);
    let engine = setup.start().await;
    let mut request = create("delegate:one;two", 1);
    request.strategy = Strategy::Tree;
    let swarm = engine.create_swarm(request).await.unwrap();
    // Both children have asked the model before either got an answer.
    engine.desk.wait_for_calls(3).await;
    engine.desk.release();
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.result.as_deref(), Some("done: one | done: two"));
    let agents = engine.agents(swarm.id).await;
    let root = agents.iter().find(|a| a.parent_id.is_none()).unwrap();
    let children: Vec<_> = agents
        .iter()
        .filter(|a| a.parent_id == Some(root.id))
        .collect();
    assert_eq!(children.len(), 2);
    assert!(children.iter().all(|c| c.depth == 1));
    audit(&engine).await;
}

#[tokio::test]
async fn a_tree_deeper_than_allowed_is_told_so_by_its_missing_tool() {
    let script = |request: &LlmRequest| match turn(request) {
        0 => ScriptedReply::tool_call("delegate", json!({"name": "deeper", "task": "deeper"})),
        _ => ScriptedReply::text(results(request)[0].1.clone()),
    };
    let engine = Setup::new(script).start().await;
    let mut request = create("go", 1);
    request.strategy = Strategy::Tree;
    request.config.tree_depth_max = 2;
    let swarm = engine.run(request).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    let depths: Vec<u32> = engine
        .agents(swarm.id)
        .await
        .iter()
        .map(|a| a.depth)
        .collect();
    assert_eq!(depths, [0, 1, 2]);
    let result = swarm.result.unwrap();
    assert!(result.contains("There is no tool `delegate`"), "{result}");
    audit(&engine).await;
}

#[tokio::test]
async fn more_children_than_allowed_are_an_error_that_the_parent_reads() {
    let engine = Setup::new(coordinator).start().await;
    let mut request = create("delegate:a;b;c", 1);
    request.strategy = Strategy::Tree;
    request.config.tree_fanout_max = 2;
    let swarm = engine.run(request).await;
    let result = swarm.result.unwrap();
    assert_eq!(result.matches("done: ").count(), 2, "{result}");
    assert!(result.contains("2 children already"), "{result}");
    audit(&engine).await;
}

#[tokio::test]
async fn a_childs_failure_is_told_to_its_parent_and_does_not_fail_the_swarm() {
    let engine = Setup::new(coordinator).start().await;
    let mut request = create("delegate:fail;fine", 1);
    request.strategy = Strategy::Tree;
    let swarm = engine.run(request).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    let result = swarm.result.unwrap();
    assert!(
        result.contains("!the child did not finish") && result.contains("told to"),
        "{result}"
    );
    assert!(result.contains("done: fine"), "{result}");
    let failed = engine.tasks(swarm.id).await;
    let failed = failed.iter().filter(|t| t.status == TaskStatus::Failed);
    assert_eq!(
        failed.map(|t| t.role).collect::<Vec<_>>(),
        [TaskRole::Delegated]
    );
    audit(&engine).await;
}

#[tokio::test]
async fn a_diamond_waits_for_both_sides() {
    let engine = Setup::new(echo).start().await;
    let mut request = create("goal", 4);
    request.strategy = Strategy::Dag;
    // Dependencies may be named before they come.
    request.tasks = vec![
        spec("end", &["left", "right"]),
        spec("left", &["start"]),
        spec("right", &["start"]),
        spec("start", &[]),
    ];
    let swarm = engine.run(request).await;
    let prompts: Vec<String> = engine.desk.requests().iter().map(task_of).collect();
    assert_eq!(prompts.len(), 4);
    assert_eq!(prompts[0], "do start");
    assert!(prompts[3].starts_with("do end\n\n--- Output of `left` ---\ndone: do left"));
    assert!(prompts[3].contains("--- Output of `right` ---"));
    assert_eq!(swarm.result.unwrap(), format!("done: {}", prompts[3]));
    audit(&engine).await;
}

#[tokio::test]
async fn no_more_agents_work_at_once_than_were_asked_for() {
    let setup = Setup::new(echo);
    setup.desk.hold_after(0);
    let engine = setup.start().await;
    let mut request = create("goal", 3);
    request.parts = (0..10).map(|i| i.to_string()).collect();
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(3).await;
    assert_eq!(engine.agents(swarm.id).await.len(), 3);
    engine.desk.release();
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    assert_eq!((engine.desk.calls(), engine.desk.most_at_once()), (10, 3));
    audit(&engine).await;
}

async fn with_policy(policy: FailurePolicy, parts: &[&str]) -> (SwarmStatus, Vec<TaskStatus>) {
    let engine = Setup::new(obeys).start().await;
    let mut request = create("goal", 1);
    request.parts = strings(parts);
    request.config.failure_policy = policy;
    let swarm = engine.run(request).await;
    audit(&engine).await;
    let tasks = engine.tasks(swarm.id).await;
    (swarm.status, tasks.iter().map(|t| t.status).collect())
}

#[tokio::test]
async fn a_failed_task_means_what_the_policy_says() {
    use FailurePolicy::{Continue, FailFast, Quorum};
    use TaskStatus::{Cancelled as X, Completed as C, Failed as F};
    for (policy, parts, status, tasks) in [
        (FailFast, ["a", "fail", "c"], SwarmStatus::Failed, [C, F, X]),
        (
            Continue,
            ["a", "fail", "c"],
            SwarmStatus::Completed,
            [C, F, C],
        ),
        (
            Continue,
            ["fail", "fail", "fail"],
            SwarmStatus::Failed,
            [F, F, F],
        ),
        (
            Quorum(2),
            ["a", "fail", "c"],
            SwarmStatus::Completed,
            [C, F, C],
        ),
        (
            Quorum(2),
            ["a", "fail", "fail"],
            SwarmStatus::Failed,
            [C, F, F],
        ),
    ] {
        let found = with_policy(policy, &parts).await;
        assert_eq!(found, (status, tasks.to_vec()), "{policy:?} {parts:?}");
    }
}

#[tokio::test]
async fn a_reducer_is_told_which_parts_have_no_output() {
    let engine = Setup::new(obeys).start().await;
    let mut request = create("goal", 2);
    request.strategy = Strategy::MapReduce;
    request.parts = strings(&["fail", "fine"]);
    request.config.failure_policy = FailurePolicy::Continue;
    let swarm = engine.run(request).await;
    assert_eq!(swarm.status, SwarmStatus::Completed);
    let reduce = engine.desk.requests().last().map(task_of).unwrap();
    assert!(
        reduce.contains("--- Output of `map/1` ---\n(none: it failed)"),
        "{reduce}"
    );
    audit(&engine).await;
}

#[tokio::test]
async fn a_swarm_scaled_up_takes_waiting_tasks_at_once() {
    let setup = Setup::new(echo);
    setup.desk.hold_after(0);
    let engine = setup.start().await;
    let mut request = create("goal", 1);
    request.strategy = Strategy::Dag;
    request.tasks = (0..4).map(|i| spec(&i.to_string(), &[])).collect();
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    let scaled = engine.scale_swarm(swarm.id, 3).await.unwrap();
    assert_eq!(scaled.target_agent_count, 3);
    engine.desk.wait_for_calls(3).await;
    // Down again: those at work finish, nobody new starts above the new limit.
    engine.scale_swarm(swarm.id, 1).await.unwrap();
    engine.desk.hold_after(2);
    engine
        .wait_for("two ends", |e| {
            e.kind.name() == "task.completed" && e.swarm_id == Some(swarm.id)
        })
        .await;
    engine.desk.release();
    engine.finish(swarm.id).await;
    assert_eq!((engine.desk.calls(), engine.desk.most_at_once()), (4, 3));
    audit(&engine).await;
}

#[tokio::test]
async fn a_parallel_swarm_scaled_up_gets_a_task_for_each_agent_more() {
    let setup = Setup::new(echo);
    setup.desk.hold_after(0);
    let engine = setup.start().await;
    let swarm = engine.create_swarm(create("goal", 1)).await.unwrap();
    engine.desk.wait_for_calls(1).await;
    engine.scale_swarm(swarm.id, 3).await.unwrap();
    engine.scale_swarm(swarm.id, 1).await.unwrap();
    engine.scale_swarm(swarm.id, 3).await.unwrap();
    engine.desk.wait_for_calls(3).await;
    engine.desk.release();
    let swarm = engine.finish(swarm.id).await;
    let tasks = engine.tasks(swarm.id).await;
    let keys: Vec<&str> = tasks.iter().map(|t| t.key.as_str()).collect();
    assert_eq!(keys, ["work/1", "work/2", "work/3"]);
    audit(&engine).await;
}

#[tokio::test]
async fn scaling_a_swarm_that_was_given_parts_adds_no_task() {
    let setup = Setup::new(echo);
    setup.desk.hold_after(0);
    let engine = setup.start().await;
    let mut request = create("goal", 1);
    request.parts = strings(&["a", "b"]);
    let swarm = engine.create_swarm(request).await.unwrap();
    engine.scale_swarm(swarm.id, 4).await.unwrap();
    engine.desk.wait_for_calls(2).await;
    engine.desk.release();
    engine.finish(swarm.id).await;
    assert_eq!(engine.tasks(swarm.id).await.len(), 2);
    audit(&engine).await;
}
