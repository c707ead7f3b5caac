//! `POST /v1/chat/completions`.
use crate::answer::{self, FINGERPRINT, Format, Head, Plan};
use crate::choice::{Finish, LogprobEntry, Update};
use crate::error::ApiError;
use crate::generation::Job;
use crate::logprobs::TokenNames;
use crate::prompt::{self, Rendering};
use crate::request_id::RequestId;
use crate::sse::Frames;
use crate::state::AppState;
use crate::{body, refuse, routes, validate};
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;
use wharf_api::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatCompletionRequest, ChatDelta,
    ChatResponseMessage, FinishReason, Integer, Role, Usage,
};

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
    let options = validate::choice_options(fields, logprobs)?;
    let params = validate::sampling(state, fields, logprobs)?;
    let cache_salt = validate::cache_salt(fields)?;
    let rendering = Rendering {
        add_generation_prompt: request.add_generation_prompt,
        continue_final_message: request.continue_final_message,
        documents: request.documents.as_deref(),
        kwargs: request.chat_template_kwargs.as_ref(),
        reasoning_effort: request.reasoning_effort.as_deref(),
    };
    let text = prompt::render(state, &request.messages, &rendering)?;
    // The template has written BOS itself.
    let ids = prompt::encode(state, fields, &text, false)?;
    if ids.is_empty() {
        return Err(ApiError::Template("the chat template made an empty prompt".to_owned()));
    }
    let params = validate::fit(state, &params, lengths, ids.len())?;
    let return_token_ids = fields.return_token_ids == Some(true);
    let format = ChatFormat {
        state: Arc::clone(state),
        head,
        n,
        logprobs: logprobs.is_some(),
        tokens_as_ids: fields.return_tokens_as_token_ids == Some(true),
        prompt_token_ids: return_token_ids.then(|| ids.clone()),
        unsent_token_ids: return_token_ids.then(|| vec![Vec::new(); n]),
    };
    let job = Job { prompts: vec![ids], params: vec![params], n, options, cache_salt };
    Ok(Plan { job, format, streaming })
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

/// Chat completions and their chunks.
struct ChatFormat {
    state: Arc<AppState>,
    head: Head,
    n: usize,
    logprobs: bool,
    tokens_as_ids: bool,
    /// Where the request wants ids; taken by the first chunk.
    prompt_token_ids: Option<Vec<u32>>,
    /// For each choice, where the request wants ids: those that no chunk has had.
    unsent_token_ids: Option<Vec<Vec<u32>>>,
}

impl ChatFormat {
    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<&Usage>) -> ChatChunk {
        ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            system_fingerprint: Some(FINGERPRINT.to_owned()),
            usage: usage.cloned(),
            prompt_token_ids: None,
        }
    }

    fn names(&self) -> TokenNames<'_> {
        TokenNames { tokenizer: self.state.tokenizer.as_ref(), as_ids: self.tokens_as_ids }
    }

    /// The chunk with text, log-probabilities and ids.
    fn content(&mut self, index: usize, text: String, entries: &[LogprobEntry]) -> ChatChunkChoice {
        let unsent = self.unsent_token_ids.as_mut().and_then(|all| all.get_mut(index));
        ChatChunkChoice {
            index,
            delta: ChatDelta { content: Some(text), ..ChatDelta::default() },
            token_ids: unsent.map(std::mem::take),
            logprobs: self.logprobs.then(|| self.names().chat(entries)),
            finish_reason: None,
            stop_reason: None,
        }
    }
}

impl Format for ChatFormat {
    fn open(&mut self, usage: Option<&Usage>, out: &mut Frames) {
        for index in 0..self.n {
            let choice = ChatChunkChoice {
                index,
                delta: ChatDelta {
                    role: Some(Role::Assistant),
                    content: Some(String::new()),
                    ..ChatDelta::default()
                },
                logprobs: None,
                finish_reason: None,
                stop_reason: None,
                token_ids: None,
            };
            let mut chunk = self.chunk(vec![choice], usage);
            chunk.prompt_token_ids = self.prompt_token_ids.take();
            out.push(&chunk);
        }
    }

    fn update(&mut self, index: usize, update: Update, usage: Option<&Usage>, out: &mut Frames) {
        let visible = !update.is_empty();
        let Update { text, logprobs, token_ids, finish } = update;
        let unsent = self.unsent_token_ids.as_mut().and_then(|all| all.get_mut(index));
        let ids_left = unsent.is_some_and(|unsent| {
            unsent.extend(token_ids);
            !unsent.is_empty()
        });
        if !visible {
            return;
        }
        if !text.is_empty() || !logprobs.is_empty() || (finish.is_some() && ids_left) {
            let choice = self.content(index, text, &logprobs);
            out.push(&self.chunk(vec![choice], usage));
        }
        if let Some(Finish { reason, stop }) = finish {
            let choice = ChatChunkChoice {
                index,
                delta: ChatDelta::default(),
                logprobs: None,
                finish_reason: Some(reason),
                stop_reason: stop,
                token_ids: None,
            };
            out.push(&self.chunk(vec![choice], usage));
        }
    }

    fn usage(&mut self, usage: Usage, out: &mut Frames) {
        out.push(&self.chunk(Vec::new(), Some(&usage)));
    }

    fn whole(&mut self, choices: Vec<Update>, usage: Usage) -> Response {
        let choice = |(index, update): (usize, Update)| {
            let (finish_reason, stop_reason) = match update.finish {
                Some(Finish { reason, stop }) => (reason, stop),
                // Every choice has ended when this is called.
                None => (FinishReason::Length, None),
            };
            ChatChoice {
                index,
                message: ChatResponseMessage {
                    role: Role::Assistant,
                    content: Some(update.text),
                    refusal: None,
                    reasoning: None,
                    reasoning_content: None,
                    tool_calls: None,
                },
                logprobs: self.logprobs.then(|| self.names().chat(&update.logprobs)),
                finish_reason,
                stop_reason,
                token_ids: self.unsent_token_ids.is_some().then_some(update.token_ids),
            }
        };
        let choices = choices.into_iter().enumerate().map(choice).collect();
        axum::Json(ChatCompletion {
            id: self.head.id.clone(),
            object: "chat.completion".to_owned(),
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage,
            system_fingerprint: Some(FINGERPRINT.to_owned()),
            prompt_token_ids: self.prompt_token_ids.take(),
        })
        .into_response()
    }
}
