//! `POST /v1/chat/completions`.
use crate::answer::{self, Head, Plan};
use crate::chat_format::{ChatFormat, ChoiceState};
use crate::choice::ChoiceOptions;
use crate::error::ApiError;
use crate::generation::Job;
use crate::prompt::{self, Rendering};
use crate::request_id::RequestId;
use crate::shape::{self, Shape, Wishes};
use crate::state::AppState;
use crate::tools::Tools;
use crate::{body, form, refuse, routes, tools, validate};
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use std::sync::Arc;
use std::time::Instant;
use wharf_api::{ChatCompletionRequest, Integer};
use wharf_text::template::ChatTemplate;

/// The handler.
pub(crate) async fn complete(
    State(state): State<Arc<AppState>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let ticket = routes::admit(&state)?;
    let bytes = body::read_json(request, state.config.max_body_bytes).await?;
    let shared = Arc::clone(&state);
    let prepare = move || {
        let request = wharf_api::parse_chat_request(&bytes)?;
        prepare(&shared, &request, &id)
    };
    let plan = state.compute.run(prepare).await?;
    answer::answer(&state, plan, ticket, arrived).await
}

/// From a request to a plan; on the compute pool.
fn prepare(
    state: &Arc<AppState>,
    request: &ChatCompletionRequest,
    id: &RequestId,
) -> Result<Plan<ChatFormat>, ApiError> {
    let fields = &request.generation;
    let head = Head::new(state, fields, id, "chatcmpl-")?;
    refuse::chat(request)?;
    let n = validate::choices(fields)?;
    let streaming = validate::streaming(fields)?;
    let logprobs = wanted_logprobs(request)?;
    let asked = [
        ("max_completion_tokens", request.max_completion_tokens),
        ("max_tokens", fields.max_tokens),
    ];
    let lengths = validate::lengths(state, &asked, None)?;
    let wishes = Wishes {
        form: form::form(fields)?,
        tools: tools::tools(request)?.map(|tools| one_at_a_time(state, tools)),
        thinking_budget: validate::thinking_budget(fields)?,
        include_reasoning: request.include_reasoning != Some(false),
    };
    wishes.check(state)?;
    let options = validate::choice_options(fields, logprobs)?;
    let params = validate::sampling(state, fields, logprobs)?;
    let cache_salt = validate::cache_salt(fields)?;
    let priority = validate::priority(state, fields)?;
    let rendering = Rendering {
        add_generation_prompt: request.add_generation_prompt,
        continue_final_message: request.continue_final_message,
        documents: request.documents.as_deref(),
        kwargs: request.chat_template_kwargs.as_ref(),
        reasoning_effort: request.reasoning_effort.as_deref(),
        tools: wishes.tools.as_ref().map(|tools| tools.definitions.as_slice()),
    };
    let text = prompt::render(state, &request.messages, &rendering)?;
    // The template has written BOS itself.
    let ids = prompt::encode(state, fields, &text, false)?;
    if ids.is_empty() {
        return Err(ApiError::Template("the chat template made an empty prompt".to_owned()));
    }
    let params = validate::fit(state, &params, lengths, ids.len())?;
    let Shape { held_to, stop_rule, parts } = shape::chat(state, wishes, &text)?;
    let options = ChoiceOptions { stop_rule, parts, ..options };
    let return_token_ids = fields.return_token_ids == Some(true);
    let format = ChatFormat {
        state: Arc::clone(state),
        head,
        calls: options.parts.calls,
        customs: Arc::clone(&options.parts.customs),
        logprobs: logprobs.is_some(),
        tokens_as_ids: fields.return_tokens_as_token_ids == Some(true),
        return_token_ids,
        prompt_token_ids: return_token_ids.then(|| ids.clone()),
        choices: vec![ChoiceState::default(); n],
    };
    let job = Job {
        prompts: vec![ids],
        params: vec![params],
        n,
        options,
        cache_salt,
        priority,
        constraint: None,
    };
    Ok(Plan { job, held_to, format, streaming })
}

/// A model whose template knows no tools has not learnt when to stop calling: it gets one call.
fn one_at_a_time(state: &AppState, tools: Tools) -> Tools {
    let knows = state.template.as_ref().is_some_and(ChatTemplate::knows_tools);
    Tools { parallel: tools.parallel && knows, ..tools }
}

/// `logprobs` and `top_logprobs`.
fn wanted_logprobs(request: &ChatCompletionRequest) -> Result<validate::Logprobs, ApiError> {
    let top = request.top_logprobs.unwrap_or(Integer(0));
    let count = validate::top_logprobs("top_logprobs", top)?;
    if request.logprobs == Some(true) {
        return Ok(Some(count));
    }
    if count > 0 {
        return Err(ApiError::field("top_logprobs", "it is only allowed with `logprobs`: true"));
    }
    Ok(None)
}
