//! What every handler may read: the model, the settings, the gate, the counters.
use crate::admission::Admission;
use crate::compute::Compute;
use crate::error::ApiError;
use crate::grammars::Grammars;
use crate::metrics::Metrics;
use crate::{SamplingDefaults, ServedModel, ServerConfig};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wharf_engine::Engine;
use wharf_engine::model::BLOCK_TOKENS;
use wharf_text::detokenizer::token_text;
use wharf_text::reasoning::ReasoningFormat;
use wharf_text::template::ChatTemplate;
use wharf_text::tokenizer::Tokenizer;
use wharf_text::tool_calls::ToolFormat;

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
    pub(crate) tool_format: &'static dyn ToolFormat,
    pub(crate) reasoning_format: Option<&'static dyn ReasoningFormat>,
    pub(crate) compiler: Grammars,
    /// Special tokens by their text, but for those that end answers.
    special: Vec<(String, u32)>,
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
            template: model.template,
            compiler: Grammars::new(Arc::clone(&model.tokenizer), limits.eos_token_ids.clone()),
            special: special_tokens(model.tokenizer.as_ref(), &limits.eos_token_ids),
            tokenizer: model.tokenizer,
            tool_format: model.tool_format,
            reasoning_format: model.reasoning_format,
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

    /// The special tokens that are, or are part of, one of `markers`.
    pub(crate) fn special_in(&self, markers: &[&str]) -> impl Iterator<Item = u32> {
        let is_in = |text: &str| markers.iter().any(|marker| marker.contains(text));
        self.special.iter().filter(move |(text, _)| is_in(text)).map(|(_, id)| *id)
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

/// Special tokens by their text, but for those that end answers.
fn special_tokens(tokenizer: &dyn Tokenizer, eos_token_ids: &[u32]) -> Vec<(String, u32)> {
    let count = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let special = (0..count).filter(|&id| tokenizer.is_special(id) && !eos_token_ids.contains(&id));
    let named = special.map(|id| (token_text(tokenizer, id), id));
    named.filter(|(text, _)| !text.is_empty()).collect()
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
