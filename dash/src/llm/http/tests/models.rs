//! Lists of models, and windows from servers' own interfaces.

use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::*;
use crate::llm::CompatPatch as Patch;
use crate::llm::openai_chat::Preset;

/// A server that answers by the first line of a request and its body; 404 for what is not there.
async fn server(answer: impl Fn(&str, &str) -> Option<Value> + Send + Sync + 'static) -> Server {
    Server::start(move |request| {
        let line = request.lines().next().unwrap_or_default();
        let line = line.trim_end_matches(" HTTP/1.1");
        let body = request.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        match answer(line, body) {
            Some(json) => Answer::new("200 OK", json.to_string()),
            None => Answer::new("404 Not Found", "{}"),
        }
    })
    .await
}

fn compatible(name: &str, url: &str) -> HttpProvider {
    let preset = Preset::find(name).unwrap();
    let builder = HttpProvider::compatible(preset).base_url(url);
    builder.build().unwrap()
}

/// Ids, windows, limits and eyes of the models.
async fn listed(name: &str, server: &Server) -> Vec<(String, u32, u32, bool)> {
    let models = compatible(name, &server.url).models().await.unwrap();
    let told = models.into_iter();
    told.map(|m| (m.id, m.context_window, m.max_output_tokens, m.images))
        .collect()
}

fn row(id: &str, window: u32, limit: u32, images: bool) -> (String, u32, u32, bool) {
    (id.to_owned(), window, limit, images)
}

fn asked(server: &Server) -> Vec<String> {
    let requests = server.requests.lock().unwrap();
    let lines = requests.iter().filter_map(|request| request.lines().next());
    lines.map(|line| line.replace(" HTTP/1.1", "")).collect()
}

#[tokio::test]
async fn ollama_tells_what_is_loaded_what_is_set_and_what_could_be() {
    let server = server(|line, body| {
        Some(match (line, body) {
            ("GET /v1/models", _) => {
                json!({"data": [{"id": "a:latest"}, {"id": "b"}, {"id": "c"}, {"id": "d"}]})
            }
            ("GET /api/ps", _) => json!({"models": [{"name": "a", "context_length": 2_048}]}),
            ("POST /api/show", r#"{"model":"b"}"#) => json!({
                "parameters": "stop \"x\"\nnum_ctx    16384",
                "model_info": {"llama.context_length": 131_072},
                "capabilities": ["completion", "vision"],
            }),
            ("POST /api/show", r#"{"model":"d"}"#) => json!({"model_info": {}}),
            ("POST /api/show", _) => json!({"model_info": {"llama.context_length": 131_072}}),
            _ => return None,
        })
    })
    .await;
    let expected = [
        row("a:latest", 2_048, 2_048, false),
        row("b", 16_384, 4_096, true),
        row("c", 131_072, 4_096, false),
        row("d", 0, 4_096, false),
    ];
    assert_eq!(listed("ollama", &server).await, expected);
}

#[tokio::test]
async fn lm_studio_tells_windows_in_its_own_lists_old_and_new() {
    let list = json!({"data": [{"id": "a"}, {"id": "b"}, {"id": "c"}]});
    let expected = [
        row("a", 8_192, 4_096, false),
        row("b", 32_768, 4_096, true),
        row("c", 0, 4_096, false),
    ];
    let models = list.clone();
    let old = server(move |line, _| match line {
        "GET /v1/models" => Some(models.clone()),
        "GET /api/v0/models" => Some(json!({"data": [
            {"id": "a", "type": "llm", "max_context_length": 131_072, "loaded_context_length": 8_192},
            {"id": "b", "type": "vlm", "max_context_length": 32_768},
        ]})),
        _ => None,
    })
    .await;
    assert_eq!(listed("lmstudio", &old).await, expected);
    let new = server(move |line, _| match line {
        "GET /v1/models" => Some(list.clone()),
        "GET /api/v1/models" => Some(json!({"models": [
            {"key": "a", "max_context_length": 131_072,
             "loaded_instances": [{"id": "a", "config": {"context_length": 8_192}}]},
            {"key": "b", "max_context_length": 32_768, "loaded_instances": [],
             "capabilities": {"vision": true}},
        ]})),
        _ => None,
    })
    .await;
    assert_eq!(listed("lmstudio", &new).await, expected);
    let lines = ["GET /v1/models", "GET /api/v0/models", "GET /api/v1/models"];
    assert_eq!(asked(&new), lines);
}

#[tokio::test]
async fn llama_cpp_tells_the_window_of_a_slot_in_its_list_or_its_properties() {
    let server = server(|line, _| match line {
        "GET /v1/models" => Some(json!({"data": [{"id": "a", "meta": {"n_ctx_train": 131_072}}]})),
        "GET /props" => Some(json!({
            "total_slots": 4, "default_generation_settings": {"n_ctx": 2_048}})),
        _ => None,
    })
    .await;
    let expected = [row("a", 2_048, 2_048, false)];
    assert_eq!(listed("llama.cpp", &server).await, expected);
}

#[tokio::test]
async fn a_window_in_the_list_is_not_asked_for_again() {
    let server = server(|line, _| match line {
        "GET /v1/models" => Some(json!({"data": [{"id": "a", "meta": {"n_ctx": 4_096}}]})),
        _ => None,
    })
    .await;
    let expected = [row("a", 4_096, 4_096, false)];
    assert_eq!(listed("llama.cpp", &server).await, expected);
    assert_eq!(asked(&server), ["GET /v1/models"]);
}

#[tokio::test]
async fn a_window_that_cannot_be_learnt_stays_unknown() {
    for name in ["ollama", "lmstudio", "llama.cpp", "vllm"] {
        let server = server(|line, _| match line {
            "GET /v1/models" => Some(json!({"data": [{"id": "a"}]})),
            _ => None,
        })
        .await;
        let expected = [row("a", 0, 4_096, false)];
        assert_eq!(listed(name, &server).await, expected, "{name}");
    }
}

#[tokio::test]
async fn what_a_caller_says_of_a_server_wins_over_the_preset() {
    let server = Server::start(|_| Answer::new("400 Bad Request", "{}")).await;
    let preset = Preset::find("openai").unwrap();
    let first = Patch {
        store: Some(false),
        stream_options: Some(false),
        ..Patch::default()
    };
    let second = Patch {
        store: Some(true),
        ..Patch::default()
    };
    let builder = HttpProvider::compatible(preset).base_url(&*server.url);
    let provider = builder.compat(first).compat(second).build().unwrap();
    assert_eq!(provider.id(), "openai");
    let _refused = provider.stream(request("Hi")).finish().await;
    let requests = server.requests.lock().unwrap();
    let (_head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["max_completion_tokens"], 100);
    assert_eq!(body["store"], false);
    assert_eq!(body.get("stream_options"), None);
}

#[test]
fn differences_are_refused_where_there_are_none() {
    let dialect = Arc::new(crate::llm::openai_chat::ChatDialect::default());
    let builder = HttpProvider::builder("http://127.0.0.1:1", dialect);
    assert!(builder.clone().build().is_ok());
    let error = builder.compat(Patch::default()).build().unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Invalid);
}
