//! gpt-oss's reasoning: the messages of its `analysis` channel.

use super::{Opening, ReasoningFormat};
use crate::{
    harmony::{HarmonyParser, MARKERS, Message},
    output::OutputParser,
};

/// Reasoning of gpt-oss.
#[derive(Debug)]
pub(super) struct Harmony;

impl ReasoningFormat for Harmony {
    fn name(&self) -> &'static str {
        "openai_gptoss"
    }

    fn markers(&self) -> &'static [&'static str] {
        MARKERS
    }

    fn start(&self) -> &'static str {
        "<|channel|>analysis<|message|>"
    }

    /// After it the answer is where it began: a channel, or a recipient, follows.
    fn end(&self) -> &'static str {
        "<|end|><|start|>assistant"
    }

    fn content_start(&self) -> &'static str {
        "<|channel|>final<|message|>"
    }

    fn opening(&self, prompt: &str) -> Opening {
        if prompt.ends_with(self.start()) {
            Opening::Reasoning
        } else if prompt.ends_with(self.content_start()) {
            Opening::Content
        } else {
            Opening::Undecided
        }
    }

    /// `content` is not used: a harmony answer is no reasoning with content after it, but messages
    /// of either kind and calls, and only the parser of the whole can tell them apart.
    fn parser(&self, opening: Opening, _content: Box<dyn OutputParser>) -> Box<dyn OutputParser> {
        Box::new(HarmonyParser::new(match opening {
            Opening::Undecided => None,
            Opening::Reasoning => Some(Message::Reasoning),
            Opening::Content => Some(Message::Content),
        }))
    }
}
