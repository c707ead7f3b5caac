//! `POST /v1/completions`, the legacy route: prompts as they are, without a template.
use crate::answer::{self, FINGERPRINT, Format, Head, Plan};
use crate::choice::{ChoiceOptions, LogprobEntry, Update};
use crate::error::ApiError;
use crate::generation::Job;
use crate::logprobs::TokenNames;
use crate::request_id::RequestId;
use crate::shape::{self, Shape};
use crate::sse::Frames;
use crate::state::AppState;
use crate::{body, form, prompt, refuse, routes, validate};
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;
use wharf_api::range::{COMPLETION_CHOICES_MAX, COMPLETION_MAX_TOKENS_DEFAULT};
use wharf_api::{Completion, CompletionChoice, CompletionRequest, Integer, Prompt, Usage};

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
        let request = wharf_api::parse_completion_request(&bytes)?;
        prepare(&shared, &request, &id)
    };
    let plan = state.compute.run(prepare).await?;
    answer::answer(&state, plan, ticket, arrived).await
}

/// From a request to a plan; on the compute pool.
fn prepare(
    state: &Arc<AppState>,
    request: &CompletionRequest,
    id: &RequestId,
) -> Result<Plan<CompletionFormat>, ApiError> {
    let fields = &request.generation;
    let head = Head::new(state, fields, id, "cmpl-")?;
    refuse::completion(request)?;
    let n = validate::choices(fields)?;
    let streaming = validate::streaming(fields)?;
    let top = |count: Integer| validate::top_logprobs("logprobs", count);
    let logprobs = request.logprobs.map(top).transpose()?;
    let default = Some(validate::to_usize(COMPLETION_MAX_TOKENS_DEFAULT));
    let asked = [("max_tokens", fields.max_tokens)];
    let lengths = validate::lengths(state, &asked, default)?;
    let options = validate::choice_options(fields, logprobs)?;
    let Shape { held_to, stop_rule, parts } = shape::completion(state, form::form(fields)?);
    let options = ChoiceOptions { stop_rule, parts, ..options };
    let params = validate::sampling(state, fields, logprobs)?;
    let cache_salt = validate::cache_salt(fields)?;
    let priority = validate::priority(state, fields)?;
    let prompts = prompts(state, request, n)?;
    validate::copies(&params, prompts.len())?;
    let params = prompts
        .iter()
        .map(|prompt| validate::fit(state, &params, lengths, prompt.ids.len()))
        .collect::<Result<_, _>>()?;
    let return_token_ids = fields.return_token_ids == Some(true);
    let echo = fields.echo == Some(true);
    let choice = |prompt: &EncodedPrompt| ChoiceState {
        echo: echo.then(|| prompt.text(state)),
        offset: 0,
        prompt_token_ids: return_token_ids.then(|| prompt.ids.clone()),
        unsent_token_ids: Vec::new(),
    };
    let format = CompletionFormat {
        state: Arc::clone(state),
        head,
        logprobs: logprobs.is_some(),
        tokens_as_ids: fields.return_tokens_as_token_ids == Some(true),
        return_token_ids,
        choices: prompts.iter().flat_map(|prompt| (0..n).map(move |_| choice(prompt))).collect(),
    };
    let job = Job {
        prompts: prompts.into_iter().map(|prompt| prompt.ids).collect(),
        params,
        n,
        options,
        cache_salt,
        priority,
        constraint: None,
    };
    Ok(Plan { job, held_to, format, streaming })
}

/// A prompt in ids, and its text where that was given and nothing of it was cut off.
struct EncodedPrompt {
    ids: Vec<u32>,
    given: Option<String>,
}

impl EncodedPrompt {
    /// For `echo`.
    fn text(&self, state: &AppState) -> String {
        self.given.clone().unwrap_or_else(|| state.tokenizer.decode(&self.ids, true))
    }
}

