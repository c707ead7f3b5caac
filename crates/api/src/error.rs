//! OpenAI's error object.
//!
//! Every field is always written (`null` where there is nothing to say): SDKs read `body.error.message`,
//! `.param` and `.code`, and raise something unhelpful where a server sends another shape.
use serde::{Deserialize, Serialize};

/// `{"error": {...}}`, the body of every answer that is not 2xx, and of an error event in a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// What went wrong, as clients read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// `invalid_request_error`, `server_error`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault, as a path (`messages[1].role`).
    pub param: Option<String>,
    /// For programs: `model_not_found`, `context_length_exceeded`, ...
    pub code: Option<String>,
}
