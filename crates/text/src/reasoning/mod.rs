//! Reasoning: how each family of models marks what it thinks before it answers.

use crate::output::OutputParser;

/// How a family of models marks its reasoning.
pub trait ReasoningFormat: Send + Sync {
    /// As `--reasoning-parser` has it: vLLM's name.
    fn name(&self) -> &'static str;

    /// Texts that begin and end reasoning, and others that mark parts of the answer. Where the
    /// vocabulary has one of them as a special token, it has to be shown to the parser.
    fn markers(&self) -> &'static [&'static str];

    /// The text that begins reasoning, for the grammar of an answer: `<think>`.
    fn start(&self) -> &'static str;

    /// The text that ends it: `</think>`.
    fn end(&self) -> &'static str;

    /// Where an answer to this prompt begins.
    fn opening(&self, prompt: &str) -> Opening;

    /// A parser for one answer; `content` reads what is not reasoning.
    fn parser(&self, opening: Opening, content: Box<dyn OutputParser>) -> Box<dyn OutputParser>;
}

/// Where an answer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The model may begin to think, with the marker, or not.
    Undecided,
    /// In the middle of reasoning: the prompt ends with the marker, or the model omits it.
    Reasoning,
    /// After the reasoning, which is over or switched off.
    Content,
}

/// All formats, by name.
pub fn formats() -> &'static [&'static dyn ReasoningFormat] {
    &[]
}

/// The format of this name, or of one of its other names.
pub fn by_name(name: &str) -> Option<&'static dyn ReasoningFormat> {
    formats().iter().copied().find(|format| format.name() == name)
}

/// The format that a chat template marks reasoning in, as far as that can be seen in it.
pub fn detect(_template: &str) -> Option<&'static dyn ReasoningFormat> {
    None
}
