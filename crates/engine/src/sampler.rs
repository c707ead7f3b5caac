//! From one row of logits to one token.
//!
//! Looks at one row, one sequence's tokens and its parameters, and nothing else: no state passes
//! from one call to the next but scratch memory, so a token never depends on the batch. Elements
//! are `f32`; sums over the vocabulary are `f64`, taken in a fixed order.
//!
//! The order is the one vLLM documents: see [`crate::SamplingParams`].

mod draw;
mod logprobs;
mod penalties;

use std::cmp::Ordering;

use crate::{Failure, SamplingParams, TokenLogprob};
use penalties::Penalties;

/// What a choice's next token depends on, besides the logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) params: &'a SamplingParams,
    pub(crate) prompt: &'a [u32],
    pub(crate) output: &'a [u32],
    pub(crate) eos_token_ids: &'a [u32],
    pub(crate) seed: u64,
    pub(crate) choice: u32,
}

/// A sampled token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) id: u32,
    pub(crate) logprob: Option<TokenLogprob>,
}

/// Why no token could be sampled. Fails one choice only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SampleError {
    #[error("the model gave logits that are not finite numbers")]
    NotFinite,
    #[error("penalties or logit_bias make the logits overflow")]
    Overflow,
    #[error("no token is left: allowed_token_ids, bad_words and min_tokens exclude all")]
    NothingAllowed,
}

impl From<SampleError> for Failure {
    fn from(error: SampleError) -> Self {
        match error {
            SampleError::NotFinite => Self::Engine(error.to_string()),
            // The model's logits were finite, and none of them was masked.
            SampleError::Overflow | SampleError::NothingAllowed => Self::Request(error.to_string()),
        }
    }
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
    /// `exp((logit - best logit) / temperature)`: its probability but for a factor.
    weight: f32,
}

impl Candidate {
    /// Better first; of equals the lower id.
    fn rank(&self, other: &Self) -> Ordering {
        let by_logit = other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal);
        by_logit.then(self.id.cmp(&other.id))
    }
}

/// Scratch memory for sampling.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    // [vocab_size]
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
    penalties: Penalties,
}

impl Sampler {
    /// Chooses the next token. `logits`: `[vocab_size]`, as the model gave them.
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        context: &Context<'_>,
    ) -> Result<Sample, SampleError> {
        // Without an early exit, so that it is compiled to vector code.
        if !logits.iter().fold(true, |finite, logit| finite & logit.is_finite()) {
            return Err(SampleError::NotFinite);
        }
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalties.apply(&mut self.logits, context);
        let best = best(&self.logits)?;
        let params = context.params;
        let id = if params.temperature == 0.0 { best.0 } else { self.draw(best.1, context) };
        let logprob = params.logprobs.map(|k| logprobs::at(logits, id, k));
        Ok(Sample { id, logprob })
    }

    /// Temperature, min_p, top_k, top_p, and a weighted draw from what they leave.
    fn draw(&mut self, best_logit: f32, context: &Context<'_>) -> u32 {
        let params = context.params;
        self.candidates.clear();
        for (id, &logit) in (0u32..).zip(&self.logits) {
            let weight = ((logit - best_logit) / params.temperature).exp();
            // The best one's weight is 1, so this never leaves nobody.
            if weight > 0.0 && weight >= params.min_p {
                self.candidates.push(Candidate { id, logit, weight });
            }
        }
        keep_top_k(&mut self.candidates, params.top_k as usize);
        keep_top_p(&mut self.candidates, params.top_p);
        // The draw goes by id. Where nothing was selected they are in order already, and this is
        // one pass.
        self.candidates.sort_unstable_by_key(|candidate| candidate.id);
        let position = (context.prompt.len() + context.output.len()) as u64;
        draw::weighted(&self.candidates, draw::uniform(context.seed, context.choice, position))
    }
}

/// The best id and its logit; of equals the lowest id.
fn best(logits: &[f32]) -> Result<(u32, f32), SampleError> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0u32..).zip(logits) {
        if logit.is_nan() {
            return Err(SampleError::Overflow);
        }
        if logit > best.1 {
            best = (id, logit);
        }
    }
    match best.1 {
        f32::INFINITY => Err(SampleError::Overflow),
        f32::NEG_INFINITY => Err(SampleError::NothingAllowed),
        _ => Ok(best),
    }
}

/// Keeps the `k` best, in no order. Zero keeps all.
fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, Candidate::rank);
        candidates.truncate(k);
    }
}

/// Keeps the fewest best ones whose weights reach `p` of the sum of all, at least one, best first.
/// 1 keeps all, in no order.
///
/// Few candidates are enough as a rule, so only as many as needed are sorted.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let enough = f64::from(p) * total;
    let (mut reached, mut sorted) = (0.0, 0);
    let mut size = 64;
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let part = size.min(rest.len());
        if part < rest.len() {
            rest.select_nth_unstable_by(part - 1, Candidate::rank);
        }
        rest[..part].sort_unstable_by(Candidate::rank);
        for (i, candidate) in rest[..part].iter().enumerate() {
            reached += f64::from(candidate.weight);
            if reached >= enough {
                candidates.truncate(sorted + i + 1);
                return;
            }
        }
        sorted += part;
        size *= 8;
    }
}

#[cfg(test)]
mod tests;
