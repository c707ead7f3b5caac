//! The HTTP server of one model: routes, SSE, admission, metrics.
//!
//! The way of a request: `routes` → `chat` or `completions` (parse, `refuse`, `validate`, `tools`,
//! `form`, `prompt`, `shape`, all on the `compute` pool) → `generation` (engine channels) → `choice` (detokenise, stop
//! strings, log-probabilities) → `answer` or `sse`. Nothing flows back: a client that leaves drops
//! the answer, and with it the engine's receivers, which cancels the request.
//!
//! What is absent: a second way to make an error body (`error` has the only one), text handling
//! that differs between plain and streaming answers (`choice` is shared), work on the runtime's
//! threads that could block them, and a request that could end the process.

mod admission;
mod answer;
mod auth;
mod body;
mod chat;
mod chat_format;
mod choice;
mod completeness;
mod completions;
mod compute;
mod cors;
mod error;
mod fault;
mod form;
mod generation;
mod grammars;
mod logprobs;
mod metrics;
mod parts;
mod prompt;
mod refuse;
mod request_id;
mod routes;
mod shape;
mod sse;
mod state;
mod tokenize;
mod tools;
mod validate;

use axum::serve::ListenerExt;
use state::AppState;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wharf_engine::Engine;
use wharf_text::{
    reasoning::ReasoningFormat, template::ChatTemplate, tokenizer::Tokenizer,
    tool_calls::ToolFormat,
};

/// The least time that answers have to reach their clients once the last one is made: at the
/// drain's deadline, as before it, they still have to be written.
const FAREWELL: Duration = Duration::from_secs(2);

/// The model behind the routes.
pub struct ServedModel {
    /// Names it answers to; the first is the one it reports. At least one.
    pub names: Vec<String>,
    /// The model's tokenizer.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// The model's chat template; without one, chat completions are refused.
    pub template: Option<ChatTemplate>,
    /// How the model writes tool calls.
    pub tool_format: &'static dyn ToolFormat,
    /// How it marks its reasoning; `None`: it is not told apart.
    pub reasoning_format: Option<&'static dyn ReasoningFormat>,
    /// The model's own defaults.
    pub defaults: SamplingDefaults,
    /// Longest sequence in tokens, prompt and answer. The engine's limits may lower it.
    pub max_model_len: usize,
    /// What generates.
    pub engine: Engine,
}

/// Where a request is silent and the model's generation_config.json is not. `None`: silent too.
#[derive(Debug, Clone, Default)]
pub struct SamplingDefaults {
    /// 0..=2; 0 is greedy.
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// 0 is off.
    pub top_k: Option<u32>,
    /// 0..=1.
    pub min_p: Option<f32>,
    /// Above 0; 1 is off.
    pub repetition_penalty: Option<f32>,
    /// Most tokens of an answer.
    pub max_tokens: Option<usize>,
}

/// Settings of the server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Asked for as `Authorization: Bearer` when set, everywhere but on health, version and
    /// metrics.
    pub api_key: Option<String>,
    /// Larger bodies get 413.
    pub max_body_bytes: usize,
    /// A comment line at least this often while a stream has nothing to say; zero sends none.
    /// Proxies cut connections that are silent for longer; 15 s is a good value.
    pub sse_keep_alive: Duration,
    /// How long running requests may go on after the shutdown signal.
    pub drain_timeout: Duration,
    /// Take requests' `priority`; otherwise one other than 0 is refused.
    pub priority_scheduling: bool,
    /// Origins allowed by CORS; empty allows any.
    pub cors_origins: Vec<String>,
}

/// Where to listen.
pub enum Listener {
    /// TCP.
    Tcp(tokio::net::TcpListener),
    /// Unix socket.
    Unix(tokio::net::UnixListener),
}

/// Serves until `shutdown` completes, then drains: readiness is 503 at once, new requests get 503
/// with Retry-After, running requests finish or end with an error by
/// [`ServerConfig::drain_timeout`]. Returns when all is written, or by that deadline, but no less
/// than 2 s after the last request ended.
///
/// # Errors
/// Where a CORS origin is none ([`std::io::ErrorKind::InvalidInput`]).
pub async fn serve(
    listener: Listener,
    model: ServedModel,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let drain_timeout = config.drain_timeout;
    let cors = cors::layer(&config.cors_origins)?;
    let state = AppState::new(model, config);
    let admission = Arc::clone(&state.admission);
    let router = routes::router(state, cors);
    // Connections are accepted while the server drains, so that those who come are told.
    let drained = async move {
        shutdown.await;
        let begun = Instant::now();
        tracing::info!(running = admission.running(), "draining");
        admission.drain(drain_timeout).await;
        // A slow reader has as long as a slow request has.
        drain_timeout.saturating_sub(begun.elapsed()).max(FAREWELL)
    };
    match listener {
        Listener::Tcp(listener) => {
            // Tokens are small packets that somebody waits for.
            let listener = listener.tap_io(|stream| {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
            });
            wharf_http::serve(listener, router, drained).await;
        }
        Listener::Unix(listener) => wharf_http::serve(listener, router, drained).await,
    }
    Ok(())
}
