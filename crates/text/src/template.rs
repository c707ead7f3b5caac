//! Chat templates: minijinja with transformers' extras.

/// Why a template failed.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template's own text is broken.
    #[error("chat template: {0}")]
    Syntax(String),
    /// The template called `raise_exception`.
    #[error("{0}")]
    Raised(String),
    /// It failed on these messages.
    #[error("chat template: {0}")]
    Render(String),
}

/// A compiled chat template.
pub struct ChatTemplate {}

/// What a rendering is given.
#[derive(Debug, Clone, Default)]
pub struct RenderInput {
    /// OpenAI messages, as JSON.
    pub messages: Vec<serde_json::Value>,
    /// `tools`; `None` is passed to the template as `none`.
    pub tools: Option<Vec<serde_json::Value>>,
    /// `documents`.
    pub documents: Option<Vec<serde_json::Value>>,
    /// End with the header of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Leave the last message open (transformers' `continue_final_message`).
    pub continue_final_message: bool,
    /// `chat_template_kwargs`.
    pub kwargs: serde_json::Map<String, serde_json::Value>,
}

impl ChatTemplate {
    /// Compiles `source`. `bos`/`eos`: the texts of the special tokens.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TemplateError> {
        let _ = (source, bos, eos);
        todo!()
    }
    /// Renders a conversation to the prompt's text. Bounded in time and size.
    pub fn render(&self, input: &RenderInput) -> Result<String, TemplateError> {
        let _ = input;
        todo!()
    }
}
