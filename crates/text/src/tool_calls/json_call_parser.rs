//! Reads the calls of [`JsonCalls`] formats.

use super::{
    json_call::Call,
    json_calls::JsonCalls,
    json_object::{Progress, Step, ValueReader},
};
use crate::output::{
    OutputEvent, OutputParser,
    pending::{Beginning, Pending},
    surroundings::Surroundings,
};

/// Reads one answer.
pub(super) struct JsonCallParser {
    format: JsonCalls,
    pending: Pending,
    around: Surroundings,
    state: State,
    /// Text since the section or the last call began or ended: content, if no call follows.
    unclaimed: String,
    /// The last piece of markup was an opening, so that a name may follow.
    opened: bool,
    /// A call has begun in this section, so that what closes the section is no content.
    claimed: bool,
    /// An opening has been seen; what comes of it is markup.
    marked: bool,
    /// The answer has had text that is not white space.
    begun: bool,
}

enum State {
    Outside,
    /// Where a call may begin.
    Between,
    /// In a function's name that stands outside of JSON.
    Name(String),
    /// In the arguments that follow such a name.
    Arguments(ValueReader),
    /// In an object with name and arguments.
    Object(Box<Call>),
}

impl JsonCallParser {
    pub(super) fn new(format: JsonCalls) -> Self {
        Self {
            format,
            pending: Pending::default(),
            around: Surroundings::default(),
            state: State::Outside,
            unclaimed: String::new(),
            opened: false,
            claimed: false,
            marked: false,
            begun: false,
        }
    }

    /// Reads what there is; returns when more is needed.
    fn read(&mut self, out: &mut Vec<OutputEvent>) {
        while match &mut self.state {
            State::Outside => self.outside(out),
            State::Between => self.between(out),
            State::Name(_) => self.name(out),
            State::Arguments(_) => self.arguments(out),
            State::Object(_) => self.object(out),
        } {}
    }

    fn outside(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        if self.format.at_start && !self.begun {
            let text = self.pending.text().trim_start();
            let Some(first) = text.chars().next() else { return false };
            self.begun = true;
            if matches!(first, '{' | '[') {
                self.marked = false;
                self.state = State::Between;
                return true;
            }
        }
        let (before, marker) = self.pending.take_before(self.format.opens);
        self.begun |= !before.trim().is_empty();
        self.around.push(before, out);
        let Some(marker) = marker else { return false };
        self.begun = true;
        self.marked = true;
        self.opened = true;
        self.unclaimed.push_str(self.format.opens[marker]);
        self.state = State::Between;
        true
    }

    fn between(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let space = self.pending.text().len() - self.pending.text().trim_start().len();
        let space = self.pending.take(space).to_owned();
        self.unclaimed.push_str(&space);
        let Some(first) = self.pending.text().chars().next() else { return false };
        let JsonCalls { opens, closes, before_name, .. } = self.format;
        let markers: Vec<&str> = [before_name, closes, opens].concat();
        match self.pending.beginning(&markers) {
            Beginning::Unsure => return false,
            Beginning::Marker(index) => {
                let marker = self.pending.take(markers[index].len()).to_owned();
                self.close(&marker);
                self.opened = index >= before_name.len() + closes.len();
                if index < before_name.len() {
                    self.state = State::Name(String::new());
                }
                return true;
            }
            Beginning::Other => {}
        }
        match first {
            '{' => self.state = State::Object(Box::new(Call::new())),
            ']' => {
                self.pending.skip(1);
                self.close("]");
            }
            '[' | ',' | ';' => {
                self.pending.skip(1);
                self.unclaimed.push(first);
            }
            _ if self.format.bare_name && self.opened => {
                self.state = State::Name(String::new());
            }
            _ => self.leave(out),
        }
        true
    }

    /// A piece of markup that opens or closes something.
    fn close(&mut self, markup: &str) {
        if self.claimed {
            self.unclaimed.clear();
            self.around.call();
        } else {
            self.unclaimed.push_str(markup);
        }
    }

    /// This is no place for a call: what nobody claimed is content.
    fn leave(&mut self, out: &mut Vec<OutputEvent>) {
        let text = std::mem::take(&mut self.unclaimed);
        self.around.push(&text, out);
        self.claimed = false;
        self.state = State::Outside;
    }

    /// A call begins: what stood before it was markup.
    fn start(&mut self, name: String, out: &mut Vec<OutputEvent>) {
        self.unclaimed.clear();
        self.opened = false;
        self.claimed = true;
        self.around.call();
        out.push(OutputEvent::CallStart { name });
    }

    fn name(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let State::Name(name) = &mut self.state else { return false };
        let mut ends = self.format.after_name.to_vec();
        ends.push("{");
        let (text, end) = self.pending.take_before(&ends);
        name.push_str(text);
        self.unclaimed.push_str(text);
        let Some(end) = end else { return false };
        let name = function_name(name).to_owned();
        if ends[end] == "{" {
            // It belongs to the arguments.
            self.pending.put_back(1);
        } else {
            self.unclaimed.push_str(ends[end]);
        }
        if name.is_empty() || name.contains(char::is_whitespace) {
            self.leave(out);
            return true;
        }
        self.start(name, out);
        self.state = State::Arguments(ValueReader::default());
        true
    }

    fn arguments(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let State::Arguments(reader) = &mut self.state else { return false };
        let mut raw = String::new();
        let mut ended = None;
        if !reader.has_begun() && !self.pending.skip_whitespace() {
            return false;
        }
        for c in self.pending.text().chars() {
            match reader.read(c) {
                Progress::Inside => raw.push(c),
                Progress::Last => {
                    raw.push(c);
                    ended = Some(true);
                    break;
                }
                // Arguments have brackets.
                Progress::Before => {
                    ended = Some(false);
                    break;
                }
            }
        }
        self.pending.skip(raw.len());
        if !raw.is_empty() {
            out.push(OutputEvent::Arguments(raw));
        }
        match ended {
            None => return false,
            Some(true) => {
                out.push(OutputEvent::CallEnd);
                self.state = State::Between;
            }
            Some(false) => self.leave(out),
        }
        true
    }

    fn object(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let State::Object(call) = &mut self.state else { return false };
        let mut events = Vec::new();
        let (read, end) = call.read(self.pending.text(), self.format.keyed, &mut events);
        let text = self.pending.take(read).to_owned();
        let started = call.has_begun();
        for event in events {
            match event {
                OutputEvent::CallStart { name } => self.start(name, out),
                event => out.push(event),
            }
        }
        if !started {
            self.unclaimed.push_str(&text);
        }
        match end {
            None => false,
            Some(Step::End) if started => {
                self.state = State::Between;
                true
            }
            // No call, or one that went wrong: what follows is content again.
            Some(_) => {
                self.leave(out);
                true
            }
        }
    }
}

impl OutputParser for JsonCallParser {
    fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        self.pending.push(text);
        self.read(out);
    }

    fn finish(&mut self, out: &mut Vec<OutputEvent>) {
        self.pending.end();
        self.read(out);
        // A call that was cut before its name is markup; without a marker it may be anything.
        if !self.marked || matches!(self.state, State::Outside) {
            self.leave(out);
        }
        self.around.finish(out);
    }
}

/// `functions.get_weather:0` is how Kimi writes `get_weather`.
fn function_name(text: &str) -> &str {
    let name = text.trim();
    let name = name.strip_prefix("functions.").unwrap_or(name);
    match name.rsplit_once(':') {
        Some((name, number)) if number.chars().all(|c| c.is_ascii_digit()) => name,
        _ => name,
    }
}
