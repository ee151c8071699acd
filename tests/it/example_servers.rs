//! Flags of the examples that say which server and which model: `--provider` and what goes with it.
#![cfg(test)]

#[expect(dead_code, reason = "it can do more than is needed here")]
#[path = "../../examples/providers/loopback/mod.rs"]
mod loopback;

use pretty_assertions::assert_eq;
use serde_json::json;

use crate::crash_audit::audit;
use crate::crash_child::Process;
use crate::example::{Place, example};
use loopback::{Asked, Dialect, Loopback, Saying};

/// Reads the first file of its list, then says what it read.
fn reader(asked: &Asked) -> Option<Vec<Saying>> {
    if let Some(result) = asked.results.last() {
        let text = format!("{} read: {result}", asked.model);
        return Some(vec![Saying::Text(text)]);
    }
    let files = asked.task.split("Files: ").nth(1)?;
    let path = format!("project/{}", files.split_whitespace().next()?);
    let name = asked.tools.iter().find(|tool| *tool == "read")?.clone();
    let arguments = json!({ "path": path });
    Some(vec![Saying::Call { name, arguments }])
}

/// A file of models: one provider of one's own, one model of it and one of Groq's.
const MODELS: &str = r#"{
  "providers": [{"id": "box", "api": "anthropic-messages", "baseUrl": "http://127.0.0.1:9", "keyVars": ["BOX_API_KEY"]},
                {"id": "groq", "api": "openai-chat", "baseUrl": "https://api.groq.com/openai/v1", "keyVars": ["GROQ_API_KEY"], "preset": "groq"}],
  "models": [{"id": "own", "provider": "box", "price": {"input": "10", "output": "20", "cacheRead": "1"}},
             {"id": "quick", "provider": "groq", "price": {"input": "0.1", "output": "0.2"}}]
}"#;

/// A run of the swarm against a server of a dialect.
struct Case {
    flags: &'static str,
    dialect: Dialect,
    key: &'static str,
    /// The model the server is asked for.
    model: &'static str,
    /// What two calls of 200 tokens in, 1,000 from the cache and 50 out cost.
    cost: &'static str,
}

const fn case(
    flags: &'static str,
    dialect: Dialect,
    key: &'static str,
    model: &'static str,
    cost: &'static str,
) -> Case {
    Case {
        flags,
        dialect,
        key,
        model,
        cost,
    }
}

const CASES: [Case; 9] = [
    case(
        "anthropic",
        Dialect::Anthropic,
        "ANTHROPIC_API_KEY",
        "claude-haiku-4-5",
        "$0.0011",
    ),
    case(
        "openai",
        Dialect::OpenAiChat,
        "OPENAI_API_KEY",
        "gpt-5-mini",
        "$0.00035",
    ),
    case(
        "openai-responses --model gpt-5.4",
        Dialect::OpenAiResponses,
        "OPENAI_API_KEY",
        "gpt-5.4",
        "$0.003",
    ),
    case(
        "gemini",
        Dialect::Gemini,
        "GOOGLE_API_KEY",
        "gemini-2.5-flash",
        "$0.00043",
    ),
    // Without a price of its own, cached input costs what other input does.
    case(
        "anthropic --input-price 3 --output-price 4",
        Dialect::Anthropic,
        "ANTHROPIC_API_KEY",
        "claude-haiku-4-5",
        "$0.0076",
    ),
    case(
        "compat --model any --input-price 3 --output-price 4",
        Dialect::OpenAiChat,
        "OPENAI_API_KEY",
        "any",
        "$0.0076",
    ),
    case(
        "ollama --model any",
        Dialect::OpenAiChat,
        "OLLAMA_API_KEY",
        "any",
        "$0.00",
    ),
    case(
        "box --model own",
        Dialect::Anthropic,
        "BOX_API_KEY",
        "own",
        "$0.008",
    ),
    case(
        "groq --model quick",
        Dialect::OpenAiChat,
        "GROQ_API_KEY",
        "quick",
        "$0.00026",
    ),
];

