//! Steps: asked for, granted, made, reported.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::verdict::{Verdict, broken, ensure};
use super::book::{Book, End, Gate};
use super::lab::{self, Lab, Setup, calls};
use super::rules;
use crate::llm::{LlmRequest, ScriptedReply};
use crate::model::{Message, StepKey, ToolResultMessage, Usage};
use crate::spawn::Outcome;

/// The last thing a scripted agent says.
const LAST: &str = "all is done";

fn last() -> ScriptedReply {
    ScriptedReply::text(LAST)
}

/// The attempt completed with the last words of its script.
pub(super) fn completed(book: &Book) -> Verdict {
    completed_with(book, LAST)
}

fn completed_with(book: &Book, text: &str) -> Verdict {
    let what = format!("it ended with {:?}", book.end);
    let is_so = book.end == Some(End::Completed(text.to_owned()));
    ensure(is_so, rules::GOES_ON_FROM_ITS_CONVERSATION, what)
}

/// The results that the agent reported, in the order of their steps.
fn results(book: &Book) -> Vec<(StepKey, ToolResultMessage)> {
    let mut results: Vec<_> = book
        .outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::ToolAnswered { key, message, .. } => match message.as_ref() {
                Message::ToolResult(result) => Some((*key, result.clone())),
                Message::User(_) | Message::Assistant(_) => None,
            },
            _ => None,
        })
        .collect();
    results.sort_by_key(|(key, _)| *key);
    results
}

/// A request by its number, from 0.
fn request(book: &Book, at: usize) -> Verdict<&LlmRequest> {
    match book.requests.get(at) {
        Some(request) => Ok(request),
        None => broken(
            rules::TELLS_THE_MODEL,
            format!("the model was asked {} times", book.requests.len()),
        ),
    }
}

pub(super) async fn one_answer_completes_with_its_text(lab: &Lab) -> Verdict {
    let book = lab.run(Setup::new(vec![last()])).await?;
    completed(&book)?;
    let what = format!("the model was asked {} times", book.requests.len());
    ensure(book.requests.len() == 1, rules::ASKS_FIRST, what)
}

pub(super) async fn nothing_is_called_before_it_is_granted(lab: &Lab) -> Verdict {
    for gate in [Gate::Model(1), Gate::Tools(1), Gate::Model(2)] {
        let mut setup = Setup::new(vec![calls(&["one"]), last()]);
        setup.orders.hold = Some(gate);
        let running = lab.start(setup);
        running.held(gate).await;
        // Whatever runs ahead of its grant has a chance to.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        running.release();
        completed(&running.finish().await?)?;
    }
    Ok(())
}

pub(super) async fn tools_run_once_each_after_their_grant(lab: &Lab) -> Verdict {
    let script = vec![calls(&["one", "two", "three"]), last()];
    let book = lab.run(Setup::new(script)).await?;
    completed(&book)?;
    let mut made: Vec<&Value> = book.made.iter().map(|made| &made.arguments).collect();
    made.sort_by_key(|arguments| arguments.to_string());
    let all = [
        json!({"do": "one"}),
        json!({"do": "three"}),
        json!({"do": "two"}),
    ];
    let what = format!("made were {made:?}");
    ensure(made.into_iter().eq(&all), rules::ASKS_FIRST, what)?;
    let texts: Vec<String> = results(&book).iter().map(|(_, r)| r.text()).collect();
    let what = format!("reported were {texts:?}");
    let is_so = texts == ["did one", "did two", "did three"];
    ensure(is_so, rules::REPORTS_WHAT_CAME, what)
}

pub(super) async fn results_are_told_in_the_order_of_their_calls(lab: &Lab) -> Verdict {
    // The first takes longer than the others.
    let script = vec![calls(&["meet", "two", "three"]), last()];
    let book = lab.run(Setup::new(script)).await?;
    completed(&book)?;
    let told: Vec<&str> = request(&book, 1)?
        .messages
        .iter()
        .filter_map(|message| match message.as_ref() {
            Message::ToolResult(result) => Some(result.tool_call_id.as_str()),
            Message::User(_) | Message::Assistant(_) => None,
        })
        .collect();
    let what = format!("the model was told the results of {told:?}");
    let is_so = told == ["call_0_0", "call_0_1", "call_0_2"];
    ensure(is_so, rules::TELLS_THE_MODEL, what)
}

pub(super) async fn what_a_call_used_is_reported(lab: &Lab) -> Verdict {
    let usage = Usage {
        input: 1_000,
        output: 10,
        ..Usage::default()
    };
    let book = lab.run(Setup::new(vec![last().usage(usage)])).await?;
    completed(&book)?;
    let [Outcome::Answered { message, used, .. }] = book.outcomes.as_slice() else {
        let what = format!("reported was {:?}", book.outcomes);
        return broken(rules::REPORTS_WHAT_CAME, what);
    };
    let Message::Assistant(answer) = message.as_ref() else {
        return broken(rules::REPORTS_WHAT_CAME, format!("{message:?}"));
    };
    // 1,000 tokens at 3 dollars and 10 at 15 dollars per million.
    let is_so = (used.usd.0, used.tokens) == (3_150_000, 1_010) && answer.usage == usage;
    let what = format!(
        "used were {usage:?}, reported {used:?} and {:?}",
        answer.usage
    );
    ensure(is_so, rules::REPORTS_WHAT_CAME, what)
}

