//! Text to token ids and back, behind a trait of ours.
//!
//! The trait is what the rest of Wharf sees: the engine and the server never name the
//! library behind it, and tests put small fakes in its place. Behind it stands Hugging
//! Face's `tokenizers`, fed either from a Hugging Face directory ([`from_hugging_face`])
//! or from the vocabulary inside a GGUF file ([`from_gguf`]).
//!
//! Encoding is the library's. Decoding is ours: a table with the bytes of every token,
//! computed once, because streaming, stop strings and logprobs all need *bytes per
//! token*, which the library does not give. What this module must not do: guess. A
//! vocabulary or pre-tokenizer of a kind it does not know is an error that names it.

mod gguf;
mod hugging_face;
mod library;
mod pre_tokenizer;
mod token_table;

use std::sync::Arc;

pub use gguf::{GgufVocabulary, from_gguf};
pub use hugging_face::from_hugging_face;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The vocabulary is broken, or of a kind we do not know. Retrying does not help.
    #[error("tokenizer: {0}")]
    Invalid(String),
    /// A text could not be encoded. Retrying the same text does not help.
    #[error("tokenizing: {0}")]
    Encode(String),
}

/// Text to token ids and back. Cheap to share; every method may be called from any thread.
pub trait Tokenizer: Send + Sync {
    /// Ids of `text`; with `add_special_tokens`, BOS/EOS as the model's tokenizer adds them.
    /// Special tokens written in `text` become their ids.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] when the library refuses the text.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError>;

    /// The bytes a token stands for (lossless: concatenated they are the text, but for
    /// [`Self::leading_spaces_dropped`]). Empty for an id out of range.
    fn token_bytes(&self, id: u32) -> &[u8];

    /// Whether the token is special (hidden by `skip_special_tokens`).
    fn is_special(&self, id: u32) -> bool;

    /// Whole text of `ids`, invalid UTF-8 as U+FFFD. `ids` are taken to be the beginning of
    /// a text, so [`Self::leading_spaces_dropped`] applies, as it does in Hugging Face's
    /// `decode`.
    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String;

    /// The id of exactly this token text (`<|im_end|>`).
    fn token_to_id(&self, token: &str) -> Option<u32>;

    /// The token's text as the vocabulary writes it (`Ġhello`, `▁hello`, `<0x0A>`).
    fn id_to_token(&self, id: u32) -> Option<String>;

    /// Number of ids: one more than the largest.
    fn vocab_size(&self) -> usize;

    /// BOS text for the template.
    fn bos_token(&self) -> Option<&str>;

    /// EOS text for the template.
    fn eos_token(&self) -> Option<&str>;

    /// How many spaces decoding drops from the very beginning of a text.
    ///
    /// A SentencePiece tokenizer puts a space before every text it encodes (`▁Once upon`),
    /// so decoding a whole text takes it away again. Generated ids are not a whole text:
    /// they go on after a prompt, and their first space is the one between two words.
    /// Hence [`Self::decode`] drops it and [`crate::detokenizer::Detokenizer::new`] keeps it.
    fn leading_spaces_dropped(&self) -> usize {
        0
    }
}

/// Ids above this are refused: a vocabulary is a table with one row per id, and a file
/// that names id 4,294,967,295 must not make us allocate it. The largest real
/// vocabularies have about 260,000.
const MAX_VOCAB_SIZE: usize = 4_000_000;

/// The trait object that the constructors return.
type SharedTokenizer = Arc<dyn Tokenizer>;
