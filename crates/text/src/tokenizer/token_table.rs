//! The bytes and the text of every token, computed once when a tokenizer is loaded.
//!
//! Two arenas (all texts, all bytes) and their ends: a 150,000-token vocabulary costs six
//! allocations instead of 300,000, and a look-up touches one cache line. The rule by which
//! a vocabulary writes bytes as text is a [`ByteRule`]; this module knows those of
//! byte-level BPE and of SentencePiece, and nothing about encoding.

use super::{MAX_VOCAB_SIZE, TokenizerError};

/// U+2581, which SentencePiece vocabularies write for a space.
pub(super) const SPACE_MARK: char = '▁';

/// How a vocabulary writes bytes as token text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ByteRule {
    /// GPT-2's alphabet of 256 printable characters, one per byte. Added tokens are literal.
    ByteLevel,
    /// Text with some replacements (`▁` for a space), and `<0xNN>` for single bytes.
    Replaced {
        /// Replacements in order: (written, meant).
        replacements: Vec<(String, String)>,
        /// Whether `<0xNN>` stands for a byte.
        byte_fallback: bool,
    },
}

impl ByteRule {
    /// SentencePiece's rule.
    pub(super) fn sentence_piece() -> Self {
        Self::Replaced {
            replacements: vec![(SPACE_MARK.to_string(), " ".to_owned())],
            byte_fallback: true,
        }
    }

    /// Appends what `text` stands for to `out`. `added`: the token is not the model's own
    /// but was added beside it, such as `<|im_end|>`.
    fn append_bytes(&self, text: &str, added: bool, alphabet: &ByteAlphabet, out: &mut Vec<u8>) {
        match self {
            Self::ByteLevel if added => out.extend_from_slice(text.as_bytes()),
            Self::ByteLevel => alphabet.append_bytes(text, out),
            Self::Replaced { replacements, byte_fallback } => {
                if *byte_fallback && let Some(byte) = byte_token(text) {
                    out.push(byte);
                    return;
                }
                let mut text = std::borrow::Cow::Borrowed(text);
                for (written, meant) in replacements {
                    if text.contains(written.as_str()) {
                        text = text.replace(written.as_str(), meant).into();
                    }
                }
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

/// The byte of a `<0xNN>` token.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// GPT-2's alphabet, from character to byte. Printable Latin-1 stands for itself; the
/// other 68 bytes are written, in order, as U+0100, U+0101, …
pub(super) struct ByteAlphabet {
    /// Byte by code point; the alphabet ends at U+0143. [324]
    byte_of: [Option<u8>; 0x144],
}

impl ByteAlphabet {
    pub(super) fn new() -> Self {
        let mut byte_of = [None; 0x144];
        let mut next = 0x100_usize;
        for byte in 0..=u8::MAX {
            let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
            let code = if printable {
                usize::from(byte)
            } else {
                next += 1;
                next - 1
            };
            byte_of[code] = Some(byte);
        }
        Self { byte_of }
    }

    /// Appends the bytes that `text` writes. A text with any character outside the
    /// alphabet stands for itself, as in Hugging Face's decoder.
    fn append_bytes(&self, text: &str, out: &mut Vec<u8>) {
        let start = out.len();
        for c in text.chars() {
            match self.byte_of.get(c as usize).copied().flatten() {
                Some(byte) => out.push(byte),
                None => {
                    out.truncate(start);
                    out.extend_from_slice(text.as_bytes());
                    return;
                }
            }
        }
    }
}

/// One token, as a constructor hands it to the table.
pub(super) struct TableEntry<'a> {
    /// The text as the vocabulary writes it.
    pub(super) text: &'a str,
    /// Added beside the model's own vocabulary.
    pub(super) added: bool,
    /// Hidden by `skip_special_tokens`.
    pub(super) special: bool,
}

/// Bytes and text of every id.
pub(super) struct TokenTable {
    /// All token bytes, one after the other.
    bytes: Vec<u8>,
    /// End of each token in `bytes`. [vocab_size]
    byte_ends: Vec<u32>,
    /// All token texts, one after the other.
    texts: String,
    /// End of each token in `texts`. [vocab_size]
    text_ends: Vec<u32>,
    /// Whether each id is special. [vocab_size]
    special: Vec<bool>,
}

impl TokenTable {
    /// A table of `entries`, by id; `None` is an id that no token has.
    ///
    /// # Errors
    /// When there are too many ids, or their texts pass 4 GiB.
    pub(super) fn new<'a>(
        rule: &ByteRule,
        entries: impl ExactSizeIterator<Item = Option<TableEntry<'a>>>,
    ) -> Result<Self, TokenizerError> {
        let count = entries.len();
        if count > MAX_VOCAB_SIZE {
            return Err(TokenizerError::Invalid(format!(
                "{count} token ids; at most {MAX_VOCAB_SIZE} are supported"
            )));
        }
        let too_long = |_| TokenizerError::Invalid("the tokens' texts pass 4 GiB".to_owned());
        let alphabet = ByteAlphabet::new();
        let mut table = Self {
            bytes: Vec::with_capacity(count * 8),
            byte_ends: Vec::with_capacity(count),
            texts: String::with_capacity(count * 8),
            text_ends: Vec::with_capacity(count),
            special: Vec::with_capacity(count),
        };
        for entry in entries {
            if let Some(entry) = &entry {
                rule.append_bytes(entry.text, entry.added, &alphabet, &mut table.bytes);
                table.texts.push_str(entry.text);
            }
            table.byte_ends.push(u32::try_from(table.bytes.len()).map_err(too_long)?);
            table.text_ends.push(u32::try_from(table.texts.len()).map_err(too_long)?);
            table.special.push(entry.is_some_and(|entry| entry.special));
        }
        Ok(table)
    }

    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        self.byte_ends.len()
    }

    /// The bytes of a token; empty for an id out of range.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        range(&self.byte_ends, id).and_then(|range| self.bytes.get(range)).unwrap_or_default()
    }

