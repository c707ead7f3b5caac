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
mod weights;

use std::cmp::Ordering;

use wharf_grammar::TokenMask;

use crate::{Failure, SamplingParams, TokenLogprob};
use penalties::Penalties;
use weights::{Scale, Weights};

/// What a choice's next token depends on, besides the logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) params: &'a SamplingParams,
    pub(crate) prompt: &'a [u32],
    pub(crate) output: &'a [u32],
    pub(crate) eos_token_ids: &'a [u32],
    pub(crate) seed: u64,
    pub(crate) choice: u32,
    /// What a constraint allows, and whether the answer may end here.
    pub(crate) mask: Option<(&'a TokenMask, bool)>,
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
    #[error(
        "no token is left: allowed_token_ids, bad_words, min_tokens and the constraint, where there \
         is one, exclude all"
    )]
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

/// Logits looked at together.
const LANES: usize = 16;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
    /// [`Scale::weight`]: its probability but for a factor.
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
    weights: Weights,
    candidates: Vec<Candidate>,
    penalties: Penalties,
}

impl Sampler {
    /// `id` without choosing it, and its log-probability where that is wanted. `logits` as for
    /// [`Self::sample`].
    pub(crate) fn forced(logits: &[f32], id: u32, params: &SamplingParams) -> Sample {
        Sample { id, logprob: params.logprobs.map(|k| logprobs::at(logits, id, k)) }
    }

    /// Chooses the next token. `logits`: `[vocab_size]`, as the model gave them.
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        context: &Context<'_>,
    ) -> Result<Sample, SampleError> {
        let id = self.choose(logits, context)?;
        let logprob = context.params.logprobs.map(|k| logprobs::at(logits, id, k));
        Ok(Sample { id, logprob })
    }

    /// [`Self::sample`] without a log-probability.
    pub(crate) fn choose(
        &mut self,
        logits: &[f32],
        context: &Context<'_>,
    ) -> Result<u32, SampleError> {
        // Without an early exit, so that it is compiled to vector code.
        if !logits.iter().fold(true, |finite, logit| finite & logit.is_finite()) {
            return Err(SampleError::NotFinite);
        }
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalties.apply(&mut self.logits, context);
        let best = best(&self.logits)?;
        let greedy = context.params.temperature == 0.0;
        Ok(if greedy { best.0 } else { self.draw(best.1, context) })
    }

    /// Temperature, min_p, top_k, top_p, and a weighted draw from what they leave.
    ///
    /// min_p, top_k and top_p each keep some of the best, so their order does not matter to who
    /// stays but for top_p's total, which is of what the other two leave. So top_k comes first: it
    /// needs no weights.
    fn draw(&mut self, best_logit: f32, context: &Context<'_>) -> u32 {
        let &SamplingParams { temperature, top_p, top_k, min_p, .. } = context.params;
        let scale = Scale { best_logit, temperature, min_p };
        let position = (context.prompt.len() + context.output.len()) as u64;
        let uniform = draw::uniform(context.seed, context.choice, position);
        let top_k = top_k as usize;
        let total = if top_k > 0 && top_k < self.logits.len() {
            find_top_k(&self.logits, top_k, &mut self.candidates);
            for candidate in &mut self.candidates {
                candidate.weight = scale.weight(candidate.logit);
            }
            // The best one's weight is 1, so this never leaves nobody.
            self.candidates.retain(|candidate| candidate.weight > 0.0);
            self.candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
        } else {
            self.weights.fill(&self.logits, scale);
            if top_p >= 1.0 {
                return self.weights.draw(uniform);
            }
            let total = self.weights.total();
            // All that weigh less sum to less than what top_p cuts off.
            let least = (1.0 - f64::from(top_p)) * total / self.logits.len() as f64;
            find_heavier(&self.weights.values, &self.logits, least as f32, &mut self.candidates);
            total
        };
        keep_top_p(&mut self.candidates, top_p, total);
        // The draw goes by id.
        self.candidates.sort_unstable_by_key(|candidate| candidate.id);
        draw::weighted(&self.candidates, uniform)
    }
}

/// The best id and its logit; of equals the lowest id. Three passes without an early exit, which
/// the compiler turns into vector code.
fn best(logits: &[f32]) -> Result<(u32, f32), SampleError> {
    if logits.iter().fold(false, |nan, logit| nan | logit.is_nan()) {
        return Err(SampleError::Overflow);
    }
    let better = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = logits.as_chunks::<LANES>();
    for logits in whole {
        for (lane, &logit) in lanes.iter_mut().zip(logits) {
            *lane = better(*lane, logit);
        }
    }
    let best = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, better);
    match best {
        f32::INFINITY => Err(SampleError::Overflow),
        f32::NEG_INFINITY => Err(SampleError::NothingAllowed),
        _ => {
            let id = logits.iter().position(|&logit| logit == best).unwrap_or(0);
            Ok((id as u32, logits[id]))
        }
    }
}

/// Finds the `k` best logits, `k` at least 1, in no order; fewer where the others are masked.
///
/// A logit is looked at closely only if it is better than the `k`-th best so far, which after the
/// first few thousand hardly any is.
fn find_top_k(logits: &[f32], k: usize, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    let enough = (2 * k).max(256);
    let mut floor = f32::NEG_INFINITY;
    for (first, chunk) in (0u32..).step_by(LANES).zip(logits.chunks(LANES)) {
        if !chunk.iter().fold(false, |any, &logit| any | (logit > floor)) {
            continue;
        }
        // Ids ascend, so a later equal of the k-th best is never better.
        let better = (first..).zip(chunk).filter(|(_, logit)| **logit > floor);
        candidates.extend(better.map(|(id, &logit)| Candidate { id, logit, weight: 0.0 }));
        if candidates.len() >= enough {
            let (_, kth, _) = candidates.select_nth_unstable_by(k - 1, Candidate::rank);
            floor = kth.logit;
            candidates.truncate(k);
        }
    }
    if candidates.len() > k {
        candidates.select_nth_unstable_by(k - 1, Candidate::rank);
        candidates.truncate(k);
    }
}

/// Finds the tokens that weigh at least `least` and more than nothing, in order of id.
fn find_heavier(weights: &[f32], logits: &[f32], least: f32, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    let heavier = |&weight: &f32| weight > 0.0 && weight >= least;
    let chunks = weights.chunks(LANES).zip(logits.chunks(LANES));
    for (first, (weights, logits)) in (0u32..).step_by(LANES).zip(chunks) {
        if !weights.iter().fold(false, |any, weight| any | heavier(weight)) {
            continue;
        }
        let all = (first..).zip(weights.iter().zip(logits));
        let found = all.filter(|(_, (weight, _))| heavier(weight));
        candidates.extend(found.map(|(id, (&weight, &logit))| Candidate { id, logit, weight }));
    }
}

/// Keeps the fewest best ones whose weights reach `p` of `total`, at least one, best first. 1 keeps
/// all, in no order.
///
/// Few candidates are enough as a rule, so only as many as needed are sorted.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f32, total: f64) {
    if p >= 1.0 {
        return;
    }
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
