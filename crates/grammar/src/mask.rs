//! A set of tokens.

/// The tokens that may come next; one bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenMask {
    // [vocab_size.div_ceil(32)]
    words: Vec<u32>,
}

impl TokenMask {
    /// From words of 32 tokens each, lowest bit first.
    pub fn from_words(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// Words of 32 tokens each, lowest bit first.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Whether `token` is in the set.
    pub fn contains(&self, token: u32) -> bool {
        self.words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Puts `token` into the set.
    pub fn insert(&mut self, token: u32) {
        let at = token as usize / 32;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (token % 32);
    }
}
