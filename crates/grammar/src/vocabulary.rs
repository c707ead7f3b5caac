//! A model's vocabulary, as grammars need it.

use toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::GrammarError;

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

/// Texts that stand for one special token each.
#[derive(Debug)]
pub(crate) struct Specials {
    /// Longer ones first.
    texts: Vec<(String, u32)>,
}

impl Specials {
    /// The text of a special token.
    pub(crate) fn text_of(&self, token: u32) -> Option<&str> {
        self.texts.iter().find(|(_, id)| *id == token).map(|(text, _)| text.as_str())
    }

    /// The first of them in `text`: where, how long, which. Of those at one place the longest.
    pub(crate) fn first_in(&self, text: &str) -> Option<(usize, usize, u32)> {
        let found = self.texts.iter().filter_map(|(special, id)| {
            text.find(special.as_str()).map(|at| (at, special.len(), *id))
        });
        found.min_by_key(|&(at, length, _)| (at, std::cmp::Reverse(length)))
    }
}

/// The vocabulary as llguidance asks for it.
pub(crate) struct Environment {
    trie: TokTrie,
    tokenize: Tokenize,
}

impl Environment {
    /// # Errors
    /// Lists of different lengths, no end-of-sequence token, or one that is not there.
    pub(crate) fn new(vocabulary: Vocabulary) -> Result<(Self, Specials), GrammarError> {
        let Vocabulary { tokens, special, eos_token_ids, tokenize } = vocabulary;
        let internal = |reason: &str| GrammarError::Internal(reason.to_owned());
        let vocab_size = u32::try_from(tokens.len()).map_err(|_| internal("too many tokens"))?;
        if special.len() != tokens.len() {
            return Err(internal("the vocabulary's lists differ in length"));
        }
        let Some(&first) = eos_token_ids.first() else {
            return Err(internal("the vocabulary has no end-of-sequence token"));
        };
        if eos_token_ids.iter().any(|&id| id >= vocab_size) {
            return Err(internal("an end-of-sequence token is not in the vocabulary"));
        }
        let mut texts = Vec::new();
        let mut words = Vec::with_capacity(tokens.len());
        for (id, (bytes, special)) in (0u32..).zip(tokens.into_iter().zip(special)) {
            if !special && !eos_token_ids.contains(&id) {
                words.push(bytes);
                continue;
            }
            // The marker is no UTF-8, so that no text matches it.
            let name = format!("\u{0}[{id}]");
            let mut word = name.into_bytes();
            word[0] = TokTrie::SPECIAL_TOKEN_MARKER;
            words.push(word);
            if let Ok(text) = String::from_utf8(bytes)
                && !text.is_empty()
                && !eos_token_ids.contains(&id)
            {
                texts.push((text, id));
            }
        }
        texts.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let trie = TokTrie::from(&TokRxInfo::new(vocab_size, first), &words);
        let trie = trie.with_eos_tokens(&eos_token_ids);
        Ok((Self { trie, tokenize }, Specials { texts }))
    }
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        // Beginnings and ends of characters, which no tokenizer takes, one by one.
        self.trie.tokenize_with_greedy_fallback(bytes, |text| (self.tokenize)(text))
    }
}
