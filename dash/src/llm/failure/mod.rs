//! What a server's refusal means: reads error bodies of every shape and sorts them into kinds.
//!
//! Used for HTTP error bodies and for errors inside a stream that began with status 200.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::LlmErrorKind;
use super::arguments::cut;

/// Characters of a server's text that an error shows.
pub const SHOWN_CHARS_MAX: usize = 4_000;

/// A server's account of what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFailure {
    /// The HTTP status, or the one named in the error.
    pub status: Option<u16>,
    /// Its codes and types, joined by blanks.
    pub code: String,
    /// Its words.
    pub message: String,
}

impl ServerFailure {
    /// Reads an error body: `{error:{message,type,code}}`, `{error:"…"}`, `{detail}`,
    /// `{object:"error",message}`, an array of one of these, or plain text.
    #[must_use]
    pub fn read(status: Option<u16>, body: &str) -> Self {
        match serde_json::from_str::<Value>(body) {
            Ok(Value::Array(items)) => items.first().map_or_else(
                || Self::plain(status, body),
                |first| Self::from_json(status, first),
            ),
            Ok(value @ Value::Object(_)) => Self::from_json(status, &value),
            Ok(Value::String(text)) => Self::plain(status, &text),
            _ => Self::plain(status, body),
        }
    }

    fn plain(status: Option<u16>, text: &str) -> Self {
        let text = text.trim();
        let message = if text.starts_with('<') {
            words_of_page(text)
        } else {
            text.to_owned()
        };
        Self {
            status,
            code: String::new(),
            message,
        }
    }

    fn from_json(status: Option<u16>, value: &Value) -> Self {
        let inner = match value.get("error") {
            Some(inner @ (Value::Object(_) | Value::String(_))) => inner,
            _ => value,
        };
        let said = ["message", "msg", "detail", "error_description"].into_iter();
        let message = match inner {
            Value::String(text) => Some(text.clone()),
            _ => said.filter_map(|key| inner.get(key)).find_map(words),
        };
        let mut code = String::new();
        let mut named = None;
        for holder in [inner, value] {
            for key in ["code", "type", "status", "status_code"] {
                match holder.get(key) {
                    Some(Value::String(text)) => {
                        code.push_str(text);
                        code.push(' ');
                    }
                    Some(Value::Number(number)) => {
                        let number = number.as_u64().and_then(|n| u16::try_from(n).ok());
                        named = named.or_else(|| number.filter(|n| (400..600).contains(n)));
                    }
                    _ => {}
                }
            }
        }
        if let Some(details) = inner.get("details").or_else(|| inner.get("metadata")) {
            code.push_str(&details.to_string());
        }
        Self {
            status: status.or(named),
            code: code.trim_end().to_owned(),
            message: message.unwrap_or_else(|| value.to_string()),
        }
    }

    /// What kind of failure it is. Money and context overflow are found by their words, which win
    /// over the status, since servers send them with any.
    #[must_use]
    pub fn kind(&self) -> LlmErrorKind {
        let words = format!("{} {}", self.code, self.message).to_lowercase();
        let has = |patterns: &[&str]| patterns.iter().any(|pattern| words.contains(pattern));
        if self.status == Some(402) || has(MONEY) {
            return LlmErrorKind::Quota;
        }
        let throttled = self.status == Some(429) || has(THROTTLED);
        let refused_body = !matches!(self.status, Some(401 | 403 | 404));
        if !throttled && refused_body && (self.status == Some(413) || has(OVERFLOW)) {
            return LlmErrorKind::ContextOverflow;
        }
        if has(WRONG_KEY) {
            return LlmErrorKind::Auth;
        }
        if has(FILTERED) {
            return LlmErrorKind::ContentFilter;
        }
        match self.status {
            Some(status) => kind_of_status(status),
            None if has(&["permission_error"]) => LlmErrorKind::Auth,
            None if throttled => LlmErrorKind::RateLimited,
            None if has(&["overloaded", "unavailable"]) => LlmErrorKind::Overloaded,
            None if has(&["not_found", "does not exist"]) => LlmErrorKind::NotFound,
            None if has(&["invalid_request", "validation"]) => LlmErrorKind::InvalidRequest,
            None => LlmErrorKind::Server,
        }
    }

