//! Hugging Face tokenizers behind a trait of ours.
use std::sync::Arc;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The vocabulary is broken, or of a kind we do not know.
    #[error("tokenizer: {0}")]
    Invalid(String),
    /// A text could not be encoded.
    #[error("tokenizing: {0}")]
    Encode(String),
}

/// Text to token ids and back. Cheap to share; every method may be called from any thread.
pub trait Tokenizer: Send + Sync {
    /// Ids of `text`; with `add_special_tokens`, BOS/EOS as the model's tokenizer adds them. Special tokens written in `text` become their ids.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError>;
    /// The bytes a token stands for (lossless: concatenated they are the text). Empty for an id out of range.
    fn token_bytes(&self, id: u32) -> &[u8];
    /// Whether the token is special (hidden by `skip_special_tokens`).
    fn is_special(&self, id: u32) -> bool;
    /// Whole text of `ids`, invalid UTF-8 as U+FFFD.
    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String;
    /// The id of exactly this token text (`<|im_end|>`).
    fn token_to_id(&self, token: &str) -> Option<u32>;
    /// The token's text as the vocabulary writes it.
    fn id_to_token(&self, id: u32) -> Option<String>;
    /// Number of ids.
    fn vocab_size(&self) -> usize;
    /// BOS text for the template.
    fn bos_token(&self) -> Option<&str>;
    /// EOS text for the template.
    fn eos_token(&self) -> Option<&str>;
}

/// From Hugging Face files.
pub fn from_hugging_face(
    tokenizer_json: &[u8],
    tokenizer_config: Option<&[u8]>,
) -> Result<Arc<dyn Tokenizer>, TokenizerError> {
    let _ = (tokenizer_json, tokenizer_config);
    todo!()
}

/// A GGUF vocabulary (see the GGUF specification, `tokenizer.ggml.*`).
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct GgufVocabulary {
    pub model: String,
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    pub scores: Vec<f32>,
    pub token_types: Vec<u32>,
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
}

/// From a GGUF file's vocabulary.
pub fn from_gguf(vocabulary: GgufVocabulary) -> Result<Arc<dyn Tokenizer>, TokenizerError> {
    let _ = vocabulary;
    todo!()
}
