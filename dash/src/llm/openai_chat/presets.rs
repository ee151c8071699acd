//! Well-known servers as data: where they are, whose keys they take, how they differ.

use super::{
    CacheMarkers, CallIds, Compat, OutputLimitField, ReasoningReplay, ResponseFormatKind,
    ThinkingSwitch,
};
use crate::{Error, Result};

/// Where a server tells the window of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WindowSource {
    /// In its list of models, or nowhere.
    #[default]
    Models,
    /// llama.cpp: in the list, or `GET /props` in older builds.
    LlamaCpp,
    /// Ollama: `GET /api/ps` for models that are loaded, else `POST /api/show`.
    Ollama,
    /// LM Studio: its own lists of models, `GET /api/v0/models` or `/api/v1/models`.
    LmStudio,
}

/// A well-known server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Its name here, lower case; the provider's id unless said otherwise.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Its usual base URL.
    pub base_url: &'static str,
    /// Names of environment variables its key is usually in. For programs: the library reads none.
    pub key_vars: &'static [&'static str],
    /// Whether it refuses requests without a key.
    pub needs_key: bool,
    /// How it differs.
    pub compat: Compat,
    /// Where it tells windows.
    pub windows: WindowSource,
    /// What to know about it.
    pub notes: &'static str,
    /// Where this is documented.
    pub source: &'static str,
}

impl Preset {
    /// All of them.
    pub const ALL: &[Self] = &[
        OPENAI, OPENROUTER, GROQ, DEEPSEEK, MISTRAL, XAI, OLLAMA, LM_STUDIO, LLAMA_CPP, VLLM,
    ];

    /// The one of this name, in any case.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), with the names there are.
    pub fn find(name: &str) -> Result<&'static Self> {
        let mut all = Self::ALL.iter();
        let found = all.find(|preset| preset.name.eq_ignore_ascii_case(name.trim()));
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|preset| preset.name).collect();
            let issue = format!("`{name}` is none of: {}", names.join(", "));
            Error::invalid("preset", issue)
        })
    }

    /// The one that is usually at this base URL: by its host, or on a local server by its port.
    #[must_use]
    pub fn for_base(base_url: &str) -> Option<&'static Self> {
        let place = Place::of(base_url);
        let preset = match (place.host.as_str(), place.port) {
            ("api.openai.com", _) => &OPENAI,
            (host, _) if host.ends_with(".openai.azure.com") => &OPENAI,
            ("openrouter.ai", _) => &OPENROUTER,
            ("api.groq.com", _) => &GROQ,
            ("api.deepseek.com", _) => &DEEPSEEK,
            ("api.mistral.ai" | "codestral.mistral.ai", _) => &MISTRAL,
            ("api.x.ai", _) => &XAI,
            (host, _) if host.ends_with(".api.x.ai") => &XAI,
            (_, Some(11_434)) => &OLLAMA,
            (_, Some(1_234)) => &LM_STUDIO,
            // Ports that anything may use.
            (_, Some(8_080)) if place.is_local() => &LLAMA_CPP,
            (_, Some(8_000)) if place.is_local() => &VLLM,
            _ => return None,
        };
        Some(preset)
    }
}

impl Compat {
    /// How the server at this base URL usually differs: by its host, or on a local server by its
    /// port; [`Compat::COMMON`] if it is not known.
    #[must_use]
    pub fn for_base(base_url: &str) -> Self {
        if let Some(preset) = Preset::for_base(base_url) {
            return preset.compat;
        }
        let host = Place::of(base_url).host;
        match host.as_str() {
            "api.z.ai" | "open.bigmodel.cn" | "api.moonshot.ai" | "api.moonshot.cn" => Self {
                thinking: ThinkingSwitch::ThinkingType,
                reasoning_replay: ReasoningReplay::ReasoningContent,
                ..Self::COMMON
            },
            host if host.starts_with("dashscope") && host.ends_with(".aliyuncs.com") => Self {
                thinking: ThinkingSwitch::EnableThinking,
                ..Self::COMMON
            },
            _ => Self::COMMON,
        }
    }
}

/// Host, in lower case, and port of a URL.
struct Place {
    host: String,
    port: Option<u16>,
}

