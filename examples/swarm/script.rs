//! The scripted model: a fixed way of working instead of a language model. What it says is made of
//! what the tools really answered, and follows from the conversation alone, so that a run that was
//! killed goes on as if nothing had happened.

use std::time::Duration;

use dash::llm::{LlmRequest, ScriptedReply};
use dash::model::{Message, ToolResultMessage};
use serde_json::json;

use crate::goal::{FILES, REPORT};

/// Files a scripted agent reads in one answer.
const READS_MAX: usize = 20;

/// What the scripted model answers.
pub(crate) fn answer(request: &LlmRequest, pace: Duration) -> ScriptedReply {
    reply(request).first_delay(pace)
}

fn reply(request: &LlmRequest) -> ScriptedReply {
    let Some(task) = task_of(request) else {
        return ScriptedReply::text("There is no task.");
    };
    let results = results_of(request);
    let wrote = results.iter().any(|r| r.tool_name == "write");
    if let Some(failed) = results.iter().find(|r| r.is_error) {
        return ScriptedReply::text(format!("`{}` failed: {}", failed.tool_name, failed.text()));
    }
    if wrote {
        return ScriptedReply::text(format!("The report is in {REPORT}."));
    }
    if task.contains("Delegate each") {
        return tree(&task, &results);
    }
    if task.contains("Combine the outputs") || task.contains("stage 3 of 3") {
        return write_report(&outputs(&task));
    }
    if task.contains("stage 1 of 3") {
        return ScriptedReply::text(format!("{FILES} {}", files_of(&task).join(" ")));
    }
    match results.iter().find(|r| r.tool_name == "read") {
        None => read_all(&task),
        Some(_) => ScriptedReply::text(notes(&task, &results)),
    }
}

fn tree(task: &str, results: &[&ToolResultMessage]) -> ScriptedReply {
    if results.is_empty() {
        let lists = task.lines().filter(|line| line.starts_with(FILES));
        let delegate = |reply: ScriptedReply, (n, list): (usize, &str)| {
            let child = format!("Read each of your files and answer with notes.\n{list}");
            let arguments = json!({"name": format!("reader-{}", n + 1), "task": child});
            reply.add_tool_call("delegate", arguments)
        };
        return lists.enumerate().fold(ScriptedReply::new(), delegate);
    }
    let notes: Vec<String> = results.iter().map(|r| r.text()).collect();
    write_report(&notes.join("\n\n"))
}

fn read_all(task: &str) -> ScriptedReply {
    let files = files_of(task);
    if files.is_empty() {
        return ScriptedReply::text("There are no files to read.");
    }
    let count = files.len();
    let read = |reply: ScriptedReply, file: String| {
        reply.add_tool_call("read", json!({ "path": format!("project/{file}") }))
    };
    let progress = json!({"current": 0, "total": count});
    let reply = ScriptedReply::new().add_tool_call("report_progress", progress);
    files.into_iter().fold(reply, read)
}

fn write_report(notes: &str) -> ScriptedReply {
    let words = notes.split_whitespace().count();
    let content = format!("# Report\n\n{notes}\n\n---\nMade of {words} words of notes.\n");
    ScriptedReply::tool_call("write", json!({"path": REPORT, "content": content}))
}

/// Notes about what was read: headings and counts, taken from the tools' real answers.
fn notes(task: &str, results: &[&ToolResultMessage]) -> String {
    let reads: Vec<&&ToolResultMessage> =
        results.iter().filter(|r| r.tool_name == "read").collect();
    let sections: Vec<String> = files_of(task)
        .iter()
        .zip(reads)
        .map(|(file, result)| {
            let text = result.text();
            let headings: Vec<&str> = text
                .lines()
                .filter(|line| line.starts_with('#'))
                .take(8)
                .collect();
            format!(
                "## {file}\n\n{} lines, {} words. Sections: {}",
                text.lines().count(),
                text.split_whitespace().count(),
                if headings.is_empty() {
                    "none".to_owned()
                } else {
                    headings.join("; ")
                },
            )
        })
        .collect();
    sections.join("\n\n")
}

/// What a prompt holds of the outputs of other tasks.
fn outputs(task: &str) -> String {
    task.split_once("\n--- Output of")
        .map_or_else(String::new, |(_, rest)| {
            rest.lines()
                .filter(|line| !line.starts_with("--- Output of"))
                .skip(1)
                .fold(String::new(), |mut all, line| {
                    all.push_str(line);
                    all.push('\n');
                    all
                })
        })
}

fn files_of(task: &str) -> Vec<String> {
    let list = task.rsplit(FILES).next().unwrap_or_default();
    if !task.contains(FILES) {
        return Vec::new();
    }
    let files = list.lines().next().unwrap_or_default().split_whitespace();
    files
        .take_while(|word| !word.ends_with("---"))
        .take(READS_MAX)
        .map(str::to_owned)
        .collect()
}

fn task_of(request: &LlmRequest) -> Option<String> {
    request
        .messages
        .iter()
        .find_map(|message| match message.as_ref() {
            Message::User(user) => {
                let texts = user.content.iter().filter_map(|block| match block {
                    dash::model::ContentBlock::Text { text } => Some(text.as_str()),
                    dash::model::ContentBlock::Image { .. } => None,
                });
                Some(texts.collect())
            }
            Message::Assistant(_) | Message::ToolResult(_) => None,
        })
}

fn results_of(request: &LlmRequest) -> Vec<&ToolResultMessage> {
    let results = request
        .messages
        .iter()
        .filter_map(|message| match message.as_ref() {
            Message::ToolResult(result) => Some(result),
            Message::User(_) | Message::Assistant(_) => None,
        });
    results.collect()
}
