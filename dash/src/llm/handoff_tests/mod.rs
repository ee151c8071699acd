//! What every dialect's decoder makes of its goldens, and odd turns besides, written by every
//! dialect for the same model, another one, and one that sees no images.

use std::collections::HashSet;
use std::sync::Arc;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::golden_tests::{READERS, Reader, decode, goldens};
use super::handoff::{IMAGE_LEFT_OUT, NO_RESULT};
use super::{LlmEvent, LlmRequest, Model, RequestOptions, ToolChoice, api};
use crate::model::{
    AssistantBlock, AssistantMessage, ContentBlock, Message, MessageOrigin, StopReason, ToolCall,
    ToolResultMessage, UserMessage,
};
use told::{Told, told};

mod rules;
mod told;

const IMAGE: &str = "SU1BR0VEQVRB";

fn image() -> ContentBlock {
    ContentBlock::Image {
        data: IMAGE.to_owned(),
        mime_type: "image/png".to_owned(),
    }
}

fn user(content: Vec<ContentBlock>) -> Arc<Message> {
    let origin = MessageOrigin::Task;
    Arc::new(Message::User(UserMessage { content, origin }))
}

fn result(id: &str, content: Vec<ContentBlock>, is_error: bool) -> Arc<Message> {
    Arc::new(Message::ToolResult(ToolResultMessage {
        tool_call_id: id.to_owned(),
        tool_name: "look".to_owned(),
        content,
        is_error,
        details: Value::Null,
        is_final: false,
    }))
}

/// Adds an answer and results for its calls: well with an image, failed, and none, in turn.
fn add(answer: AssistantMessage, out: &mut Vec<Arc<Message>>) {
    let calls: Vec<String> = answer.tool_calls().map(|call| call.id.clone()).collect();
    out.push(Arc::new(Message::Assistant(answer)));
    // Results in another order than the calls.
    for (at, id) in calls.iter().enumerate().rev() {
        match at % 3 {
            0 => out.push(result(id, vec![ContentBlock::text("ok"), image()], false)),
            1 => out.push(result(id, vec![ContentBlock::text("bad"), image()], true)),
            _ => {}
        }
    }
    out.push(result("nobody", vec![ContentBlock::text("ORPHAN")], false));
    out.push(user(vec![ContentBlock::text("go on")]));
}

fn call(id: &str) -> AssistantBlock {
    AssistantBlock::ToolCall(ToolCall {
        id: id.to_owned(),
        name: "look".to_owned(),
        arguments: json!({"at": id.len()}),
        arguments_error: None,
        thought_signature: Some("fc_SIGNCALL".to_owned()),
    })
}

/// An answer with everything a signature can be on.
fn odd_answer(api: &str, ids: &[&str]) -> AssistantMessage {
    let reasoning =
        json!({"type": "reasoning", "id": "rs_SIGNTHINK", "summary": [], "encrypted_content": "x"});
    let signature = match api {
        api::OPENAI_RESPONSES => reasoning.to_string(),
        _ => "SIGNTHINK".to_owned(),
    };
    let thinking = |text: &str, signature: &str, redacted| AssistantBlock::Thinking {
        text: text.to_owned(),
        signature: Some(signature.to_owned()).filter(|signature| !signature.is_empty()),
        redacted,
    };
    let said = |text: &str, signature: &str| AssistantBlock::Text {
        text: text.to_owned(),
        signature: Some(signature.to_owned()),
    };
    let mut answer = AssistantMessage::new("p", "m");
    answer.api = api.to_owned();
    answer.stop_reason = StopReason::ToolUse;
    answer.content = vec![thinking("THOUGHT", &signature, false)];
    if api == api::ANTHROPIC {
        answer.content.push(thinking("", "SIGNSEALED", true));
    }
    answer.content.push(said("Let me see.", "msg_SIGNTEXT"));
    answer.content.push(said("", "msg_SIGNEMPTY"));
    answer.content.extend(ids.iter().map(|id| call(id)));
    answer
}

/// All goldens of a dialect as answers, then odd ones, failed ones and repeated ids.
fn history(source: &Reader) -> Vec<Arc<Message>> {
    let api = (source.dialect)().api();
    let mut out = vec![user(vec![
        ContentBlock::text("Task"),
        image(),
        image(),
        ContentBlock::text(""),
    ])];
    for (reader, path, bytes) in goldens() {
        if reader.folder != source.folder {
            continue;
        }
        match decode(reader, vec![bytes]).pop() {
            Some(LlmEvent::Done { message, .. } | LlmEvent::Error { message, .. }) => {
                assert_eq!(message.api, api, "{}", path.display());
                add(message, &mut out);
            }
            other => panic!("{}: {other:?}", path.display()),
        }
    }
    let long = "x".repeat(200);
    let longer = format!("{long}y");
    let odd = ["call_abc|fc_123", &long, &longer, "mit Leerzeichen ü", "c"];
    add(odd_answer(api, &odd), &mut out);
    for reason in [StopReason::Error, StopReason::Aborted] {
        let mut failed = odd_answer(api, &["half"]);
        failed.stop_reason = reason;
        failed.content.push(AssistantBlock::Text {
            text: "HALFSAID".to_owned(),
            signature: None,
        });
        out.push(Arc::new(Message::Assistant(failed)));
    }
    // The same ids again, and twice in one answer.
    add(odd_answer(api, &["c", "c", &long]), &mut out);
    out
}

