//! Sizes and limits of an engine. Plain values: where they come from (flags, memory) is the
//! caller's business.

use std::io;

/// Sizes and limits.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Most tokens of one step (prefill chunks and decode together). At least `max_running`, so
    /// that every running sequence can have its decode row in every step.
    pub max_batched_tokens: usize,
    /// Most sequences running at once (each choice of a request is one sequence).
    pub max_running: usize,
    /// Most requests waiting; one more is refused. At least 1: every request waits for the next step,
    /// even where nothing runs.
    pub max_waiting: usize,
    /// Longest sequence in tokens, prompt and answer.
    pub max_model_len: usize,
    /// KV blocks, of `wharf_model::BLOCK_TOKENS` tokens each.
    pub num_blocks: usize,
    /// Reuse full blocks of equal prefixes between requests. When off, the choices of one request
    /// still share the blocks of their prompt.
    pub prefix_caching: bool,
    /// Copies kept of recurrent states, for prefixes to be reused from. `None`: the model keeps no such
    /// states. With `Some`, the runner has room for `max_running` states and these, and nothing is
    /// guessed: a state can't be taken back.
    pub num_state_snapshots: Option<usize>,
    /// Most tokens guessed at once, to be computed beside the last one where that pays; 0 is off.
    /// Answers are the same.
    pub num_speculative_tokens: usize,
    /// Guess from the text so far. A [`crate::DraftModel`], where there is one, then guesses where
    /// it has come true more often.
    pub ngram_lookup: bool,
    /// Ids that end a generation.
    pub eos_token_ids: Vec<u32>,
}

impl EngineConfig {
    /// Refuses configurations under which the engine could not keep its promises.
    pub(crate) fn validate(&self) -> io::Result<()> {
        let refuse = |reason: String| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        if self.max_running == 0 {
            return refuse("max_running must be at least 1".into());
        }
        if self.max_waiting == 0 {
            return refuse(
                "max_waiting must be at least 1: every request waits for the next step".into(),
            );
        }
        if self.max_batched_tokens < self.max_running {
            return refuse(format!(
                "max_batched_tokens ({}) must be at least max_running ({}): each running sequence \
                 decodes one token per step",
                self.max_batched_tokens, self.max_running
            ));
        }
        if self.num_blocks == 0 || u32::try_from(self.num_blocks).is_err() {
            return refuse(format!("num_blocks ({}) must be 1 to 2^32 - 1", self.num_blocks));
        }
        let slots = self.max_running.saturating_add(self.num_state_snapshots.unwrap_or(0));
        if self.num_state_snapshots.is_some() && u32::try_from(slots).is_err() {
            return refuse(format!(
                "max_running and num_state_snapshots ({slots}) exceed 2^32 - 1"
            ));
        }
        if self.max_model_len < 2 {
            return refuse(
                "max_model_len must be at least 2: one prompt token and one more".into(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_could_take_no_request_is_refused() {
        let config = |max_waiting| EngineConfig {
            max_batched_tokens: 8,
            max_running: 1,
            max_waiting,
            max_model_len: 2,
            num_blocks: 1,
            prefix_caching: true,
            num_state_snapshots: None,
            num_speculative_tokens: 0,
            ngram_lookup: true,
            eos_token_ids: Vec::new(),
        };
        assert!(config(1).validate().is_ok());
        assert!(config(0).validate().is_err());
    }
}
