//! `POST /v1/chat/completions`: the answer, whole and in chunks.
//!
//! Order of a stream: a role chunk for each choice, content, one chunk with the finish reason for
//! each choice, the usage where asked for, `[DONE]`.
use crate::chat::Role;
use crate::logprobs::ChatLogprobs;
use crate::tools::{FunctionCall, ToolCall};
use crate::usage::Usage;
use serde::{Deserialize, Serialize};

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// `chatcmpl-...`.
    pub id: String,
    /// `"chat.completion"`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// `n` of them, by index.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
    /// Which build answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// vLLM: the prompt's ids, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// One choice of a [`ChatCompletion`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    /// From 0.
    pub index: usize,
    /// What the model said.
    pub message: ChatResponseMessage,
    /// `null` where not asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// vLLM: the stop string or token that ended it.
    #[serde(default)]
    pub stop_reason: Option<StopReason>,
    /// vLLM: the generated ids, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// The message of a choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatResponseMessage {
    /// `assistant`.
    pub role: Role,
    /// The text; `null` where there is none beside tool calls.
    pub content: Option<String>,
    /// Always `null`.
    pub refusal: Option<String>,
    /// The reasoning, where the model has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same by its older name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Deprecated form of `tool_calls`, where the request asks by `functions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string or token did.
    Stop,
    /// `max_tokens` or the model's longest sequence.
    Length,
    /// It called tools.
    ToolCalls,
    /// Cut by a filter; Wharf has none.
    ContentFilter,
    /// Deprecated form of `tool_calls`.
    FunctionCall,
}

/// vLLM's `stop_reason`: which stop string or token it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StopReason {
    /// A stop string.
    Text(String),
    /// A stop token.
    Token(u32),
}

/// One chunk of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChunk {
    /// Equal in all chunks.
    pub id: String,
    /// `"chat.completion.chunk"`.
    pub object: String,
    /// Seconds since 1970; equal in all chunks.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// One, or none in the chunk with the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// Which build answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// Only in the last chunk, or in all of them with `continuous_usage_stats`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// vLLM: the prompt's ids, in the first chunk, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// One choice of a [`ChatChunk`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChunkChoice {
    /// From 0.
    pub index: usize,
    /// What is new.
    pub delta: ChatDelta,
    /// `null` where not asked for, or none is new.
    pub logprobs: Option<ChatLogprobs>,
    /// `null` in all chunks of a choice but its last, whose delta is empty.
    pub finish_reason: Option<FinishReason>,
    /// vLLM: the stop string or token that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// vLLM: the ids that are new, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What a chunk adds to a message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatDelta {
    /// Only in the first delta of a choice: clients concatenate it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Text to append; whole characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Reasoning to append.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same by its older name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Parts of tool calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
    /// Deprecated form of `tool_calls`: the name once, the arguments in pieces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionDelta>,
}

/// A part of a tool call: id, type and name come once, the arguments or the input in pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Which call of the message, from 0 without gaps.
    pub index: usize,
    /// In the first part only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// In the first part only.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name (first part) and arguments to append, of a function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionDelta>,
    /// Name (first part) and input to append, of a custom tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomDelta>,
}

/// The function of a [`ToolCallDelta`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDelta {
    /// In the first part only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON text to append.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// The custom tool of a [`ToolCallDelta`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomDelta {
    /// In the first part only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Text to append.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}
