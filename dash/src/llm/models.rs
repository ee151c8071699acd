//! Reads lists of models in the shape that OpenAI and its imitations share.

use serde_json::Value;

use super::{LlmError, LlmErrorKind, Model};

/// What is in a list of models, `{"data":[{"id":…}]}` or the bare list.
pub(crate) fn read_models(body: &str, provider: &str) -> Result<Vec<Model>, LlmError> {
    let unreadable = |why: &str| {
        LlmError::unbilled(
            LlmErrorKind::Decode,
            format!("the list of models cannot be read: {why}"),
        )
    };
    let value: Value = serde_json::from_str(body).map_err(|err| unreadable(&err.to_string()))?;
    let list = value.get("data").unwrap_or(&value).as_array();
    let list = list.ok_or_else(|| unreadable("it is no list"))?;
    Ok(list
        .iter()
        .filter_map(|entry| read_model(entry, provider))
        .collect())
}

/// One model. The window's name differs: llama.cpp, OpenRouter, vLLM, Groq.
fn read_model(entry: &Value, provider: &str) -> Option<Model> {
    let mut model = Model::free(entry.get("id")?.as_str()?, provider);
    let first = |paths: &[&str]| {
        let counts = paths
            .iter()
            .filter_map(|path| entry.pointer(path)?.as_u64());
        let mut told = counts.filter_map(|count| u32::try_from(count).ok());
        told.find(|count| *count > 0)
    };
    let windows = [
        "/meta/n_ctx",
        "/context_length",
        "/max_model_len",
        "/context_window",
    ];
    if let Some(window) = first(&windows) {
        model.context_window = window;
    }
    let limits = [
        "/top_provider/max_completion_tokens",
        "/max_completion_tokens",
    ];
    let limit = first(&limits).unwrap_or(model.max_output_tokens);
    model.max_output_tokens = match model.context_window {
        0 => limit,
        window => limit.min(window),
    };
    let inputs = entry
        .pointer("/architecture/input_modalities")
        .and_then(Value::as_array);
    model.images = inputs.is_some_and(|inputs| inputs.iter().any(|input| input == "image"));
    Some(model)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn windows_are_read_where_they_are_told() {
        let body = r#"{"object":"list","data":[
            {"id":"a","meta":{"n_ctx":2048}},
            {"id":"b","context_length":32000,"top_provider":{"max_completion_tokens":8000},
             "architecture":{"input_modalities":["text","image"]}},
            {"id":"c","max_model_len":4000},
            {"id":"d"},
            {"name":"no id"}]}"#;
        let models = read_models(body, "p").unwrap();
        let told: Vec<_> = models
            .iter()
            .map(|model| {
                (
                    &*model.id,
                    model.context_window,
                    model.max_output_tokens,
                    model.images,
                )
            })
            .collect();
        let expected = [
            ("a", 2_048, 2_048, false),
            ("b", 32_000, 8_000, true),
            ("c", 4_000, 4_000, false),
            ("d", 0, 4_096, false),
        ];
        assert_eq!(told, expected);
        assert!(read_models("{}", "p").is_err());
        assert!(read_models("<html>", "p").is_err());
    }
}
