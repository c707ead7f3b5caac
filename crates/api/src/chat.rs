//! `POST /v1/chat/completions`: the request.
use crate::content::MessageContent;
use crate::fields::request_fields;
use crate::generation::GenerationFields;
use crate::number::Integer;
use crate::tools::{FunctionCall, FunctionDefinition, Tool, ToolCall, ToolChoice};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

request_fields! {
    /// A conversation, and how to go on with it. Only `messages` is required.
    pub struct ChatCompletionRequest includes generation: GenerationFields {
        /// At least one.
        pub messages: Vec<ChatMessage>,
        /// As `max_tokens`, and beats it.
        pub max_completion_tokens: Option<Integer>,
        /// Log-probabilities of the chosen tokens; default false.
        pub logprobs: Option<bool>,
        /// 0..=20 likely tokens at each position; only with `logprobs`; default 0.
        pub top_logprobs: Option<Integer>,

        // Tools. An empty list is the same as none.
        /// Tools the model may call, of type `function` or `custom`.
        pub tools: Option<Vec<Tool>>,
        /// none, auto (the default), required, a tool's name, or allowed tools; only with tools.
        pub tool_choice: Option<ToolChoice>,
        /// Several calls in one answer; default true.
        pub parallel_tool_calls: Option<bool>,
        /// Deprecated form of `tools`; not together with them.
        pub functions: Option<Vec<FunctionDefinition>>,
        /// Deprecated form of `tool_choice`.
        pub function_call: Option<ToolChoice>,

        // The template.
        /// End the prompt with the header of an assistant's turn; default true.
        pub add_generation_prompt: Option<bool>,
        /// Leave the last message open and go on with it; default false; excludes the former.
        pub continue_final_message: Option<bool>,
        /// Documents for templates that know retrieval; default none.
        pub documents: Option<Vec<Value>>,
        /// A template to use instead of the model's. Refused.
        pub chat_template: Option<String>,
        /// More variables for the template; default none.
        pub chat_template_kwargs: Option<Map<String, Value>>,
        /// none, minimal, low, medium, high, xhigh, max; handed to the template; default none.
        pub reasoning_effort: Option<String>,
        /// Include the reasoning in the answer; default true.
        pub include_reasoning: Option<bool>,
        /// Refused.
        pub mm_processor_kwargs: Option<Value>,
        /// Refused.
        pub media_io_kwargs: Option<Value>,

        // OpenAI's service: read, and without meaning for a local model.
        /// `text` is fine; `audio` is refused.
        pub modalities: Option<Vec<String>>,
        /// How audio should sound; only with the `audio` modality.
        pub audio: Option<Value>,
        /// An expected answer; it would change the speed, never the text.
        pub prediction: Option<Value>,
        /// low, medium or high.
        pub verbosity: Option<String>,
        /// OpenAI's hosted search.
        pub web_search_options: Option<Value>,
        /// Keep the answer on OpenAI's servers.
        pub store: Option<bool>,
        /// Up to 16 pairs kept with it.
        pub metadata: Option<Value>,
        /// auto, default, flex, scale, priority or fast.
        pub service_tier: Option<String>,
        /// Up to 64 characters.
        pub safety_identifier: Option<String>,
        /// Routing hint of OpenAI's cache.
        pub prompt_cache_key: Option<String>,
        /// Retention of OpenAI's cache.
        pub prompt_cache_retention: Option<String>,
        /// Options of OpenAI's cache.
        pub prompt_cache_options: Option<Value>,
        /// OpenAI's moderation.
        pub moderation: Option<Value>,
    }
}

/// `stream_options`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// Send a last chunk with the usage; default false.
    pub include_usage: Option<bool>,
    /// vLLM: usage in every chunk; only with `include_usage`; default false.
    pub continuous_usage_stats: Option<bool>,
    /// OpenAI's padding against traffic analysis; without meaning locally.
    pub include_obfuscation: Option<bool>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions, as newer models call them.
    Developer,
    /// Instructions.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
    /// The result of a function; deprecated.
    Function,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Required.
    pub role: Role,
    /// Required, but for an assistant's message, where it may be absent or `null`.
    #[serde(default)]
    pub content: Option<MessageContent>,
    /// Tells participants of one role apart; the function's name where `role` is `function`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The calls an assistant made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Deprecated form of `tool_calls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
    /// What an assistant said instead of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The reasoning of an assistant's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same by its older name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

impl ChatMessage {
    /// A message of plain text.
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: Some(MessageContent::Text(content.into())),
            name: None,
            tool_calls: None,
            tool_call_id: None,
            function_call: None,
            refusal: None,
            reasoning: None,
            reasoning_content: None,
        }
    }
}
