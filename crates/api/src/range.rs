//! The ranges and limits of request fields, as constants.
//!
//! The types of this crate do not enforce them; a server does, and says in its error which one was
//! broken. Sources: OpenAI's OpenAPI description 2.3.0 and vLLM 0.32, the stricter where they differ.
use std::ops::RangeInclusive;

/// `temperature`; 0 is greedy.
pub const TEMPERATURE: RangeInclusive<f64> = 0.0..=2.0;
/// `temperature` where neither the request nor the model says one.
pub const TEMPERATURE_DEFAULT: f64 = 1.0;
/// Upper end of `top_p`; the lower end, 0, is excluded.
pub const TOP_P_MAX: f64 = 1.0;
/// `frequency_penalty` and `presence_penalty`.
pub const PENALTY: RangeInclusive<f64> = -2.0..=2.0;
/// `min_p`.
pub const MIN_P: RangeInclusive<f64> = 0.0..=1.0;
/// `n`, the number of choices.
pub const CHOICES: RangeInclusive<i64> = 1..=128;
/// `top_logprobs` of chat completions and `logprobs` of completions.
pub const TOP_LOGPROBS: RangeInclusive<i64> = 0..=20;
/// `repetition_penalty`; 1 is off. Our own bounds (vLLM has only "above 0"): wide of any use, and
/// narrow enough that no model's logits leave what an `f32` can hold.
pub const REPETITION_PENALTY: RangeInclusive<f64> = 0.01..=100.0;
/// Values of `logit_bias`.
pub const LOGIT_BIAS: RangeInclusive<f64> = -100.0..=100.0;
/// Most strings in `stop`.
pub const STOP_STRINGS_MAX: usize = 4;
/// Most bytes of one string in `stop`.
pub const STOP_STRING_BYTES_MAX: usize = 4096;
/// Most ids in `stop_token_ids`.
pub const STOP_TOKEN_IDS_MAX: usize = 1024;
/// Most strings in `bad_words`.
pub const BAD_WORDS_MAX: usize = 128;
/// Most bytes of one string in `bad_words`.
pub const BAD_WORD_BYTES_MAX: usize = 1024;
/// Most items of `allowed_token_ids`, `logit_bias` and `bad_words` (in tokens) together, times the
/// prompts of the request, each of which the engine keeps a copy for. (Our own bound.)
pub const SAMPLING_ITEMS_MAX: usize = 1 << 20;
/// Longest `cache_salt` in characters; it may not be empty. (Our own bound: OpenAI has no such
/// field, and vLLM sets no limit.)
pub const CACHE_SALT_CHARS_MAX: usize = 1024;
/// Values of `reasoning_effort`.
pub const REASONING_EFFORTS: [&str; 7] =
    ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
/// Most characters of `request_id` and of the `X-Request-Id` header.
pub const REQUEST_ID_CHARS_MAX: usize = 128;
/// `max_tokens` of the legacy completions route where the request is silent.
pub const COMPLETION_MAX_TOKENS_DEFAULT: i64 = 16;
/// Most choices of one completions request: prompts times `n`.
pub const COMPLETION_CHOICES_MAX: usize = 1024;
/// What a log-probability of minus infinity is written as.
pub const LOGPROB_FLOOR: f32 = -9999.0;
