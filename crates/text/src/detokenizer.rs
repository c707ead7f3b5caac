//! Token ids to text, one at a time, never half a character.
//!
//! A token may end in the middle of a character, so the bytes of an unfinished one are held
//! back until the next tokens finish it. Bytes that can never become a character turn into
//! U+FFFD as soon as that is certain, by the same rule as `String::from_utf8_lossy`: the
//! pieces together are exactly the lossy text of all bytes.

use std::sync::Arc;

use crate::tokenizer::Tokenizer;

/// Turns a growing list of ids into text.
pub struct Detokenizer {
    /// Gives the bytes of each token.
    tokenizer: Arc<dyn Tokenizer>,
    /// Whether special tokens are left out.
    skip_special_tokens: bool,
    /// The bytes of an unfinished character, at most three.
    unfinished: Vec<u8>,
    /// How many spaces may still be dropped; 0 once anything else was seen.
    spaces_to_drop: usize,
}

impl Detokenizer {
    /// A detokenizer at the start of an answer. The answer goes on after a prompt, so a
    /// first space is kept: pushes and [`Self::finish`] together give the lossy text of all
    /// [`Tokenizer::token_bytes`], which is what `logprobs` count by. That equals
    /// [`Tokenizer::decode`] but for the one space that a SentencePiece tokenizer's `decode`
    /// drops from the beginning of a text; see [`Self::at_text_start`].
    pub fn new(tokenizer: Arc<dyn Tokenizer>, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, unfinished: Vec::new(), spaces_to_drop: 0 }
    }

    /// A detokenizer at the start of a whole text: together its pieces are exactly
    /// [`Tokenizer::decode`] of all ids.
    pub fn at_text_start(tokenizer: Arc<dyn Tokenizer>, skip_special_tokens: bool) -> Self {
        let spaces_to_drop = tokenizer.leading_spaces_dropped();
        Self { spaces_to_drop, ..Self::new(tokenizer, skip_special_tokens) }
    }

    /// Adds a token; appends to `out` the text that is now certain.
    pub fn push(&mut self, id: u32, out: &mut String) {
        if self.skip_special_tokens && self.tokenizer.is_special(id) {
            return;
        }
        let mut bytes = self.tokenizer.token_bytes(id);
        while self.spaces_to_drop > 0 && !bytes.is_empty() {
            match bytes.strip_prefix(b" ") {
                Some(rest) => (bytes, self.spaces_to_drop) = (rest, self.spaces_to_drop - 1),
                None => self.spaces_to_drop = 0,
            }
        }
        if self.unfinished.is_empty() {
            let held = append_certain(bytes, out);
            self.unfinished.extend_from_slice(held);
        } else {
            self.unfinished.extend_from_slice(bytes);
            let held = append_certain(&self.unfinished, out).len();
            self.unfinished.drain(..self.unfinished.len() - held);
        }
    }

    /// Ends the answer; appends what was held back (an unfinished character is one U+FFFD).
    /// The detokenizer may be pushed to again, as if a new answer began.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&String::from_utf8_lossy(&self.unfinished));
        self.unfinished.clear();
    }

    /// How many bytes are held back: the beginning of an unfinished character.
    pub fn held_back(&self) -> usize {
        self.unfinished.len()
    }
}

/// The text of one token alone, for `logprobs`: bytes that are no whole characters appear
/// as U+FFFD, and [`Tokenizer::token_bytes`] has them as they are.
pub fn token_text(tokenizer: &dyn Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned()
}

