//! `POST /tokenize` and `/detokenize`, as vLLM has them.
use crate::error::ApiError;
use crate::prompt::{self, Rendering};
use crate::state::AppState;
use crate::{body, routes, validate};
use axum::Json;
use axum::extract::{Request, State};
use std::sync::Arc;
use wharf_api::{
    DetokenizeRequest, DetokenizeResponse, GenerationFields, Integer, TokenizeRequest,
    TokenizeResponse,
};

/// Text or messages to ids.
pub(crate) async fn tokenize(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let _ticket = routes::admit_work(&state)?;
    let bytes = body::read_json(request, state.config.max_body_bytes).await?;
    let shared = Arc::clone(&state);
    let work = move || {
        let request = wharf_api::parse_tokenize_request(&bytes)?;
        to_ids(&shared, &request)
    };
    state.compute.run(work).await.map(Json)
}

fn to_ids(state: &AppState, request: &TokenizeRequest) -> Result<TokenizeResponse, ApiError> {
    state.model_name(request.model.as_deref())?;
    if request.chat_template.is_some() {
        return Err(ApiError::unsupported("chat_template", "the template is the model's"));
    }
    if request.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        return Err(ApiError::unsupported("tools", "tools are not there yet"));
    }
    let (text, add_special_tokens) = match (&request.prompt, &request.messages) {
        (Some(prompt), None) => (prompt.clone(), true),
        (None, Some(messages)) => {
            let rendering = Rendering {
                add_generation_prompt: request.add_generation_prompt,
                continue_final_message: request.continue_final_message,
                kwargs: request.chat_template_kwargs.as_ref(),
                ..Rendering::default()
            };
            (prompt::render(state, messages, &rendering)?, false)
        }
        _ => return Err(ApiError::field("prompt", "exactly one of `prompt` and `messages`")),
    };
    let add_special_tokens = request.add_special_tokens.unwrap_or(add_special_tokens);
    let fields = GenerationFields::default();
    let tokens = prompt::encode(state, &fields, &text, add_special_tokens)?;
    let token_strs = (request.return_token_strs == Some(true)).then(|| {
        tokens.iter().map(|&id| state.tokenizer.id_to_token(id).unwrap_or_default()).collect()
    });
    let max_model_len = state.max_model_len;
    Ok(TokenizeResponse { count: tokens.len(), max_model_len, tokens, token_strs })
}

/// Ids to text.
pub(crate) async fn detokenize(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let _ticket = routes::admit_work(&state)?;
    let bytes = body::read_json(request, state.config.max_body_bytes).await?;
    let shared = Arc::clone(&state);
    let work = move || {
        let request = wharf_api::parse_detokenize_request(&bytes)?;
        to_text(&shared, &request)
    };
    state.compute.run(work).await.map(Json)
}

fn to_text(state: &AppState, request: &DetokenizeRequest) -> Result<DetokenizeResponse, ApiError> {
    state.model_name(request.model.as_deref())?;
    let Some(tokens) = &request.tokens else {
        return Err(ApiError::field("tokens", "required"));
    };
    let most = prompt::truncatable(state);
    if tokens.len() > most {
        return Err(ApiError::field("tokens", format!("at most {most} ids, got {}", tokens.len())));
    }
    let given: Vec<Integer> = tokens.iter().map(|&id| Integer(i64::from(id))).collect();
    let ids = validate::token_ids("tokens", &given, state.tokenizer.vocab_size())?;
    Ok(DetokenizeResponse { prompt: state.tokenizer.decode(&ids, false) })
}
