//! Request bytes to request types, with the path of the first mistake.
//!
//! One entry point for each route, on bytes, so that servers and fuzzers share it.
use crate::{ChatCompletionRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest};
use serde::de::DeserializeOwned;

/// Why a body is not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// The field at fault (`messages[1].role`), or `None` where the body is not JSON at all.
    pub path: Option<String>,
    /// For people.
    pub message: String,
}

/// Reads the body of `POST /v1/chat/completions`.
///
/// # Errors
/// The bytes are not JSON, are nested deeper than 128 levels, or a field has the wrong type.
pub fn parse_chat_request(body: &[u8]) -> Result<ChatCompletionRequest, ParseError> {
    parse(body)
}

/// Reads the body of `POST /v1/completions`.
///
/// # Errors
/// As [`parse_chat_request`].
pub fn parse_completion_request(body: &[u8]) -> Result<CompletionRequest, ParseError> {
    parse(body)
}

/// Reads the body of `POST /tokenize`.
///
/// # Errors
/// As [`parse_chat_request`].
pub fn parse_tokenize_request(body: &[u8]) -> Result<TokenizeRequest, ParseError> {
    parse(body)
}

/// Reads the body of `POST /detokenize`.
///
/// # Errors
/// As [`parse_chat_request`].
pub fn parse_detokenize_request(body: &[u8]) -> Result<DetokenizeRequest, ParseError> {
    parse(body)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ParseError> {
    // Some editors and shells begin a file with a byte order mark.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let whole = |message| ParseError { path: None, message };
    let text = std::str::from_utf8(body).map_err(|error| {
        whole(format!("the body is not UTF-8: invalid byte at offset {}", error.valid_up_to()))
    })?;
    // Serde reads a list as a struct, field by field; for a request that would only be confusing.
    if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
        return Err(whole("the body must be a JSON object".to_owned()));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let request = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if let Err(broken) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
            // The text itself is broken; the path would only say how far the reader got.
            return whole(format!("the body is not valid JSON: {broken}"));
        }
        // Serde calls a number in the place of an enum a mistake of syntax.
        let reason = if error.is_syntax() { "wrong type".to_owned() } else { error.to_string() };
        let path = (path != ".").then_some(path);
        let message = match &path {
            Some(path) => format!("{path}: {reason}"),
            None => reason,
        };
        ParseError { path, message }
    })?;
    json.end().map_err(|error| whole(format!("the body is not valid JSON: {error}")))?;
    Ok(request)
}
