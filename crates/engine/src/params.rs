//! How a request wants its tokens chosen. Values only; the arithmetic is in `sampler`.

/// How to choose tokens. All values are already validated and defaulted by the caller.
///
/// They act in this order, vLLM's: `logit_bias`, `allowed_token_ids`, `bad_words`, `min_tokens`,
/// penalties, `temperature`, `min_p`, `top_k`, `top_p`, and then the draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy (the best token; of equals the lowest id); otherwise the logits' divisor.
    pub temperature: f32,
    /// Keep the fewest best tokens whose probabilities sum to at least this; 1 is off.
    pub top_p: f32,
    /// Keep this many best tokens; 0 is off.
    pub top_k: u32,
    /// Keep tokens at least this fraction as probable as the best; 0 is off.
    pub min_p: f32,
    /// Subtracted from a token's logit for each time it is in the answer; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted once from the logits of tokens that are in the answer; 0 is off.
    pub presence_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or answer; 1 is off.
    pub repetition_penalty: f32,
    /// Added to these tokens' logits. Ids outside the vocabulary have no effect.
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of the random draws. `None`: a random one.
    pub seed: Option<u64>,
    /// `Some(k)`: the sampled token's log-probability and the k best.
    pub logprobs: Option<usize>,
    /// Most tokens of the answer. 0: the choice finishes at once, with `FinishReason::Length`.
    pub max_tokens: usize,
    /// Tokens to generate before end-of-sequence and `stop_token_ids` become possible.
    pub min_tokens: usize,
    /// Ids that end this request's generation.
    pub stop_token_ids: Vec<u32>,
    /// Treat end-of-sequence ids as ordinary tokens.
    pub ignore_eos: bool,
    /// Token sequences that must not appear in the answer.
    pub bad_words: Vec<Vec<u32>>,
    /// Only these tokens may be generated.
    pub allowed_token_ids: Option<Vec<u32>>,
}
