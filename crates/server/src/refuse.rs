//! What is parsed but not there yet: refused by name, never ignored.
//!
//! A value that changes nothing (`false`, an empty list, the default) is accepted, so that clients
//! which always send a field can talk to us. What OpenAI's service alone gives a meaning (`store`,
//! `metadata`, `service_tier`, ...) is accepted and has none here.
use crate::error::ApiError;
use serde_json::Value;
use wharf_api::range::REASONING_EFFORTS;
use wharf_api::{ChatCompletionRequest, CompletionRequest, GenerationFields, Integer};

/// Says that `field` is not supported if `asked`.
fn refuse_if(asked: bool, field: &str, reason: &str) -> Result<(), ApiError> {
    if asked { Err(ApiError::unsupported(field, reason)) } else { Ok(()) }
}

/// Fields of both routes.
pub(crate) fn generation(fields: &GenerationFields) -> Result<(), ApiError> {
    let one = Some(Integer(1));
    let is = |flag: Option<bool>| flag == Some(true);
    let logprob_ids = fields.logprob_token_ids.is_some();
    refuse_if(logprob_ids, "logprob_token_ids", "use `top_logprobs`")?;
    refuse_if(fields.prompt_logprobs.is_some(), "prompt_logprobs", "not yet")?;
    refuse_if(is(fields.use_beam_search), "use_beam_search", "sample with `n` instead")?;
    let penalised = fields.length_penalty.is_some_and(|penalty| penalty != 1.0);
    refuse_if(penalised, "length_penalty", "it belongs to beam search")?;
    refuse_if(is(fields.early_stopping), "early_stopping", "it belongs to beam search")?;
    let best_of = fields.best_of.is_some() && fields.best_of != one && fields.best_of != fields.n;
    refuse_if(best_of, "best_of", "only the value of `n` is")?;
    refuse_if(fields.repetition_detection.is_some(), "repetition_detection", "not yet")?;
    let watermarking = !matches!(fields.watermarking, None | Some(Value::Bool(false)));
    refuse_if(watermarking, "watermarking", "not yet")?;
    let interval = fields.stream_interval.is_some() && fields.stream_interval != one;
    refuse_if(interval, "stream_interval", "only 1 is")?;
    let glued = fields.spaces_between_special_tokens == Some(false);
    refuse_if(glued, "spaces_between_special_tokens", "only `true` is")?;
    refuse_if(fields.logits_processors.is_some(), "logits_processors", "it is Python code")?;
    refuse_if(is(fields.return_token_offsets), "return_token_offsets", "not yet")?;
    refuse_if(
        is(fields.return_prompt_text),
        "return_prompt_text",
        "use /tokenize and /detokenize",
    )?;
    let routed = fields.routed_experts_prompt_start.is_some_and(|start| start != Integer(0));
    refuse_if(routed, "routed_experts_prompt_start", "not yet")?;
    refuse_if(fields.kv_transfer_params.is_some(), "kv_transfer_params", "there is one engine")?;
    refuse_if(fields.ec_transfer_params.is_some(), "ec_transfer_params", "there is one engine")?;
    refuse_if(fields.vllm_xargs.is_some(), "vllm_xargs", "there are no plugins")
}

/// Fields of chat completions.
pub(crate) fn chat(request: &ChatCompletionRequest) -> Result<(), ApiError> {
    generation(&request.generation)?;
    let echo = request.generation.echo == Some(true);
    refuse_if(echo, "echo", "only /v1/completions has it")?;
    let reason = "the template is the model's";
    refuse_if(request.chat_template.is_some(), "chat_template", reason)?;
    if let Some(effort) = &request.reasoning_effort {
        reasoning_effort("reasoning_effort", Some(effort))?;
    }
    let reason = "the model is text-only";
    refuse_if(request.mm_processor_kwargs.is_some(), "mm_processor_kwargs", reason)?;
    refuse_if(request.media_io_kwargs.is_some(), "media_io_kwargs", reason)?;
    let modalities = request.modalities.as_deref().unwrap_or_default();
    match modalities.iter().position(|modality| modality != "text") {
        Some(at) => Err(ApiError::unsupported(format!("modalities[{at}]"), reason)),
        None => Ok(()),
    }
}

/// Refuses what is no `reasoning_effort`, `None` being what is no text at all.
pub(crate) fn reasoning_effort(field: &str, effort: Option<&str>) -> Result<(), ApiError> {
    if effort.is_some_and(|effort| REASONING_EFFORTS.contains(&effort)) {
        return Ok(());
    }
    let reason = format!("must be one of {}", REASONING_EFFORTS.join(", "));
    Err(ApiError::field(field, reason))
}

/// Fields of legacy completions.
pub(crate) fn completion(request: &CompletionRequest) -> Result<(), ApiError> {
    generation(&request.generation)?;
    let suffix = request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty());
    refuse_if(suffix, "suffix", "the model cannot fill gaps")?;
    let budget = request.generation.thinking_token_budget.is_some();
    refuse_if(budget, "thinking_token_budget", "only chat completions tell reasoning apart")?;
    refuse_if(request.prompt_embeds.is_some(), "prompt_embeds", "send text or token ids")?;
    let echo_logprobs = request.generation.echo == Some(true) && request.logprobs.is_some();
    refuse_if(echo_logprobs, "echo", "not together with `logprobs`, so far")
}
