//! What a request does to logits before any is chosen: bias, masks and penalties, in this order:
//! logit_bias, allowed_token_ids, the constraint, bad_words, min_tokens, repetition, frequency,
//! presence.
//!
//! A masked token's logit is negative infinity, which no later step changes.

use wharf_grammar::TokenMask;

use super::Context;

const MASKED: f32 = f32::NEG_INFINITY;

/// In `seen`: the token is in the prompt or the answer. The other bits count it in the answer.
const SEEN: u32 = 1 << 31;

/// Scratch memory.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    // [vocab_size]; all zero between calls
    seen: Vec<u32>,
    allowed: Vec<(u32, f32)>,
}

impl Penalties {
    /// Changes `logits`, `[vocab_size]`, as the request asks. Ids outside have no effect.
    pub(super) fn apply(&mut self, logits: &mut [f32], context: &Context<'_>) {
        let params = context.params;
        for &(id, bias) in &params.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if let Some(allowed) = &params.allowed_token_ids {
            self.keep_only(logits, allowed);
        }
        if let Some((mask, complete)) = context.mask {
            let ends = if complete { params.stop_token_ids.as_slice() } else { &[] };
            self.keep_masked(logits, mask, ends);
            // The mask has end-of-sequence tokens only where the answer may end by them.
            if params.ignore_eos {
                context.eos_token_ids.iter().for_each(|&id| mask_out(logits, id));
            }
        }
        mask_bad_words(logits, &params.bad_words, context.output);
        if context.output.len() < params.min_tokens {
            let eos = if params.ignore_eos { &[] } else { context.eos_token_ids };
            for &id in eos.iter().chain(&params.stop_token_ids) {
                mask_out(logits, id);
            }
        }
        self.penalise(logits, context);
    }

    /// Keeps the tokens of `mask`, and `ends` beside them.
    fn keep_masked(&mut self, logits: &mut [f32], mask: &TokenMask, ends: &[u32]) {
        self.allowed.clear();
        let logit = |&id: &u32| Some((id, *logits.get(id as usize)?));
        self.allowed.extend(ends.iter().filter_map(logit));
        let words = mask.words().iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(u32::BITS as usize).zip(words) {
            match word {
                u32::MAX => {}
                0 => logits.fill(MASKED),
                _ => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = MASKED;
                        }
                    }
                }
            }
        }
        for &(id, logit) in &self.allowed {
            logits[id as usize] = logit;
        }
    }

    fn keep_only(&mut self, logits: &mut [f32], allowed: &[u32]) {
        self.allowed.clear();
        let logit = |&id: &u32| Some((id, *logits.get(id as usize)?));
        self.allowed.extend(allowed.iter().filter_map(logit));
        logits.fill(MASKED);
        for &(id, logit) in &self.allowed {
            logits[id as usize] = logit;
        }
    }

    /// Each token once, however often it is there. Tokens are inside the vocabulary.
    fn penalise(&mut self, logits: &mut [f32], context: &Context<'_>) {
        let params = context.params;
        let repetition = params.repetition_penalty;
        if (repetition, params.frequency_penalty, params.presence_penalty) == (1.0, 0.0, 0.0) {
            return;
        }
        self.seen.resize(logits.len(), 0);
        // Without a repetition penalty nothing depends on the prompt.
        let prompt = if repetition == 1.0 { &[] } else { context.prompt };
        for &id in prompt {
            self.seen[id as usize] |= SEEN;
        }
        for &id in context.output {
            self.seen[id as usize] = (self.seen[id as usize] | SEEN) + 1;
        }
        for &id in prompt.iter().chain(context.output) {
            let seen = std::mem::take(&mut self.seen[id as usize]);
            if seen == 0 {
                continue;
            }
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            let count = seen & !SEEN;
            if count > 0 {
                *logit -= params.frequency_penalty * count as f32;
                *logit -= params.presence_penalty;
            }
        }
    }
}

/// Masks the last token of every bad word whose other tokens end the answer. As in vLLM, a bad word
/// doesn't begin in the prompt.
fn mask_bad_words(logits: &mut [f32], bad_words: &[Vec<u32>], output: &[u32]) {
    for word in bad_words {
        if let Some((&last, others)) = word.split_last()
            && output.ends_with(others)
        {
            mask_out(logits, last);
        }
    }
}

fn mask_out(logits: &mut [f32], id: u32) {
    if let Some(logit) = logits.get_mut(id as usize) {
        *logit = MASKED;
    }
}
