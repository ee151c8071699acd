//! The rules of [`turns`] on random conversations.

use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::*;
use crate::llm::handoff::{CallIdRule, Part, Said, Turn, turns};

const IDS: CallIdRule = CallIdRule {
    len_max: 12,
    plain: true,
};

fn content() -> impl Strategy<Value = Vec<ContentBlock>> {
    let text = prop_oneof![Just(""), Just("a"), Just("b")].prop_map(ContentBlock::text);
    proptest::collection::vec(
        prop_oneof![2 => text, 1 => Just(()).prop_map(|()| image())],
        0..4,
    )
}

fn id() -> impl Strategy<Value = String> {
    let ids = [
        "",
        "a",
        "b",
        "call_0",
        "a b",
        "ü",
        "a|fc_1",
        "longer than twelve",
        "longer than thirteen",
    ];
    proptest::sample::select(ids.to_vec()).prop_map(str::to_owned)
}

fn signature() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(Just("sign".to_owned()))
}

fn block() -> impl Strategy<Value = AssistantBlock> {
    let word = || prop_oneof![Just(String::new()), Just("w".to_owned())];
    prop_oneof![
        (word(), signature())
            .prop_map(|(text, signature)| AssistantBlock::Text { text, signature }),
        (word(), signature(), any::<bool>()).prop_map(|(text, signature, redacted)| {
            AssistantBlock::Thinking {
                text,
                signature,
                redacted,
            }
        }),
        (id(), signature()).prop_map(|(id, thought_signature)| {
            AssistantBlock::ToolCall(ToolCall {
                id,
                name: "look".to_owned(),
                arguments: json!({}),
                arguments_error: None,
                thought_signature,
            })
        }),
    ]
}

fn message() -> impl Strategy<Value = Arc<Message>> {
    let reasons = [
        StopReason::Stop,
        StopReason::ToolUse,
        StopReason::Length,
        StopReason::Error,
        StopReason::Aborted,
    ];
    let apis = ["", api::GEMINI, api::ANTHROPIC];
    let answer = (
        proptest::collection::vec(block(), 0..5),
        proptest::sample::select(&["m", "n"][..]),
        proptest::sample::select(apis.to_vec()),
        proptest::sample::select(reasons.to_vec()),
    );
    prop_oneof![
        2 => content().prop_map(user),
        3 => answer.prop_map(|(content, model, api, stop_reason)| {
            let mut answer = AssistantMessage::new("p", model);
            (answer.content, answer.api, answer.stop_reason) = (content, api.to_owned(), stop_reason);
            Arc::new(Message::Assistant(answer))
        }),
        4 => (id(), content(), any::<bool>()).prop_map(|(id, content, failed)| result(&id, content, failed)),
    ]
}

