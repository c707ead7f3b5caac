//! From a [`Grammar`] to a [`Constraint`], within limits.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use llguidance::{ParserFactory, earley::SlicedBiasComputer};
use serde_json::Value;
use toktrie::{InferenceCapabilities, TokEnv};

use crate::{
    Grammar, GrammarError, JsonStyle, Matcher, Vocabulary,
    budget::Budget,
    cache::Cache,
    lark, refusal, schema,
    vocabulary::{Environment, Specials},
};

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

/// Compilations that have passed their time and still run, at most: llguidance counts its work, so
/// that they end, but nothing can end them before.
const MOST_ABANDONED: usize = 2;

/// Stack of the compiling thread: schemas nest.
const STACK_BYTES: usize = 64 << 20;

/// Compiles grammars for one vocabulary. Share it: all of it takes `&self`.
pub struct Compiler {
    shared: Arc<Shared>,
    limits: Limits,
    cache: Cache,
}

pub(crate) struct Shared {
    factory: ParserFactory,
    specials: Specials,
    abandoned: AtomicUsize,
}

impl Compiler {
    /// Prepares the vocabulary, which takes a fraction of a second for large ones.
    ///
    /// # Errors
    /// A vocabulary that contradicts itself.
    pub fn new(vocabulary: Vocabulary, limits: Limits) -> Result<Self, GrammarError> {
        let (environment, specials) = Environment::new(vocabulary)?;
        let environment: TokEnv = Arc::new(environment);
        let capabilities = InferenceCapabilities { ff_tokens: true, ..Default::default() };
        let slices = SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&environment, capabilities, &slices);
        let mut factory = factory.map_err(|error| GrammarError::Internal(error.to_string()))?;
        factory.quiet();
        let costs = factory.limits_mut();
        // About 10 ms for the worst mask (llguidance's own figures: 14 k and 20 k a millisecond).
        costs.step_lexer_fuel = 150_000;
        costs.step_max_items = 50_000;
        costs.max_lexer_states = 50_000;
        costs.verbose_errors = false;
        let shared = Arc::new(Shared { factory, specials, abandoned: AtomicUsize::new(0) });
        let cache = Cache::new(limits.cached);
        Ok(Self { shared, limits, cache })
    }

    /// The grammar, if it has been compiled lately. At once.
    pub fn known(&self, grammar: &Grammar) -> Option<Constraint> {
        self.cache.get(grammar)
    }

    /// [`Compiler::compile_by`] within [`Limits::compile_time`].
    ///
    /// # Errors
    /// The first part that cannot be enforced.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, GrammarError> {
        self.compile_by(grammar, self.deadline())
    }

    /// When a compilation that begins now has to end; several may share it.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.limits.compile_time
    }

    /// Compiles a grammar, or finds it compiled. May block until `deadline`: not for threads that
    /// others wait for.
    ///
    /// # Errors
    /// The first part that cannot be enforced.
    pub fn compile_by(
        &self,
        grammar: &Grammar,
        deadline: Instant,
    ) -> Result<Constraint, GrammarError> {
        if let Some(known) = self.cache.get(grammar) {
            return Ok(known);
        }
        let bytes = grammar.source_bytes();
        if bytes > self.limits.source_bytes {
            let limit = self.limits.source_bytes;
            return Err(GrammarError::TooComplex(format!("{bytes} bytes; at most {limit}")));
        }
        grammar.each_schema(&mut |schema| schema::check(schema))?;
        let constraint = self.compile_in_time(grammar.clone(), deadline)?;
        self.cache.insert(grammar.clone(), constraint.clone());
        Ok(constraint)
    }

    /// Checks that a JSON schema can be enforced, so that an error's path is one into this schema.
    ///
    /// # Errors
    /// As [`Compiler::compile_by`].
    pub fn check_schema(&self, schema: &Value, deadline: Instant) -> Result<(), GrammarError> {
        let grammar = Grammar::Json { schema: schema.clone(), style: JsonStyle::default() };
        self.compile_by(&grammar, deadline).map(drop)
    }

    /// On a thread of its own, which is left alone when its time is over.
    fn compile_in_time(
        &self,
        grammar: Grammar,
        deadline: Instant,
    ) -> Result<Constraint, GrammarError> {
        let millis = u64::try_from(self.limits.compile_time.as_millis()).unwrap_or(u64::MAX);
        if self.shared.abandoned.load(Ordering::SeqCst) >= MOST_ABANDONED {
            return Err(GrammarError::TimedOut(millis));
        }
        let (sender, receiver) = mpsc::channel();
        let shared = Arc::clone(&self.shared);
        let work = move || {
            // Of this thread alone: those that write answers go first. Nothing is lost where the
            // system does not let us.
            let _ = rustix::process::nice(19);
            let result = catch_unwind(AssertUnwindSafe(|| shared.compile(&grammar)));
            let result = result.unwrap_or_else(|_| {
                let reason = "the grammar's compiler panicked";
                tracing::error!(reason);
                Err(GrammarError::Internal(reason.into()))
            });
            if sender.send(result).is_err() {
                shared.abandoned.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let builder = thread::Builder::new().name("wharf-grammar".into()).stack_size(STACK_BYTES);
        builder.spawn(work).map_err(|error| GrammarError::Internal(error.to_string()))?;
        receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap_or_else(
            |_| {
                self.shared.abandoned.fetch_add(1, Ordering::SeqCst);
                // It may have come in between.
                if let Ok(result) = receiver.try_recv() {
                    self.shared.abandoned.fetch_sub(1, Ordering::SeqCst);
                    return result;
                }
                Err(GrammarError::TimedOut(millis))
            },
        )
    }
}

impl Shared {
    /// What the token adds to a text; of a special one, its own text.
    pub(crate) fn bytes(&self, token: u32) -> Vec<u8> {
        match self.specials.text_of(token) {
            Some(text) => text.as_bytes().to_vec(),
            None => self.factory.tok_env().tok_trie().token(token).to_vec(),
        }
    }

    fn compile(self: &Arc<Self>, grammar: &Grammar) -> Result<Constraint, GrammarError> {
        let top = lark::top_level(grammar, &self.specials)?;
        let parser = self.factory.create_parser(top);
        let mut matcher = llguidance::Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(refusal::of(&error, grammar));
        }
        // The first mask costs more than others, and shows whether the grammar allows anything.
        let first = matcher.compute_mask_or_eos();
        let first = first.map_err(|error| refusal::of(&error.to_string(), grammar))?;
        if first.is_zero() {
            let reason = "nothing satisfies it".to_owned();
            return Err(GrammarError::Invalid { path: String::new(), reason });
        }
        let tokenize = |text: &str| self.factory.tok_env().tokenize(text);
        let budget = Budget::of(grammar, &tokenize);
        let complete = matcher.is_accepting();
        let complete = complete.map_err(|error| refusal::of(&error.to_string(), grammar))?;
        let matcher = Arc::new(Mutex::new(matcher));
        Ok(Constraint { matcher, complete, shared: Arc::clone(self), budget })
    }
}

/// A compiled grammar. Cloning is cheap; choices share it.
#[derive(Clone)]
pub struct Constraint {
    /// At the beginning.
    matcher: Arc<Mutex<llguidance::Matcher>>,
    complete: bool,
    shared: Arc<Shared>,
    budget: Option<Budget>,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

impl Constraint {
    /// An empty answer satisfies it.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// A matcher at the beginning of an answer: a copy of all that has been compiled, which takes
    /// a fraction of a millisecond for ordinary grammars and several for huge ones.
    pub fn matcher(&self) -> Matcher {
        // Nothing panics while it is held; if it did, the matcher would still be at its beginning.
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        // Deep: matchers that share a lexer would wait for each other.
        Matcher::new(matcher.deep_clone(), Arc::clone(&self.shared), self.budget.clone())
    }
}