#[tokio::test]
async fn the_swarm_runs_in_every_dialect_with_keys_of_variables_and_declared_prices() {
    for case in CASES {
        let what = case.flags;
        let server = Loopback::start(case.dialect, reader).await.unwrap();
        let place = Place::new();
        let models = place.dir.path().join("models.json");
        std::fs::write(&models, MODELS).unwrap();
        let mut command = place.command_with_db(&[]).await;
        command
            .arg("--provider")
            .args(case.flags.split(' '))
            .args(["--base-url", server.url()])
            .args(["--strategy", "parallel", "--agents", "1"])
            .arg("--models")
            .arg(&models)
            .env(case.key, "a-key");
        let (status, lines, complaints) = Process::start(&mut command).end().await;
        let out = lines.join("\n");
        assert!(status.success(), "{what}: {complaints}{out}");
        let paid = format!("  cost        {} of $1.00", case.cost);
        assert!(lines.contains(&paid), "{what}: no `{paid}` in\n{out}");
        let report = place.dir.path().join("run.out/report.md");
        let report = std::fs::read_to_string(report).unwrap();
        let read = format!("{} read: ", case.model);
        assert!(report.contains(&read), "{what}: {report}");
        assert!(report.contains("Heading1"), "{what}: {report}");
        audit(&place.db()).await;
    }
}

/// Flags that are refused, and words of what is said about them.
const REFUSED: [(&str, &[&str]); 13] = [
    ("--provider anthropic", &["ANTHROPIC_API_KEY"]),
    ("--provider openai", &["OPENAI_API_KEY"]),
    ("--provider openai-responses", &["OPENAI_API_KEY"]),
    ("--provider gemini", &["GEMINI_API_KEY or GOOGLE_API_KEY"]),
    ("--provider groq", &["GROQ_API_KEY"]),
    (
        "--provider anthropic --base-url https://x.test",
        &["ANTHROPIC_API_KEY"],
    ),
    (
        "--provider nope",
        &["--provider", "anthropic", "gemini", "ollama", "--models"],
    ),
    ("--provider compat", &["--base-url"]),
    ("--provider ollama", &["--model", "ollama"]),
    (
        "--provider ollama --model m --input-price=-1",
        &["--input-price", "negative"],
    ),
    (
        "--provider vllm --base-url https://x.test --model m",
        &["--model", "--input-price", "--models"],
    ),
    (
        "--provider ollama --models /there/is/no/file",
        &["--models", "/there/is/no/file"],
    ),
    (
        "--provider anthropic --base-url http://127.0.0.1:9 --model claude-haiku-45",
        &[
            "--input-price",
            "--models FILE",
            "did you mean",
            "claude-haiku-4-5",
            "\"models\": [",
        ],
    ),
];

#[tokio::test]
async fn wrong_servers_and_models_are_explained_and_nothing_is_made() {
    for name in ["swarm", "providers"] {
        for (flags, words) in REFUSED {
            check_refused(name, flags, words).await;
        }
    }
    let compat = "--provider compat --base-url http://127.0.0.1:9 --model nobody-knows";
    check_refused("swarm", compat, &["--model", "price is not known"]).await;
    let local = "--base-url http://127.0.0.1:9";
    check_refused("providers", local, &["--base-url", "--provider"]).await;
}

async fn check_refused(name: &str, flags: &str, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = example(name).await;
    command.args(flags.split(' ')).env("TMPDIR", dir.path());
    let (status, lines, complaints) = Process::start(&mut command).end().await;
    let what = format!("{name} {flags}: {complaints}");
    assert_eq!(status.code(), Some(2), "{what}");
    for word in words {
        assert!(complaints.contains(word), "{what}: no `{word}`");
    }
    assert!(lines.is_empty(), "{what}: {lines:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{what}");
}

