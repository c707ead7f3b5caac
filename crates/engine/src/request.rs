//! What comes in: a request, and why one is not taken.

use std::sync::Arc;

use wharf_grammar::Constraint;
use wharf_model::BLOCK_TOKENS;

use crate::{EngineConfig, SamplingParams};

/// A request for one or more continuations of one prompt.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// Choices; they share the prompt's blocks. Zero gives no receivers and does nothing.
    pub n: usize,
    /// How to choose tokens.
    pub params: SamplingParams,
    /// Prefix-cache hits only between equal salts.
    pub cache_salt: Option<Arc<str>>,
    /// Lower runs first; equal ones run in order of arrival.
    pub priority: i64,
    /// What the answer must look like. Each choice follows it from its beginning.
    pub constraint: Option<Constraint>,
}

/// Why a request was not taken. Only [`SubmitError::QueueFull`] may go away by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too many requests wait already; try again later.
    #[error("the queue is full ({limit} requests wait)")]
    QueueFull {
        /// [`EngineConfig::max_waiting`].
        limit: usize,
    },
    /// The prompt leaves no room for even one token of an answer.
    #[error("the prompt has {prompt} tokens, but the longest sequence is {limit}")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// [`EngineConfig::max_model_len`].
        limit: usize,
    },
    /// Even alone, prompt and answer (up to `max_tokens`) would not fit in the cache.
    #[error("the sequence needs {need} KV blocks, but the cache has {have}")]
    NoRoom {
        /// Blocks that prompt and answer need.
        need: usize,
        /// [`EngineConfig::num_blocks`].
        have: usize,
    },
    /// No model could run it: an empty prompt, or a token id outside the vocabulary.
    #[error("{0}")]
    Invalid(String),
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

impl GenerateRequest {
    /// Refuses what could never run, so that whatever is queued can always make progress.
    pub(crate) fn validate(
        &self,
        config: &EngineConfig,
        vocab_size: usize,
    ) -> Result<(), SubmitError> {
        let prompt = self.prompt.len();
        if prompt == 0 {
            return Err(SubmitError::Invalid("the prompt is empty".into()));
        }
        if let Some(id) = self.prompt.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(SubmitError::Invalid(format!(
                "the prompt has token id {id}, but the vocabulary has {vocab_size} tokens"
            )));
        }
        if prompt >= config.max_model_len {
            return Err(SubmitError::TooLong { prompt, limit: config.max_model_len });
        }
        // The last token of the answer is never run through the model, so it needs no slot.
        let longest = prompt.saturating_add(self.params.max_tokens).min(config.max_model_len);
        let need = (longest - 1).max(prompt).div_ceil(BLOCK_TOKENS);
        if need > config.num_blocks {
            return Err(SubmitError::NoRoom { need, have: config.num_blocks });
        }
        Ok(())
    }
}
