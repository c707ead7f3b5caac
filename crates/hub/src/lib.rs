//! Fetching models: the cache, the default model's Python package, a Hugging Face hub.
use std::path::PathBuf;

/// Progress of a download, for a bar.
pub trait Progress: Send + Sync {
    /// A file begins; `total` bytes if known, `done` already there.
    fn start(&self, file: &str, done: u64, total: Option<u64>);
    /// More bytes arrived.
    fn advance(&self, bytes: u64);
    /// The file is complete.
    fn finish(&self);
}

/// Why no source gave the model.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Nothing worked; each source with its reason.
    #[error("{0}")]
    NotFound(String),
}

/// Where and how to fetch. Environment is read by the caller.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct HubOptions {
    pub cache: PathBuf,
    pub hf_endpoint: String,
    pub hf_token: Option<String>,
    pub python: String,
    pub offline: bool,
}

/// The path of `model`: an existing local path as it is; "smollm2" the default model; "org/repo" (or "org/repo@revision", or "org/repo/file.gguf") from the hub.
pub async fn fetch(
    model: &str,
    options: &HubOptions,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    let _ = (model, options, progress);
    todo!()
}