#[tokio::test]
async fn what_is_not_declared_is_asked_of_the_server() {
    let server = Loopback::start(Dialect::OpenAiChat, reader).await.unwrap();
    for (model, window) in [
        ("any", "with a window of 32768 tokens"),
        ("other", "of unknown window"),
    ] {
        let mut command = example("providers").await;
        let flags = format!(
            "--provider ollama --base-url {} --model {model}",
            server.url()
        );
        command
            .args(flags.split(' '))
            .env("OLLAMA_API_KEY", "a-key");
        let (_, lines, complaints) = Process::start(&mut command).end().await;
        let first = lines.first().unwrap_or(&complaints);
        assert!(first.contains(window), "{model}: {first}");
    }
}

/// As before there was `--provider`: OpenAI's variables and `--base-url` alone.
#[tokio::test]
async fn without_a_provider_the_server_at_the_base_url_is_asked() {
    for (args, cost) in [
        ("", "$0.00035"),
        ("--model gpt-4.1-mini", "$0.00052"),
        // Priced as the default model, cached input like other input.
        ("--model unheard-of", "$0.0008"),
        (
            "--model unheard-of --input-price 0 --output-price 0",
            "$0.00",
        ),
    ] {
        let server = Loopback::start(Dialect::OpenAiChat, reader).await.unwrap();
        let place = Place::new();
        let mut command = place.command_with_db(&[]).await;
        command
            .args(args.split_whitespace())
            .args(["--strategy", "parallel", "--agents", "1"])
            .env("OPENAI_BASE_URL", server.url())
            .env("OPENAI_API_KEY", "a-key");
        let (status, lines, complaints) = Process::start(&mut command).end().await;
        let out = lines.join("\n");
        assert!(status.success(), "{args}: {complaints}{out}");
        let paid = format!("  cost        {cost} of $1.00");
        assert!(lines.contains(&paid), "{args}: no `{paid}` in\n{out}");
        let is_guessed = args == "--model unheard-of";
        assert_eq!(out.contains("priced as gpt-5-mini"), is_guessed, "{out}");
    }
}

#[tokio::test]
async fn a_file_of_models_with_a_mistake_is_told_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("models.json");
    std::fs::write(&file, MODELS.replace("\"0.1\"", "\"cheap\"")).unwrap();
    let file = file.to_str().unwrap();
    let args = ["--provider", "ollama", "--models", file];
    let mut command = example("providers").await;
    let (status, _, complaints) = Process::start(command.args(args)).end().await;
    assert_eq!(status.code(), Some(2), "{complaints}");
    assert!(complaints.contains("models[1].price.input"), "{complaints}");
}

/// The server on loopback is no yes-man: what is not of its dialect is refused.
#[tokio::test]
async fn the_loopback_server_takes_only_its_own_dialect_and_only_with_a_key() {
    let server = Loopback::start(Dialect::Gemini, reader).await.unwrap();
    for (provider, key, words) in [
        ("anthropic", "ANTHROPIC_API_KEY", "401"),
        ("gemini", "NO_KEY", "401"),
        ("gemini", "GEMINI_API_KEY", "overloaded"),
    ] {
        let mut command = example("providers").await;
        command.args(["--provider", provider, "--base-url", server.url()]);
        let (status, _, complaints) = Process::start(command.env(key, "a-key")).end().await;
        assert_eq!(status.code(), Some(1), "{provider}: {complaints}");
        assert!(complaints.contains(words), "{provider} {key}: {complaints}");
    }
    let server = Loopback::start(Dialect::OpenAiChat, reader).await.unwrap();
    let mut command = example("providers").await;
    command.args(["--provider", "openai-responses", "--base-url", server.url()]);
    command.env("OPENAI_API_KEY", "a-key");
    let (status, _, complaints) = Process::start(&mut command).end().await;
    assert_eq!(status.code(), Some(1), "{complaints}");
    assert!(complaints.contains("/v1/chat/completions"), "{complaints}");
}
