//! Reading a request's body: JSON, not too large, not too slow.
use crate::error::ApiError;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use std::time::Duration;

/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);
/// How much of a body that is too large is read and thrown away. A client that is still sending
/// when the connection closes sees a broken pipe in place of the 413, and tries again.
const DISCARD: usize = 64 << 20;

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
    let too_large = declared.is_some_and(|length| length > limit as u64);
    if too_large && parts.headers.contains_key(header::EXPECT) {
        // The client asks before it sends.
        return Err(ApiError::BodyTooLarge { limit });
    }
    let body = collect(body, if too_large { None } else { Some(limit) });
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

/// The body, or `None` where it has more than `room` bytes (or there is no room from the start).
async fn collect(mut body: Body, room: Option<usize>) -> Result<Option<Bytes>, axum::Error> {
    let mut room = room;
    let mut kept: Vec<u8> = Vec::new();
    let mut discarded = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if room.is_some_and(|room| kept.len() + data.len() <= room) {
            kept.extend_from_slice(&data);
            continue;
        }
        room = None;
        kept = Vec::new();
        discarded += data.len();
        if discarded > DISCARD {
            break;
        }
    }
    Ok(room.map(|_| Bytes::from(kept)))
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
