//! vLLM's `POST /tokenize` and `/detokenize`.
use crate::chat::ChatMessage;
use crate::tools::Tool;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A text (`prompt`) or a conversation (`messages`) to tokenise: exactly one of the two.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TokenizeRequest {
    /// Absent: the first model.
    pub model: Option<String>,
    /// The text.
    pub prompt: Option<String>,
    /// The conversation, rendered by the chat template first.
    pub messages: Option<Vec<ChatMessage>>,
    /// BOS and EOS as the tokenizer adds them. Default: true for `prompt`, false for `messages`.
    pub add_special_tokens: Option<bool>,
    /// Also answer with the tokens' texts. Default false.
    pub return_token_strs: Option<bool>,
    /// End with the header of an assistant's turn. Default true.
    pub add_generation_prompt: Option<bool>,
    /// Leave the last message open. Default false.
    pub continue_final_message: Option<bool>,
    /// A template to use instead of the model's.
    pub chat_template: Option<String>,
    /// More variables for the template.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Tools for the template.
    pub tools: Option<Vec<Tool>>,
}

/// The answer to [`TokenizeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizeResponse {
    /// Number of tokens.
    pub count: usize,
    /// The longest sequence the model takes, in tokens.
    pub max_model_len: usize,
    /// The ids.
    pub tokens: Vec<u32>,
    /// The tokens as the vocabulary writes them; `null` where not asked for.
    pub token_strs: Option<Vec<String>>,
}

/// Ids to turn into text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DetokenizeRequest {
    /// Absent: the first model.
    pub model: Option<String>,
    /// The ids; required.
    pub tokens: Option<Vec<u32>>,
}

/// The answer to [`DetokenizeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetokenizeResponse {
    /// The text, special tokens included, invalid UTF-8 as U+FFFD.
    pub prompt: String,
}
