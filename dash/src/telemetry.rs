//! Names for telemetry: spans and attributes as OpenTelemetry calls them for generative AI.
//!
//! Source: the OpenTelemetry semantic conventions for generative AI (repository
//! `semantic-conventions-genai`), status *Development*: names may still change, so they are kept
//! here and nowhere else. The engine emits plain `tracing` spans; what exports them is the host's
//! choice. A span is named `{operation} {subject}`, where the subject is the model, tool or agent.
//!
//! Two traps: [`USAGE_INPUT_TOKENS`] counts cached tokens too, so it is
//! [`Usage::prompt`](crate::model::Usage::prompt) and not `input`; and what people and models say
//! is recorded only if the host asks for it ([`INPUT_MESSAGES`], [`OUTPUT_MESSAGES`],
//! [`TOOL_CALL_ARGUMENTS`], [`TOOL_CALL_RESULT`]).

macro_rules! names {
    ($list:ident: $($(#[$doc:meta])+ $name:ident = $value:literal;)+) => {
        $($(#[$doc])+ pub const $name: &str = $value;)+
        #[cfg(test)]
        const $list: &[&str] = &[$($name),+];
    };
}

names! { OPERATIONS:
    /// A model call; the span is `chat {model}` and of kind client.
    CHAT = "chat";
    /// A run of a tool; the span is `execute_tool {tool}`.
    EXECUTE_TOOL = "execute_tool";
    /// A run of an agent; the span is `invoke_agent {agent}`.
    INVOKE_AGENT = "invoke_agent";
    /// A run of several agents; the span is `invoke_workflow {workflow}`.
    INVOKE_WORKFLOW = "invoke_workflow";
}

names! { ATTRIBUTES:
    /// What is done: [`CHAT`], [`EXECUTE_TOOL`], [`INVOKE_AGENT`] or [`INVOKE_WORKFLOW`].
    OPERATION_NAME = "gen_ai.operation.name";
    /// The provider that is asked.
    PROVIDER_NAME = "gen_ai.provider.name";
    /// The model that is asked for.
    REQUEST_MODEL = "gen_ai.request.model";
    /// The model that answers.
    RESPONSE_MODEL = "gen_ai.response.model";
    /// The server's id of the answer.
    RESPONSE_ID = "gen_ai.response.id";
    /// Why the model stopped, a list of words.
    RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons";
    /// Tokens of prompt, cached ones included.
    USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens";
    /// Tokens of answer, reasoning included.
    USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens";
    /// Tokens of prompt that were read from a cache.
    USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens";
    /// Tokens of prompt that were written to a cache.
    USAGE_CACHE_CREATION_INPUT_TOKENS = "gen_ai.usage.cache_creation.input_tokens";
    /// The conversation.
    CONVERSATION_ID = "gen_ai.conversation.id";
    /// The agent.
    AGENT_ID = "gen_ai.agent.id";
    /// The agent's name for people.
    AGENT_NAME = "gen_ai.agent.name";
    /// The tool.
    TOOL_NAME = "gen_ai.tool.name";
    /// The kind of tool; `function` for those the engine runs.
    TOOL_TYPE = "gen_ai.tool.type";
    /// The call's id.
    TOOL_CALL_ID = "gen_ai.tool.call.id";
    /// The kind of failure, a word of low variety.
    ERROR_TYPE = "error.type";
    /// What the model was told. Only if the host asks for it.
    INPUT_MESSAGES = "gen_ai.input.messages";
    /// What the model said. Only if the host asks for it.
    OUTPUT_MESSAGES = "gen_ai.output.messages";
    /// What a tool was called with. Only if the host asks for it.
    TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments";
    /// What a tool answered. Only if the host asks for it.
    TOOL_CALL_RESULT = "gen_ai.tool.call.result";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn is_word(word: &str) -> bool {
        let inner = |c: char| c.is_ascii_lowercase() || c == '_';
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && !word.ends_with('_')
            && word.chars().all(inner)
    }

    #[test]
    fn names_are_unique_and_lower_case_with_dots_between_words() {
        let unique: HashSet<&str> = OPERATIONS.iter().chain(ATTRIBUTES).copied().collect();
        assert_eq!(unique.len(), OPERATIONS.len() + ATTRIBUTES.len());
        assert!(OPERATIONS.iter().copied().all(is_word), "{OPERATIONS:?}");
        for name in ATTRIBUTES {
            assert!(name.contains('.') && name.split('.').all(is_word), "{name}");
        }
    }
}
