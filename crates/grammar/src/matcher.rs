//! Follows one answer.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{MatchError, TokenMask, budget::Budget, compiler::Shared};

/// Follows one answer token by token. After an error it stays failed.
pub struct Matcher {
    inner: llguidance::Matcher,
    vocabulary: Arc<Shared>,
    budget: Option<Budget>,
    error: Option<MatchError>,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("error", &self.error).finish_non_exhaustive()
    }
}

impl Matcher {
    pub(crate) fn new(
        inner: llguidance::Matcher,
        vocabulary: Arc<Shared>,
        budget: Option<Budget>,
    ) -> Self {
        Self { inner, vocabulary, budget, error: None }
    }

    /// The tokens that may come next. The end-of-sequence tokens are among them where
    /// [`Matcher::is_complete`]. Never empty unless [`Matcher::is_finished`].
    ///
    /// # Errors
    /// Where that takes more than the limits allow.
    pub fn mask(&mut self) -> Result<TokenMask, MatchError> {
        if let Some(&token) = self.forced_by_budget().first() {
            let mut mask = TokenMask::default();
            mask.insert(token);
            return Ok(mask);
        }
        let mask = self.guarded(|matcher| matcher.compute_mask_or_eos())?;
        Ok(TokenMask::from_words(mask.as_slice().to_vec()))
    }

    /// The answer goes on with `token`, which is not an end-of-sequence token.
    ///
    /// # Errors
    /// [`MatchError::Rejected`] where it may not.
    pub fn consume(&mut self, token: u32) -> Result<(), MatchError> {
        let taken = self.guarded(|matcher| matcher.try_consume_tokens(&[token]))?;
        if taken == 0 {
            return Err(self.fail(MatchError::Rejected(token)));
        }
        if let Some(budget) = &mut self.budget {
            budget.count(&self.vocabulary.bytes(token));
        }
        Ok(())
    }

    /// The tokens that must come next, as the tokenizer writes their text; empty where there is a
    /// choice. The matcher stays where it is.
    pub fn forced(&mut self) -> Vec<u32> {
        let by_budget = self.forced_by_budget();
        if !by_budget.is_empty() || self.is_finished() {
            return by_budget;
        }
        // An error shows with the next mask.
        self.guarded(|matcher| Ok(matcher.compute_ff_tokens())).unwrap_or_default()
    }

    /// The answer may end here.
    pub fn is_complete(&mut self) -> bool {
        self.is_finished() || self.guarded(llguidance::Matcher::is_accepting).unwrap_or(false)
    }

    /// The answer is complete, and nothing may follow.
    pub fn is_finished(&self) -> bool {
        self.error.is_none() && self.inner.is_stopped() && self.inner.stop_reason().is_ok()
    }

    fn forced_by_budget(&self) -> Vec<u32> {
        self.budget.as_ref().map(Budget::forced).unwrap_or_default()
    }

    /// Runs `work`, and keeps what went wrong.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut llguidance::Matcher) -> Result<T, anyhow::Error>,
    ) -> Result<T, MatchError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        match catch_unwind(AssertUnwindSafe(|| work(&mut self.inner))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let reason = error.to_string();
                let first = reason.lines().next().unwrap_or_default().to_owned();
                Err(self.fail(MatchError::TooComplex(first)))
            }
            Err(_) => Err(self.fail(MatchError::Internal("the matcher panicked".into()))),
        }
    }

    fn fail(&mut self, error: MatchError) -> MatchError {
        self.error = Some(error.clone());
        error
    }
}
