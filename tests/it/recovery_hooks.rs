//! An engine with hooks that dies at any commit, and the one that goes on after it.

use std::sync::Arc;

use async_trait::async_trait;
use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::{EntryBody, Message, MessageOrigin, SideEffect, StepKind, StepState, ToolCall};
use dash::spawn::{AgentHooks, HookContext, ToolAnswer, ToolGate, TurnDecision, TurnView};
use dash::tool::ToolOutput;
use dash_tests::{Engine, create, texts, turn};
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::recovery::{Doors, SWARM, dies_everywhere_and};

const ASIDE: &str = "only for this request";
const MORE: &str = "go on";

/// Hooks that change all there is to change, and decide by nothing but the conversation.
#[derive(Debug)]
struct Change;

#[async_trait]
impl AgentHooks for Change {
    async fn before_request(&self, _: HookContext<'_>, request: &mut LlmRequest) {
        request.system = "changed".into();
        let aside = Message::user(ASIDE, MessageOrigin::Task);
        request.messages.push(Arc::new(aside));
    }

    async fn before_tool(&self, cx: HookContext<'_>, _: &ToolCall) -> ToolGate {
        ToolGate::Rewrite(json!({"said": "rewritten", "turn": cx.turn}))
    }

    async fn after_tool(&self, cx: HookContext<'_>, call: &ToolCall, answer: &mut ToolAnswer) {
        assert_eq!(answer.output, ToolOutput::text("done"));
        answer.output = ToolOutput::text(seen(&call.name, cx.turn));
    }

    async fn finish_turn(&self, _: HookContext<'_>, turn: TurnView<'_>) -> TurnDecision {
        let is_more = |m: &Arc<Message>| matches!(m.as_ref(), Message::User(_));
        match turn.answer.text().as_str() {
            "too early" if !turn.after.iter().any(is_more) => TurnDecision::Say(MORE.to_owned()),
            "one more" => TurnDecision::End("enough".to_owned()),
            _ => TurnDecision::GoOn,
        }
    }
}

fn seen(tool: &str, turn: u32) -> String {
    format!("seen {tool} in turn {turn}")
}

/// Calls a tool of every class, says that it is done, and then calls one more.
fn script(request: &LlmRequest) -> ScriptedReply {
    assert_eq!(&*request.system, "changed");
    let said = texts(request);
    assert_eq!(said.last().map(String::as_str), Some(ASIDE));
    let asides = said.iter().filter(|text| *text == ASIDE);
    assert_eq!(asides.count(), 1, "what a hook adds is for one request");
    let raw = json!({"said": "raw"});
    match turn(request) {
        0 => SideEffect::ALL
            .iter()
            .fold(ScriptedReply::new(), |reply, class| {
                reply.add_tool_call(class.as_str(), raw.clone())
            }),
        1 => ScriptedReply::text("too early"),
        2 => ScriptedReply::text("one more").add_tool_call("once", raw),
        _ => ScriptedReply::text("a hook has not ended it"),
    }
}

/// What hooks made of it is what is stored, and nothing else.
async fn look(engine: &Engine, doors: &Doors) {
    for door in &doors.0 {
        for call in door.calls() {
            assert_eq!(call.arguments["said"], "rewritten", "{call:?}");
        }
    }
    for agent in engine.agents(SWARM).await {
        assert_eq!(agent.result.as_deref(), Some("enough"));
        let steps = engine.steps(agent.id).await;
        let path = engine.store.list_path(agent.head.unwrap(), 100).await;
        let path = path.unwrap();
        let mut results = 0;
        for entry in &path {
            let Some(Message::ToolResult(result)) = entry.body.message().map(Arc::as_ref) else {
                continue;
            };
            results += 1;
            let step = steps.iter().find(|s| s.entry_id == Some(entry.id)).unwrap();
            if step.state == StepState::Resolved {
                // Its outcome was lost and someone has settled it: no hook has seen that.
                assert_eq!(step.side_effect, SideEffect::Once);
                continue;
            }
            assert_eq!(step.state, StepState::Done);
            let expected = seen(&step.name, step.key.turn());
            assert_eq!(result.text(), expected);
        }
        assert_eq!(results, SideEffect::ALL.len() + 1);
        let tools = steps.iter().filter(|s| s.key.kind() == StepKind::Tool);
        assert_eq!(tools.count(), results);
        let said = |entry: &&dash::model::Entry| match &entry.body {
            EntryBody::Message { message } => match message.as_ref() {
                Message::User(user) => user.content == [dash::model::ContentBlock::text(MORE)],
                Message::Assistant(_) | Message::ToolResult(_) => false,
            },
            _ => false,
        };
        assert_eq!(path.iter().filter(said).count(), 1, "said once");
    }
}

#[tokio::test]
async fn a_swarm_with_hooks_survives_a_death_at_every_commit() {
    let prepare = |setup: &mut dash_tests::Setup| {
        *setup = setup.clone().hooks(Arc::new(Change));
    };
    dies_everywhere_and(script, create("go", 2), prepare, look).await;
}
