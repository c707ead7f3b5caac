//! Which web pages may call: any, or the configured origins.
//!
//! No credentials mode: the key travels in `Authorization`, which preflights allow by mirroring
//! whatever headers the page asks for.
use axum::http::{HeaderName, HeaderValue, header};
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

/// The layer; outside of everything that can fail, so that errors too can be read by the page.
pub(crate) fn layer(origins: &[String]) -> CorsLayer {
    let allowed = if origins.is_empty() {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| {
            HeaderValue::from_str(origin)
                .inspect_err(|_| tracing::warn!(origin, "not a CORS origin; ignored"))
                .ok()
        }))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("x-request-id"), header::RETRY_AFTER])
        .max_age(Duration::from_secs(600))
}
