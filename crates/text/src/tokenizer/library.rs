//! Hugging Face's `tokenizers` behind our trait: the library encodes, our table decodes.
//!
//! The library may panic on a vocabulary made to hurt it, so every call into it is caught:
//! a bad file or text is an error of that call, never the end of the process.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::token_table::TokenTable;
use super::{Tokenizer, TokenizerError};

/// A library tokenizer with our byte table beside it.
pub(super) struct LibraryTokenizer {
    /// Encodes. Its post-processor is not used: `prefix` and `suffix` are what it adds.
    pub(super) library: tokenizers::Tokenizer,
    /// Decodes.
    pub(super) table: TokenTable,
    /// Ids before a text that is encoded with special tokens (BOS).
    pub(super) prefix: Vec<u32>,
    /// Ids after it (EOS).
    pub(super) suffix: Vec<u32>,
    /// See [`Tokenizer::leading_spaces_dropped`].
    pub(super) leading_spaces_dropped: usize,
    /// BOS text.
    pub(super) bos: Option<String>,
    /// EOS text.
    pub(super) eos: Option<String>,
}

/// Calls into the library; a panic there becomes its message.
pub(super) fn guarded<T>(
    call: impl FnOnce() -> Result<T, Box<dyn std::error::Error + Send + Sync>>,
) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library failed on it".to_owned()),
    }
}

impl Tokenizer for LibraryTokenizer {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding =
            guarded(|| self.library.encode_fast(text, false)).map_err(TokenizerError::Encode)?;
        let ids = encoding.get_ids();
        if !add_special_tokens || (self.prefix.is_empty() && self.suffix.is_empty()) {
            return Ok(ids.to_vec());
        }
        Ok([&self.prefix, ids, &self.suffix].concat())
    }

    fn token_bytes(&self, id: u32) -> &[u8] {
        self.table.bytes(id)
    }

    fn is_special(&self, id: u32) -> bool {
        self.table.is_special(id)
    }

    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            if !(skip_special_tokens && self.table.is_special(id)) {
                bytes.extend_from_slice(self.table.bytes(id));
            }
        }
        let spaces = bytes.iter().take_while(|&&byte| byte == b' ').count();
        String::from_utf8_lossy(&bytes[spaces.min(self.leading_spaces_dropped)..]).into_owned()
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.table.text(id).map(str::to_owned)
    }

    fn vocab_size(&self) -> usize {
        self.table.len()
    }

    fn bos_token(&self) -> Option<&str> {
        self.bos.as_deref()
    }

    fn eos_token(&self) -> Option<&str> {
        self.eos.as_deref()
    }

    fn leading_spaces_dropped(&self) -> usize {
        self.leading_spaces_dropped
    }
}
