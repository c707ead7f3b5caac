//! What a model's text is made of: reasoning, content and tool calls.
//!
//! A model writes all of it as one text, in a format of its own. An [`OutputParser`] takes that
//! text in pieces, as it comes, and tells its parts apart. How the text is cut into pieces never
//! changes what comes out, added up; no more of it is held back than may still become a marker.

pub(crate) mod pending;
pub(crate) mod surroundings;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputEvent {
    /// Reasoning to append.
    Reasoning(String),
    /// Content to append.
    Content(String),
    /// A tool call begins. Calls do not overlap.
    CallStart {
        /// The function.
        name: String,
    },
    /// JSON text to append to the arguments of the call that is open; of a custom tool (see
    /// [`CustomInputs`](crate::tool_calls::custom::CustomInputs)), text to append to its input.
    Arguments(String),
    /// The call is complete: its arguments, added up, are a JSON value. An answer that ends
    /// without it has cut the call in half.
    CallEnd,
}

/// Tells the parts of one answer's text apart.
pub trait OutputParser: Send {
    /// Feeds text; appends the events that it makes certain. Empty strings are never appended.
    fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>);

    /// No more text: appends what was held back. A call that is open stays without
    /// [`OutputEvent::CallEnd`].
    fn finish(&mut self, out: &mut Vec<OutputEvent>);

    /// Whether the text now stands inside of reasoning.
    fn is_reasoning(&self) -> bool {
        false
    }
}

/// Everything is content.
#[derive(Debug, Default)]
pub struct PlainText;

impl OutputParser for PlainText {
    fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        if !text.is_empty() {
            out.push(OutputEvent::Content(text.to_owned()));
        }
    }

    fn finish(&mut self, _: &mut Vec<OutputEvent>) {}
}