fn request(messages: &[Arc<Message>], model: &Arc<Model>) -> LlmRequest {
    LlmRequest {
        model: Arc::clone(model),
        system: "Be brief.".into(),
        messages: messages.to_vec(),
        tools: Arc::new([]),
        tool_choice: ToolChoice::Auto,
        max_output_tokens: 1_000,
        temperature: None,
        response_schema: None,
        idempotency_key: "key".to_owned(),
        options: RequestOptions::default(),
    }
}

fn encode(target: &Reader, messages: &[Arc<Message>], model: &Arc<Model>) -> (String, Value) {
    let dialect = (target.dialect)();
    let request = request(messages, model);
    let bytes = dialect.encode(&request).unwrap();
    assert_eq!(dialect.encode(&request).unwrap(), bytes, "bytes differ");
    let body = serde_json::from_slice(&bytes).unwrap();
    (String::from_utf8(bytes).unwrap(), body)
}

/// A model's name, whether it made the answers, whether it sees images.
const MODELS: [(&str, bool, bool); 3] = [
    ("m", true, true),
    ("other", false, true),
    ("blind", false, false),
];

/// Runs `check` on every pair of dialects and every model.
fn for_all(check: impl Fn(&str, &Reader, &Reader, &[Arc<Message>], &Arc<Model>)) {
    for source in READERS {
        let history = history(source);
        for target in READERS {
            for (id, _is_same, images) in MODELS {
                let mut model = Model::free(id, "p");
                model.images = images;
                let place = format!("{} to {} of {id}", source.folder, target.folder);
                check(&place, source, target, &history, &Arc::new(model));
            }
        }
    }
}

fn takes(api: &str, id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    match api {
        api::OPENAI_CHAT => (1..=40).contains(&id.len()),
        api::OPENAI_RESPONSES => (1..=64).contains(&id.len()),
        _ => (1..=64).contains(&id.len()) && id.bytes().all(plain),
    }
}

#[test]
fn every_call_has_a_legal_id_of_its_own_and_one_result_in_its_place() {
    for_all(|place, _source, target, history, model| {
        let api = (target.dialect)().api();
        let (_text, body) = encode(target, history, model);
        let mut seen = HashSet::new();
        let mut pending: Vec<String> = Vec::new();
        let mut answered = false;
        for (_role, piece) in told(api, &body) {
            match piece {
                Told::Call(id) => {
                    assert!(takes(api, &id), "{place}: {id}");
                    assert!(seen.insert(id.clone()), "{place}: {id} twice");
                    assert!(!answered || pending.is_empty(), "{place}: {id} in results");
                    pending.push(id);
                    answered = false;
                }
                Told::Result(id, _text) => {
                    assert!(!pending.is_empty(), "{place}: an orphan result {id}");
                    assert_eq!(pending.remove(0), id, "{place}");
                    answered = true;
                }
                Told::User(text) => assert_eq!(pending, [""; 0], "{place}: before {text}"),
                Told::Said => {
                    assert!(
                        !answered || pending.is_empty(),
                        "{place}: an answer in results"
                    );
                }
            }
        }
        assert_eq!(pending, [""; 0], "{place}: at the end");
        assert!(seen.len() >= 8, "{place}: {seen:?}");
    });
}

#[test]
fn roles_are_valid_and_alternate_where_they_must() {
    for_all(|place, _source, target, history, model| {
        let api = (target.dialect)().api();
        let (_text, body) = encode(target, history, model);
        let roles = told::roles(api, &body);
        let known: &[&str] = match api {
            api::OPENAI_CHAT => &["system", "user", "assistant", "tool"],
            api::GEMINI => &["user", "model"],
            _ => &["user", "assistant"],
        };
        for role in &roles {
            assert!(known.contains(&role.as_str()), "{place}: {role}");
        }
        if matches!(api, api::ANTHROPIC | api::GEMINI) {
            assert_eq!(roles[0], "user", "{place}");
            for pair in roles.windows(2) {
                assert!(pair[0] != pair[1], "{place}: {roles:?}");
            }
        }
    });
}

