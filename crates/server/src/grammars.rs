//! The grammar compiler of the model's vocabulary, made while the server already answers.
use crate::error::ApiError;
use std::sync::{Arc, LazyLock};
use wharf_engine::grammar::{Compiler, Constraint, Grammar, GrammarError, Limits, Vocabulary};
use wharf_text::tokenizer::Tokenizer;

type Make = Box<dyn FnOnce() -> Result<Compiler, GrammarError> + Send>;

/// The compiler, or the reason why there is none. The first who asks waits for it.
pub(crate) struct Grammars(Arc<LazyLock<Result<Compiler, GrammarError>, Make>>);

impl Grammars {
    /// Begins to make it on a thread of its own: a vocabulary of 150,000 tokens takes a second.
    pub(crate) fn start(tokenizer: Arc<dyn Tokenizer>, eos_token_ids: Vec<u32>) -> Self {
        let make: Make = Box::new(move || {
            let count = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
            let vocabulary = Vocabulary {
                tokens: (0..count).map(|id| tokenizer.token_bytes(id).to_vec()).collect(),
                special: (0..count).map(|id| tokenizer.is_special(id)).collect(),
                eos_token_ids: eos_token_ids.into_iter().filter(|&id| id < count).collect(),
                tokenize: Box::new(move |text| tokenizer.encode(text, false).unwrap_or_default()),
            };
            Compiler::new(vocabulary, Limits::default())
        });
        let compiler = Arc::new(LazyLock::new(make));
        let background = Arc::clone(&compiler);
        let spawned =
            std::thread::Builder::new().name("wharf-vocabulary".into()).spawn(move || {
                if let Err(error) = LazyLock::force(&background) {
                    tracing::error!(%error, "structured outputs and tools are not available");
                }
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "the first constrained request prepares the vocabulary");
        }
        Self(compiler)
    }

    /// A grammar that has been compiled lately. At once.
    pub(crate) fn known(&self, grammar: &Grammar) -> Option<Constraint> {
        LazyLock::get(&self.0)?.as_ref().ok()?.known(grammar)
    }

    /// The compiler. On the compute pool: it may not be ready.
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
