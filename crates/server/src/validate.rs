//! Values of a request: checked against their ranges, and defaulted.
//!
//! In the order: the request, the model's generation_config.json, OpenAI's defaults. Each error
//! names the field, the value and the range.
use crate::SamplingDefaults;
use crate::choice::ChoiceOptions;
use crate::completeness::StopRule;
use crate::error::ApiError;
use crate::parts::Parts;
use crate::state::AppState;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use wharf_api::range;
use wharf_api::{GenerationFields, Integer, StreamOptions};
use wharf_engine::SamplingParams;
use wharf_text::stop::StopMatcher;
use wharf_text::tokenizer::{Tokenizer, TokenizerError};

/// What a request says on log-probabilities: `None`, or how many likely tokens.
pub(crate) type Logprobs = Option<usize>;

/// How long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// What the request asks for.
    pub(crate) asked: Option<usize>,
    /// Where it is silent, and the model too; `None`: whatever fits.
    pub(crate) default: Option<usize>,
}

/// How the answer is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Streaming {
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
}

/// `n`.
pub(crate) fn choices(fields: &GenerationFields) -> Result<usize, ApiError> {
    let n = fields.n.map_or(1, |n| n.0);
    integer_in("n", n, &range::CHOICES)?;
    Ok(to_usize(n))
}

/// `stream` and `stream_options`.
pub(crate) fn streaming(fields: &GenerationFields) -> Result<Streaming, ApiError> {
    let stream = fields.stream == Some(true);
    let options = fields.stream_options.clone().unwrap_or_default();
    if !stream && options != StreamOptions::default() {
        return Err(ApiError::field("stream_options", "it is only allowed with `stream`: true"));
    }
    let include_usage = options.include_usage == Some(true);
    let continuous_usage = include_usage && options.continuous_usage_stats == Some(true);
    Ok(Streaming { stream, include_usage, continuous_usage })
}

/// `max_tokens` by any of its names; the first that is there counts.
pub(crate) fn lengths(
    state: &AppState,
    asked: &[(&str, Option<Integer>)],
    route_default: Option<usize>,
) -> Result<Lengths, ApiError> {
    let default = state.defaults.max_tokens.or(route_default);
    let Some((name, Integer(value))) =
        asked.iter().find_map(|(name, value)| value.map(|value| (*name, value)))
    else {
        return Ok(Lengths { asked: None, default });
    };
    if value < 1 {
        return Err(ApiError::field(name, format!("must be at least 1, got {value}")));
    }
    let limit = state.max_model_len;
    if to_usize(value) > limit {
        let reason = format!("{value} is more than the model's longest sequence, {limit} tokens");
        return Err(ApiError::field(name, reason));
    }
    Ok(Lengths { asked: Some(to_usize(value)), default })
}

/// Everything but the length, which depends on the prompt: see [`fit`].
///
/// # Errors
/// The first value out of its range.
pub(crate) fn sampling(
    state: &AppState,
    fields: &GenerationFields,
    logprobs: Logprobs,
) -> Result<SamplingParams, ApiError> {
    let defaults = &state.defaults;
    let vocabulary = state.tokenizer.vocab_size();
    let temperature = fields.temperature.or(defaults.temperature.map(f64::from));
    let temperature = temperature.unwrap_or(range::TEMPERATURE_DEFAULT);
    let min_p = fields.min_p.or(defaults.min_p.map(f64::from)).unwrap_or(0.0);
    let frequency_penalty = fields.frequency_penalty.unwrap_or(0.0);
    let presence_penalty = fields.presence_penalty.unwrap_or(0.0);
    number_in("temperature", temperature, &range::TEMPERATURE)?;
    number_in("min_p", min_p, &range::MIN_P)?;
    number_in("frequency_penalty", frequency_penalty, &range::PENALTY)?;
    number_in("presence_penalty", presence_penalty, &range::PENALTY)?;
    let stops = fields.stop_token_ids.as_deref().unwrap_or_default();
    if stops.len() > range::STOP_TOKEN_IDS_MAX {
        return Err(too_many("stop_token_ids", stops.len(), range::STOP_TOKEN_IDS_MAX));
    }
    Ok(SamplingParams {
        temperature: temperature as f32,
        top_p: top_p(fields, defaults)?,
        top_k: top_k(fields, defaults, vocabulary)?,
        min_p: min_p as f32,
        frequency_penalty: frequency_penalty as f32,
        presence_penalty: presence_penalty as f32,
        repetition_penalty: repetition_penalty(fields, defaults)?,
        logit_bias: logit_bias(fields.logit_bias.as_ref(), vocabulary)?,
        // The bits of the number; negative seeds are as good as others.
        seed: fields.seed.map(|seed| seed.0.cast_unsigned()),
        logprobs,
        // Until `fit` knows the prompt.
        max_tokens: 0,
        min_tokens: min_tokens(fields)?,
        stop_token_ids: token_ids("stop_token_ids", stops, vocabulary)?,
        ignore_eos: fields.ignore_eos == Some(true),
        bad_words: bad_words(fields.bad_words.as_deref(), state.tokenizer.as_ref())?,
        allowed_token_ids: allowed_token_ids(fields, vocabulary)?,
    })
}

