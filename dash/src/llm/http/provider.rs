//! The provider for servers that are reached over HTTP, whatever dialect they speak.

use std::sync::Arc;

use reqwest::Url;
use secrecy::SecretString;

use super::{HttpDriver, HttpOptions, windows};
use crate::env::{BoxFuture, Clock, SystemClock};
use crate::llm::anthropic::AnthropicDialect;
use crate::llm::dialect::Dialect;
use crate::llm::gemini::GeminiDialect;
use crate::llm::openai_chat::{ChatDialect, Preset, WindowSource};
use crate::llm::openai_responses::ResponsesDialect;
use crate::llm::registry::ProviderEntry;
use crate::llm::{Compat, CompatPatch, LlmError, LlmProvider, LlmRequest, LlmStream, Model, api};
use crate::{Error, Result};

/// A server that speaks a [`Dialect`] over HTTP.
#[derive(Debug, Clone)]
pub struct HttpProvider {
    id: Arc<str>,
    driver: HttpDriver,
    dialect: Arc<dyn Dialect>,
    windows: WindowSource,
}

/// Builds an [`HttpProvider`].
#[derive(Debug, Clone)]
#[must_use]
pub struct HttpProviderBuilder {
    base_url: String,
    id: String,
    key: Option<SecretString>,
    headers: Vec<(String, SecretString)>,
    dialect: Arc<dyn Dialect>,
    chat: Option<Compat>,
    patch: Option<CompatPatch>,
    windows: WindowSource,
    http: HttpOptions,
    clock: Arc<dyn Clock>,
}

impl HttpProvider {
    /// A builder for the server at `base_url` that speaks `dialect`. A base without a path gets the
    /// dialect's usual one (`https://api.openai.com` becomes `https://api.openai.com/v1`); a path
    /// that is given is kept, without the endpoint at its end.
    pub fn builder(base_url: impl Into<String>, dialect: Arc<dyn Dialect>) -> HttpProviderBuilder {
        HttpProviderBuilder {
            base_url: base_url.into(),
            id: String::new(),
            key: None,
            headers: Vec::new(),
            dialect,
            chat: None,
            patch: None,
            windows: WindowSource::default(),
            http: HttpOptions::default(),
            clock: Arc::new(SystemClock),
        }
    }

    /// A builder for a server that speaks OpenAI Chat Completions: OpenAI, OpenRouter, llama.cpp,
    /// vLLM, … How it differs is guessed from the URL, see [`Compat::for_base`]. Its id is `openai`
    /// if not said.
    pub fn openai_chat(base_url: impl Into<String>) -> HttpProviderBuilder {
        let base_url = base_url.into();
        let compat = Compat::for_base(&base_url);
        let windows = Preset::for_base(&base_url).map(|preset| preset.windows);
        let windows = windows.unwrap_or_default();
        Self::chat(base_url, compat, windows).id("openai")
    }

    /// A builder for a server that speaks Anthropic Messages, e.g. `https://api.anthropic.com`. Its
    /// id is `anthropic` if not said.
    pub fn anthropic(base_url: impl Into<String>) -> HttpProviderBuilder {
        Self::builder(base_url, Arc::new(AnthropicDialect::default())).id("anthropic")
    }

    /// A builder for a server that speaks OpenAI Responses, e.g. `https://api.openai.com`. Its id is
    /// `openai` if not said.
    pub fn openai_responses(base_url: impl Into<String>) -> HttpProviderBuilder {
        Self::builder(base_url, Arc::new(ResponsesDialect::default())).id("openai")
    }

    /// A builder for a server that speaks Google Gemini, e.g.
    /// `https://generativelanguage.googleapis.com`. Its id is `google` if not said.
    pub fn gemini(base_url: impl Into<String>) -> HttpProviderBuilder {
        Self::builder(base_url, Arc::new(GeminiDialect::default())).id("google")
    }

    /// A builder for a provider of the registry.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): its dialect is none of
    /// [`api`](crate::llm::api), or there is no preset of the name it gives.
    pub fn registered(entry: &ProviderEntry) -> Result<HttpProviderBuilder> {
        let base = entry.base_url.clone();
        let builder = match (entry.api.as_str(), entry.preset.as_deref()) {
            (api::OPENAI_CHAT, Some(name)) => Self::compatible(Preset::find(name)?).base_url(base),
            (api::OPENAI_CHAT, None) => Self::openai_chat(base),
            (api::OPENAI_RESPONSES, _) => Self::openai_responses(base),
            (api::ANTHROPIC, _) => Self::anthropic(base),
            (api::GEMINI, _) => Self::gemini(base),
            (other, _) => {
                let known = [
                    api::OPENAI_CHAT,
                    api::OPENAI_RESPONSES,
                    api::ANTHROPIC,
                    api::GEMINI,
                ];
                let issue = format!("`{other}` is no dialect; there are: {}", known.join(", "));
                return Err(Error::invalid("api", issue));
            }
        };
        Ok(builder.id(entry.id.clone()))
    }