impl Place {
    fn of(url: &str) -> Self {
        let url = url.trim();
        let rest = url.split_once("://").map_or(url, |(_scheme, rest)| rest);
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let authority = rest.get(..end).unwrap_or_default();
        let place = authority
            .rsplit_once('@')
            .map_or(authority, |(_user, place)| place);
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
            _ => (place, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Self {
            host: host.to_ascii_lowercase(),
            port,
        }
    }

    fn is_local(&self) -> bool {
        let host = self.host.as_str();
        let address = host.parse::<std::net::IpAddr>();
        matches!(host, "localhost" | "host.docker.internal")
            || address.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
    }
}

const OPENAI: Preset = Preset {
    name: "openai",
    title: "OpenAI",
    base_url: "https://api.openai.com/v1",
    key_vars: &["OPENAI_API_KEY"],
    needs_key: true,
    compat: Compat {
        output_limit: OutputLimitField::MaxCompletionTokens,
        store: true,
        temperature_with_thinking: false,
        developer_role: true,
        prompt_cache_key: true,
        prompt_cache_retention: true,
        ..Compat::COMMON
    },
    windows: WindowSource::Models,
    notes: "Tells no windows. Reasoning is not shown in this dialect and not sent back.",
    source: "https://platform.openai.com/docs/api-reference/chat",
};

const OPENROUTER: Preset = Preset {
    name: "openrouter",
    title: "OpenRouter",
    base_url: "https://openrouter.ai/api/v1",
    key_vars: &["OPENROUTER_API_KEY"],
    needs_key: true,
    compat: Compat {
        reasoning_replay: ReasoningReplay::ReasoningDetails,
        thinking: ThinkingSwitch::Reasoning,
        prompt_cache_markers: CacheMarkers::Claude,
        usage_cost: true,
        ..Compat::COMMON
    },
    windows: WindowSource::Models,
    notes: "Tells windows, prices and what it billed. Sends comments while it waits. Answers 402 \
            when the credit is used up.",
    source: "https://openrouter.ai/docs/api-reference/overview",
};

const GROQ: Preset = Preset {
    name: "groq",
    title: "Groq",
    base_url: "https://api.groq.com/openai/v1",
    key_vars: &["GROQ_API_KEY"],
    needs_key: true,
    compat: Compat {
        output_limit: OutputLimitField::MaxCompletionTokens,
        ..Compat::COMMON
    },
    windows: WindowSource::Models,
    notes: "Tells windows. Refuses `name` in messages. Reasoning comes in `reasoning`.",
    source: "https://console.groq.com/docs/openai",
};

const DEEPSEEK: Preset = Preset {
    name: "deepseek",
    title: "DeepSeek",
    base_url: "https://api.deepseek.com/v1",
    key_vars: &["DEEPSEEK_API_KEY"],
    needs_key: true,
    compat: Compat {
        content_never_null: true,
        reasoning_replay: ReasoningReplay::ReasoningContent,
        reasoning_with_calls: true,
        thinking: ThinkingSwitch::ThinkingTypeAndEffort,
        parallel_tool_calls: false,
        response_format: ResponseFormatKind::JsonObject,
        ..Compat::COMMON
    },
    windows: WindowSource::Models,
    notes: "Tells no windows. Thinks unless told not to, and wants the reasoning behind tool calls \
            back in every later request. Knows efforts `low`, `high` and `max`.",
    source: "https://api-docs.deepseek.com/guides/thinking_mode",
};

const MISTRAL: Preset = Preset {
    name: "mistral",
    title: "Mistral",
    base_url: "https://api.mistral.ai/v1",
    key_vars: &["MISTRAL_API_KEY"],
    needs_key: true,
    compat: Compat {
        stream_options: false,
        tool_result_name: true,
        assistant_after_tool: true,
        call_ids: CallIds::NineAlphanumeric,
        prompt_cache_key: true,
        ..Compat::COMMON
    },
    windows: WindowSource::Models,
    notes: "Refuses fields it does not know. Usage comes unasked with the last chunk. Reasoning \
            comes as a part of the content.",
    source: "https://docs.mistral.ai/api",
};

const XAI: Preset = Preset {
    name: "xai",
    title: "xAI",
    base_url: "https://api.x.ai/v1",
    key_vars: &["XAI_API_KEY"],
    needs_key: true,
    compat: Compat {
        output_limit: OutputLimitField::MaxCompletionTokens,
        ..Compat::COMMON
    },
    windows: WindowSource::Models,
    notes: "Tells what it billed, in ticks of a ten-billionth dollar. Reasoning is counted beside \
            the completion. Errors are plain strings.",
    source: "https://docs.x.ai/developers/cost-tracking",
};

const OLLAMA: Preset = Preset {
    name: "ollama",
    title: "Ollama",
    base_url: "http://localhost:11434/v1",
    key_vars: &["OLLAMA_API_KEY"],
    needs_key: false,
    compat: Compat {
        named_tool_choice: false,
        parallel_tool_calls: false,
        reasoning_replay: ReasoningReplay::Reasoning,
        ..Compat::COMMON
    },
    windows: WindowSource::Ollama,
    notes: "Ignores `tool_choice`. Cuts prompts that are too long without a word: the window is \
            what the model was loaded with, often far less than it could have. Tell it how much \
            with OLLAMA_CONTEXT_LENGTH or `num_ctx`, and declare the same.",
    source: "https://docs.ollama.com/api/openai-compatibility",
};

const LM_STUDIO: Preset = Preset {
    name: "lmstudio",
    title: "LM Studio",
    base_url: "http://localhost:1234/v1",
    key_vars: &["LM_API_TOKEN"],
    needs_key: false,
    compat: Compat {
        named_tool_choice: false,
        ..Compat::COMMON
    },
    windows: WindowSource::LmStudio,
    notes: "Knows only words as `tool_choice`. Answers 200 and then an `error` event when the \
            prompt is too long.",
    source: "https://lmstudio.ai/docs/api/rest-api",
};

const LLAMA_CPP: Preset = Preset {
    name: "llama.cpp",
    title: "llama.cpp",
    base_url: "http://localhost:8080/v1",
    key_vars: &["LLAMA_API_KEY"],
    needs_key: false,
    compat: Compat {
        named_tool_choice: false,
        reasoning_replay: ReasoningReplay::ReasoningContent,
        thinking: ThinkingSwitch::ChatTemplateKwargs,
        ..Compat::COMMON
    },
    windows: WindowSource::LlamaCpp,
    notes: "Takes a choice of one tool by name for `auto`. The window it tells is that of one slot.",
    source: "https://github.com/ggml-org/llama.cpp/tree/master/tools/server",
};

const VLLM: Preset = Preset {
    name: "vllm",
    title: "vLLM",
    base_url: "http://localhost:8000/v1",
    key_vars: &["VLLM_API_KEY"],
    needs_key: false,
    compat: Compat {
        reasoning_replay: ReasoningReplay::Reasoning,
        thinking: ThinkingSwitch::ChatTemplateKwargs,
        ..Compat::COMMON
    },
    windows: WindowSource::Models,
    notes: "Tells windows. Calls tools by itself only if started with --enable-auto-tool-choice and \
            a parser for the model.",
    source: "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
};

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_preset_is_found_by_name_and_an_unknown_name_lists_them() {
        for preset in Preset::ALL {
            assert_eq!(Preset::find(preset.name).unwrap(), preset);
            assert_eq!(Preset::find(&preset.name.to_uppercase()).unwrap(), preset);
            assert!(preset.base_url.ends_with("/v1"), "{preset:?}");
            assert!(preset.source.starts_with("https://"), "{preset:?}");
            assert!(!preset.needs_key || !preset.key_vars.is_empty());
        }
        let error = Preset::find("grok").unwrap_err().to_string();
        assert!(error.contains("openai, openrouter, groq"), "{error}");
    }

    #[test]
    fn a_server_is_known_by_its_host_or_its_local_port() {
        for preset in Preset::ALL {
            assert_eq!(Preset::for_base(preset.base_url), Some(preset));
        }
        for (base, name) in [
            ("https://API.OpenAI.com", Some("openai")),
            ("https://my.openai.azure.com/openai/v1", Some("openai")),
            ("http://127.0.0.1:8080", Some("llama.cpp")),
            ("http://[::1]:8000/v1", Some("vllm")),
            ("http://box.lan:11434", Some("ollama")),
            ("http://box.lan:8080", None),
            ("http://127.0.0.1:40123/v1", None),
            ("https://api.openai.com.evil.test/v1", None),
            ("https://user@api.groq.com/openai/v1", Some("groq")),
            ("https://x.test/api.groq.com", None),
            ("", None),
        ] {
            let found = Preset::for_base(base).map(|preset| preset.name);
            assert_eq!(found, name, "{base}");
        }
        let qwen = Compat::for_base("https://dashscope-intl.aliyuncs.com/compatible-mode/v1");
        assert_eq!(qwen.thinking, ThinkingSwitch::EnableThinking);
        assert_eq!(Compat::for_base("https://x.test/v1"), Compat::COMMON);
    }
}