fn obeys_images(content: &[Said<'_>], sees: bool) -> Result<(), TestCaseError> {
    let is_remark = |said: &Said<'_>| matches!(said, Said::Text(text) if text == IMAGE_LEFT_OUT);
    for pair in content.windows(2) {
        prop_assert!(
            !(is_remark(&pair[0]) && is_remark(&pair[1])),
            "adjacent remarks"
        );
    }
    for said in content {
        match said {
            Said::Text(text) => prop_assert!(!text.is_empty() && (!sees || !is_remark(said))),
            Said::Image { .. } => prop_assert!(sees),
        }
    }
    Ok(())
}

/// The answers that may be told, by what would be left of them.
fn expected_answers(messages: &[Arc<Message>]) -> Vec<(bool, usize, Vec<String>)> {
    let mut out = Vec::new();
    for message in messages {
        let Message::Assistant(answer) = &**message else {
            continue;
        };
        if matches!(answer.stop_reason, StopReason::Error | StopReason::Aborted) {
            continue;
        }
        let is_same = answer.model == "m" && matches!(&*answer.api, "" | api::GEMINI);
        let kept = answer.content.iter().filter(|block| match block {
            AssistantBlock::Text { text, signature } => {
                !text.is_empty() || (is_same && signature.is_some())
            }
            AssistantBlock::Thinking {
                text,
                signature,
                redacted,
            } => is_same && (signature.is_some() || (!redacted && !text.is_empty())),
            AssistantBlock::ToolCall(_) => true,
        });
        let kept = kept.count();
        if kept > 0 {
            out.push((
                is_same,
                kept,
                answer.tool_calls().map(|call| call.id.clone()).collect(),
            ));
        }
    }
    out
}

proptest! {
    #[test]
    fn whatever_was_said_the_rules_hold(
        messages in proptest::collection::vec(message(), 0..16),
        sees in any::<bool>(),
    ) {
        let mut model = Model::free("m", "p");
        model.images = sees;
        let request = request(&messages, &Arc::new(model));
        let told = turns(&request, api::GEMINI, IDS);
        prop_assert_eq!(&told, &turns(&request, api::GEMINI, IDS));
        let mut used = HashSet::new();
        let mut answers = Vec::new();
        for turn in &told {
            let (is_same, parts, results) = match turn {
                Turn::User(content) => {
                    prop_assert!(!content.is_empty());
                    obeys_images(content, sees)?;
                    continue;
                }
                Turn::Assistant { is_same, parts, results } => (*is_same, parts, results),
            };
            let mut calls = Vec::new();
            for part in parts {
                let signature = match part {
                    Part::Text { text, signature } => {
                        prop_assert!(!text.is_empty() || signature.is_some());
                        signature
                    }
                    Part::Thinking { text, signature, redacted } => {
                        prop_assert!(is_same);
                        prop_assert!(signature.is_some() || (!redacted && !text.is_empty()));
                        signature
                    }
                    Part::Call { id, own_id, signature, .. } => {
                        prop_assert!(takes(api::GEMINI, id) && id.len() <= 12, "{}", id);
                        prop_assert!(used.insert(id.to_string()), "{} twice", id);
                        calls.push((id, *own_id));
                        signature
                    }
                };
                prop_assert!(is_same || signature.is_none());
            }
            let answered: Vec<_> = results.iter().map(|result| (&result.id, result.own_id)).collect();
            prop_assert_eq!(&answered, &calls);
            for result in results {
                obeys_images(&result.content, sees)?;
            }
            let own = calls.iter().map(|(_id, own)| (*own).to_owned()).collect();
            answers.push((is_same, parts.len(), own));
        }
        prop_assert_eq!(answers, expected_answers(&messages));
    }

    /// Where an answer follows, what was told before stays as it was.
    #[test]
    fn what_was_told_stays_as_it_was(messages in proptest::collection::vec(message(), 1..16)) {
        let model = Arc::new(Model::free("m", "p"));
        let whole = request(&messages, &model);
        let whole = turns(&whole, api::GEMINI, IDS);
        for (at, message) in messages.iter().enumerate() {
            if matches!(**message, Message::Assistant(_)) {
                let part = request(&messages[..at], &model);
                let part = turns(&part, api::GEMINI, IDS);
                prop_assert_eq!(&part[..], &whole[..part.len()]);
            }
        }
    }
}

#[test]
fn results_of_the_same_id_go_to_their_calls_in_order() {
    let mut answer = AssistantMessage::new("q", "n");
    answer.content = vec![call("a"), call("b"), call("a")];
    let texts = ["b", "a1", "a2", "a3"];
    let mut messages = vec![Arc::new(Message::Assistant(answer))];
    messages.extend(texts.map(|text| result(&text[..1], vec![ContentBlock::text(text)], false)));
    let request = request(&messages, &Arc::new(Model::free("m", "p")));
    let told = turns(&request, api::GEMINI, IDS);
    let [Turn::Assistant { results, .. }] = told.as_slice() else {
        panic!("{told:?}");
    };
    let texts: Vec<_> = results.iter().map(|result| result.text()).collect();
    assert_eq!(texts, ["a1", "b", "a2"]);
}
