//! Follows one answer.

use crate::{MatchError, TokenMask};

/// Follows one answer token by token. After an error it stays failed.
pub struct Matcher {}

impl Matcher {
    /// The tokens that may come next. The end-of-sequence tokens are among them where
    /// [`Matcher::is_complete`]. Never empty unless [`Matcher::is_finished`].
    ///
    /// # Errors
    /// Where that takes more than the limits allow.
    pub fn mask(&mut self) -> Result<TokenMask, MatchError> {
        Err(MatchError::Internal("not there yet".into()))
    }

    /// The answer goes on with `token`, which is not an end-of-sequence token.
    ///
    /// # Errors
    /// [`MatchError::Rejected`] where it may not.
    pub fn consume(&mut self, token: u32) -> Result<(), MatchError> {
        Err(MatchError::Rejected(token))
    }

    /// The tokens that must come next, as the tokenizer writes their text; empty where there is a
    /// choice. The matcher stays where it is.
    pub fn forced(&mut self) -> Vec<u32> {
        Vec::new()
    }

    /// The answer may end here.
    pub fn is_complete(&mut self) -> bool {
        false
    }

    /// The answer is complete, and nothing may follow.
    pub fn is_finished(&self) -> bool {
        false
    }
}
