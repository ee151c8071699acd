//! The provider for OpenAI Chat Completions and its imitations.

use std::sync::Arc;

use reqwest::Url;
use secrecy::SecretString;
use serde_json::Value;

use super::{HttpDriver, HttpOptions};
use crate::env::{BoxFuture, Clock, SystemClock};
use crate::llm::openai_chat::{ChatDialect, ChatOptions};
use crate::llm::{LlmError, LlmErrorKind, LlmProvider, LlmRequest, LlmStream, Model};
use crate::{Error, Result};

/// A server that speaks OpenAI Chat Completions: OpenAI, OpenRouter, llama.cpp, vLLM, …
#[derive(Debug, Clone)]
pub struct OpenAiProvider {
    id: Arc<str>,
    driver: HttpDriver,
    dialect: Arc<ChatDialect>,
}

/// Builds an [`OpenAiProvider`].
#[derive(Debug, Clone)]
#[must_use]
pub struct OpenAiProviderBuilder {
    base_url: String,
    id: String,
    key: Option<SecretString>,
    chat: Option<ChatOptions>,
    http: HttpOptions,
    clock: Arc<dyn Clock>,
}

impl OpenAiProvider {
    /// A builder for the server at `base_url`: `https://api.openai.com/v1`, or only
    /// `http://127.0.0.1:8080`, to which `/v1` is added. A path that is given is kept as it is;
    /// requests go to `{base}/chat/completions`.
    pub fn builder(base_url: impl Into<String>) -> OpenAiProviderBuilder {
        OpenAiProviderBuilder {
            base_url: base_url.into(),
            id: "openai".to_owned(),
            key: None,
            chat: None,
            http: HttpOptions::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

impl OpenAiProviderBuilder {
    /// The provider's id; `openai` if not said.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// The key, sent as a bearer token. Never shown.
    pub fn api_key(mut self, key: SecretString) -> Self {
        self.key = Some(key);
        self
    }

    /// How the server's dialect differs; [`ChatOptions::for_host`] if not said.
    pub const fn chat_options(mut self, options: ChatOptions) -> Self {
        self.chat = Some(options);
        self
    }

    /// Time limits.
    pub const fn http_options(mut self, options: HttpOptions) -> Self {
        self.http = options;
        self
    }

    /// The clock that dates in `retry-after` are compared with.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Builds the provider. Does no IO, except that certificates are loaded for `https`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): the URL is not `http` or `https`, carries
    /// a user name or password, or the key cannot be a header.
    pub fn build(self) -> Result<OpenAiProvider> {
        let base = base_url(&self.base_url)?;
        let host = base.host_str().unwrap_or_default();
        let options = self.chat.unwrap_or_else(|| ChatOptions::for_host(host));
        let driver = HttpDriver::new(base, self.key, self.http, self.clock)?;
        Ok(OpenAiProvider {
            id: self.id.into(),
            driver,
            dialect: Arc::new(ChatDialect { options }),
        })
    }
}

fn base_url(text: &str) -> Result<Url> {
    let wrong = |issue: &str| Error::invalid("base_url", issue);
    let mut url = Url::parse(text.trim()).map_err(|err| wrong(&format!("not a URL: {err}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("not an `http` or `https` URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "carries a user name or password, which logs would show",
        ));
    }
    let path = url.path().trim_end_matches('/');
    let path = path
        .strip_suffix("/chat/completions")
        .unwrap_or(path)
        .to_owned();
    url.set_path(if path.is_empty() { "/v1" } else { &path });
    Ok(url)
}

impl LlmProvider for OpenAiProvider {
    fn id(&self) -> &str {
        &self.id
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let dialect = Arc::clone(&self.dialect);
        self.driver.stream(dialect, Arc::clone(&self.id), request)
    }

    /// Asks `GET {base}/models`. A window the server does not tell is that of [`Model::free`];
    /// prices are not told and are zero.
    fn models(&self) -> BoxFuture<Result<Vec<Model>, LlmError>> {
        let (driver, id) = (self.driver.clone(), Arc::clone(&self.id));
        Box::pin(async move {
            let body = driver.get("/models").await?;
            read_models(&body, &id)
        })
    }
}

fn read_models(body: &str, provider: &str) -> Result<Vec<Model>, LlmError> {
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
    model.max_output_tokens = limit.min(model.context_window);
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
    fn the_base_url_is_taken_with_and_without_a_path() {
        for (text, base) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1"),
            ("https://api.openai.com/v1", "https://api.openai.com/v1"),
            ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
            (
                "https://x.test/api/v1/chat/completions",
                "https://x.test/api/v1",
            ),
            (
                "https://x.test/openai?api-version=1",
                "https://x.test/openai?api-version=1",
            ),
        ] {
            assert_eq!(base_url(text).unwrap().as_str(), base, "{text}");
        }
        for text in [
            "",
            "api.openai.com",
            "ftp://x.test",
            "https://user:pass@x.test/v1",
        ] {
            assert!(base_url(text).is_err(), "{text}");
        }
    }

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
            ("d", 128_000, 4_096, false),
        ];
        assert_eq!(told, expected);
        assert!(read_models("{}", "p").is_err());
        assert!(read_models("<html>", "p").is_err());
    }
}
