//! Wire types of the OpenAI API and of vLLM's extensions: requests, answers, chunks, errors.
//!
//! Why a crate of its own: the server, the gateway, the mock engine and the command line all speak
//! these shapes, and none of them should link another to do so. Serde types only: nothing here
//! validates a value, renders a template or opens a socket. Ranges and defaults are written down
//! (constants in [`range`], and on every field) so that whoever validates has one place to read.
//!
//! Reading is lenient where OpenAI is lenient (unknown fields are ignored, `null` means absent) and
//! strict where a mistake would hide (a wrong type is an error that names its path, see [`parse`]).
//! No untagged enums and no `flatten` on the request side: both buffer, and so lose that path.

pub mod chat;
pub mod chat_response;
pub mod completion;
pub mod content;
pub mod error;
mod fields;
pub mod generation;
pub mod logprobs;
pub mod models;
pub mod number;
pub mod parse;
pub mod range;
pub mod response_format;
pub mod string_list;
pub mod tokenize;
pub mod tools;
pub mod usage;

pub use chat::{ChatCompletionRequest, ChatMessage, Role, StreamOptions};
pub use chat_response::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatResponseMessage,
    CustomDelta, FinishReason, FunctionDelta, StopReason, ToolCallDelta,
};
pub use completion::{Completion, CompletionChoice, CompletionRequest, Prompt};
pub use content::{ContentPart, MessageContent};
pub use error::{ErrorBody, ErrorObject};
pub use generation::GenerationFields;
pub use logprobs::{ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob};
pub use models::{Model, ModelList};
pub use number::Integer;
pub use parse::{
    ParseError, parse_chat_request, parse_completion_request, parse_detokenize_request,
    parse_tokenize_request,
};
pub use tokenize::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};
pub use usage::{CompletionTokensDetails, PromptTokensDetails, Usage};
