//! The small examples, as processes: offline, and showing what they are there to show.
#![cfg(test)]

use pretty_assertions::assert_eq;

use crate::crash_child::Process;
use crate::example::example;

/// Runs an example to its end: exit code, lines of output, complaints.
async fn run(name: &str, args: &[&str]) -> (Option<i32>, Vec<String>, String) {
    let mut command = example(name).await;
    command.args(args);
    let (status, lines, complaints) = Process::start(&mut command).end().await;
    (status.code(), lines, complaints)
}

/// The output of an example that must succeed.
async fn shown(name: &str) -> Vec<String> {
    let (code, lines, complaints) = run(name, &[]).await;
    assert_eq!(code, Some(0), "{name}: {complaints}\n{}", lines.join("\n"));
    assert_eq!(complaints, "", "{name}");
    lines
}

#[tokio::test]
async fn providers_shows_a_round_trip_in_each_dialect_with_its_exact_cost() {
    let lines = shown("providers").await;
    let parts = lines.split(|line| line.starts_with("== ")).skip(1);
    let parts: Vec<Vec<&str>> = parts
        .map(|part| part.iter().map(|line| line.trim()).collect())
        .collect();
    let names: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("== ")?.split(" at ").next())
        .collect();
    let expected = [
        "openai-chat: gpt-5-mini",
        "openai-responses: gpt-5-mini",
        "anthropic-messages: claude-haiku-4-5",
        "google-gemini: gemini-2.5-flash",
    ];
    assert_eq!(names, expected);
    // Per call 200 tokens in, 1,000 from the cache and 50 out, at the prices of the registry.
    let costs = ["$0.00035", "$0.00035", "$0.0011", "$0.00043"];
    for (part, cost) in parts.iter().zip(costs) {
        let cost = format!("cost    {cost}");
        let whole = [
            "text    The tool shall do that.",
            r#"call    multiply {"a":6127,"b":8941}"#,
            "result  54781507",
            "text    The product is 54781507.",
            "usage   2400 in, 2000 of them cached, 100 out",
            cost.as_str(),
            "",
        ];
        assert_eq!(part, &whole);
    }
}

#[tokio::test]
async fn steer_shows_both_tickets_delivered() {
    let lines = shown("steer").await;
    for (line, count) in [
        ("  ticket  steer     queued    Write for children.", 1),
        ("  ticket  steer     delivered Write for children.", 1),
        ("  ticket  follow_up queued    Now give it a title.", 1),
        ("  ticket  follow_up delivered Now give it a title.", 1),
        ("result: The Little Report", 1),
    ] {
        let found = lines.iter().filter(|one| *one == line).count();
        assert_eq!(found, count, "{line}\n{}", lines.join("\n"));
    }
}

#[tokio::test]
async fn custom_tool_changes_what_it_may_and_no_more() {
    let lines = shown("custom_tool").await;
    for line in [
        "refused  only `moons` may be corrected",
        "result   moons of Saturn: 274 instead of 146",
        "answer   90 moons or more: Saturn: 274, Jupiter: 95.",
        "file     Saturn,120536,1432,274,10.7",
    ] {
        assert!(lines.iter().any(|one| one == line), "{line}: {lines:?}");
    }
    let original = crate::source::read("examples/custom_tool/planets.csv");
    assert!(original.contains("Saturn,120536,1432,146,10.7"));
}

#[tokio::test]
async fn structured_output_ends_with_a_value_of_its_type() {
    let lines = shown("structured_output").await;
    let corrections = lines.iter().filter(|line| line.starts_with("engine "));
    assert_eq!(corrections.count(), 2, "{lines:?}");
    let end = [
        "R-2044",
        "  3 × chair at 4990 cents",
        "  1 × table at 12000 cents",
        "  total 26970 cents",
    ];
    assert_eq!(lines[lines.len() - end.len()..], end);
}

#[tokio::test]
async fn handoff_goes_on_with_the_second_model_at_its_own_price() {
    let lines = shown("handoff").await;
    let readme = crate::source::read("README.md").lines().count();
    let answer = format!("answer    README.md has {readme} lines.");
    for line in [
        "escalated gpt-5-mini → claude-sonnet-5",
        answer.as_str(),
        "claude-sonnet-5 (anthropic-messages)   $0.0011",
        "gpt-5-mini (openai-responses)          $0.000175",
        "budget                                 $0.001275 of $0.10",
    ] {
        assert!(lines.iter().any(|one| one == line), "{line}: {lines:?}");
    }
}

#[tokio::test]
async fn every_example_explains_flags_it_does_not_know() {
    for name in [
        "providers",
        "steer",
        "custom_tool",
        "structured_output",
        "handoff",
    ] {
        let (code, lines, complaints) = run(name, &["--nonsense"]).await;
        assert_eq!(code, Some(2), "{name}: {complaints}");
        assert!(complaints.contains("--nonsense"), "{name}: {complaints}");
        assert!(complaints.contains("Usage: "), "{name}: {complaints}");
        assert!(lines.is_empty(), "{name}: {lines:?}");
    }
}
