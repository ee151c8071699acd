//! Reads lists of models.

use serde_json::Value;

use crate::llm::{LlmError, LlmErrorKind, Model};

pub(super) fn read_models(body: &str, provider: &str) -> Result<Vec<Model>, LlmError> {
    let unreadable = |why: &str| {
        LlmError::unbilled(
            LlmErrorKind::Decode,
            format!("the list of models cannot be read: {why}"),
        )
    };
    let value: Value = serde_json::from_str(body).map_err(|err| unreadable(&err.to_string()))?;
    let list = value.get("models").unwrap_or(&value).as_array();
    let list = list.ok_or_else(|| unreadable("it is no list"))?;
    Ok(list
        .iter()
        .filter_map(|entry| read_model(entry, provider))
        .collect())
}

/// One model, unless it is told to be of no use here, such as one for embeddings.
fn read_model(entry: &Value, provider: &str) -> Option<Model> {
    let name = entry.get("name")?.as_str()?;
    let id = name.strip_prefix("models/").unwrap_or(name);
    let methods = entry
        .get("supportedGenerationMethods")
        .and_then(Value::as_array);
    let answers = methods.is_none_or(|methods| {
        let mut methods = methods.iter().filter_map(Value::as_str);
        methods.any(|method| method == "generateContent" || method == "streamGenerateContent")
    });
    if id.is_empty() || !answers {
        return None;
    }
    let mut model = Model::free(id, provider);
    let count = |key: &str| {
        let count = entry.get(key)?.as_u64()?;
        u32::try_from(count).ok().filter(|count| *count > 0)
    };
    if let Some(window) = count("inputTokenLimit") {
        model.context_window = window;
    }
    let limit = count("outputTokenLimit").unwrap_or(model.max_output_tokens);
    model.max_output_tokens = match model.context_window {
        0 => limit,
        window => limit.min(window),
    };
    Some(model)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn models_that_generate_are_read_with_their_limits() {
        let body = r#"{"models":[
            {"name":"models/gemini-x","inputTokenLimit":1048576,"outputTokenLimit":65536,
             "supportedGenerationMethods":["generateContent","countTokens"]},
            {"name":"models/embedder","inputTokenLimit":2048,"outputTokenLimit":1,
             "supportedGenerationMethods":["embedContent"]},
            {"name":"bare","inputTokenLimit":"many","outputTokenLimit":0},
            {"name":"models/small","inputTokenLimit":1000},
            {"name":"models/"},
            {"displayName":"no name"}, 7]}"#;
        let models = read_models(body, "p").unwrap();
        let told: Vec<_> = models
            .iter()
            .map(|model| (&*model.id, model.context_window, model.max_output_tokens))
            .collect();
        let expected = [
            ("gemini-x", 1_048_576, 65_536),
            ("bare", 0, 4_096),
            ("small", 1_000, 1_000),
        ];
        assert_eq!(told, expected);
        assert!(models.iter().all(|model| model.provider == "p"));
        assert!(read_models("{}", "p").is_err());
        assert!(read_models("<html>", "p").is_err());
    }
}
