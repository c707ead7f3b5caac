//! The engine: tokens in, tokens out. Continuous batching, paged KV with prefix caching.
//!
//! One thread owns all state; others send it requests. Dropping a choice's receiver cancels that
//! choice: its blocks are free within one step. One step is `plan → forward → sample → events`:
//!
//! - `scheduler` decides which tokens run (decode rows first, then chunks of prefill),
//! - `block_cache` owns the KV blocks, who refers to them and which prefixes they hold,
//! - `states` owns the slots of recurrent state, where the model has one,
//! - `runner` runs them (the model; a fake in tests),
//! - `lookup` guesses how texts that repeat themselves go on, `draft` how a smaller model would go
//!   on, and `speculation` whether that pays,
//! - `constrained` follows a constraint's grammar, whose masks `masks` computes meanwhile,
//! - `sampler` turns logits into tokens,
//! - `engine` ties these together, and is the handle that others hold.
//!
//! What a request gets depends on nothing but itself: alone or in any batch, with a cold or warm
//! cache, preempted or not, the tokens and log-probabilities are the same bits. That holds because
//! the runner computes each row alike whatever else is in the batch, the sampler looks at one row
//! only, and its random draw is a pure function of (seed, choice, position).
//!
//! Not here: HTTP, text, stop strings (the server drops the receiver), the choice of a model.

mod block_cache;
mod config;
mod constrained;
mod draft;
mod engine;
mod events;
#[cfg(test)]
mod fake_runner;
mod lookup;
mod masks;
mod pace;
mod params;
mod request;
mod runner;
mod sampler;
mod scheduler;
mod sequence;
mod speculation;
mod states;
mod stats;

pub use config::EngineConfig;
pub use draft::DraftModel;
pub use engine::Engine;
pub use events::{Event, Failure, FinishReason, Receiver, TokenLogprob};
pub use params::SamplingParams;
pub use request::{GenerateRequest, SubmitError};
pub use runner::Runner;
pub use stats::EngineStats;
pub use wharf_grammar as grammar;
pub use wharf_model as model;