/// All prompts of a request, as ids.
fn prompts(
    state: &AppState,
    request: &CompletionRequest,
    n: usize,
) -> Result<Vec<EncodedPrompt>, ApiError> {
    let fields = &request.generation;
    let one = |text: &String| {
        let ids = prompt::encode(state, fields, text, true)?;
        let given = fields.truncate_prompt_tokens.is_none().then(|| text.clone());
        Ok(EncodedPrompt { ids, given })
    };
    let ready = |ids: &Vec<u32>| {
        let given: Vec<Integer> = ids.iter().map(|&id| Integer(i64::from(id))).collect();
        let ids = validate::token_ids("prompt", &given, state.tokenizer.vocab_size())?;
        Ok(EncodedPrompt { ids: prompt::truncate(state, fields, ids)?, given: None })
    };
    let count = match &request.prompt {
        None => return Err(ApiError::field("prompt", "required")),
        Some(Prompt::Text(_) | Prompt::Tokens(_)) => 1,
        Some(Prompt::Texts(texts)) => texts.len(),
        Some(Prompt::TokenLists(lists)) => lists.len(),
    };
    if count * n > COMPLETION_CHOICES_MAX {
        let reason = format!("{count} prompts times n = {n} is more than {COMPLETION_CHOICES_MAX}");
        return Err(ApiError::field("prompt", reason));
    }
    // Each takes a place in the engine's queue: more can never be taken, and to say "try again" would
    // be wrong.
    let places = state.engine.config().max_waiting;
    if count > places {
        let reason = format!("{count} prompts, but the queue has room for {places}; send fewer");
        return Err(ApiError::field("prompt", reason));
    }
    let prompts: Vec<EncodedPrompt> = match &request.prompt {
        None => Vec::new(),
        Some(Prompt::Text(text)) => vec![one(text)?],
        Some(Prompt::Texts(texts)) => texts.iter().map(one).collect::<Result<_, ApiError>>()?,
        Some(Prompt::Tokens(ids)) => vec![ready(ids)?],
        Some(Prompt::TokenLists(lists)) => {
            lists.iter().map(ready).collect::<Result<_, ApiError>>()?
        }
    };
    if prompts.is_empty() || prompts.iter().any(|prompt| prompt.ids.is_empty()) {
        return Err(ApiError::field("prompt", "must not be empty"));
    }
    Ok(prompts)
}

/// What a choice has still to say.
struct ChoiceState {
    /// The prompt's text, until it is written.
    echo: Option<String>,
    /// Characters of text before the next token.
    offset: usize,
    prompt_token_ids: Option<Vec<u32>>,
    unsent_token_ids: Vec<u32>,
}

/// Legacy completions and their chunks.
struct CompletionFormat {
    state: Arc<AppState>,
    head: Head,
    logprobs: bool,
    tokens_as_ids: bool,
    return_token_ids: bool,
    choices: Vec<ChoiceState>,
}

impl CompletionFormat {
    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.head.id.clone(),
            object: "text_completion".to_owned(),
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            system_fingerprint: Some(FINGERPRINT.to_owned()),
            usage,
        }
    }

    /// `update` as a choice of an answer or chunk.
    fn choice(&mut self, index: usize, update: Update) -> CompletionChoice {
        let entries: &[LogprobEntry] = &update.logprobs;
        let names =
            TokenNames { tokenizer: self.state.tokenizer.as_ref(), as_ids: self.tokens_as_ids };
        let state = &mut self.choices[index];
        let mut text = state.echo.take().unwrap_or_default();
        state.offset += text.chars().count();
        text.push_str(&update.content());
        state.unsent_token_ids.extend(update.token_ids);
        let token_ids = std::mem::take(&mut state.unsent_token_ids);
        let (finish_reason, stop_reason) = match update.finish {
            Some(finish) => (Some(finish.reason), finish.stop),
            None => (None, None),
        };
        CompletionChoice {
            index,
            text,
            logprobs: self.logprobs.then(|| names.completion(entries, &mut state.offset)),
            finish_reason,
            stop_reason,
            token_ids: self.return_token_ids.then_some(token_ids),
            prompt_token_ids: state.prompt_token_ids.take(),
        }
    }
}

impl Format for CompletionFormat {
    fn open(&mut self, usage: Option<&Usage>, out: &mut Frames) {
        for index in 0..self.choices.len() {
            if self.choices[index].echo.is_some() {
                let choice = self.choice(index, Update::default());
                out.push(&self.completion(vec![choice], usage.cloned()));
            }
        }
    }

    fn update(&mut self, index: usize, update: Update, usage: Option<&Usage>, out: &mut Frames) {
        if update.is_empty() {
            self.choices[index].unsent_token_ids.extend(update.token_ids);
            return;
        }
        let choice = self.choice(index, update);
        out.push(&self.completion(vec![choice], usage.cloned()));
    }

    fn usage(&mut self, usage: Usage, out: &mut Frames) {
        out.push(&self.completion(Vec::new(), Some(usage)));
    }

    fn whole(&mut self, choices: Vec<Update>, usage: Usage) -> Response {
        let choices = choices
            .into_iter()
            .enumerate()
            .map(|(index, update)| self.choice(index, update))
            .collect();
        axum::Json(self.completion(choices, Some(usage))).into_response()
    }
}
