//! Reads lists of models.

use serde_json::Value;

use crate::llm::{LlmError, LlmErrorKind, Model, ThinkingLevel, ThinkingMode, ThinkingSupport};

pub(super) fn read_models(body: &str, provider: &str) -> Result<Vec<Model>, LlmError> {
    let unreadable = |why: &str| {
        let text = format!("the list of models cannot be read: {why}");
        LlmError::unbilled(LlmErrorKind::Decode, text)
    };
    let value: Value = serde_json::from_str(body).map_err(|err| unreadable(&err.to_string()))?;
    let list = value.get("data").unwrap_or(&value).as_array();
    let list = list.ok_or_else(|| unreadable("it is no list"))?;
    Ok(list
        .iter()
        .filter_map(|entry| read_model(entry, provider))
        .collect())
}

/// One model. Anthropic tells the window as the longest input; llama.cpp has it in `meta`.
fn read_model(entry: &Value, provider: &str) -> Option<Model> {
    let id = entry.get("id")?.as_str().filter(|id| !id.is_empty())?;
    let mut model = Model::free(id, provider);
    let count = |path: &str| {
        let told = entry.pointer(path).and_then(Value::as_u64);
        told.and_then(|count| u32::try_from(count).ok())
            .filter(|count| *count > 0)
    };
    if let Some(window) = count("/max_input_tokens").or_else(|| count("/meta/n_ctx")) {
        model.context_window = window;
    }
    let limit = count("/max_tokens").unwrap_or(model.max_output_tokens);
    model.max_output_tokens = match model.context_window {
        0 => limit,
        window => limit.min(window),
    };
    model.images = can(entry, "image_input");
    model.thinking = thinking(entry);
    Some(model)
}

fn can(entry: &Value, capability: &str) -> bool {
    let path = format!("/capabilities/{capability}/supported");
    entry.pointer(&path).and_then(Value::as_bool) == Some(true)
}

fn thinking(entry: &Value) -> Option<ThinkingSupport> {
    if !can(entry, "thinking/types/adaptive") {
        let has_budget = can(entry, "thinking/types/enabled");
        return has_budget.then(|| ThinkingSupport::new(ThinkingMode::Budget));
    }
    let mut support = ThinkingSupport::new(ThinkingMode::Adaptive);
    // The levels below are always there.
    for level in [ThinkingLevel::XHigh, ThinkingLevel::Max] {
        if can(entry, &format!("effort/{}", level.as_str())) {
            let word = Some(level.as_str().to_owned());
            support.levels.insert(level, word);
        }
    }
    Some(support)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn limits_are_read_where_they_are_told() {
        let body = r#"{"data":[
            {"type":"model","id":"a","display_name":"A","max_input_tokens":200000,"max_tokens":64000},
            {"id":"b","display_name":null,"max_tokens":"many"},
            {"id":"c","meta":{"n_ctx":2048}},
            {"id":""},
            {"display_name":"no id"}],"has_more":false,"last_id":"c"}"#;
        let models = read_models(body, "p").unwrap();
        let told: Vec<_> = models
            .iter()
            .map(|model| (&*model.id, model.context_window, model.max_output_tokens))
            .collect();
        let expected = [("a", 200_000, 64_000), ("b", 0, 4_096), ("c", 2_048, 2_048)];
        assert_eq!(told, expected);
        assert!(models.iter().all(|model| model.provider == "p"));
        assert!(
            models
                .iter()
                .all(|model| !model.images && model.thinking.is_none())
        );
        for body in ["{}", "<html>", r#"{"data":7}"#] {
            let error = read_models(body, "p").unwrap_err();
            assert_eq!(error.kind, LlmErrorKind::Decode, "{body}");
        }
    }

    #[test]
    fn what_a_model_can_do_is_read_where_it_is_told() {
        let yes = r#"{"supported":true}"#;
        let body = format!(
            r#"{{"data":[
            {{"id":"a","capabilities":{{"image_input":{yes},
              "thinking":{{"supported":true,"types":{{"adaptive":{yes},"enabled":{yes}}}}},
              "effort":{{"high":{yes},"xhigh":null,"max":{yes}}}}}}},
            {{"id":"b","capabilities":{{"image_input":{{"supported":false}},
              "thinking":{{"types":{{"adaptive":{{"supported":false}},"enabled":{yes}}}}}}}}},
            {{"id":"c","capabilities":null}}]}}"#
        );
        let mut adaptive = ThinkingSupport::new(ThinkingMode::Adaptive);
        let max = ThinkingLevel::Max;
        adaptive.levels.insert(max, Some("max".to_owned()));
        let budget = ThinkingSupport::new(ThinkingMode::Budget);
        let models = read_models(&body, "p").unwrap();
        let told = models
            .into_iter()
            .map(|model| (model.images, model.thinking));
        let expected = [(true, Some(adaptive)), (false, Some(budget)), (false, None)];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
