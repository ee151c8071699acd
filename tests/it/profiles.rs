//! Agents that are called as tools.

use dash::api::{BudgetRequest, CreateSwarm};
use dash::llm::{LlmRequest, Model, ScriptedReply};
use dash::model::{AgentProfile, AgentStatus, NanoUsd, SideEffect, Strategy};
use dash_tests::{Door, Setup, audit, create, priced, results, task_of, turn};
use pretty_assertions::assert_eq;
use serde_json::json;

fn with_reviewer(task: &str) -> CreateSwarm {
    let mut request = create(task, 1);
    request.config.model = "m".to_owned();
    request.config.instructions = "You write.".to_owned();
    request.config.profiles = vec![AgentProfile {
        name: "reviewer".to_owned(),
        description: "Reviews a text.".to_owned(),
        instructions: "You review.".to_owned(),
        model: "small".to_owned(),
        tools: Some(vec!["look".to_owned()]),
    }];
    request
}

fn small() -> Model {
    let mut model = priced();
    "small".clone_into(&mut model.id);
    model
}

fn script(request: &LlmRequest) -> ScriptedReply {
    match (&*request.system, turn(request)) {
        ("You write.", 0) => ScriptedReply::tool_call("reviewer", json!({"task": "review: abc"}))
            .add_tool_call(
                "reviewer",
                json!({"task": "review: def", "budget_usd": "0.5"}),
            ),
        ("You write.", _) => {
            let answers: Vec<String> = results(request).into_iter().map(|r| r.1).collect();
            ScriptedReply::text(answers.join(" | "))
        }
        (_, 0) => ScriptedReply::tool_call("look", json!({})),
        _ => ScriptedReply::text(format!("{} is fine", task_of(request))),
    }
}

#[tokio::test]
async fn a_profile_is_a_tool_with_its_own_model_instructions_and_tools() {
    let (look, write) = (
        Door::new("look", SideEffect::Pure),
        Door::new("write", SideEffect::Once),
    );
    let setup = Setup::new(script).priced().door(&look).door(&write);
    let engine = setup.also(small()).start().await;
    let mut request = with_reviewer("go");
    request.budget = Some(BudgetRequest::usd("2".parse().unwrap()));
    let swarm = engine.run(request).await;
    let expected = "review: abc is fine | review: def is fine";
    assert_eq!(swarm.result.as_deref(), Some(expected));
    let agents = engine.agents(swarm.id).await;
    let children: Vec<_> = agents.iter().filter(|a| a.parent_id.is_some()).collect();
    assert_eq!(children.len(), 2);
    for child in children {
        assert_eq!((child.model.as_str(), child.depth), ("small", 1));
        assert_eq!(child.profile.as_deref(), Some("reviewer"));
        assert!(child.cost > NanoUsd::ZERO);
    }
    let requests = engine.desk.requests();
    let of_child = requests
        .iter()
        .find(|r| &*r.system == "You review.")
        .unwrap();
    let names: Vec<&str> = of_child.tools.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["look", "reviewer"]);
    assert_eq!(of_child.model.id, "small");
    assert_eq!(look.calls().len(), 2);
    audit(&engine).await;
}

#[tokio::test]
async fn profiles_nest_no_deeper_than_the_settings_say() {
    let script = |request: &LlmRequest| {
        let can = request.tools.iter().any(|tool| tool.name == "reviewer");
        match turn(request) {
            0 if can => ScriptedReply::tool_call("reviewer", json!({"task": "deeper"})),
            0 => ScriptedReply::text("the bottom"),
            _ => ScriptedReply::text(results(request)[0].1.clone()),
        }
    };
    let look = Door::new("look", SideEffect::Pure);
    let setup = Setup::new(script).priced().door(&look);
    let engine = setup.also(small()).start().await;
    let mut request = with_reviewer("go");
    request.config.tree_depth_max = 2;
    let swarm = engine.run(request).await;
    assert_eq!(swarm.result.as_deref(), Some("the bottom"));
    let depths: Vec<u32> = engine
        .agents(swarm.id)
        .await
        .iter()
        .map(|a| a.depth)
        .collect();
    assert_eq!(depths, [0, 1, 2]);
    audit(&engine).await;
}

