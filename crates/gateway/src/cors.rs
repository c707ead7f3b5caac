//! What a web page needs to read an answer of the gateway's own.
//!
//! The rules are the engine's: its answers, preflights too, are relayed as they are. But while no
//! engine can answer, a refused preflight would have the browser report a violation of CORS in
//! place of the 503 that the request itself would get; so then the gateway allows it. What the
//! page learns thereby is that 503 and nothing else.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};

/// Lets any page read the answer, and of its headers those that say when to try again and what
/// to quote.
pub(crate) fn open(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let exposed = HeaderValue::from_static("x-request-id, retry-after");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
}

/// Whether a browser asks for leave to send a request.
pub(crate) fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The leave to send the request that was asked for. Not to be remembered: the engine's own rules
/// count as soon as it is there.
pub(crate) fn preflight(request: &Request) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    for (asked, allowed) in [
        (header::ACCESS_CONTROL_REQUEST_METHOD, header::ACCESS_CONTROL_ALLOW_METHODS),
        (header::ACCESS_CONTROL_REQUEST_HEADERS, header::ACCESS_CONTROL_ALLOW_HEADERS),
    ] {
        if let Some(value) = request.headers().get(asked) {
            headers.insert(allowed, value.clone());
        }
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("0"));
    headers.insert(header::VARY, HeaderValue::from_static("access-control-request-headers"));
    open(headers);
    response
}