fn top_p(fields: &GenerationFields, defaults: &SamplingDefaults) -> Result<f32, ApiError> {
    let value = fields.top_p.or(defaults.top_p.map(f64::from)).unwrap_or(1.0);
    // As the engine will see it: what is 0 there keeps no token at all.
    let as_f32 = value as f32;
    if as_f32 > 0.0 && value <= range::TOP_P_MAX {
        Ok(as_f32)
    } else {
        Err(ApiError::field("top_p", format!("must be in (0, 1], got {value}")))
    }
}

fn repetition_penalty(
    fields: &GenerationFields,
    defaults: &SamplingDefaults,
) -> Result<f32, ApiError> {
    let default = defaults.repetition_penalty.map_or(1.0, f64::from);
    let value = fields.repetition_penalty.unwrap_or(default);
    number_in("repetition_penalty", value, &range::REPETITION_PENALTY)?;
    Ok(value as f32)
}

fn top_k(
    fields: &GenerationFields,
    defaults: &SamplingDefaults,
    vocabulary: usize,
) -> Result<u32, ApiError> {
    let value = fields.top_k.map_or(defaults.top_k.map_or(0, i64::from), |top_k| top_k.0);
    if value < -1 {
        let reason = format!("must be 0 or -1 (off) or at least 1, got {value}");
        return Err(ApiError::field("top_k", reason));
    }
    // More than the vocabulary is the vocabulary.
    Ok(u32::try_from(to_usize(value).min(vocabulary)).unwrap_or(u32::MAX))
}

fn allowed_token_ids(
    fields: &GenerationFields,
    vocabulary: usize,
) -> Result<Option<Vec<u32>>, ApiError> {
    match fields.allowed_token_ids.as_deref() {
        None => Ok(None),
        Some([]) => Err(ApiError::field("allowed_token_ids", "must not be empty")),
        Some(ids) => {
            // The engine walks these for every token: each once, so at most the vocabulary.
            let mut ids = token_ids("allowed_token_ids", ids, vocabulary)?;
            ids.sort_unstable();
            ids.dedup();
            ids.shrink_to_fit();
            Ok(Some(ids))
        }
    }
}

/// How text is made of the tokens.
///
/// # Errors
/// Too many, empty or too long stop strings, or options that contradict each other.
pub(crate) fn choice_options(
    fields: &GenerationFields,
    logprobs: Logprobs,
) -> Result<ChoiceOptions, ApiError> {
    let stops = &fields.stop.0;
    if stops.len() > range::STOP_STRINGS_MAX {
        return Err(too_many("stop", stops.len(), range::STOP_STRINGS_MAX));
    }
    for (at, stop) in stops.iter().enumerate() {
        if stop.is_empty() {
            return Err(ApiError::field(format!("stop[{at}]"), "must not be empty"));
        }
        if stop.len() > range::STOP_STRING_BYTES_MAX {
            let reason = format!("longer than {} bytes", range::STOP_STRING_BYTES_MAX);
            return Err(ApiError::field(format!("stop[{at}]"), reason));
        }
    }
    let include_stop = fields.include_stop_str_in_output == Some(true);
    let stops_at_tokens = fields.stop_token_ids.as_ref().is_some_and(|ids| !ids.is_empty());
    if include_stop && stops_at_tokens && logprobs.is_some() {
        // The engine gives no log-probability for the token that ends a choice.
        let reason = "not together with both `stop_token_ids` and `logprobs`";
        return Err(ApiError::unsupported("include_stop_str_in_output", reason));
    }
    Ok(ChoiceOptions {
        matcher: StopMatcher::new(stops, include_stop),
        stops: stops.clone(),
        include_stop,
        skip_special_tokens: fields.skip_special_tokens != Some(false),
        logprobs: logprobs.is_some(),
        min_tokens: min_tokens(fields)?,
        stop_rule: StopRule::Anywhere,
        parts: Parts::plain(),
    })
}

