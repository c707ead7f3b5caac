//! A model's vocabulary, as grammars need it.

/// Writes a text as tokens.
pub type Tokenize = Box<dyn Fn(&str) -> Vec<u32> + Send + Sync>;

/// A model's vocabulary. Ids without a token have no bytes.
pub struct Vocabulary {
    /// The bytes that each token adds to a text. `[vocab_size]`
    pub tokens: Vec<Vec<u8>>,
    /// Whether text cannot produce the token: only a grammar that names its text allows it.
    /// `[vocab_size]`
    pub special: Vec<bool>,
    /// Tokens that end an answer; at least one. Grammars never name these.
    pub eos_token_ids: Vec<u32>,
    /// A text as the model's tokenizer writes it, without tokens added before or after.
    pub tokenize: Tokenize,
}
