//! How the parts of an answer are told apart: reasoning, content, tool calls.
use std::sync::Arc;
use uuid::Uuid;
use wharf_api::FinishReason;
use wharf_text::output::{OutputParser, PlainText};

/// How the parts of each choice's text are told apart and shown. The same for all choices of a
/// request.
#[derive(Clone)]
pub(crate) struct Parts {
    /// Makes the parser of a choice.
    pub(crate) parser: Arc<dyn Fn() -> Box<dyn OutputParser> + Send + Sync>,
    /// Special tokens that the parser must see although `skip_special_tokens` hides them.
    pub(crate) shown: Arc<[u32]>,
    /// The parser may find reasoning, so its tokens are counted in `usage`.
    pub(crate) reasons: bool,
    /// Whether the client gets the reasoning.
    pub(crate) include_reasoning: bool,
    /// The answer has to call: what is no call is a piece of one that `max_tokens` cut.
    pub(crate) only_calls: bool,
    /// How calls are shown.
    pub(crate) calls: Calls,
    /// Names of the tools whose calls are of type `custom`.
    pub(crate) customs: Arc<[String]>,
}

/// How the calls of an answer are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Calls {
    /// As the deprecated `function_call`, not as `tool_calls`.
    pub(crate) legacy: bool,
    /// The request named the tool: then the answer ends with `stop`, as OpenAI's do.
    pub(crate) named: bool,
    /// Ids of nine letters and digits, the only ones that Mistral's templates take.
    pub(crate) short_ids: bool,
}

impl Calls {
    /// How an answer ends that has called.
    pub(crate) fn finish_reason(self) -> FinishReason {
        match self {
            Self { named: true, .. } => FinishReason::Stop,
            Self { legacy: true, .. } => FinishReason::FunctionCall,
            _ => FinishReason::ToolCalls,
        }
    }

    /// A new id for a call.
    pub(crate) fn new_id(self) -> String {
        let id = Uuid::new_v4();
        if self.short_ids {
            // Hexadecimal digits are letters and digits; 36 bits tell the calls of a conversation
            // apart.
            return id.simple().to_string()[..9].to_owned();
        }
        format!("call_{}", id.simple())
    }
}

impl Parts {
    /// Everything is content.
    pub(crate) fn plain() -> Self {
        Self {
            parser: Arc::new(|| Box::new(PlainText)),
            shown: Arc::new([]),
            reasons: false,
            include_reasoning: true,
            only_calls: false,
            calls: Calls { legacy: false, named: false, short_ids: false },
            customs: Arc::new([]),
        }
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("calls", &self.calls).finish_non_exhaustive()
    }
}
