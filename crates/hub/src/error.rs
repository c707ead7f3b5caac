//! Why a model could not be fetched, in words that say what to do about it.

use std::path::PathBuf;

/// Why no source gave the model.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The name is neither a path that exists nor a name of the known forms.
    #[error("`{model}`: {reason}")]
    BadName {
        /// As given.
        model: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Every source failed.
    #[error("{}", all_sources(model, reasons))]
    AllSourcesFailed {
        /// As given.
        model: String,
        /// (source, why it failed), in the order tried.
        reasons: Vec<(String, String)>,
    },
    /// Not in the cache, and fetching was forbidden.
    #[error("`{model}` is not in the cache, and --offline forbids fetching it")]
    Offline {
        /// As given.
        model: String,
    },
    /// The hub answered, and the answer is no.
    #[error("{url}: {status} {explanation}")]
    Status {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
        /// What it most likely means.
        explanation: String,
    },
    /// No (whole) answer, after all retries.
    #[error("{url}: {reason}")]
    Network {
        /// What was asked for.
        url: String,
        /// The last failure.
        reason: String,
    },
    /// The hub's answer makes no sense, or is hostile.
    #[error("{url}: {reason}")]
    BadAnswer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What arrived is not what was promised; it was deleted.
    #[error("{file}: {what} is {found}, expected {expected}; the file was discarded")]
    Corrupt {
        /// The file.
        file: String,
        /// "SHA-256" or "length".
        what: &'static str,
        /// Of what arrived.
        found: String,
        /// As published.
        expected: String,
    },
    /// The repository holds nothing that can be served as it was named.
    #[error("{repo}: {reason}")]
    NothingToServe {
        /// The repository.
        repo: String,
        /// What it holds instead, and how to choose.
        reason: String,
    },
    /// `pip` or Python failed.
    #[error("{0}")]
    Python(String),
    /// The cache could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl HubError {
    /// For `map_err`: an I/O error at `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// The message of [`HubError::AllSourcesFailed`].
fn all_sources(model: &str, reasons: &[(String, String)]) -> String {
    let mut text = format!("no source gave the model `{model}`:\n");
    for (source, reason) in reasons {
        text.push_str(&format!("  - {source}: {}\n", reason.trim().replace('\n', "\n    ")));
    }
    text.push_str(
        "If you have a model on this machine, give its path: --model /path/to/model.gguf \
         (a GGUF file, or a directory with config.json and *.safetensors).",
    );
    text
}
