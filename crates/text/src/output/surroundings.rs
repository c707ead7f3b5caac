//! Content around tool calls.
//!
//! One rule for all formats: content is the text outside of calls, exactly, but for white space
//! between a call and the beginning or the end of the answer, which belongs to the markup.

use super::OutputEvent;

/// Content around tool calls.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// White space that counts if more content follows.
    space: String,
    /// There has been a call.
    called: bool,
    /// There has been content.
    content: bool,
    /// The last thing, white space aside, was a call.
    after_call: bool,
}

impl Surroundings {
    /// Text outside of calls.
    pub(crate) fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        self.space.push_str(text);
        let solid = self.space.trim_end().len();
        if solid == 0 {
            return;
        }
        let rest = self.space.split_off(solid);
        let mut text = std::mem::replace(&mut self.space, rest);
        if self.called && !self.content {
            text = text.trim_start().to_owned();
        }
        self.content = true;
        self.after_call = false;
        out.push(OutputEvent::Content(text));
    }

    /// A call, or a section of calls, begins or ends here.
    pub(crate) fn call(&mut self) {
        self.called = true;
        self.after_call = true;
    }

    /// No more text: white space at the end is content, but not after a call.
    pub(crate) fn finish(&mut self, out: &mut Vec<OutputEvent>) {
        let space = std::mem::take(&mut self.space);
        if !space.is_empty() && !self.after_call {
            out.push(OutputEvent::Content(space));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_next_to_a_call_counts_only_between_content() {
        for (pieces, content) in [
            (&["a \n", "|", "\n", "|", "b", " \n"][..], "a \n\nb \n"),
            (&[" \n", "|", "\n", "b"], "b"),
            (&["a", " ", "|", " "], "a"),
            (&[" ", " "], "  "),
        ] {
            let mut surroundings = Surroundings::default();
            let mut out = Vec::new();
            for piece in pieces {
                match *piece {
                    "|" => surroundings.call(),
                    text => surroundings.push(text, &mut out),
                }
            }
            surroundings.finish(&mut out);
            let found: String = out
                .into_iter()
                .map(|event| match event {
                    OutputEvent::Content(text) => text,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(found, content, "{pieces:?}");
        }
    }
}
