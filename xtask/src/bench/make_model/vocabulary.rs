//! A vocabulary of our own for models that mean nothing: byte-level BPE with the 256 bytes, some
//! English words, made-up ones until it is full, and the control tokens of ChatML.
//!
//! The words are there so that a prompt of `wharf bench` has about as many tokens as it has words.
//! Each new merge comes after all others and joins what those leave of its word, so it takes no
//! earlier word apart.

use std::collections::{HashMap, HashSet};

use super::normal::mix;
use crate::bench::words::WORDS;

/// What ends a text.
pub(super) const END_OF_TEXT: &str = "<|endoftext|>";
/// What begins a turn of a chat.
pub(super) const START_OF_TURN: &str = "<|im_start|>";
/// What ends it.
pub(super) const END_OF_TURN: &str = "<|im_end|>";
/// The last ids, in this order.
pub(super) const CONTROLS: [&str; 3] = [END_OF_TEXT, START_OF_TURN, END_OF_TURN];

/// ChatML: what the tokenizer's control tokens are for.
pub(super) const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
";

/// Whose turns a chat has.
const TURNS: [&str; 3] = ["user", "assistant", "system"];

/// Made-up words are no longer than this; real vocabularies' are about that long.
const LONGEST: usize = 12;

/// Texts and merges, in the spelling of the files: a byte that isn't a visible character is another
/// character in its place.
pub(super) struct Vocabulary {
    /// By id, without the control tokens.
    pub(super) texts: Vec<String>,
    /// Left and right part, best first.
    pub(super) merges: Vec<(String, String)>,
}

impl Vocabulary {
    /// A vocabulary of `size` ids, control tokens included.
    pub(super) fn new(size: usize) -> Self {
        let mut growing = Growing::new(size - CONTROLS.len());
        // Each with and without a space before it.
        for word in TURNS.into_iter().chain(WORDS.split_whitespace()) {
            for start in ["Ġ", ""] {
                growing.learn(&format!("{start}{word}"));
            }
        }
        growing.make_up_the_rest();
        growing.vocabulary
    }

    /// All ids' texts, control tokens included.
    pub(super) fn all_texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(String::as_str).chain(CONTROLS)
    }

    /// Of the control token `text`.
    pub(super) fn control_id(&self, text: &str) -> usize {
        let at = CONTROLS.iter().position(|control| *control == text).unwrap_or_default();
        self.texts.len() + at
    }
}

/// A vocabulary in the making.
struct Growing {
    size: usize,
    vocabulary: Vocabulary,
    known: HashSet<String>,
    /// A merge's place in the list.
    ranks: HashMap<(String, String), usize>,
}

impl Growing {
    fn new(size: usize) -> Self {
        let texts: Vec<String> = (0..=255).map(|byte| spelling(byte).to_string()).collect();
        let known = texts.iter().cloned().collect();
        let vocabulary = Vocabulary { texts, merges: Vec::new() };
        Self { size, vocabulary, known, ranks: HashMap::new() }
    }

    fn is_full(&self) -> bool {
        self.vocabulary.texts.len() >= self.size
    }

    /// Makes `word` one token.
    fn learn(&mut self, word: &str) {
        let mut parts = self.parts(word);
        while parts.len() > 1 && !self.is_full() {
            let right = parts.remove(1);
            let left = std::mem::take(&mut parts[0]);
            parts[0] = format!("{left}{right}");
            self.add(left, right);
        }
    }

    /// What the merges so far make of `word`.
    fn parts(&self, word: &str) -> Vec<String> {
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        let rank = |pair: &[String]| self.ranks.get(&(pair[0].clone(), pair[1].clone())).copied();
        while let Some((_, at)) =
            parts.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min()
        {
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
        }
        parts
    }

    /// A new merge, and its text if that is new.
    fn add(&mut self, left: String, right: String) {
        let text = format!("{left}{right}");
        if self.known.insert(text.clone()) {
            self.vocabulary.texts.push(text);
        }
        self.ranks.insert((left.clone(), right.clone()), self.vocabulary.merges.len());
        self.vocabulary.merges.push((left, right));
    }

    /// Joins letters and words at random.
    fn make_up_the_rest(&mut self) {
        let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase());
        let is_short = |text: &str| text.chars().count() <= LONGEST / 2;
        let mut lefts: Vec<String> = self.vocabulary.texts.clone();
        lefts.retain(|text| is_short(text) && is_word(text.trim_start_matches('Ġ')));
        let mut rights = lefts.clone();
        rights.retain(|text| is_word(text));
        let mut draws = (1..).map(mix);
        let mut draw = |from: &[String]| {
            let drawn = draws.next().unwrap_or_default();
            from[(drawn % from.len() as u64) as usize].clone()
        };
        while !self.is_full() {
            let (left, right) = (draw(&lefts), draw(&rights));
            let text = format!("{left}{right}");
            if self.known.contains(&text) {
                continue;
            }
            if is_short(&text) {
                lefts.push(text.clone());
                if is_word(&text) {
                    rights.push(text);
                }
            }
            self.add(left, right);
        }
    }
}

/// GPT-2's alphabet: visible characters of Latin-1 stand for their bytes, the other bytes for the
/// characters from U+0100 on.
fn spelling(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !visible(*other)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s() {
        assert_eq!([b' ', b'\n', b'!', 0xAD, 0].map(spelling), ['Ġ', 'Ċ', '!', 'Ń', 'Ā']);
    }

    #[test]
    fn it_is_full_and_nothing_is_twice() {
        for size in [512, 20_000] {
            let vocabulary = Vocabulary::new(size);
            let texts: HashSet<&str> = vocabulary.all_texts().collect();
            assert_eq!(texts.len(), size);
            assert_eq!(vocabulary.control_id(END_OF_TURN), size - 1);
            for (left, right) in &vocabulary.merges {
                let whole = format!("{left}{right}");
                for text in [left, right, &whole] {
                    assert!(texts.contains(text.as_str()), "{left} {right}");
                }
            }
        }
    }

    #[test]
    fn words_are_one_token() {
        let mut growing = Growing::new(20_000);
        growing.learn("Ġtime");
        growing.learn("time");
        growing.learn("Ġmember");
        growing.make_up_the_rest();
        for word in ["Ġtime", "time", "Ġmember"] {
            assert_eq!(growing.parts(word), [word]);
        }
    }
}
