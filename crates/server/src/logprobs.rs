//! Log-probabilities as the two routes write them.
use crate::choice::LogprobEntry;
use std::collections::BTreeMap;
use wharf_api::range::LOGPROB_FLOOR;
use wharf_api::{ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob};
use wharf_text::detokenizer::token_text;
use wharf_text::tokenizer::Tokenizer;

/// How tokens are written.
pub(crate) struct TokenNames<'a> {
    pub(crate) tokenizer: &'a dyn Tokenizer,
    /// As `token_id:N` instead of their text.
    pub(crate) as_ids: bool,
}

impl TokenNames<'_> {
    fn name(&self, id: u32) -> String {
        if self.as_ids { format!("token_id:{id}") } else { token_text(self.tokenizer, id) }
    }

    /// In the shape of chat completions; `None` for no entries.
    pub(crate) fn chat(&self, entries: &[LogprobEntry]) -> ChatLogprobs {
        let top = |&(id, logprob): &(u32, f32)| TopLogprob {
            token: self.name(id),
            logprob: floored(logprob),
            bytes: Some(self.tokenizer.token_bytes(id).to_vec()),
        };
        let entry = |entry: &LogprobEntry| TokenLogprob {
            token: self.name(entry.id),
            logprob: floored(entry.logprob.logprob),
            bytes: entry.bytes.clone(),
            top_logprobs: entry.logprob.top.iter().map(top).collect(),
        };
        ChatLogprobs { content: Some(entries.iter().map(entry).collect()), refusal: None }
    }

    /// In the legacy shape. `offset`: characters of the choice's text before these; is advanced.
    pub(crate) fn completion(
        &self,
        entries: &[LogprobEntry],
        offset: &mut usize,
    ) -> CompletionLogprobs {
        let mut out = CompletionLogprobs::default();
        for entry in entries {
            let logprob = floored(entry.logprob.logprob);
            let name = self.name(entry.id);
            let mut top: BTreeMap<String, f32> = BTreeMap::new();
            for &(id, logprob) in &entry.logprob.top {
                // Of tokens with one text (halves of characters) the likeliest stays.
                top.entry(self.name(id)).or_insert_with(|| floored(logprob));
            }
            top.entry(name.clone()).or_insert(logprob);
            out.text_offset.push(*offset);
            out.token_logprobs.push(Some(logprob));
            out.tokens.push(name);
            out.top_logprobs.push(Some(top));
            *offset += characters_begun(entry.bytes.as_deref().unwrap_or_default());
        }
        out
    }
}

/// JSON has no infinity.
fn floored(logprob: f32) -> f32 {
    // `max` takes the other operand for NaN.
    logprob.max(LOGPROB_FLOOR)
}

/// Characters that begin in these bytes of UTF-8.
fn characters_begun(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xC0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_infinity_and_nan_become_the_floor() {
        assert_eq!(floored(f32::NEG_INFINITY), LOGPROB_FLOOR);
        assert_eq!(floored(f32::NAN), LOGPROB_FLOOR);
        assert_eq!(floored(-1.5), -1.5);
    }

    #[test]
    fn a_character_counts_where_it_begins() {
        assert_eq!(characters_begun("aé😀".as_bytes()), 3);
        assert_eq!(characters_begun(&"😀".as_bytes()[..2]), 1);
        assert_eq!(characters_begun(&"😀".as_bytes()[2..]), 0);
    }
}
