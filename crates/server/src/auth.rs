//! The API key, where one is set.
//!
//! Checked before routing, so that nobody without the key learns which routes there are. Open to
//! everybody, as in vLLM: health, version and metrics, which load balancers and Prometheus ask for
//! without credentials and which tell nothing of any request; and preflights, which cannot carry
//! a key. `/tokenize` is not open: it costs compute.
use crate::error::ApiError;
use crate::state::AppState;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Paths that need no key.
const OPEN: [&str; 5] = ["/health", "/v1/health", "/ping", "/version", "/metrics"];

/// Middleware: 401 without the key.
pub(crate) async fn require_key(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    let open = request.method() == Method::OPTIONS || OPEN.contains(&request.uri().path());
    match &state.config.api_key {
        Some(key) if !open && !has_key(request.headers(), key) => {
            ApiError::Unauthorized.into_response()
        }
        _ => next.run(request).await,
    }
}

/// Compares in constant time (but for the length, which is no secret).
fn has_key(headers: &HeaderMap, key: &str) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()) else {
        return false;
    };
    let Some((scheme, token)) = value.split_at_checked(b"Bearer ".len()) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(token.ct_eq(key.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_as_a_bearer_token_counts() {
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            has_key(&headers, "sk-1")
        };
        assert!(check("Bearer sk-1"));
        assert!(check("bearer sk-1"));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer sk-",
            "Bearer sk-12",
            "Basic sk-1",
            "sk-1",
            "Bearer  sk-1",
        ] {
            assert!(!check(wrong), "{wrong}");
        }
        assert!(!has_key(&HeaderMap::new(), "sk-1"));
    }
}
