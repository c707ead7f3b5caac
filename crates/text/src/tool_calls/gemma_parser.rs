//! Reads Gemma's calls. See [`super::gemma`].
//!
//! The arguments are passed on once they are complete: a name and a value of theirs cannot be told
//! apart before.

use super::{
    gemma::Gemma,
    python_literal::{Dialect, NoValue, value},
};
use crate::output::{
    OutputEvent, OutputParser,
    pending::{Beginning, Pending, whitespace},
    surroundings::Surroundings,
};

/// Where the text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Content,
    /// In the name of a function.
    Name,
    /// Before the arguments.
    Arguments,
    /// After the arguments.
    End,
}

/// Reads answers of Gemma.
pub(super) struct GemmaParser {
    gemma: Gemma,
    state: State,
    pending: Pending,
    surroundings: Surroundings,
    /// Arguments are looked for again once there are so many bytes of them.
    enough: usize,
}

impl GemmaParser {
    pub(super) fn new(gemma: Gemma) -> Self {
        Self {
            gemma,
            state: State::Content,
            pending: Pending::default(),
            surroundings: Surroundings::default(),
            enough: 0,
        }
    }

    /// Reads on; whether there may be more to read.
    fn step(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        match self.state {
            State::Content => self.content(out),
            State::Name => self.name(out),
            State::Arguments => self.arguments(out),
            State::End => self.end(),
        }
    }

    fn content(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let (before, marker) = self.pending.take_before(&self.gemma.markers[..1]);
        self.surroundings.push(before, out);
        if marker.is_some() {
            self.state = State::Name;
        }
        marker.is_some()
    }

    /// `call:name`, up to the brace. Models also leave out the `call`.
    fn name(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let text = self.pending.text();
        let is_name = |c: char| c.is_alphanumeric() || "_.-".contains(c);
        let start = whitespace(text);
        match self.after(start).beginning(&["call:", ":"]) {
            Beginning::Unsure => return false,
            Beginning::Other => return self.no_call(out),
            Beginning::Marker(_) => {}
        }
        let from = text.find(':').map_or(text.len(), |colon| colon + 1);
        let end = text[from..].find(|c| !is_name(c)).map(|len| from + len);
        match end.map(|end| (end, text[end..].starts_with('{'))) {
            None if self.pending.ended() => self.no_call(out),
            None => false,
            Some((end, true)) if end > from => {
                out.push(OutputEvent::CallStart { name: text[from..end].to_owned() });
                self.pending.skip(end);
                self.surroundings.call();
                self.enough = 0;
                self.state = State::Arguments;
                true
            }
            Some(_) => self.no_call(out),
        }
    }

    /// What looked like a call is content after all.
    fn no_call(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        self.surroundings.push(self.gemma.markers[0], out);
        self.state = State::Content;
        true
    }

    fn arguments(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let (text, ended) = (self.pending.text(), self.pending.ended());
        // Looking again only when there is an eighth more keeps it from being quadratic.
        if text.len() < self.enough && !ended {
            return false;
        }
        match value(text, Dialect::Marked(self.gemma.markers[2]), ended) {
            Ok((json, len)) => {
                self.pending.skip(len);
                out.extend([OutputEvent::Arguments(json), OutputEvent::CallEnd]);
                self.surroundings.call();
                self.state = State::End;
                true
            }
            Err(NoValue::Unsure) => {
                self.enough = text.len() + text.len() / 8;
                false
            }
            // The call stays open, and its text is not lost.
            Err(NoValue::Malformed) => {
                self.state = State::Content;
                true
            }
        }
    }

    fn end(&mut self) -> bool {
        if !self.pending.skip_whitespace() {
            return false;
        }
        let close = self.gemma.markers[1];
        match self.pending.beginning(&[close]) {
            Beginning::Unsure => return false,
            Beginning::Marker(_) => self.pending.skip(close.len()),
            Beginning::Other => {}
        }
        self.state = State::Content;
        true
    }

    /// The text after its first `start` bytes.
    fn after(&self, start: usize) -> Pending {
        let mut rest = Pending::default();
        rest.push(&self.pending.text()[start..]);
        if self.pending.ended() {
            rest.end();
        }
        rest
    }
}

impl OutputParser for GemmaParser {
    fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        self.pending.push(text);
        while self.step(out) {}
    }

    fn finish(&mut self, out: &mut Vec<OutputEvent>) {
        self.pending.end();
        while self.step(out) {}
        self.surroundings.finish(out);
    }
}
