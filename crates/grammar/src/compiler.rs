//! From a [`Grammar`] to a [`Constraint`].

use std::time::Duration;

use serde_json::Value;

use crate::{Grammar, GrammarError, Matcher, Vocabulary};

/// What a grammar may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Compiling one.
    pub compile_time: Duration,
    /// Bytes of all its texts and schemas.
    pub source_bytes: usize,
    /// Compiled constraints kept for the next request with an equal grammar.
    pub cached: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { compile_time: Duration::from_secs(5), source_bytes: 1 << 20, cached: 64 }
    }
}

/// Compiles grammars for one vocabulary. Share it: all of it takes `&self`.
pub struct Compiler {}

impl Compiler {
    /// Prepares the vocabulary, which takes a fraction of a second for large ones.
    ///
    /// # Errors
    /// A vocabulary that contradicts itself.
    pub fn new(_vocabulary: Vocabulary, _limits: Limits) -> Result<Self, GrammarError> {
        Ok(Self {})
    }

    /// Compiles a grammar, or finds it compiled. Blocks for up to [`Limits::compile_time`]: not
    /// for threads that others wait for.
    ///
    /// # Errors
    /// The first part that cannot be enforced.
    pub fn compile(&self, _grammar: &Grammar) -> Result<Constraint, GrammarError> {
        Err(GrammarError::Internal("not there yet".into()))
    }

    /// Checks that a JSON schema can be enforced, so that an error's path is one into this schema.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn check_schema(&self, _schema: &Value) -> Result<(), GrammarError> {
        Err(GrammarError::Internal("not there yet".into()))
    }
}

/// A compiled grammar. Cloning is cheap; choices share it.
#[derive(Clone)]
pub struct Constraint {}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

impl Constraint {
    /// A matcher at the beginning of an answer.
    pub fn matcher(&self) -> Matcher {
        Matcher {}
    }
}
