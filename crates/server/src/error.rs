//! Every way a request can fail, and the one place where that becomes OpenAI's error object.
//!
//! SDKs decide by the status whether to try again (408, 409, 429 and everything from 500), so a
//! request that can never succeed must be a 4xx: an unsupported feature is 400, not 501.
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use wharf_api::{ErrorBody, ErrorObject, ParseError};
use wharf_engine::{Failure, SubmitError};

/// Seconds after which a full queue is worth another try. SDKs ignore more than 120.
const RETRY_QUEUE: u32 = 1;
/// Seconds after which a draining server's successor may be there.
const RETRY_DRAIN: u32 = 5;

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    /// A field is wrong: its path (`messages[0].role`) and why. The path is part of the message.
    #[error("{0}: {1}")]
    Field(String, String),
    /// The body as a whole is wrong.
    #[error("{message}")]
    Body { message: String, param: Option<String> },
    /// A feature that this server does not have was asked for.
    #[error("`{field}` is not supported: {reason}")]
    Unsupported { field: String, reason: String },
    /// What the chat template said about the messages.
    #[error("{0}")]
    Template(String),
    /// `at_least`: the prompt was too long to even count.
    #[error(
        "This model's maximum context length is {limit} tokens, but the prompt has {}{prompt}. \
         Shorten the prompt; at least one token must be left for the answer.",
        if *at_least { "at least " } else { "" }
    )]
    ContextLength { prompt: usize, limit: usize, at_least: bool },
    #[error("The model `{name}` does not exist. This server has: {known}.")]
    ModelNotFound { name: String, known: String },
    #[error("Missing or wrong API key. Send it as `Authorization: Bearer <key>`.")]
    Unauthorized,
    #[error("There is no route {method} {path}.")]
    RouteNotFound { method: Method, path: String },
    #[error("{path} does not take {method}.")]
    MethodNotAllowed { method: Method, path: String },
    #[error("The body is larger than {limit} bytes.")]
    BodyTooLarge { limit: usize },
    #[error("The body did not arrive within {0} s.")]
    BodyTimeout(u64),
    #[error("{0}")]
    MediaType(String),
    #[error("The queue is full: {limit} requests wait already. Try again shortly.")]
    QueueFull { limit: usize },
    #[error("The server is at its limit of {limit} requests at once. Try again shortly.")]
    TooManyRequests { limit: usize },
    #[error("The server is busy preparing other requests. Try again shortly.")]
    Busy,
    #[error("The server is shutting down.")]
    Draining,
    #[error("The engine has stopped.")]
    EngineStopped,
    #[error("The engine failed on this request: {0}")]
    EngineFailed(String),
    #[error("An internal fault ended this request; the server goes on.")]
    Internal,
}

impl ApiError {
    /// A wrong field.
    pub(crate) fn field(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field(path.into(), reason.into())
    }

    /// A feature that is not there.
    pub(crate) fn unsupported(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Field(..)
            | Self::Body { .. }
            | Self::Unsupported { .. }
            | Self::Template(_)
            | Self::ContextLength { .. } => StatusCode::BAD_REQUEST,
            Self::ModelNotFound { .. } | Self::RouteNotFound { .. } => StatusCode::NOT_FOUND,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::QueueFull { .. } | Self::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::Draining | Self::EngineStopped => StatusCode::SERVICE_UNAVAILABLE,
            Self::EngineFailed(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The error as clients read it: the body of an answer, or an event of a stream.
    pub(crate) fn body(&self) -> ErrorBody {
        let (param, code) = match self {
            Self::Field(path, _) => (Some(path.clone()), Some("invalid_value")),
            Self::Body { param, .. } => (param.clone(), None),
            Self::Unsupported { field, .. } => (Some(field.clone()), Some("unsupported_value")),
            Self::Template(_) => (Some("messages".to_owned()), Some("chat_template_error")),
            Self::ContextLength { .. } => (None, Some("context_length_exceeded")),
            Self::ModelNotFound { .. } => (Some("model".to_owned()), Some("model_not_found")),
            Self::Unauthorized => (None, Some("invalid_api_key")),
            Self::RouteNotFound { .. } => (None, Some("unknown_url")),
            Self::MethodNotAllowed { .. } => (None, Some("method_not_allowed")),
            Self::BodyTooLarge { .. } => (None, Some("body_too_large")),
            Self::BodyTimeout(_) => (None, Some("body_timeout")),
            Self::MediaType(_) => (None, Some("unsupported_media_type")),
            Self::QueueFull { .. } => (None, Some("queue_full")),
            Self::TooManyRequests { .. } => (None, Some("too_many_requests")),
            Self::Busy => (None, Some("busy")),
            Self::Draining => (None, Some("draining")),
            Self::EngineStopped => (None, Some("engine_stopped")),
            Self::EngineFailed(_) => (None, Some("engine_failed")),
            Self::Internal => (None, Some("internal_error")),
        };
        let kind = match self.status() {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        ErrorBody {
            error: ErrorObject {
                message: self.to_string(),
                kind: kind.to_owned(),
                param,
                code: code.map(str::to_owned),
            },
        }
    }

    fn retry_after(&self) -> Option<u32> {
        match self {
            Self::QueueFull { .. } | Self::TooManyRequests { .. } | Self::Busy => Some(RETRY_QUEUE),
            Self::Draining | Self::EngineStopped => Some(RETRY_DRAIN),
            _ => None,
        }
    }
}

impl From<ParseError> for ApiError {
    fn from(error: ParseError) -> Self {
        Self::Body { message: error.message, param: error.path }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Request(message) => Self::Body { message, param: None },
            Failure::Engine(reason) => Self::EngineFailed(reason),
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::QueueFull { limit } => Self::QueueFull { limit },
            SubmitError::TooLong { prompt, limit } => {
                Self::ContextLength { prompt, limit, at_least: false }
            }
            // The caller has clamped `max_tokens` to the cache, so the prompt alone is too long.
            SubmitError::NoRoom { need, have } => {
                let tokens = |blocks: usize| blocks * wharf_engine::model::BLOCK_TOKENS;
                Self::ContextLength { prompt: tokens(need), limit: tokens(have), at_least: false }
            }
            SubmitError::Invalid(reason) => Self::field("prompt", reason),
            SubmitError::Stopped => Self::EngineStopped,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self == Self::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