#[tokio::test]
async fn profiles_that_clash_or_name_what_is_not_there_are_refused() {
    let look = Door::new("look", SideEffect::Pure);
    let setup = Setup::new(script).priced().door(&look);
    let engine = setup.also(small()).start().await;
    type Change = fn(&mut AgentProfile);
    let wrong: [(Change, &str); 5] = [
        (|p| "look".clone_into(&mut p.name), "is taken"),
        (|p| "no spaces".clone_into(&mut p.name), "name"),
        (
            |p| "nobody".clone_into(&mut p.model),
            "config.profiles[0].model",
        ),
        (
            |p| p.tools = Some(vec!["none".to_owned()]),
            "config.profiles[0].tools",
        ),
        (|p| p.description.clear(), "config.profiles[0].description"),
    ];
    for (change, part) in wrong {
        let mut request = with_reviewer("go");
        change(&mut request.config.profiles[0]);
        let err = engine.create_swarm(request).await.unwrap_err();
        assert!(err.to_string().contains(part), "{part}: {err}");
    }
    assert_eq!(engine.count("swarm.created").await, 0);
}

#[tokio::test]
async fn an_agent_that_is_killed_takes_those_it_called_with_it() {
    let look = Door::new("look", SideEffect::Pure);
    look.close();
    let script = |request: &LlmRequest| match (&*request.system, task_of(request).as_str()) {
        ("You write.", _) => ScriptedReply::tool_call("reviewer", json!({"task": "first"})),
        (_, "first") => ScriptedReply::tool_call("reviewer", json!({"task": "second"})),
        _ => ScriptedReply::tool_call("look", json!({})),
    };
    let setup = Setup::new(script).priced().door(&look);
    let engine = setup.also(small()).start().await;
    let swarm = engine.create_swarm(with_reviewer("go")).await.unwrap();
    look.wait_for_calls(1).await;
    let agents = engine.agents(swarm.id).await;
    let root = agents.iter().find(|a| a.depth == 0).unwrap();
    engine.kill_agent(root.id).await.unwrap();
    for agent in engine.agents(swarm.id).await {
        assert_eq!(agent.status, AgentStatus::Killed, "{}", agent.name);
    }
    look.open();
    engine.finish(swarm.id).await;
    audit(&engine).await;
}

#[tokio::test]
async fn a_profiles_limit_on_tools_holds_below_it() {
    let look = Door::new("look", SideEffect::Pure);
    let write = Door::new("write", SideEffect::Once);
    for named in [false, true] {
        let script = |request: &LlmRequest| {
            let can = request.tools.iter().any(|tool| tool.name == "delegate");
            match (task_of(request).as_str(), turn(request)) {
                ("root", 0) => ScriptedReply::tool_call("reviewer", json!({"task": "review"})),
                ("review", 0) if can => {
                    ScriptedReply::tool_call("delegate", json!({"name": "deep", "task": "deep"}))
                }
                _ => ScriptedReply::text("end"),
            }
        };
        let setup = Setup::new(script).priced().door(&look).door(&write);
        let engine = setup.also(small()).start().await;
        let mut request = with_reviewer("root");
        request.strategy = Strategy::Tree;
        if named {
            let tools = request.config.profiles[0].tools.as_mut().unwrap();
            tools.push("delegate".to_owned());
        }
        let swarm = engine.run(request).await;
        let agents = engine.agents(swarm.id).await;
        assert_eq!(agents.len(), if named { 3 } else { 2 });
        for request in engine.desk.requests() {
            let writes = request.tools.iter().any(|tool| tool.name == "write");
            assert_eq!(writes, task_of(&request) == "root", "{}", task_of(&request));
        }
        audit(&engine).await;
    }
}
