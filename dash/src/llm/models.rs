//! Reads lists of models in the shape that OpenAI and its imitations share, and what servers tell of
//! windows through interfaces of their own.

use serde_json::Value;

use super::cost;
use super::{LlmError, LlmErrorKind, Model, ModelPrice};

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
        .filter(|entry| !is_unpriced(entry))
        .filter_map(|entry| read_model(entry, provider))
        .collect())
}

/// One model. The window's name differs: llama.cpp, OpenRouter, vLLM, Groq.
fn read_model(entry: &Value, provider: &str) -> Option<Model> {
    let mut model = Model::free(entry.get("id")?.as_str()?, provider);
    let windows = [
        // Of one slot, not of all together.
        "/meta/n_ctx",
        // What the provider that a router prefers takes, which may be less than the model could.
        "/top_provider/context_length",
        "/context_length",
        "/max_model_len",
        "/context_window",
        "/max_context_length",
    ];
    let limits = [
        "/top_provider/max_completion_tokens",
        "/max_completion_tokens",
    ];
    if let Some(limit) = first_count(entry, &limits) {
        model.max_output_tokens = limit;
    }
    if let Some(window) = first_count(entry, &windows) {
        set_window(&mut model, window);
    }
    let inputs = entry
        .pointer("/architecture/input_modalities")
        .and_then(Value::as_array);
    model.images = inputs.is_some_and(|inputs| inputs.iter().any(|input| input == "image"));
    if let Some(price) = entry.get("pricing").and_then(read_price) {
        model.price = price;
    }
    Some(model)
}

/// OpenRouter's prices: dollars per token, as text. A fee per request is not read.
/// Whether a price is only known once a call is made, as that of a router which chooses the model: -1.
/// A budget cannot hold what such a model may cost.
fn is_unpriced(entry: &Value) -> bool {
    let told = entry.pointer("/pricing/prompt").and_then(Value::as_str);
    told.is_some_and(|price| price.trim().starts_with('-'))
}

fn read_price(pricing: &Value) -> Option<ModelPrice> {
    let price = |key: &str| cost::dollars_per_token(pricing.get(key)?.as_str()?);
    let (input, output) = (price("prompt")?, price("completion")?);
    Some(ModelPrice {
        input,
        output,
        cache_read: price("input_cache_read").unwrap_or(input),
        cache_write: price("input_cache_write").unwrap_or(input),
        ..ModelPrice::default()
    })
}

fn first_count(value: &Value, paths: &[&str]) -> Option<u32> {
    let counts = paths
        .iter()
        .filter_map(|path| value.pointer(path)?.as_u64());
    let mut told = counts.filter_map(|count| u32::try_from(count).ok());
    told.find(|count| *count > 0)
}

/// Sets the window; an answer cannot be longer.
pub(crate) fn set_window(model: &mut Model, window: u32) {
    model.context_window = window;
    model.max_output_tokens = model.max_output_tokens.min(window);
}

/// llama.cpp's `GET /props`: the window of one slot.
#[cfg(feature = "http")]
pub(crate) fn read_props(body: &str) -> Option<u32> {
    let props: Value = serde_json::from_str(body).ok()?;
    first_count(&props, &["/default_generation_settings/n_ctx", "/n_ctx"])
}

/// Ollama's `GET /api/ps`: the windows of models that are loaded, which are the true ones.
#[cfg(feature = "http")]
pub(crate) fn read_ollama_ps(body: &str) -> Vec<(String, u32)> {
    let list: Value = serde_json::from_str(body).unwrap_or_default();
    let models = list.get("models").and_then(Value::as_array);
    let models = models.into_iter().flatten();
    models
        .filter_map(|model| {
            let name = model.get("model").or_else(|| model.get("name"))?.as_str()?;
            let window = first_count(model, &["/context_length"])?;
            Some((name.to_owned(), window))
        })
        .collect()
}

/// Ollama's `POST /api/show`: `num_ctx` of the model's file, else the most the model could have,
/// which the server does not load it with unless told to.
#[cfg(feature = "http")]
pub(crate) fn read_ollama_show(body: &str, model: &mut Model) {
    let show: Value = serde_json::from_str(body).unwrap_or_default();
    let told = |key: &str| show.get(key).and_then(Value::as_str).unwrap_or_default();
    let set = told("parameters").lines().find_map(|line| {
        let value = line.trim().strip_prefix("num_ctx")?;
        value.trim().parse::<u32>().ok()
    });
    let info = show.get("model_info").and_then(Value::as_object);
    let own = info.into_iter().flatten().find_map(|(key, value)| {
        let count = value
            .as_u64()
            .filter(|_| key.ends_with(".context_length"))?;
        u32::try_from(count).ok()
    });
    if let Some(window) = set.or(own).filter(|window| *window > 0) {
        set_window(model, window);
    }
    let can = show.get("capabilities").and_then(Value::as_array);
    if can.is_some_and(|can| can.iter().any(|word| word == "vision")) {
        model.images = true;
    }
}

/// LM Studio's own lists of models, old (`data`) and new (`models`): what a model was loaded with,
/// else the most it could have.
#[cfg(feature = "http")]
pub(crate) fn read_lm_studio(body: &str, models: &mut [Model]) {
    let list: Value = serde_json::from_str(body).unwrap_or_default();
    let entries = list.get("data").or_else(|| list.get("models"));
    let entries = entries.and_then(Value::as_array);
    for entry in entries.into_iter().flatten() {
        let id = entry.get("id").or_else(|| entry.get("key"));
        let id = id.and_then(Value::as_str).unwrap_or_default();
        let windows = [
            "/loaded_context_length",
            "/loaded_instances/0/config/context_length",
            "/max_context_length",
        ];
        let sees = entry.get("type").is_some_and(|kind| kind == "vlm")
            || entry.pointer("/capabilities/vision") == Some(&Value::Bool(true));
        for model in models.iter_mut().filter(|model| model.id == id) {
            if model.context_window == 0
                && let Some(window) = first_count(entry, &windows)
            {
                set_window(model, window);
            }
            model.images |= sees;
        }
    }
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
            {"id":"e","context_window":131072,"max_completion_tokens":null},
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
            ("e", 131_072, 4_096, false),
        ];
        assert_eq!(told, expected);
        assert!(read_models("{}", "p").is_err());
        assert!(read_models("<html>", "p").is_err());
    }

    #[test]
    fn a_training_window_is_never_taken_for_the_servers() {
        let body = r#"{"data":[{"id":"a","meta":{"n_ctx_train":131072}}]}"#;
        assert_eq!(read_models(body, "p").unwrap()[0].context_window, 0);
    }

    #[test]
    fn prices_per_token_become_prices_per_million() {
        let body = r#"{"data":[
            {"id":"a","pricing":{"prompt":"0.000003","completion":"0.000015","input_cache_read":"0.0000003","request":"0"}},
            {"id":"b","pricing":{"prompt":"-1","completion":"-1"}}]}"#;
        let models = read_models(body, "p").unwrap();
        let expected = ModelPrice {
            input: "3".parse().unwrap(),
            output: "15".parse().unwrap(),
            cache_read: "0.3".parse().unwrap(),
            cache_write: "3".parse().unwrap(),
            ..ModelPrice::default()
        };
        assert_eq!(models[0].price, expected);
        assert_eq!(models.len(), 1, "what a model costs must be known before");
    }
}
