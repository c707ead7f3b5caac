//! What every handler may read: the model, the settings, the gate, the counters.
use crate::admission::Admission;
use crate::compute::Compute;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::{SamplingDefaults, ServedModel, ServerConfig};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wharf_engine::Engine;
use wharf_engine::model::BLOCK_TOKENS;
use wharf_text::template::ChatTemplate;
use wharf_text::tokenizer::Tokenizer;

/// How long templates and tokenising may take for one request.
const COMPUTE_LIMIT: Duration = Duration::from_secs(10);
/// Requests let in beyond those that the engine can run and queue: on their way to it or back.
const ON_THE_WAY: usize = 64;

/// Shared by all handlers; never locked.
pub(crate) struct AppState {
    /// The first is the one reported.
    pub(crate) names: Vec<String>,
    pub(crate) tokenizer: Arc<dyn Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) defaults: SamplingDefaults,
    /// Longest sequence in tokens that model, engine and KV cache can all take.
    pub(crate) max_model_len: usize,
    /// Bytes of the longest token: a text has at least `bytes / this` tokens.
    pub(crate) longest_token: usize,
    pub(crate) engine: Engine,
    pub(crate) config: ServerConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) compute: Compute,
    /// Seconds since 1970 when the server started.
    pub(crate) started: u64,
}

impl AppState {
    pub(crate) fn new(model: ServedModel, config: ServerConfig) -> Arc<Self> {
        let engine = model.engine;
        let limits = engine.config();
        let max_model_len = model
            .max_model_len
            .min(limits.max_model_len)
            .min(limits.num_blocks.saturating_mul(BLOCK_TOKENS));
        let vocabulary = u32::try_from(model.tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let longest = (0..vocabulary).map(|id| model.tokenizer.token_bytes(id).len()).max();
        let first_name = model.names.first().map_or("", String::as_str);
        let metrics = Arc::new(Metrics::new(engine.clone(), first_name, max_model_len));
        let most_requests =
            limits.max_running.saturating_add(limits.max_waiting).saturating_add(ON_THE_WAY);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            names: model.names,
            tokenizer: model.tokenizer,
            template: model.template,
            defaults: model.defaults,
            max_model_len,
            longest_token: longest.unwrap_or(1).max(1),
            engine,
            config,
            metrics,
            admission: Admission::new(most_requests),
            compute: Compute::new(threads, most_requests, COMPUTE_LIMIT),
            started: unix_now(),
        })
    }

    /// The name that an answer carries, for the name that a request has.
    ///
    /// # Errors
    /// 404 for a name that this server does not have. Absent and empty mean the first.
    pub(crate) fn model_name(&self, asked: Option<&str>) -> Result<String, ApiError> {
        match asked {
            None | Some("") => Ok(self.names.first().cloned().unwrap_or_default()),
            Some(name) if self.names.iter().any(|known| known == name) => Ok(name.to_owned()),
            Some(name) => Err(ApiError::ModelNotFound {
                name: name.chars().take(256).collect(),
                known: self.names.join(", "),
            }),
        }
    }
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
