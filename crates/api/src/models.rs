//! `GET /v1/models` and `/v1/models/{id}`.
use serde::{Deserialize, Serialize};

/// The list of models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// `"list"`.
    pub object: String,
    /// One entry for each name.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The name requests use.
    pub id: String,
    /// `"model"`.
    pub object: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Who serves it.
    pub owned_by: String,
    /// vLLM: the name of the base model.
    #[serde(default)]
    pub root: Option<String>,
    /// vLLM: the model an adapter was made for; always `null` here.
    #[serde(default)]
    pub parent: Option<String>,
    /// vLLM: the longest sequence in tokens, prompt and answer together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<usize>,
}
