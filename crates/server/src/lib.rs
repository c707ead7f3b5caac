//! The HTTP server of one model: routes, SSE, admission, metrics.
use std::{future::Future, sync::Arc, time::Duration};
use wharf_engine::Engine;
use wharf_text::{template::ChatTemplate, tokenizer::Tokenizer};

/// The model behind the routes.
#[allow(missing_docs)]
pub struct ServedModel {
    /// Names it answers to; the first is the one it reports.
    pub names: Vec<String>,
    pub tokenizer: Arc<dyn Tokenizer>,
    pub template: Option<ChatTemplate>,
    pub defaults: SamplingDefaults,
    pub max_model_len: usize,
    pub engine: Engine,
}

/// Where a request is silent and the model's generation_config.json is not.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct SamplingDefaults {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub max_tokens: Option<usize>,
}

/// Settings of the server.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ServerConfig {
    /// Asked for as `Authorization: Bearer` when set.
    pub api_key: Option<String>,
    pub max_body_bytes: usize,
    /// A comment line at least this often while a stream has nothing to say.
    pub sse_keep_alive: Duration,
    /// How long running streams may go on after the shutdown signal.
    pub drain_timeout: Duration,
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

/// Serves until `shutdown` completes, then drains: readiness 503 at once, running streams finish or end with an error event by the deadline.
pub async fn serve(
    listener: Listener,
    model: ServedModel,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let _ = (listener, model, config, shutdown);
    todo!()
}
