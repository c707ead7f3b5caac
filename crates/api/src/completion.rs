//! `POST /v1/completions`, the legacy route: request and answer.
use crate::chat_response::{FinishReason, StopReason};
use crate::fields::request_fields;
use crate::generation::GenerationFields;
use crate::logprobs::CompletionLogprobs;
use crate::number::Integer;
use crate::usage::Usage;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

request_fields! {
    /// Prompts to go on with. Only `prompt` is required.
    pub struct CompletionRequest includes generation: GenerationFields {
        /// One prompt or several, as texts or as token ids.
        pub prompt: Option<Prompt>,
        /// 0..=20: log-probabilities of the chosen token and of so many others; default none.
        pub logprobs: Option<Integer>,
        /// What comes after the gap. Refused unless empty.
        pub suffix: Option<String>,
        /// Prompts as tensors. Refused.
        pub prompt_embeds: Option<Value>,
    }
}

/// `prompt` of a legacy completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts; an empty list too.
    Texts(Vec<String>),
    /// One list of token ids.
    Tokens(Vec<u32>),
    /// Several lists of token ids.
    TokenLists(Vec<Vec<u32>>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromptVisitor;
        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = Prompt;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a list of strings, a list of token ids or a list of those")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
                let Some(first) = seq.next_element::<PromptItem>()? else {
                    return Ok(Prompt::Texts(Vec::new()));
                };
                // The first item decides; the rest are read as what it is, so that an error in
                // them names its place and what was expected there.
                Ok(match first {
                    PromptItem::Text(text) => Prompt::Texts(rest(text, &mut seq)?),
                    PromptItem::Token(id) => Prompt::Tokens(rest(id, &mut seq)?),
                    PromptItem::Tokens(ids) => Prompt::TokenLists(rest(ids, &mut seq)?),
                })
            }
        }
        deserializer.deserialize_any(PromptVisitor)
    }
}

/// `first` and everything after it.
fn rest<'de, T, A>(first: T, seq: &mut A) -> Result<Vec<T>, A::Error>
where
    T: Deserialize<'de>,
    A: SeqAccess<'de>,
{
    let mut items = vec![first];
    while let Some(item) = seq.next_element()? {
        items.push(item);
    }
    Ok(items)
}

/// The first item of a `prompt` that is a list.
enum PromptItem {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = PromptItem;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<PromptItem, E> {
                Ok(PromptItem::Text(value.to_owned()))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<PromptItem, E> {
                u32::try_from(value)
                    .map(PromptItem::Token)
                    .map_err(|_| E::custom(format_args!("{value} is not a token id")))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<PromptItem, E> {
                Err(E::custom(format_args!("{value} is not a token id")))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PromptItem, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(PromptItem::Tokens(ids))
            }
        }
        deserializer.deserialize_any(ItemVisitor)
    }
}

/// The answer, and each chunk of a streamed one (where `usage` is only in the last).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// `cmpl-...`; equal in all chunks.
    pub id: String,
    /// `"text_completion"`.
    pub object: String,
    /// Seconds since 1970; equal in all chunks.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Prompt by prompt, `n` for each.
    pub choices: Vec<CompletionChoice>,
    /// Which build answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// Token counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One choice of a [`Completion`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    /// Number of the prompt times `n`, plus number of the choice.
    pub index: usize,
    /// The text (of this chunk).
    pub text: String,
    /// `null` where not asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `null` in all chunks of a choice but its last.
    pub finish_reason: Option<FinishReason>,
    /// vLLM: the stop string or token that ended it.
    pub stop_reason: Option<StopReason>,
    /// vLLM: the generated ids, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// vLLM: the prompt's ids, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}