#[test]
fn failed_answers_and_orphan_results_are_told_to_nobody() {
    for_all(|place, _source, target, history, model| {
        let (text, _body) = encode(target, history, model);
        for hidden in ["HALFSAID", "ORPHAN", "\"half\"", "nobody"] {
            assert!(!text.contains(hidden), "{place}: {hidden}");
        }
        assert!(text.contains(NO_RESULT), "{place}");
    });
}

#[test]
fn images_are_sent_or_said_to_be_left_out() {
    for_all(|place, _source, target, history, model| {
        let (text, _body) = encode(target, history, model);
        assert_eq!(text.contains(IMAGE), model.images, "{place}");
        assert_eq!(text.contains(IMAGE_LEFT_OUT), !model.images, "{place}");
        let twice = format!("{IMAGE_LEFT_OUT}\\n{IMAGE_LEFT_OUT}");
        assert!(!text.contains(&twice), "{place}: adjacent remarks");
    });
}

/// What is signed or thought in the answers, and in no text or id that is told.
fn secrets(history: &[Arc<Message>]) -> HashSet<String> {
    let mut secrets = HashSet::new();
    let mut open = String::new();
    for message in history {
        let Message::Assistant(answer) = &**message else {
            continue;
        };
        for block in &answer.content {
            match block {
                AssistantBlock::Text { text, signature } => {
                    open.push_str(text);
                    secrets.extend(signature.clone());
                }
                AssistantBlock::Thinking {
                    text, signature, ..
                } => {
                    secrets.insert(text.clone());
                    secrets.extend(signature.clone());
                }
                AssistantBlock::ToolCall(call) => {
                    open.push_str(&call.id);
                    open.push_str(&call.arguments.to_string());
                    secrets.extend(call.thought_signature.clone());
                }
            }
        }
    }
    secrets.retain(|secret| secret.len() > 3 && !open.contains(secret.as_str()));
    secrets
}

#[test]
fn other_models_see_no_signature_and_no_thought() {
    for_all(|place, source, target, history, model| {
        let is_same = model.id == "m" && source.folder == target.folder;
        if is_same {
            return;
        }
        let (text, body) = encode(target, history, model);
        let secrets = secrets(history);
        assert!(secrets.len() >= 5, "{place}: {secrets:?}");
        for secret in &secrets {
            let quoted = json!(secret).to_string();
            let is_told = text.contains(secret.as_str()) || text.contains(&quoted);
            assert!(!is_told, "{place}: {secret}");
        }
        for hidden in [
            "SIGN",
            "THOUGHT",
            "encrypted_content",
            "\"rs_",
            "\"reasoning\":",
        ] {
            assert!(
                !body["messages"].to_string().contains(hidden),
                "{place}: {hidden}"
            );
            assert!(
                !body["input"].to_string().contains(hidden),
                "{place}: {hidden}"
            );
            assert!(
                !body["contents"].to_string().contains(hidden),
                "{place}: {hidden}"
            );
        }
    });
}

#[test]
fn the_same_model_gets_its_signatures_back() {
    for_all(|place, source, target, history, model| {
        if model.id != "m" || source.folder != target.folder {
            return;
        }
        let (text, _body) = encode(target, history, model);
        let expected: &[&str] = match (target.dialect)().api() {
            api::ANTHROPIC => &["\"SIGNTHINK\"", "\"SIGNSEALED\"", "THOUGHT"],
            api::GEMINI => &["SIGNTHINK", "msg_SIGNTEXT", "msg_SIGNEMPTY", "fc_SIGNCALL"],
            api::OPENAI_RESPONSES => &["\"rs_SIGNTHINK\"", "\"msg_SIGNTEXT\"", "\"fc_SIGNCALL\""],
            // Where a server wants its reasoning back is its compat's; by default it does not.
            _ => &[],
        };
        for kept in expected {
            assert!(text.contains(kept), "{place}: {kept}");
        }
    });
}

/// Servers cache prompts by their beginning. What may differ: cache marks, and, in dialects whose
/// roles alternate, that a message grows by the blocks of the next one.
#[test]
fn one_more_turn_leaves_what_was_told_before_as_it_was() {
    for_all(|place, _source, target, history, model| {
        let api = (target.dialect)().api();
        let (_text, whole) = encode(target, history, model);
        let whole = told::pieces(api, &whole);
        for (at, message) in history.iter().enumerate().skip(1) {
            // A request is sent where an answer follows.
            if !matches!(**message, Message::Assistant(_)) {
                continue;
            }
            let (_text, part) = encode(target, &history[..at], model);
            let part = told::pieces(api, &part);
            assert!(part.len() <= whole.len(), "{place}, before {at}");
            assert_eq!(part, whole[..part.len()], "{place}, before {at}");
        }
    });
}
