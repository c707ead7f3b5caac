//! A panic fails the request it happened in, and nothing else.
use crate::error::ApiError;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;

/// Middleware: 500 in the error shape where a handler panics. (A stream that panics after its
/// headers is caught where it is made, see `sse`.)
pub(crate) async fn contain(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    // Safe to assert: what a handler shares is locks that Tokio and atomics guard, and those are
    // whole after an unwinding.
    AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(path, "a handler panicked");
        ApiError::Internal.into_response()
    })
}