    /// The text of a token as the vocabulary writes it; `None` where no token has this id.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        range(&self.text_ends, id)
            .and_then(|range| self.texts.get(range))
            .filter(|text| !text.is_empty())
    }

    /// Whether the token is special.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }
}

/// Where token `id` lies in the arena that `ends` describes.
fn range(ends: &[u32], id: u32) -> Option<std::ops::Range<usize>> {
    let id = id as usize;
    let end = *ends.get(id)?;
    let start = if id == 0 { 0 } else { ends[id - 1] };
    Some(start as usize..end as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(rule: &ByteRule, text: &str, added: bool) -> Vec<u8> {
        let mut out = Vec::new();
        rule.append_bytes(text, added, &ByteAlphabet::new(), &mut out);
        out
    }

    #[test]
    fn byte_level_text_stands_for_its_bytes() {
        assert_eq!(bytes_of(&ByteRule::ByteLevel, "Ġhello", false), b" hello");
        assert_eq!(bytes_of(&ByteRule::ByteLevel, "Ċ", false), b"\n");
        assert_eq!(bytes_of(&ByteRule::ByteLevel, "Ã©", false), "é".as_bytes());
        assert_eq!(bytes_of(&ByteRule::ByteLevel, "é", true), "é".as_bytes());
        assert_eq!(bytes_of(&ByteRule::ByteLevel, "a b", false), b"a b");
    }

    #[test]
    fn the_alphabet_has_every_byte_once() {
        let alphabet = ByteAlphabet::new();
        let mut bytes: Vec<u8> = alphabet.byte_of.iter().filter_map(|b| *b).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn sentence_piece_text_stands_for_spaces_and_bytes() {
        let rule = ByteRule::sentence_piece();
        assert_eq!(bytes_of(&rule, "▁hello▁", false), b" hello ");
        assert_eq!(bytes_of(&rule, "<0x0A>", false), b"\n");
        assert_eq!(bytes_of(&rule, "<0xFf>", false), [0xFF]);
        assert_eq!(bytes_of(&rule, "<0x+1>", false), b"<0x+1>");
    }

    #[test]
    fn ids_out_of_range_are_empty() {
        let entry = |text| Some(TableEntry { text, added: false, special: false });
        let entries = vec![entry("a"), None, entry("b")];
        let table = TokenTable::new(&ByteRule::ByteLevel, entries.into_iter()).unwrap();
        assert_eq!(table.len(), 3);
        assert_eq!(table.bytes(1), b"");
        assert_eq!(table.text(1), None);
        assert_eq!(table.bytes(2), b"b");
        assert_eq!(table.bytes(3), b"");
        assert_eq!(table.text(u32::MAX), None);
    }
}
