//! An OpenAI server without a model: it simulates the timing of continuous batching (a queue,
//! prefill at a rate, one token per stream and step, a finite KV cache) and fails on demand.
//!
//! It exists so that the gateway, the clients and the benchmarks can be tested in milliseconds and
//! against faults that a real engine does not produce when asked. Its text is nonsense, but the
//! same nonsense for the same prompt, and its token counts are the ones it reports.
//!
//! It must not grow into a second server: what a request means is `wharf-server`'s business, so
//! sampling parameters are ignored here, and only what the tests of others need is validated.

mod command;
mod fault;
mod routes;
mod simulation;

use std::{future::Future, sync::Arc};

pub use command::run;
pub use fault::{FAULT_HEADER, Fault, FaultError};
pub use simulation::Stats;

/// How the simulated engine behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct MockConfig {
    /// The model's name in answers and in `/v1/models`.
    pub model: String,
    /// Prompt tokens per second, shared by all requests; 0 is no delay.
    pub prefill_rate: f64,
    /// Tokens per second of each stream; 0 is no delay.
    pub decode_rate: f64,
    /// Requests that run at once; the others wait in order of arrival. At least 1.
    pub slots: usize,
    /// Tokens (prompt and answer, summed over the running requests) the simulated KV cache holds.
    /// A request that could never fit is refused with 400.
    pub kv_tokens: u32,
    /// Tokens of an answer that no `max_tokens` cuts short.
    pub reply_tokens: u32,
}

impl Default for MockConfig {
    fn default() -> Self {
        Self {
            model: "mock".to_owned(),
            prefill_rate: 0.0,
            decode_rate: 0.0,
            slots: 64,
            kv_tokens: 1 << 20,
            reply_tokens: 16,
        }
    }
}

/// A simulated engine; clones share its state.
#[derive(Clone)]
pub struct MockEngine {
    simulation: Arc<simulation::Simulation>,
}

impl MockEngine {
    /// An idle engine.
    pub fn new(config: MockConfig) -> Self {
        Self { simulation: Arc::new(simulation::Simulation::new(config)) }
    }

    /// The routes: `/v1/chat/completions`, `/v1/models`, `/health`, `/metrics`, `/mock/stats`
    /// (the counters as JSON) and `/mock/echo/…` (the request as it arrived).
    pub fn router(&self) -> axum::Router {
        routes::router(Arc::clone(&self.simulation))
    }

    /// The counters as they are now.
    pub fn stats(&self) -> Stats {
        self.simulation.stats()
    }

    /// Serves until `shutdown` completes and the running requests are done.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve<L>(
        &self,
        listener: L,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()>
    where
        L: axum::serve::Listener,
        L::Addr: std::fmt::Debug,
    {
        axum::serve(listener, self.router()).with_graceful_shutdown(shutdown).await
    }
}
