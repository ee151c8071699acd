//! Agents that fail with one model and go on with the next, within their budget.

use dash::api::{BudgetOwner, BudgetRequest, CreateSwarm};
use dash::event::EventKind;
use dash::llm::{LlmError, LlmErrorKind, LlmRequest, Model, ScriptedReply};
use dash::model::{NanoUsd, SideEffect, SwarmStatus};
use dash_tests::{Door, Setup, audit, create, priced, results, texts, turn};
use pretty_assertions::assert_eq;
use serde_json::json;

/// A model that costs ten times what [`priced`] does.
fn better(id: &str) -> Model {
    let mut model = priced();
    id.clone_into(&mut model.id);
    model.price.input = NanoUsd(10 * model.price.input.0);
    model.price.output = NanoUsd(10 * model.price.output.0);
    model
}

fn down(what: &str) -> ScriptedReply {
    ScriptedReply::failure(LlmError::unbilled(LlmErrorKind::Server, what))
}

/// `m` works for one turn and then fails twice; `better` ends the work.
fn script(request: &LlmRequest) -> ScriptedReply {
    match (request.model.id.as_str(), turn(request)) {
        (_, 0) => ScriptedReply::tool_call("act", json!({})),
        ("m", _) if request.idempotency_key.ends_with("t2/m") => down("first trouble"),
        ("m", _) => down("second trouble"),
        _ => ScriptedReply::text(format!(
            "{} after {}",
            request.model.id,
            results(request)[0].1
        )),
    }
}

fn ladder(models: &[&str]) -> CreateSwarm {
    let mut request = create("go", 1);
    request.config.model = "m".to_owned();
    request.config.max_retries = 1;
    request.config.escalation = models.iter().map(|m| (*m).to_owned()).collect();
    request
}

#[tokio::test]
async fn an_agent_that_fails_goes_on_with_the_next_model_and_all_it_knows() {
    let door = Door::new("act", SideEffect::Once);
    let setup = Setup::new(script).priced().door(&door);
    let engine = setup.also(better("better")).start().await;
    let swarm = engine.run(ladder(&["better"])).await;
    assert_eq!(swarm.result.as_deref(), Some("better after done"));
    assert_eq!(door.calls().len(), 1, "what was done is not done again");

    let requests = engine.desk.requests();
    let last = requests.last().unwrap();
    let told = texts(last);
    let told = told.last().unwrap();
    for part in [
        "You take over",
        "attempt 1 with `m`: the model call failed: first trouble",
        "attempt 2 with `m`: the model call failed: second trouble",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let events = engine.events().await;
    let escalated = events.iter().find_map(|e| match &e.kind {
        EventKind::AgentEscalated(e) => Some(e.clone()),
        _ => None,
    });
    let escalated = escalated.unwrap();
    assert_eq!(
        (escalated.from.as_str(), escalated.to.as_str()),
        ("m", "better")
    );
    let agent = engine.agent(swarm.id).await;
    assert_eq!((agent.model.as_str(), agent.attempt), ("better", 2));

    // The answer of `better` is paid at its own price.
    let costs: Vec<i64> = events
        .iter()
        .filter_map(|e| match &e.kind {
            EventKind::AgentTurn(e) => {
                let price = if e.step.turn() == 1 {
                    priced()
                } else {
                    better("better")
                }
                .price;
                assert_eq!(NanoUsd(e.cost_nanos), price.cost(e.usage));
                Some(e.cost_nanos)
            }
            _ => None,
        })
        .collect();
    assert_eq!(costs.len(), 2);
    audit(&engine).await;
}

#[tokio::test]
async fn the_ladder_is_climbed_to_its_end_and_no_further() {
    let script = |request: &LlmRequest| down(&format!("{} is down", request.model.id));
    let setup = Setup::new(script).priced();
    let engine = setup.also(better("b")).also(better("c")).start().await;
    let swarm = engine.run(ladder(&["b", "c"])).await;
    assert_eq!(swarm.status, SwarmStatus::Failed);
    assert!(swarm.error.unwrap().contains("c is down"));
    let asked: Vec<String> = engine
        .desk
        .requests()
        .iter()
        .map(|r| r.model.id.clone())
        .collect();
    assert_eq!(asked, ["m", "m", "b", "b", "c", "c"]);
    assert_eq!(engine.count("agent.escalated").await, 2);
    audit(&engine).await;
}

#[tokio::test]
async fn errors_that_no_retry_helps_climb_at_once() {
    let script = |request: &LlmRequest| match request.model.id.as_str() {
        "m" => ScriptedReply::failure(LlmError::unbilled(LlmErrorKind::InvalidRequest, "no")),
        _ => ScriptedReply::text("end"),
    };
    let engine = Setup::new(script).also(better("b")).start().await;
    let swarm = engine.run(ladder(&["b"])).await;
    assert_eq!(swarm.result.as_deref(), Some("end"));
    assert_eq!(engine.desk.calls(), 2);
    audit(&engine).await;
}

#[tokio::test]
async fn a_budget_bounds_the_ladder() {
    let setup = Setup::new(script).priced();
    let door = Door::new("act", SideEffect::Pure);
    let mut setup = setup.door(&door).also(better("better"));
    setup.settings.output_tokens_floor = 1_000;
    let engine = setup.start().await;
    let mut request = ladder(&["better"]);
    // Enough for calls of `m` (about 3,000 tokens in, 1,000 out: $0.005), not for one of `better`.
    let cap: NanoUsd = "0.012".parse().unwrap();
    request.budget = Some(BudgetRequest::usd(cap));
    let swarm = engine.run(request).await;
    assert_ne!(swarm.status, SwarmStatus::Completed);
    assert_eq!(engine.count("agent.escalated").await, 1);
    let asked = engine.desk.requests();
    assert!(
        asked.iter().all(|r| r.model.id == "m"),
        "`better` was asked"
    );
    let budget = engine.budget(BudgetOwner::Swarm(swarm.id)).await;
    assert!(budget.charged() <= cap.0);
    assert!(engine.count("budget.exceeded").await > 0);
    audit(&engine).await;
}

#[tokio::test]
async fn a_ladder_with_an_unknown_model_is_refused() {
    let engine = Setup::new(script).start().await;
    let err = engine.create_swarm(ladder(&["nobody"])).await.unwrap_err();
    assert!(err.to_string().contains("config.escalation"), "{err}");
    assert_eq!(engine.count("swarm.created").await, 0);
}
