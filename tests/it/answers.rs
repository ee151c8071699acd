//! Answers that must fit a schema.

use dash::api::CreateSwarm;
use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::{Strategy, SwarmStatus};
use dash_tests::{Setup, audit, create, task_of, texts, turn};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"total": {"type": "integer"}, "names": {"type": "array", "items": {"type": "string"}}},
        "required": ["total"],
        "additionalProperties": false,
    })
}

fn structured(task: &str, agents: u32) -> CreateSwarm {
    let mut request = create(task, agents);
    request.config.answer_schema = Some(schema());
    request
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_sent_back_with_what_is_wrong() {
    let script = |request: &LlmRequest| match turn(request) {
        0 => ScriptedReply::text("The total is three."),
        1 => ScriptedReply::text(r#"{"total": "three", "extra": 1}"#),
        _ => ScriptedReply::text("Sure:\n```json\n{ \"total\": \"3\" }\n```"),
    };
    let engine = Setup::new(script).start().await;
    let swarm = engine.run(structured("count", 1)).await;
    assert_eq!(swarm.result.as_deref(), Some(r#"{"total":3}"#));
    let requests = engine.desk.requests();
    assert_eq!(requests.len(), 3);
    assert!(
        requests[0]
            .system
            .contains("\"additionalProperties\":false")
    );
    assert_eq!(
        requests[0].response_schema,
        Some(schema()).filter(|_| requests[0].tools.is_empty())
    );
    let told = texts(&requests[2]);
    let told = told.last().unwrap();
    assert!(told.contains("total: ") && told.contains("extra"), "{told}");
    audit(&engine).await;
}

#[tokio::test]
async fn an_agent_that_never_fits_is_given_up() {
    let engine = Setup::new(|_| ScriptedReply::text("no JSON")).start().await;
    let swarm = engine.run(structured("count", 1)).await;
    assert_eq!(swarm.status, SwarmStatus::Failed);
    assert!(swarm.error.unwrap().contains("does not fit the schema"));
    assert_eq!(engine.desk.calls(), 4);
    audit(&engine).await;
}

#[tokio::test]
async fn only_what_makes_the_result_must_fit() {
    let script = |request: &LlmRequest| {
        if task_of(request).contains("Output of") {
            ScriptedReply::text(r#"{"total": 2}"#)
        } else {
            ScriptedReply::text("free text")
        }
    };
    let engine = Setup::new(script).start().await;
    let mut request = structured("count", 2);
    request.strategy = Strategy::MapReduce;
    request.parts = vec!["a".to_owned(), "b".to_owned()];
    let swarm = engine.run(request).await;
    assert_eq!(swarm.result.as_deref(), Some(r#"{"total":2}"#));
    assert_eq!(engine.desk.calls(), 3);
    audit(&engine).await;
}

#[tokio::test]
async fn a_schema_that_is_no_object_is_refused() {
    let engine = Setup::new(|_| ScriptedReply::text("x")).start().await;
    let mut request = structured("count", 1);
    request.config.answer_schema = Some(json!("text"));
    let err = engine.create_swarm(request).await.unwrap_err();
    assert!(err.to_string().contains("config.answerSchema"), "{err}");
}

#[tokio::test]
async fn an_agent_given_up_for_its_answers_can_be_retried_by_hand() {
    let script = |request: &LlmRequest| match turn(request) {
        0..5 => ScriptedReply::text("no JSON"),
        _ => ScriptedReply::text(r#"{"total": 1}"#),
    };
    let engine = Setup::new(script).start().await;
    let swarm = engine.run(structured("count", 1)).await;
    assert_eq!(swarm.status, SwarmStatus::Failed);
    let agent = engine.agent(swarm.id).await;
    engine.retry_agent(agent.id).await.unwrap();
    let swarm = engine.finish(swarm.id).await;
    assert_eq!(swarm.result.as_deref(), Some(r#"{"total":1}"#));
    audit(&engine).await;
}
