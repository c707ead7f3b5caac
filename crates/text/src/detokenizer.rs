//! Token ids to text, one at a time, never half a character.
use crate::tokenizer::Tokenizer;
use std::sync::Arc;

/// Turns a growing list of ids into text.
pub struct Detokenizer {
    tokenizer: Arc<dyn Tokenizer>,
    skip_special_tokens: bool,
}

impl Detokenizer {
    /// A detokenizer at the start of an answer.
    pub fn new(tokenizer: Arc<dyn Tokenizer>, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens }
    }
    /// Adds a token; appends to `out` the text that is now certain.
    pub fn push(&mut self, id: u32, out: &mut String) {
        let _ = (&self.tokenizer, self.skip_special_tokens, id, out);
        todo!()
    }
    /// Ends the answer; appends what was held back (invalid bytes as U+FFFD).
    pub fn finish(&mut self, out: &mut String) {
        let _ = out;
        todo!()
    }
}
