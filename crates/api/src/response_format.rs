//! `response_format`: which form an answer must take.
use serde::Deserialize;
use serde_json::Value;

/// The form of the answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ResponseFormat {
    /// Required.
    #[serde(rename = "type")]
    pub kind: ResponseFormatKind,
    /// Required where `type` is `json_schema`.
    #[serde(default)]
    pub json_schema: Option<JsonSchemaFormat>,
    /// Of a structural tag in its newer form.
    #[serde(default)]
    pub format: Option<Value>,
    /// Of a structural tag in its older form, with `triggers`.
    #[serde(default)]
    pub structures: Option<Value>,
    /// Texts that begin one of `structures`.
    #[serde(default)]
    pub triggers: Option<Value>,
}

/// Kinds of [`ResponseFormat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseFormatKind {
    /// Free text, the default.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON by a schema.
    JsonSchema,
    /// vLLM's tagged structures.
    StructuralTag,
}

/// `response_format.json_schema`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct JsonSchemaFormat {
    /// `[a-zA-Z0-9_-]{1,64}`; required.
    pub name: String,
    /// For the model to read.
    #[serde(default)]
    pub description: Option<String>,
    /// The schema.
    #[serde(default)]
    pub schema: Option<Value>,
    /// Default false.
    #[serde(default)]
    pub strict: Option<bool>,
}
