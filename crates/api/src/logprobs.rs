//! Log-probabilities, in the shape of chat completions and in the legacy one.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `choices[].logprobs` of a chat completion or chunk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatLogprobs {
    /// One entry for each token of the content; their `bytes`, joined, are the content's bytes.
    pub content: Option<Vec<TokenLogprob>>,
    /// Tokens of a refusal; Wharf never refuses, so always `null`.
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A token of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its text, invalid UTF-8 as U+FFFD, or `token_id:N` where that was asked for.
    pub token: String,
    /// Natural logarithm, at least [`crate::range::LOGPROB_FLOOR`].
    pub logprob: f32,
    /// The bytes it added to the content; `null` where it added none (a hidden special token).
    pub bytes: Option<Vec<u8>>,
    /// The most likely tokens at this position, best first; as many as `top_logprobs` asked for.
    pub top_logprobs: Vec<TopLogprob>,
}

/// A token that could have been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// As [`TokenLogprob::token`].
    pub token: String,
    /// As [`TokenLogprob::logprob`].
    pub logprob: f32,
    /// The bytes it stands for.
    pub bytes: Option<Vec<u8>>,
}

/// `choices[].logprobs` of a legacy completion: four lists of one length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionLogprobs {
    /// Where each token's text starts, in characters of `choices[].text` over the whole stream.
    pub text_offset: Vec<usize>,
    /// `null` for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Token text to log-probability, for the best `logprobs` tokens and the chosen one.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
}