    /// A builder for a well-known server, at its usual base URL unless another is said. Its id is
    /// the preset's name.
    pub fn compatible(preset: &Preset) -> HttpProviderBuilder {
        Self::chat(preset.base_url, preset.compat, preset.windows).id(preset.name)
    }

    fn chat(
        base_url: impl Into<String>,
        compat: Compat,
        windows: WindowSource,
    ) -> HttpProviderBuilder {
        let mut builder = Self::builder(base_url, Arc::new(ChatDialect { compat }));
        builder.chat = Some(compat);
        builder.windows = windows;
        builder
    }
}

impl HttpProviderBuilder {
    /// The provider's id, which [`Model::provider`] refers to; the dialect's name if not said.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Another base URL than the preset's.
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.base_url = base_url.into();
        self
    }

    /// How the server differs from what is known of it, for Chat Completions. What is said again
    /// replaces what was said before; what a model says of itself wins.
    pub fn compat(mut self, patch: CompatPatch) -> Self {
        self.patch = Some(self.patch.unwrap_or_default().or(&patch));
        self
    }

    /// The key, sent as the dialect wants it. Never shown.
    pub fn api_key(mut self, key: SecretString) -> Self {
        self.key = Some(key);
        self
    }

    /// A header sent with every request, e.g. an organisation, a beta switch or a gateway's token. Its
    /// value is never shown.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let value: String = value.into();
        self.headers.push((name.into(), value.into()));
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
    /// a user name or password, the key or a header cannot be sent, or [`compat`](Self::compat) is
    /// said of another dialect than Chat Completions.
    pub fn build(self) -> Result<HttpProvider> {
        let base = base_url(&self.base_url, self.dialect.base_path())?;
        let dialect = match (self.chat, self.patch) {
            (_, None) => self.dialect,
            (Some(compat), Some(patch)) => Arc::new(ChatDialect {
                compat: compat.patched(&patch),
            }),
            (None, Some(_)) => {
                let issue = "only servers that speak Chat Completions have such differences";
                return Err(Error::invalid("compat", issue));
            }
        };
        let key = self.key.map(|key| (dialect.key_header(), key));
        let driver = HttpDriver::new(base, key, &self.headers, self.http, self.clock)?;
        let id = match self.id.as_str() {
            "" => dialect.api(),
            id => id,
        };
        Ok(HttpProvider {
            id: id.into(),
            driver,
            dialect,
            windows: self.windows,
        })
    }
}

/// Ends of paths that people copy from documentation along with the base.
const ENDPOINTS: [&str; 3] = ["/chat/completions", "/responses", "/messages"];

fn base_url(text: &str, usual_path: &str) -> Result<Url> {
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
    let cut = ENDPOINTS.iter().find_map(|end| path.strip_suffix(end));
    let path = cut.unwrap_or(path).to_owned();
    url.set_path(if path.is_empty() { usual_path } else { &path });
    Ok(url)
}

impl LlmProvider for HttpProvider {
    fn id(&self) -> &str {
        &self.id
    }

    fn stream(&self, request: LlmRequest) -> LlmStream {
        let dialect = Arc::clone(&self.dialect);
        self.driver.stream(dialect, Arc::clone(&self.id), request)
    }

    /// Asks the server. Some tell windows only through interfaces of their own, which are asked
    /// too, see [`WindowSource`]; a window that is not told is unknown. Most tell no prices, which
    /// then are zero.
    fn models(&self) -> BoxFuture<Result<Vec<Model>, LlmError>> {
        let (driver, id) = (self.driver.clone(), Arc::clone(&self.id));
        let (dialect, source) = (Arc::clone(&self.dialect), self.windows);
        Box::pin(async move {
            let body = driver.get(dialect.models_path()).await?;
            let mut models = dialect.read_models(&body, &id)?;
            windows::fill(&driver, source, &mut models).await;
            Ok(models)
        })
    }
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
            assert_eq!(base_url(text, "/v1").unwrap().as_str(), base, "{text}");
        }
        for text in [
            "",
            "api.openai.com",
            "ftp://x.test",
            "https://user:pass@x.test/v1",
        ] {
            assert!(base_url(text, "/v1").is_err(), "{text}");
        }
    }
}