/// Fits the answer's length to a prompt of `prompt` tokens: asked or default, at most what is left.
///
/// # Errors
/// `context_length_exceeded` where nothing is left; an error where `min_tokens` is more.
pub(crate) fn fit(
    state: &AppState,
    params: &SamplingParams,
    lengths: Lengths,
    prompt: usize,
) -> Result<SamplingParams, ApiError> {
    let limit = state.max_model_len;
    if prompt >= limit {
        return Err(ApiError::ContextLength { prompt, limit, at_least: false });
    }
    let room = limit - prompt;
    let wanted = lengths.asked.or(lengths.default).unwrap_or(room);
    let max_tokens = wanted.clamp(1, room);
    // Against what was asked, not what it was clamped to: a prompt that grows must not turn a good
    // request into a bad one.
    if params.min_tokens > wanted {
        let reason = format!("must be at most max_tokens, {wanted}, got {}", params.min_tokens);
        return Err(ApiError::field("min_tokens", reason));
    }
    Ok(SamplingParams { max_tokens, ..params.clone() })
}

/// Checks what the copies of `params` for so many prompts would hold.
///
/// # Errors
/// More than [`range::SAMPLING_ITEMS_MAX`] items.
pub(crate) fn copies(params: &SamplingParams, prompts: usize) -> Result<(), ApiError> {
    let allowed = params.allowed_token_ids.as_ref().map_or(0, Vec::len);
    let bad: usize = params.bad_words.iter().map(Vec::len).sum();
    let items = allowed + params.logit_bias.len() + bad;
    if items.saturating_mul(prompts) <= range::SAMPLING_ITEMS_MAX {
        return Ok(());
    }
    let reason = format!(
        "{prompts} prompts times the {items} items of `allowed_token_ids`, `logit_bias` and \
         `bad_words` is more than {}; send fewer prompts at once",
        range::SAMPLING_ITEMS_MAX
    );
    Err(ApiError::field("prompt", reason))
}

/// `thinking_token_budget`.
pub(crate) fn thinking_budget(fields: &GenerationFields) -> Result<Option<usize>, ApiError> {
    match fields.thinking_token_budget {
        None => Ok(None),
        Some(Integer(tokens)) if tokens >= 0 => Ok(Some(to_usize(tokens))),
        Some(Integer(tokens)) => {
            let reason = format!("must be at least 0, got {tokens}");
            Err(ApiError::field("thinking_token_budget", reason))
        }
    }
}

/// `priority`: lower runs first.
///
/// # Errors
/// One other than 0 where requests run in order of arrival: else anybody could overtake everybody.
pub(crate) fn priority(state: &AppState, fields: &GenerationFields) -> Result<i64, ApiError> {
    let Integer(priority) = fields.priority.unwrap_or(Integer(0));
    if priority != 0 && !state.config.priority_scheduling {
        // vLLM's words: clients look for them, and ask again without the field.
        let reason = "Priority scheduling is not enabled: requests run in order of arrival, unless the \
                      server is started with --scheduling-policy priority";
        return Err(ApiError::unsupported("priority", reason));
    }
    Ok(priority)
}

/// `cache_salt`.
pub(crate) fn cache_salt(
    fields: &GenerationFields,
) -> Result<Option<std::sync::Arc<str>>, ApiError> {
    let Some(salt) = fields.cache_salt.as_deref() else {
        return Ok(None);
    };
    if salt.is_empty() || salt.chars().count() > range::CACHE_SALT_CHARS_MAX {
        let reason = format!("must have 1 to {} characters", range::CACHE_SALT_CHARS_MAX);
        return Err(ApiError::field("cache_salt", reason));
    }
    Ok(Some(salt.into()))
}

/// `top_logprobs` or the legacy `logprobs`.
pub(crate) fn top_logprobs(name: &str, value: Integer) -> Result<usize, ApiError> {
    integer_in(name, value.0, &range::TOP_LOGPROBS)?;
    Ok(to_usize(value.0))
}

/// Ids, each of which the vocabulary must have.
pub(crate) fn token_ids(
    name: &str,
    ids: &[Integer],
    vocabulary: usize,
) -> Result<Vec<u32>, ApiError> {
    let check = |(at, id): (usize, &Integer)| {
        u32::try_from(id.0).ok().filter(|&id| (id as usize) < vocabulary).ok_or_else(|| {
            let reason = format!("the vocabulary has no token {}; it has {vocabulary}", id.0);
            ApiError::field(format!("{name}[{at}]"), reason)
        })
    };
    ids.iter().enumerate().map(check).collect()
}

