//! Asks servers for windows that their lists of models leave out.

use serde_json::json;

use super::HttpDriver;
use crate::llm::models::{
    read_lm_studio, read_ollama_ps, read_ollama_show, read_props, set_window,
};
use crate::llm::openai_chat::WindowSource;
use crate::llm::{LlmError, Model};

/// How many models are asked about one by one.
const ASKED_MAX: usize = 100;

/// Adds the windows that the list did not tell. What cannot be learnt stays unknown, without an
/// error: a gateway may serve the dialect alone.
pub(super) async fn fill(driver: &HttpDriver, source: WindowSource, models: &mut [Model]) {
    if models.iter().all(|model| model.context_window > 0) {
        return;
    }
    // Each source ends quietly at its first failure.
    let _best_effort = match source {
        WindowSource::Models => Ok(()),
        WindowSource::LlamaCpp => llama_cpp(driver, models).await,
        WindowSource::Ollama => ollama(driver, models).await,
        WindowSource::LmStudio => lm_studio(driver, models).await,
    };
}

async fn llama_cpp(driver: &HttpDriver, models: &mut [Model]) -> Result<(), LlmError> {
    // The properties are those of the only model; a router has others.
    if let [model] = models
        && let Some(window) = read_props(&driver.get_native("/props").await?)
    {
        set_window(model, window);
    }
    Ok(())
}

async fn ollama(driver: &HttpDriver, models: &mut [Model]) -> Result<(), LlmError> {
    let loaded = driver.get_native("/api/ps").await;
    let loaded = loaded.map_or_else(|_unknown| Vec::new(), |body| read_ollama_ps(&body));
    for model in models.iter_mut().take(ASKED_MAX) {
        let about = json!({"model": model.id}).to_string();
        read_ollama_show(&driver.post_native("/api/show", about).await?, model);
        let is_it = |name: &str| tagged(name) == tagged(&model.id);
        let window = loaded.iter().find(|(name, _)| is_it(name));
        if let Some((_name, window)) = window {
            set_window(model, *window);
        }
    }
    Ok(())
}

async fn lm_studio(driver: &HttpDriver, models: &mut [Model]) -> Result<(), LlmError> {
    let body = match driver.get_native("/api/v0/models").await {
        Ok(body) => body,
        Err(_gone) => driver.get_native("/api/v1/models").await?,
    };
    read_lm_studio(&body, models);
    Ok(())
}

/// A name without the tag that it has by default.
fn tagged(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}
