//! `X-Request-Id`: taken from the request where it is sound, made up otherwise, on every answer.
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use wharf_api::range::REQUEST_ID_CHARS_MAX;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, as an extension of it.
#[derive(Debug, Clone)]
pub(crate) struct RequestId {
    /// The id.
    pub(crate) value: String,
    /// The client chose it.
    pub(crate) from_client: bool,
}

/// Whether `id` may stand in headers, logs and answers.
pub(crate) fn is_sound(id: &str) -> bool {
    (1..=REQUEST_ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Middleware: gives the request its id and the answer the header.
pub(crate) async fn attach(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&HEADER).and_then(|value| value.to_str().ok());
    let id = match given.filter(|id| is_sound(id)) {
        Some(id) => RequestId { value: id.to_owned(), from_client: true },
        None => RequestId { value: uuid::Uuid::new_v4().simple().to_string(), from_client: false },
    };
    let header = HeaderValue::from_str(&id.value);
    request.extensions_mut().insert(id);
    let mut response = next.run(request).await;
    // Sound ids are always header values.
    if let Ok(header) = header {
        response.headers_mut().insert(HEADER, header);
    }
    response
}
