//! Content around tool calls.
//!
//! One rule for all formats: white space between content and a call, or between calls, belongs to
//! the markup and is dropped; all other text outside of calls is content, exactly.

use super::OutputEvent;

/// Content around tool calls.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// White space that is dropped if a call follows.
    space: String,
    /// The last thing was a call: white space is dropped.
    after_call: bool,
}

impl Surroundings {
    /// Text outside of calls.
    pub(crate) fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        let text = if self.after_call { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        self.after_call = false;
        let solid = text.trim_end().len();
        if solid > 0 {
            let mut content = std::mem::take(&mut self.space);
            content.push_str(&text[..solid]);
            out.push(OutputEvent::Content(content));
        }
        self.space.push_str(&text[solid..]);
    }

    /// A call, or a section of calls, begins or ends here.
    pub(crate) fn call(&mut self) {
        self.space.clear();
        self.after_call = true;
    }

    /// No more text: white space at the end is content.
    pub(crate) fn finish(&mut self, out: &mut Vec<OutputEvent>) {
        if !self.space.is_empty() {
            out.push(OutputEvent::Content(std::mem::take(&mut self.space)));
        }
    }
}