    /// How long the server asks to wait, if its words say so: Google's `retryDelay` ("22s"), or
    /// "try again in 1.3s".
    #[must_use]
    pub fn retry_after_ms(&self) -> Option<u64> {
        let pattern = WAIT.as_ref()?;
        let found = [&self.code, &self.message]
            .into_iter()
            .find_map(|text| pattern.captures(text))?;
        let number: f64 = found.name("number")?.as_str().parse().ok()?;
        let unit = match found.name("unit").map(|unit| unit.as_str()) {
            Some("ms") => 1.0,
            Some("m") => 60_000.0,
            _ => 1_000.0,
        };
        let ms = (number * unit).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked before"
        )]
        (0.0..=1e12).contains(&ms).then_some(ms as u64)
    }

    /// The failure in words, cut to [`SHOWN_CHARS_MAX`], without what looks like a key.
    #[must_use]
    pub fn shown(&self) -> String {
        let message = if self.message.is_empty() {
            "no reason given"
        } else {
            &self.message
        };
        let text = match self.status {
            Some(status) => format!("the server answered {status}: {message}"),
            None => format!("the server reported: {message}"),
        };
        shown(&text)
    }
}

/// Text for an error: what looks like a key is removed, the rest cut to [`SHOWN_CHARS_MAX`].
#[must_use]
pub fn shown(text: &str) -> String {
    cut(&without_keys(text), SHOWN_CHARS_MAX)
}

/// The text with `[redacted]` for whatever looks like a key.
#[must_use]
pub fn without_keys(text: &str) -> Cow<'_, str> {
    match KEY_LIKE.as_ref() {
        Some(pattern) => pattern.replace_all(text, "[redacted]"),
        None => Cow::Borrowed(text),
    }
}

/// What a web page says, in one line: proxies and gateways answer with pages.
fn words_of_page(page: &str) -> String {
    let (Some(hidden), Some(tag)) = (PAGE_HIDDEN.as_ref(), PAGE_TAG.as_ref()) else {
        return page.to_owned();
    };
    let text = hidden.replace_all(page, " ");
    let text = tag.replace_all(&text, " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Object(_) | Value::Array(_) => Some(value.to_string()),
        _ => None,
    }
}

const fn kind_of_status(status: u16) -> LlmErrorKind {
    match status {
        401 | 403 => LlmErrorKind::Auth,
        402 => LlmErrorKind::Quota,
        404 | 405 => LlmErrorKind::NotFound,
        413 => LlmErrorKind::ContextOverflow,
        429 => LlmErrorKind::RateLimited,
        503 | 529 => LlmErrorKind::Overloaded,
        408 | 409 | 500..=599 => LlmErrorKind::Server,
        _ => LlmErrorKind::InvalidRequest,
    }
}

/// An account without money: waiting does not help.
const MONEY: &[&str] = &[
    "insufficient_quota",
    "credit_balance_exhausted",
    "credit balance is too low",
    "enforced_spend_limit_reached",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "insufficient balance",
    "insufficient credits",
    "perday",
];

const THROTTLED: &[&str] = &[
    "rate limit",
    "rate_limit",
    "resource_exhausted",
    "ratelimit",
    "too many requests",
    "throttling",
    "throttled",
];

/// How servers say that a conversation is too long.
const OVERFLOW: &[&str] = &[
    "prompt is too long",
    "request_too_large",
    "exceeds the context window",
    "maximum context length",
    "exceeds the maximum number of tokens",
    "maximum prompt length is",
    "reduce the length of the messages",
    "exceeds the available context size",
    "exceed_context_size_error",
    "greater than the context length",
    "context window exceeds limit",
    "context_length_exceeded",
    "token limit exceeded",
    "too large for model",
];

const WRONG_KEY: &[&str] = &[
    "invalid_api_key",
    "api_key_invalid",
    "authentication_error",
    "incorrect api key",
];

const FILTERED: &[&str] = &["content_filter", "content_policy_violation"];

static WAIT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let lead = r#"(?:"retryDelay":\s*"|(?i:try again in) )"#;
    Regex::new(&format!(
        r"{lead}(?<number>[0-9]+(?:\.[0-9]+)?)\s?(?<unit>ms|s|m\b)"
    ))
    .ok()
});

static PAGE_HIDDEN: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?is)<!--.*?-->|<script\b.*?</script>|<style\b.*?</style>").ok());

static PAGE_TAG: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?s)<[^>]*>").ok());

static KEY_LIKE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let prefixed = r"\b(?:sk|pk|rk|gsk|xai|csk|hf|nvapi)[-_][A-Za-z0-9_*.-]{16,}";
    Regex::new(&format!(
        r"{prefixed}|\bAIza[A-Za-z0-9_*-]{{20,}}|\bBearer\s+[A-Za-z0-9._~+/*=-]{{8,}}"
    ))
    .ok()
});

#[cfg(test)]
mod tests;
