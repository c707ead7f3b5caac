//! Which path and method goes where, and what wraps them all.
//!
//! From the outside in: the request id (on every answer, whatever happens), CORS (errors must be
//! readable by web pages too), the reader of refused bodies, the catcher of panics, the key, the
//! routes. Whatever matches no route is an error in OpenAI's shape like any other.
use crate::admission::Ticket;
use crate::error::ApiError;
use crate::state::AppState;
use crate::{auth, chat, completions, fault, request_id, tokenize};
use axum::extract::{Path, Request, State, rejection::PathRejection};
use axum::http::header;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use std::sync::Arc;
use tower_http::cors::CorsLayer;
use wharf_api::{Model, ModelList};

/// All routes.
pub(crate) fn router(state: Arc<AppState>, cors: CorsLayer) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/ping", get(health).post(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&state), auth::require_key))
        .layer(from_fn(fault::contain))
        .layer(from_fn(wharf_http::discard_unread))
        .layer(cors)
        .layer(from_fn(request_id::attach))
        .with_state(state)
}

/// Lets a request for tokens in, or says at once why not: before its body is read, so that an
/// overloaded server spends nothing on what it will refuse.
pub(crate) fn admit(state: &AppState) -> Result<Ticket, ApiError> {
    let ticket = admit_work(state)?;
    if !state.engine.is_alive() {
        state.metrics.reject("engine_stopped");
        return Err(ApiError::EngineStopped);
    }
    let limit = state.engine.config().max_waiting;
    if state.engine.stats().waiting >= limit {
        state.metrics.reject("queue_full");
        return Err(ApiError::QueueFull { limit });
    }
    Ok(ticket)
}

/// The same for a request that needs the CPU and not the engine.
pub(crate) fn admit_work(state: &AppState) -> Result<Ticket, ApiError> {
    state.admission.admit().inspect_err(|error| match error {
        ApiError::TooManyRequests { .. } => state.metrics.reject("too_many_requests"),
        _ => state.metrics.reject("draining"),
    })
}

/// Ready to serve: 200; otherwise 503 and why.
async fn health(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    if !state.engine.is_alive() {
        return Err(ApiError::EngineStopped);
    }
    if state.admission.is_draining() {
        return Err(ApiError::Draining);
    }
    Ok(Json(json!({"status": "ok"})).into_response())
}

async fn version() -> Response {
    Json(json!({"version": env!("CARGO_PKG_VERSION")})).into_response()
}

async fn metrics(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let text = state.metrics.encode().map_err(|_| ApiError::Internal)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn models(State(state): State<Arc<AppState>>) -> Json<ModelList> {
    let data = state.names.iter().map(|name| model_object(&state, name.clone())).collect();
    Json(ModelList { object: "list".to_owned(), data })
}

/// The name may have slashes in it.
async fn model(
    State(state): State<Arc<AppState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let Path(id) = id.map_err(|rejection| ApiError::Body {
        message: rejection.body_text(),
        param: Some("model".to_owned()),
    })?;
    let name = state.model_name(Some(&id))?;
    Ok(Json(model_object(&state, name)))
}

fn model_object(state: &AppState, name: String) -> Model {
    Model {
        root: state.names.first().cloned(),
        id: name,
        object: "model".to_owned(),
        created: state.started,
        owned_by: "wharf".to_owned(),
        parent: None,
        max_model_len: Some(state.max_model_len),
    }
}

async fn no_route(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(256).collect();
    ApiError::RouteNotFound { method: request.method().clone(), path }
}

async fn wrong_method(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(256).collect();
    ApiError::MethodNotAllowed { method: request.method().clone(), path }
}
