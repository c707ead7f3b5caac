//! The engine: tokens in, tokens out. Continuous batching, paged KV with prefix caching.
//!
//! One thread owns all state; others send it messages. Dropping a choice's receiver cancels that
//! choice. No HTTP, no text.
use std::{sync::Arc, time::Duration};

pub use wharf_model as model;
use wharf_model::{Batch, Model};

/// Sizes and limits.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct EngineConfig {
    /// Most tokens of one step (prefill chunks and decode together).
    pub max_batched_tokens: usize,
    /// Most sequences running at once.
    pub max_running: usize,
    /// Most requests waiting; one more is refused.
    pub max_waiting: usize,
    /// Longest sequence, prompt and answer.
    pub max_model_len: usize,
    /// KV blocks.
    pub num_blocks: usize,
    /// Reuse full blocks of equal prefixes.
    pub prefix_caching: bool,
    /// Ids that end a generation.
    pub eos_token_ids: Vec<u32>,
}

/// What runs the steps: the model, or a fake in tests.
pub trait Runner: Send {
    /// Rows of logits.
    fn vocab_size(&self) -> usize;
    /// One step; `logits` becomes `[batch.logits_rows.len(), vocab_size]`.
    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), String>;
}

impl Runner for Model {
    fn vocab_size(&self) -> usize {
        self.info().vocab_size
    }
    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), String> {
        Model::forward(self, batch, logits).map_err(|e| e.to_string())
    }
}

/// How to choose tokens. All values are already validated and defaulted by the caller.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    pub top_p: f32,
    /// 0 is off.
    pub top_k: u32,
    pub min_p: f32,
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    pub repetition_penalty: f32,
    pub logit_bias: Vec<(u32, f32)>,
    /// `None`: drawn at random.
    pub seed: Option<u64>,
    /// `Some(k)`: the sampled token's log-probability and the k best.
    pub logprobs: Option<usize>,
    pub max_tokens: usize,
    pub min_tokens: usize,
    pub stop_token_ids: Vec<u32>,
    pub ignore_eos: bool,
    /// Token sequences that must not appear.
    pub bad_words: Vec<Vec<u32>>,
    pub allowed_token_ids: Option<Vec<u32>>,
}

/// A request.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct GenerateRequest {
    pub prompt: Vec<u32>,
    /// Choices; they share the prompt's blocks.
    pub n: usize,
    pub params: SamplingParams,
    /// Prefix-cache hits only between equal salts.
    pub cache_salt: Option<Arc<str>>,
    /// Lower runs first.
    pub priority: i64,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SubmitError {
    #[error("the queue is full ({limit} requests wait)")]
    QueueFull { limit: usize },
    #[error("the prompt has {prompt} tokens, but the longest sequence is {limit}")]
    TooLong { prompt: usize, limit: usize },
    #[error("the sequence needs {need} KV blocks, but the cache has {have}")]
    NoRoom { need: usize, have: usize },
    #[error("the engine has stopped")]
    Stopped,
}

/// What one choice's receiver gets, in order: `Started`, `Token`*, then `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Event {
    /// The prompt has been scheduled.
    Started {
        /// Prompt tokens taken from the prefix cache.
        cached_tokens: usize,
        queued: Duration,
    },
    Token {
        id: u32,
        logprob: Option<TokenLogprob>,
    },
    Finished(FinishReason),
    /// This choice failed; the engine goes on.
    Failed(String),
}

/// Log-probabilities at one position, after temperature-independent processing (raw logits' log-softmax).
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct TokenLogprob {
    pub logprob: f32,
    /// Best first, ties by id.
    pub top: Vec<(u32, f32)>,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token; it was not sent as a `Token`.
    Eos(u32),
    /// One of `stop_token_ids`; it was not sent as a `Token`.
    StopToken(u32),
    /// max_tokens or the longest sequence reached.
    Length,
}

/// Receives one choice's events; dropping it cancels the choice.
pub type Receiver = tokio::sync::mpsc::UnboundedReceiver<Event>;

/// Counters and gauges, read at any time.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct EngineStats {
    pub running: usize,
    pub waiting: usize,
    pub blocks_total: usize,
    pub blocks_used: usize,
    pub prefix_cache_queries: u64,
    pub prefix_cache_hits: u64,
    pub preemptions: u64,
    pub prompt_tokens: u64,
    pub generation_tokens: u64,
    pub steps: u64,
    pub failed_steps: u64,
}

/// Handle to a running engine. Clone freely; the engine's thread ends when the last one is dropped.
#[derive(Clone)]
pub struct Engine {}

impl Engine {
    /// Starts the engine's thread.
    pub fn start(runner: Box<dyn Runner>, config: EngineConfig) -> std::io::Result<Self> {
        let _ = (runner, config);
        todo!()
    }
    /// Queues a request; one receiver per choice. Never blocks.
    pub fn submit(&self, request: GenerateRequest) -> Result<Vec<Receiver>, SubmitError> {
        let _ = request;
        todo!()
    }
    /// A snapshot.
    pub fn stats(&self) -> EngineStats {
        todo!()
    }
    /// False when the thread has ended.
    pub fn is_alive(&self) -> bool {
        todo!()
    }
    /// The configuration it runs with.
    pub fn config(&self) -> &EngineConfig {
        todo!()
    }
}
