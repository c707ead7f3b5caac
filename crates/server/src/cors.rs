//! Which web pages may call: any, or the configured origins.
//!
//! No credentials mode: the key travels in `Authorization`, which preflights allow by mirroring
//! whatever headers the page asks for.
use axum::http::{HeaderName, HeaderValue, header, uri::Uri};
use std::io;
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

/// The layer; outside of everything that can fail, so that errors too can be read by the page.
///
/// # Errors
/// Where an origin is none: no page would ever match it.
pub(crate) fn layer(origins: &[String]) -> io::Result<CorsLayer> {
    let allowed = if origins.is_empty() || origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(
            origins.iter().map(|origin| parse(origin)).collect::<io::Result<Vec<_>>>()?,
        )
    };
    Ok(CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("x-request-id"), header::RETRY_AFTER])
        .max_age(Duration::from_secs(600)))
}

/// `null`, or scheme and authority without anything behind them, as browsers send it.
fn parse(origin: &str) -> io::Result<HeaderValue> {
    let is_origin = origin == "null"
        || origin.split_once("://").is_some_and(|(scheme, authority)| {
            let uri = origin.parse::<Uri>();
            let authority_only = !authority.is_empty() && !authority.contains(['/', '?', '#', '@']);
            authority_only && uri.is_ok_and(|uri| uri.scheme_str() == Some(scheme))
        });
    let value = HeaderValue::from_str(origin).ok().filter(|_| is_origin);
    value.ok_or_else(|| {
        let message = format!(
            "`{origin}` is not an origin: write `scheme://host` or `scheme://host:port` with \
             nothing behind it, or `*` for any"
        );
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_page_could_match_is_refused() {
        let check = |origin: &str| layer(&[origin.to_owned()]).is_ok();
        for right in ["http://localhost:3000", "https://chat.example", "null", "app://wharf"] {
            assert!(check(right), "{right}");
        }
        for wrong in
            ["", "chat.example", "https://chat.example/", "http://a b", "https://", "ü://x"]
        {
            assert!(!check(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_star_is_any_origin() {
        // Within a list, the layer would panic on it.
        assert!(layer(&["https://chat.example".to_owned(), "*".to_owned()]).is_ok());
    }
}
