//! How servers that imitate OpenAI Chat Completions differ, as data.
//!
//! A server's differences are a [`Compat`]; a model may override single ones with a
//! [`CompatPatch`], which wins field by field.

use serde::{Deserialize, Serialize};

/// Which field carries the limit of output tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputLimitField {
    /// `max_tokens`: the old name, which the imitations know.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`: what OpenAI asks for; reasoning models refuse the other.
    MaxCompletionTokens,
}

/// Where a model's earlier reasoning is sent back to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningReplay {
    /// Nowhere.
    #[default]
    None,
    /// As text in `reasoning_content`.
    ReasoningContent,
    /// As text in `reasoning`.
    Reasoning,
    /// Unchanged in `reasoning_details`, which may be signed or encrypted.
    ReasoningDetails,
}

/// Which fields tell a model how hard to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkingSwitch {
    /// None: the server cannot be told.
    None,
    /// `reasoning_effort`: a word, `none` for off.
    #[default]
    ReasoningEffort,
    /// `thinking: {type: enabled | disabled}`.
    ThinkingType,
    /// `thinking: {type}`, and `reasoning_effort` unless it is disabled.
    ThinkingTypeAndEffort,
    /// `enable_thinking`, and `thinking_budget` for models that count tokens.
    EnableThinking,
    /// `chat_template_kwargs: {enable_thinking}`.
    ChatTemplateKwargs,
    /// `reasoning: {effort}`, or `{max_tokens}` for models that count tokens.
    Reasoning,
}

/// How a schema for the answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseFormatKind {
    /// As `response_format: {type: json_schema}`.
    #[default]
    JsonSchema,
    /// As `{type: json_object}`, the schema in the system prompt.
    JsonObject,
    /// In the system prompt only.
    None,
}

/// Which models get Anthropic's `cache_control` marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheMarkers {
    /// None.
    #[default]
    None,
    /// Those whose name at the server has `claude` in it.
    Claude,
    /// All.
    All,
}

/// Which ids of tool calls a server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallIds {
    /// Any of at most 40 bytes.
    #[default]
    Any,
    /// Exactly nine of `A-Z a-z 0-9`.
    NineAlphanumeric,
}

macro_rules! compat {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr;)+) => {
        /// How a server's Chat Completions differ. The default is what most servers understand.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct Compat {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Compat {
            /// What most servers understand.
            pub const COMMON: Self = Self { $($field: $default,)+ };

            /// The same with what the patch says.
            #[must_use]
            pub fn patched(self, patch: &CompatPatch) -> Self {
                Self { $($field: patch.$field.unwrap_or(self.$field),)+ }
            }
        }

        /// Single differences that override a [`Compat`]; `None` = as it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
        pub struct CompatPatch {
            $(
                $(#[doc = $doc])+
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )+
        }

        impl CompatPatch {
            /// The same with what `over` says on top.
            #[must_use]
            pub fn or(self, over: &Self) -> Self {
                Self { $($field: over.$field.or(self.$field),)+ }
            }
        }
    };
}

compat! {
    /// The field of the output limit.
    output_limit: OutputLimitField = OutputLimitField::MaxTokens;
    /// Whether a response schema is sent as `strict`. OpenAI then wants every property required
    /// and `additionalProperties: false`, and refuses schemas that are not so.
    strict_schema: bool = false;
    /// Whether usage is asked for with `stream_options`.
    stream_options: bool = true;
    /// Whether `store: false` is sent.
    store: bool = false;
    /// Whether models that think take a temperature. If not, it is left out.
    temperature_with_thinking: bool = true;
    /// Whether models that think get the system prompt as role `developer`.
    developer_role: bool = false;
    /// Whether a choice of one tool by name is obeyed. If not, asking for it is refused here,
    /// because the server would run another tool without a word.
    named_tool_choice: bool = true;
    /// Whether tool results carry the tool's `name`.
    tool_result_name: bool = false;
    /// Whether a user message must not follow a tool result: an assistant message is put between.
    assistant_after_tool: bool = false;
    /// Whether an answer without text is sent as `""` instead of `null`.
    content_never_null: bool = false;
    /// Whether `tools` is sent, empty, when none is on offer but the conversation has calls.
    tools_with_history: bool = false;
    /// Which ids of tool calls are taken.
    call_ids: CallIds = CallIds::Any;
    /// Where reasoning is sent back.
    reasoning_replay: ReasoningReplay = ReasoningReplay::None;
    /// Whether answers with calls must carry the text field of `reasoning_replay`, empty if the
    /// reasoning is not known: another model's, or none.
    reasoning_with_calls: bool = false;
    /// How thinking is switched.
    thinking: ThinkingSwitch = ThinkingSwitch::ReasoningEffort;
    /// Whether `parallel_tool_calls` may be sent; otherwise the wish is not told.
    parallel_tool_calls: bool = true;
    /// Whether `prompt_cache_key` may be sent.
    prompt_cache_key: bool = false;
    /// Whether `prompt_cache_retention` may be sent, for [`CacheRetention::Long`](crate::llm::CacheRetention::Long).
    prompt_cache_retention: bool = false;
    /// Which models get `cache_control` marks.
    prompt_cache_markers: CacheMarkers = CacheMarkers::None;
    /// Whether the server never says why it stopped: an answer with content that ends is whole.
    finish_reason_optional: bool = false;
    /// How a response schema is sent.
    response_format: ResponseFormatKind = ResponseFormatKind::JsonSchema;
    /// Whether `usage.cost` is what was billed, in dollars. Elsewhere the field may mean anything.
    usage_cost: bool = false;
}

impl Default for Compat {
    fn default() -> Self {
        Self::COMMON
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_wins_field_by_field_and_is_plain_json() {
        let patch: CompatPatch = serde_json::from_value(json!({
            "outputLimit": "max_completion_tokens",
            "thinking": "chat_template_kwargs",
            "streamOptions": false,
        }))
        .unwrap();
        let typo = serde_json::from_value::<CompatPatch>(json!({"streamOption": false}));
        assert!(typo.unwrap_err().to_string().contains("streamOptions"));
        let base = Compat {
            store: true,
            ..Compat::COMMON
        };
        let expected = Compat {
            output_limit: OutputLimitField::MaxCompletionTokens,
            thinking: ThinkingSwitch::ChatTemplateKwargs,
            stream_options: false,
            ..base
        };
        assert_eq!(base.patched(&patch), expected);
        assert_eq!(
            serde_json::to_value(patch).unwrap(),
            json!({
                "outputLimit": "max_completion_tokens",
                "streamOptions": false,
                "thinking": "chat_template_kwargs",
            })
        );
        let over = CompatPatch {
            stream_options: Some(true),
            ..CompatPatch::default()
        };
        assert!(base.patched(&patch.or(&over)).stream_options);
        let whole: Compat = serde_json::from_value(json!({"store": true})).unwrap();
        assert_eq!(whole, base);
    }
}
