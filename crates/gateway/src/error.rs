//! What can go wrong: [`GatewayError`] when starting, `RequestError` when answering.
//!
//! Every error answer that the gateway itself gives is a `RequestError`, and becomes OpenAI's error
//! object in one function. An engine's own errors are relayed as they are and never pass here.

use std::{path::PathBuf, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use uuid::Uuid;
use wharf_api::error::{ErrorBody, ErrorObject};

use crate::{
    cors,
    route::{MODEL_PORT, RouteError},
};

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Another gateway serves from this state directory; trying again helps once it has ended.
    #[error("another `wharf serve` uses the state directory {}", .0.display())]
    InUse(PathBuf),
    /// The registry of instances exists but cannot be understood. It is left as it is.
    #[error(
        "{} is not a registry of instances: {reason}. Repair it, or move it away to start \
         with a new instance id",
        path.display()
    )]
    BrokenRegistry {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or directory of the state directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why a request gets an answer from the gateway instead of one from an engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("There is no instance {0}.")]
    UnknownInstance(Uuid),
    #[error("Instance {id} has nothing on port {port}; its model server is on {MODEL_PORT}.")]
    UnknownPort { id: Uuid, port: u16 },
    #[error("This path knows the methods GET and HEAD only.")]
    MethodNotAllowed,
    #[error("The request's body is larger than {limit} bytes.")]
    BodyTooLarge { limit: usize },
    #[error("The request's body is broken: it is not whole, or its chunks are malformed.")]
    BrokenBody,
    #[error("{what} Try again in {} s.", retry_seconds(*.retry_after))]
    NotReady { what: String, retry_after: Duration },
    #[error("The model cannot be served: its engine failed to start. The server's log says why.")]
    GivenUp,
    #[error("The engine ended before it answered: {0}.")]
    EngineLost(String),
    #[error("The engine's answer is not HTTP: {0}.")]
    BadAnswer(String),
}

/// `Retry-After` counts whole seconds, and 0 would invite a storm.
fn retry_seconds(wait: Duration) -> u64 {
    wait.as_secs_f64().ceil().clamp(1.0, 120.0) as u64
}

impl RequestError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Route(_) | Self::UnknownInstance(_) | Self::UnknownPort { .. } => {
                StatusCode::NOT_FOUND
            }
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BrokenBody => StatusCode::BAD_REQUEST,
            Self::NotReady { .. } | Self::GivenUp | Self::EngineLost(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::BadAnswer(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Route(RouteError::UnknownPath(_)) => "path_not_found",
            Self::Route(RouteError::NotAnInstance(_)) | Self::UnknownInstance(_) => {
                "instance_not_found"
            }
            Self::Route(RouteError::NotAPort(_) | RouteError::NoPort(_))
            | Self::UnknownPort { .. } => "port_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BrokenBody => "broken_body",
            Self::NotReady { .. } => "instance_not_ready",
            Self::GivenUp => "instance_failed",
            Self::EngineLost(_) => "engine_lost",
            Self::BadAnswer(_) => "engine_bad_answer",
        }
    }

    /// How long a client should wait before it tries again, where that can help.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotReady { retry_after, .. } => Some(*retry_after),
            Self::EngineLost(_) => Some(Duration::from_secs(1)),
            // Nothing changes until a person does something; a client that insists does so rarely.
            Self::GivenUp => Some(Duration::from_secs(60)),
            _ => None,
        }
    }
}

/// OpenAI's error object. `server` marks errors that are not the client's fault.
pub(crate) fn error_body(message: String, code: &str, server: bool) -> ErrorBody {
    let kind = if server { "server_error" } else { "invalid_request_error" };
    let error =
        ErrorObject { message, kind: kind.to_owned(), param: None, code: Some(code.to_owned()) };
    ErrorBody { error }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = error_body(self.to_string(), self.code(), status.is_server_error());
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_seconds(wait)));
        }
        if matches!(self, Self::MethodNotAllowed) {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        cors::open(headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_whole_number_of_seconds_that_sdks_obey() {
        for (wait, seconds) in [(0, 1), (1, 1), (250, 1), (1001, 2), (30_000, 30), (999_000, 120)] {
            assert_eq!(retry_seconds(Duration::from_millis(wait)), seconds, "{wait} ms");
        }
    }

    #[test]
    fn errors_have_the_openai_shape() {
        let response = RequestError::UnknownPort { id: Uuid::nil(), port: 3901 }.into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    }
}