pub(super) async fn grants_bound_the_calls(lab: &Lab) -> Verdict {
    let mut setup = Setup::new(vec![calls(&["one"]), last()]);
    setup.orders.output_tokens = Some(100);
    // Every request is compared with its grant.
    completed(&lab.run(setup).await?)
}

pub(super) async fn tools_run_side_by_side_within_the_limit(lab: &Lab) -> Verdict {
    let script = vec![calls(&["meet"; 6]), last()];
    let book = lab.run(Setup::new(script)).await?;
    completed(&book)?;
    let most = usize::try_from(lab::PARALLEL_MAX).unwrap_or(usize::MAX);
    let what = format!("{} at once, allowed are {most}", book.tools_live_max);
    ensure(book.tools_live_max <= most, rules::WITHIN_LIMITS, what)
}

pub(super) async fn long_results_are_cut(lab: &Lab) -> Verdict {
    let script = vec![calls(&["much"]), last()];
    let book = lab.run(Setup::new(script)).await?;
    completed(&book)?;
    let bytes: usize = results(&book).iter().map(|(_, r)| r.text().len()).sum();
    // Beside the limit, a line that says how much was left out.
    let what = format!("{bytes} bytes were reported");
    let is_so = bytes <= lab::OUTPUT_BYTES_MAX + 200;
    ensure(is_so, rules::WITHIN_LIMITS, what)
}

/// The one result is an error, and the model was told so and went on.
fn one_error(book: &Book) -> Verdict {
    completed(book)?;
    let results = results(book);
    let is_so = matches!(results.as_slice(), [(_, r)] if r.is_error && !r.text().is_empty());
    ensure(is_so, rules::CONTAINED, format!("reported was {results:?}"))
}

pub(super) async fn a_tool_that_fails_or_panics_is_answered(lab: &Lab) -> Verdict {
    for action in ["fail", "panic"] {
        let script = vec![calls(&[action]), last()];
        one_error(&lab.run(Setup::new(script)).await?)?;
    }
    Ok(())
}

pub(super) async fn a_tool_that_is_not_there_is_answered(lab: &Lab) -> Verdict {
    let missing = ScriptedReply::tool_call("no_such_tool", json!({}));
    let book = lab.run(Setup::new(vec![missing, last()])).await?;
    one_error(&book)
}

pub(super) async fn a_tool_that_hangs_is_stopped(lab: &Lab) -> Verdict {
    let running = lab.start(Setup::new(vec![calls(&["hang"]), last()]));
    running
        .desk
        .until(|book| !book.made.is_empty() || book.fault.is_some())
        .await;
    running
        .pass(lab::TOOL_TIMEOUT, |book| book.tools_live == 0)
        .await;
    one_error(&running.finish().await?)
}

pub(super) async fn progress_and_delegation_go_through_the_port(lab: &Lab) -> Verdict {
    let reply = ScriptedReply::tool_call("report_progress", json!({"current": 1, "total": 4}))
        .add_tool_call("delegate", json!({"name": "child", "task": "Do a part."}));
    let book = lab.run(Setup::new(vec![reply, last()])).await?;
    completed(&book)?;
    let progress: Vec<_> = book.progress.iter().map(|p| (p.current, p.total)).collect();
    let what = format!("reported was {progress:?}");
    ensure(progress == [(1, 4)], rules::DELEGATES, what)?;
    let step = StepKey::Tool { turn: 1, index: 1 };
    let is_so = matches!(book.delegations.as_slice(),
        [(at, d)] if *at == step && (&*d.name, &*d.task) == ("child", "Do a part."));
    let what = format!("delegated was {:?}", book.delegations);
    ensure(is_so, rules::DELEGATES, what)?;
    let texts: Vec<String> = results(&book).iter().map(|(_, r)| r.text()).collect();
    let is_so = texts.get(1).is_some_and(|text| text == "the child's words");
    ensure(is_so, rules::DELEGATES, format!("reported was {texts:?}"))
}

/// Whether the last message of a request says this.
fn ends_with(request: &LlmRequest, text: &str) -> bool {
    let last = request.messages.last().map(Arc::as_ref);
    matches!(last, Some(Message::User(user)) if format!("{:?}", user.content).contains(text))
}

pub(super) async fn steering_enters_before_the_next_call(lab: &Lab) -> Verdict {
    let mut setup = Setup::new(vec![calls(&["one"]), last()]);
    setup.orders.steer = Some((2, "look left"));
    let book = lab.run(setup).await?;
    completed(&book)?;
    let what = "the model was not told last what was delivered";
    let is_so = ends_with(request(&book, 1)?, "look left");
    ensure(is_so, rules::TELLS_THE_MODEL, what)
}

pub(super) async fn a_message_at_the_end_makes_it_go_on(lab: &Lab) -> Verdict {
    let mut setup = Setup::new(vec![ScriptedReply::text("done once"), last()]);
    setup.orders.follow_up = Some("one more thing");
    let book = lab.run(setup).await?;
    completed(&book)?;
    let what = "the model was not told last what was delivered";
    let is_so = ends_with(request(&book, 1)?, "one more thing");
    ensure(is_so, rules::TELLS_THE_MODEL, what)
}
