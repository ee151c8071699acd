use super::{Goal, PlannedTask, Readiness, check_graph, expand_plan, plan, readiness, succeeded};
use crate::model::{FailurePolicy, Strategy, TaskRole, TaskStatus};
use proptest::{prop_assert, proptest};

fn goal<'a>(agents: u32, parts: &'a [String]) -> Goal<'a> {
    Goal {
        task: "Count words",
        agents,
        parts,
        graph: &[],
    }
}

fn texts(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| (*s).to_owned()).collect()
}

fn node(key: &str, depends_on: &[&str]) -> PlannedTask {
    PlannedTask {
        key: key.to_owned(),
        role: TaskRole::Work,
        prompt: "x".to_owned(),
        depends_on: texts(depends_on),
    }
}

#[test]
fn parallel_tells_each_worker_its_index_and_the_count() {
    let tasks = plan(Strategy::Parallel, &goal(3, &[])).unwrap();
    assert_eq!(tasks.len(), 3);
    assert!(tasks[1].prompt.contains("worker 2 of 3"));
}

#[test]
fn parallel_with_parts_gives_each_its_own() {
    let parts = texts(&["a.txt", "b.txt"]);
    let tasks = plan(Strategy::Parallel, &goal(5, &parts)).unwrap();
    assert_eq!(tasks.len(), 2);
    assert!(tasks[1].prompt.ends_with("Your part: b.txt"));
}

#[test]
fn map_reduce_folds_every_part_in_one_task() {
    let parts = texts(&["a", "b", "c"]);
    let tasks = plan(Strategy::MapReduce, &goal(2, &parts)).unwrap();
    assert_eq!(tasks.len(), 4);
    assert_eq!(tasks[3].role, TaskRole::Reduce);
    assert_eq!(tasks[3].depends_on, texts(&["map/1", "map/2", "map/3"]));
}

#[test]
fn map_reduce_without_parts_asks_a_planner_first() {
    let tasks = plan(Strategy::MapReduce, &goal(4, &[])).unwrap();
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0].role, TaskRole::Plan);
    let answer = "Sure: {\"parts\": [\"x\", \" \", \"y\", \"z\"]} ok?";
    let expanded = expand_plan("g", answer, 2).unwrap();
    assert_eq!(expanded.len(), 3);
    for wrong in ["", "no json", "{\"parts\": 3}", "{\"parts\": []}", "}{"] {
        assert!(expand_plan("g", wrong, 2).is_err(), "{wrong}");
    }
}

#[test]
fn pipeline_chains_its_stages() {
    let stages = texts(&["read", "write"]);
    let tasks = plan(Strategy::Pipeline, &goal(1, &stages)).unwrap();
    assert_eq!(tasks[1].depends_on, texts(&["stage/1"]));
    assert!(tasks[0].prompt.contains("stage 1 of 2: read"));
}

#[test]
fn a_cycle_is_spelled_out() {
    let graph = [
        node("a", &["c"]),
        node("b", &["a"]),
        node("c", &["b"]),
        node("d", &[]),
    ];
    let err = check_graph(&graph).unwrap_err();
    assert!(err.to_string().contains("a → c → b → a"), "{err}");
    assert!(check_graph(&[node("a", &["a"])]).is_err());
}

#[test]
fn a_dangling_or_double_key_is_named() {
    assert!(
        check_graph(&[node("a", &["x"])])
            .unwrap_err()
            .to_string()
            .contains("`x`")
    );
    assert!(check_graph(&[node("a", &[]), node("a", &[])]).is_err());
    assert!(check_graph(&[]).is_err());
}

#[test]
fn readiness_follows_the_failure_policy() {
    use FailurePolicy::{Continue, FailFast, Quorum};
    use TaskStatus::{Completed as C, Failed as F, Running as R};
    for (policy, states, expected) in [
        (FailFast, &[C, C][..], Readiness::Ready),
        (FailFast, &[C, R], Readiness::Waits),
        (FailFast, &[F, R], Readiness::Never),
        (Continue, &[F, C], Readiness::Ready),
        (Continue, &[F, R], Readiness::Waits),
        (Continue, &[F, F], Readiness::Never),
        (Continue, &[], Readiness::Ready),
        (Quorum(2), &[F, C, C], Readiness::Ready),
        (Quorum(2), &[F, F, C], Readiness::Never),
        (Quorum(2), &[F, C, R], Readiness::Waits),
    ] {
        assert_eq!(readiness(policy, states), expected, "{policy:?} {states:?}");
    }
    assert!(succeeded(Quorum(1), &[C, F]) && !succeeded(FailFast, &[C, F]));
}

proptest! {
    #[test]
    fn a_graph_with_edges_to_earlier_tasks_only_has_no_cycle(
        edges in proptest::collection::vec(proptest::collection::vec(0_usize..30, 0..4), 1..30)
    ) {
        let graph: Vec<PlannedTask> = edges.iter().enumerate().map(|(i, targets)| {
            let mut keys: Vec<String> =
                targets.iter().filter(|t| **t < i).map(|t| format!("n{t}")).collect();
            keys.dedup();
            PlannedTask { depends_on: keys, ..node(&format!("n{i}"), &[]) }
        }).collect();
        prop_assert!(check_graph(&graph).is_ok());
    }
}
