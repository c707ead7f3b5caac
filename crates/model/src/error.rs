//! What can go wrong with a model: a broken file, an unreadable one, a batch that makes no sense.
//!
//! Parsers work on bytes and know no paths, so they return [`Malformed`]; whoever opened the file adds
//! its path. Every variant names the field, because "invalid model" helps nobody.

use std::path::{Path, PathBuf};

/// A field of a parsed buffer is missing, wrong or unsupported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Malformed {
    /// The field, in the file's own words (`rope_scaling.factor`, `llama.block_count`, a tensor's name).
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Malformed {
    /// A fault in `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: shorten(field.into()), reason: shorten(reason.into()) }
    }

    /// The same fault, as one of `file`.
    pub fn in_file(self, file: &Path) -> ModelError {
        ModelError::Invalid { file: file.to_owned(), field: self.field, reason: self.reason }
    }
}

/// What went wrong reading or running a model. None of these goes away by trying again.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A field of a file is missing, wrong or unsupported.
    #[error("{}: {field}: {reason}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The field in it.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Threads could not be bound to CPUs.
    #[error("threads cannot be bound to CPUs: {0}")]
    Pinning(#[source] std::io::Error),
    /// A step was asked for that this model cannot run (a fault of the caller; nothing was computed).
    #[error("batch: {reason}")]
    Batch {
        /// What is wrong.
        reason: String,
    },
}

impl ModelError {
    pub(crate) fn io(file: &Path, source: std::io::Error) -> Self {
        Self::Io { file: file.to_owned(), source }
    }

    pub(crate) fn batch(reason: impl Into<String>) -> Self {
        Self::Batch { reason: reason.into() }
    }
}

/// Names in a hostile file can be megabytes long; an error message should not be.
fn shorten(text: String) -> String {
    const LONGEST: usize = 400;
    if text.len() <= LONGEST {
        return text;
    }
    let mut cut = LONGEST;
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}...", &text[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let fault = Malformed::new("é".repeat(1000), "wrong");
        assert!(fault.field.len() <= 403 && fault.field.ends_with("..."));
    }

    #[test]
    fn the_message_names_file_and_field() {
        let error = Malformed::new("vocab_size", "is missing").in_file(Path::new("m/config.json"));
        assert_eq!(error.to_string(), "m/config.json: vocab_size: is missing");
    }
}
