//! The grammar compiler of the model's vocabulary, made when the first request needs it.
use crate::error::ApiError;
use std::sync::{Arc, LazyLock};
use wharf_engine::grammar::{Compiler, Constraint, Grammar, GrammarError, Limits, Vocabulary};
use wharf_text::tokenizer::Tokenizer;

type Make = Box<dyn FnOnce() -> Result<Compiler, GrammarError> + Send>;

/// The compiler, or the reason why there is none. The first who asks makes it, and waits: of 150,000
/// tokens it takes most of a second, and 80 MB from then on, which many never need.
pub(crate) struct Grammars(LazyLock<Result<Compiler, GrammarError>, Make>);

impl Grammars {
    /// None is made yet.
    pub(crate) fn new(tokenizer: Arc<dyn Tokenizer>, eos_token_ids: Vec<u32>) -> Self {
        Self(LazyLock::new(Box::new(move || {
            let count = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
            let vocabulary = Vocabulary {
                tokens: (0..count).map(|id| tokenizer.token_bytes(id).to_vec()).collect(),
                special: (0..count).map(|id| tokenizer.is_special(id)).collect(),
                eos_token_ids: eos_token_ids.into_iter().filter(|&id| id < count).collect(),
                tokenize: Box::new(move |text| tokenizer.encode(text, false).unwrap_or_default()),
            };
            Compiler::new(vocabulary, Limits::default())
        })))
    }

    /// A grammar that has been compiled lately. At once.
    pub(crate) fn known(&self, grammar: &Grammar) -> Option<Constraint> {
        LazyLock::get(&self.0)?.as_ref().ok()?.known(grammar)
    }

    /// The compiler. On the compute pool: it may have to be made.
    ///
    /// # Errors
    /// The vocabulary has no way to end an answer, or contradicts itself.
    pub(crate) fn get(&self) -> Result<&Compiler, ApiError> {
        let compiler = LazyLock::force(&self.0).as_ref();
        compiler.map_err(|error| {
            let message = format!("This model's answers cannot be constrained: {error}");
            ApiError::Body { message, param: None }
        })
    }
}