/// Appends the characters of `bytes`, invalid ones as U+FFFD, and returns the beginning of
/// an unfinished character at its end.
fn append_certain<'a>(mut bytes: &'a [u8], out: &mut String) -> &'a [u8] {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                out.push_str(text);
                return &[];
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                // `valid` is UTF-8, so nothing is replaced here.
                out.push_str(&String::from_utf8_lossy(valid));
                let Some(invalid) = error.error_len() else {
                    return rest;
                };
                out.push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[invalid..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::TokenizerError;
    use proptest::prelude::*;

    /// Token `n` below 256 is byte `n`; 256 is a special token; 257 is `é`; 258 is ` the`.
    struct Bytes(Vec<Vec<u8>>);

    impl Bytes {
        fn shared() -> Arc<dyn Tokenizer> {
            let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
            tokens.extend([b"<end>".to_vec(), "é".into(), b" the".to_vec()]);
            Arc::new(Self(tokens))
        }
    }

    impl Tokenizer for Bytes {
        fn encode(&self, text: &str, _: bool) -> Result<Vec<u32>, TokenizerError> {
            Ok(text.bytes().map(u32::from).collect())
        }
        fn token_bytes(&self, id: u32) -> &[u8] {
            self.0.get(id as usize).map_or(&[], Vec::as_slice)
        }
        fn is_special(&self, id: u32) -> bool {
            id == 256
        }
        fn decode(&self, ids: &[u32], skip: bool) -> String {
            let kept = ids.iter().filter(|&&id| !(skip && self.is_special(id)));
            let bytes: Vec<u8> = kept.flat_map(|&id| self.token_bytes(id).to_vec()).collect();
            let bytes = bytes.strip_prefix(b" ").unwrap_or(&bytes);
            String::from_utf8_lossy(bytes).into_owned()
        }
        fn token_to_id(&self, _: &str) -> Option<u32> {
            None
        }
        fn id_to_token(&self, _: u32) -> Option<String> {
            None
        }
        fn vocab_size(&self) -> usize {
            self.0.len()
        }
        fn bos_token(&self) -> Option<&str> {
            None
        }
        fn eos_token(&self) -> Option<&str> {
            None
        }
        fn leading_spaces_dropped(&self) -> usize {
            1
        }
    }

    /// What each push gave, and at last what `finish` gave.
    fn pieces(mut detokenizer: Detokenizer, ids: &[u32]) -> Vec<String> {
        let mut pieces = Vec::new();
        for &id in ids {
            let mut piece = String::new();
            detokenizer.push(id, &mut piece);
            pieces.push(piece);
        }
        let mut last = String::new();
        detokenizer.finish(&mut last);
        pieces.push(last);
        pieces
    }

    #[test]
    fn a_character_appears_when_its_last_byte_does() {
        let ids: Vec<u32> = "a😀".bytes().map(u32::from).collect();
        let detokenizer = Detokenizer::new(Bytes::shared(), true);
        assert_eq!(pieces(detokenizer, &ids), ["a", "", "", "", "😀", ""]);
    }

    #[test]
    fn invalid_bytes_are_replaced_as_soon_as_it_is_certain() {
        let detokenizer = Detokenizer::new(Bytes::shared(), true);
        // 0xE2 may begin a character, 'a' proves it does not; 0xFF never can.
        let got = pieces(detokenizer, &[0xE2, u32::from(b'a'), 0xFF, 0xF0, 0x9F]);
        assert_eq!(got, ["", "\u{FFFD}a", "\u{FFFD}", "", "", "\u{FFFD}"]);
    }

    #[test]
    fn special_tokens_are_skipped_on_request_only() {
        let shown = pieces(Detokenizer::new(Bytes::shared(), false), &[257, 256]);
        assert_eq!(shown.concat(), "é<end>");
        let skipped = pieces(Detokenizer::new(Bytes::shared(), true), &[257, 256]);
        assert_eq!(skipped.concat(), "é");
    }

    #[test]
    fn an_answer_keeps_the_space_that_a_text_drops() {
        let ids = [256, 258, 258];
        assert_eq!(pieces(Detokenizer::new(Bytes::shared(), true), &ids).concat(), " the the");
        let whole = Detokenizer::at_text_start(Bytes::shared(), true);
        assert_eq!(pieces(whole, &ids).concat(), "the the");
    }

    proptest! {
        #[test]
        fn pieces_are_the_decoded_whole(
            ids in prop::collection::vec(prop_oneof![0_u32..270, 0x80_u32..0xF8], 0..40),
            skip: bool,
        ) {
            let tokenizer = Bytes::shared();
            let got = pieces(Detokenizer::at_text_start(tokenizer.clone(), skip), &ids);
            prop_assert_eq!(got.concat(), tokenizer.decode(&ids, skip));
        }

        #[test]
        fn valid_text_is_never_replaced(text in "\\PC{0,20}") {
            let ids: Vec<u32> = text.bytes().map(u32::from).collect();
            let got = pieces(Detokenizer::new(Bytes::shared(), true), &ids);
            prop_assert_eq!(got.concat(), text);
        }
    }
}