fn min_tokens(fields: &GenerationFields) -> Result<usize, ApiError> {
    let value = fields.min_tokens.map_or(0, |tokens| tokens.0);
    if value < 0 {
        return Err(ApiError::field("min_tokens", format!("must be at least 0, got {value}")));
    }
    Ok(to_usize(value))
}

fn logit_bias(
    biases: Option<&BTreeMap<String, f64>>,
    vocabulary: usize,
) -> Result<Vec<(u32, f32)>, ApiError> {
    let mut out = Vec::new();
    for (key, &bias) in biases.into_iter().flatten() {
        let path = format!("logit_bias.{}", key.chars().take(32).collect::<String>());
        // `01` and `+1` would be further names of 1, whose biases would add up.
        let shortest = key == "0" || !key.starts_with(['0', '+']);
        let id = key.parse::<u32>().ok().filter(|&id| shortest && (id as usize) < vocabulary);
        let Some(id) = id else {
            let reason = format!("not the id of one of the vocabulary's {vocabulary} tokens");
            return Err(ApiError::field(path, reason));
        };
        number_in(&path, bias, &range::LOGIT_BIAS)?;
        out.push((id, bias as f32));
    }
    Ok(out)
}

/// Each word as it is tokenised at the beginning of a text and after a space, as vLLM has it.
fn bad_words(
    words: Option<&[String]>,
    tokenizer: &dyn Tokenizer,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let words = words.unwrap_or_default();
    if words.len() > range::BAD_WORDS_MAX {
        return Err(too_many("bad_words", words.len(), range::BAD_WORDS_MAX));
    }
    let mut sequences = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let path = || format!("bad_words[{at}]");
        let word = word.trim_start();
        if word.is_empty() {
            return Err(ApiError::field(path(), "must not be empty"));
        }
        if word.len() > range::BAD_WORD_BYTES_MAX {
            let reason = format!("longer than {} bytes", range::BAD_WORD_BYTES_MAX);
            return Err(ApiError::field(path(), reason));
        }
        let encode = |text: &str| {
            tokenizer
                .encode(text, false)
                .map_err(|error: TokenizerError| ApiError::field(path(), error.to_string()))
        };
        let plain = encode(word)?;
        let spaced = encode(&format!(" {word}"))?;
        // The second only where it is the same word with another beginning; a space that is a
        // token of its own would forbid that token sequence's tail twice.
        if plain.len() == spaced.len() && plain.first() != spaced.first() {
            sequences.push(spaced);
        }
        if !plain.is_empty() {
            sequences.push(plain);
        }
    }
    Ok(sequences)
}

fn integer_in(name: &str, value: i64, range: &RangeInclusive<i64>) -> Result<(), ApiError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (start, end) = (range.start(), range.end());
    Err(ApiError::field(name, format!("must be in [{start}, {end}], got {value}")))
}

fn number_in(name: &str, value: f64, range: &RangeInclusive<f64>) -> Result<(), ApiError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (start, end) = (range.start(), range.end());
    Err(ApiError::field(name, format!("must be in [{start}, {end}], got {value}")))
}

fn too_many(name: &str, count: usize, limit: usize) -> ApiError {
    ApiError::field(name, format!("at most {limit}, got {count}"))
}

/// Negative becomes 0; the caller has checked the range where that matters.
pub(crate) fn to_usize(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_ids_are_kept_once_each() {
        let ids = [7, 3, 7, 7, 3].map(Integer).repeat(1000);
        let fields = GenerationFields { allowed_token_ids: Some(ids), ..Default::default() };
        assert_eq!(allowed_token_ids(&fields, 10), Ok(Some(vec![3, 7])));
    }

    #[test]
    fn a_bias_has_one_name_for_each_token() {
        let bias = |key: &str| logit_bias(Some(&BTreeMap::from([(key.to_owned(), 1.0)])), 100);
        assert_eq!(bias("0"), Ok(vec![(0, 1.0)]));
        assert_eq!(bias("10"), Ok(vec![(10, 1.0)]));
        for key in ["01", "+1", "00", "", " 1", "1.0", "-0"] {
            assert!(bias(key).is_err(), "{key:?}");
        }
    }
}
