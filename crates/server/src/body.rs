//! Reading a request's body: JSON, not too large, not too slow. What is refused is left unread; a
//! layer around the routes sees to the rest of it.
use crate::error::ApiError;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use std::time::Duration;

/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);

/// The bytes of a JSON body of at most `limit` bytes.
///
/// # Errors
/// 415 where it is not declared as JSON or is compressed, 413 where it is too large, 408 where it
/// does not come.
pub(crate) async fn read_json(request: Request<Body>, limit: usize) -> Result<Bytes, ApiError> {
    let (parts, body) = request.into_parts();
    check_media_type(&parts.headers)?;
    let declared = parts.headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(ApiError::BodyTooLarge { limit });
    }
    let body = collect(body, limit);
    match tokio::time::timeout(ARRIVAL, body).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(ApiError::BodyTooLarge { limit }),
        Ok(Err(error)) => Err(ApiError::Body {
            message: format!("the body could not be read: {error}"),
            param: None,
        }),
        Err(_) => Err(ApiError::BodyTimeout(ARRIVAL.as_secs())),
    }
}

/// The body, or `None` where it has more than `limit` bytes.
async fn collect(mut body: Body, limit: usize) -> Result<Option<Bytes>, axum::Error> {
    let mut kept: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if kept.len() + data.len() > limit {
            return Ok(None);
        }
        kept.extend_from_slice(&data);
    }
    Ok(Some(Bytes::from(kept)))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(ApiError::MediaType("The body must not be compressed.".to_owned()));
    }
    let declared = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or(""));
    let Some(declared) = declared else {
        return Err(ApiError::MediaType(
            "The Content-Type header is missing; send `application/json`.".to_owned(),
        ));
    };
    let essence = declared.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let is_json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json {
        Ok(())
    } else {
        Err(ApiError::MediaType(format!(
            "The Content-Type is `{declared}`; send `application/json`."
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_by_any_of_its_names() {
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().expect("a header"));
            check_media_type(&headers).is_ok()
        };
        assert!(check("application/json"));
        assert!(check("Application/JSON; charset=utf-8"));
        assert!(check("application/vnd.api+json"));
        assert!(!check("text/plain"));
        assert!(!check("application/x-www-form-urlencoded"));
        assert!(!check(""));
    }
}
