//! A call as one JSON object, `{"name": …, "arguments": {…}}`, read as it comes.

use super::json_object::{ObjectReader, Step};
use crate::output::OutputEvent;

/// An object that is being read.
pub(super) struct Call {
    reader: ObjectReader,
    member: Member,
    /// The raw text of a value that is not passed on yet.
    held: String,
    /// The arguments came before the name.
    early: Option<String>,
    name: Option<String>,
    argued: bool,
}

enum Member {
    Name,
    Arguments,
    /// Arguments as a string that holds JSON.
    QuotedArguments,
    Other,
}

impl Call {
    pub(super) fn new() -> Self {
        Self {
            reader: ObjectReader::new(),
            member: Member::Other,
            held: String::new(),
            early: None,
            name: None,
            argued: false,
        }
    }

    /// There is a name.
    pub(super) fn has_begun(&self) -> bool {
        self.name.is_some()
    }

    /// Reads `text`; what it makes certain goes to `out`. Gives how many bytes of it belong to the
    /// object, and with which step that is over, where it is.
    pub(super) fn read(
        &mut self,
        text: &str,
        keyed: bool,
        out: &mut Vec<OutputEvent>,
    ) -> (usize, Option<Step>) {
        for (at, c) in text.char_indices() {
            let step = self.read_char(c, keyed, out);
            if matches!(step, Step::End | Step::Broken) {
                return (at + c.len_utf8(), Some(step));
            }
        }
        (text.len(), None)
    }

    fn read_char(&mut self, c: char, keyed: bool, out: &mut Vec<OutputEvent>) -> Step {
        let mut step = self.reader.read(c);
        if step == Step::ValueEnd {
            if !self.value_ends(out) {
                return Step::Broken;
            }
            step = self.reader.read(c);
        }
        match &step {
            Step::Key(key) => self.key(key, keyed, out),
            Step::Value(c) => self.value(*c, out),
            Step::End => self.end(out),
            Step::Quiet | Step::ValueEnd | Step::Broken => {}
        }
        step
    }

    fn key(&mut self, key: &str, keyed: bool, out: &mut Vec<OutputEvent>) {
        self.held.clear();
        self.member = match key {
            _ if keyed && self.name.is_none() => {
                self.begin(key.to_owned(), out);
                Member::Arguments
            }
            "name" if self.name.is_none() => Member::Name,
            "arguments" | "parameters" if !self.argued => Member::Arguments,
            _ => Member::Other,
        };
    }

    fn value(&mut self, c: char, out: &mut Vec<OutputEvent>) {
        match self.member {
            Member::Arguments if c == '"' && self.held.is_empty() && !self.argued => {
                self.member = Member::QuotedArguments;
                self.held.push(c);
            }
            Member::Arguments if self.name.is_some() => {
                self.argued = true;
                append(c, out);
            }
            Member::Name | Member::Arguments | Member::QuotedArguments => self.held.push(c),
            Member::Other => {}
        }
    }

    /// False: the name is none.
    fn value_ends(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let raw = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.member, Member::Other) {
            Member::Name => match serde_json::from_str::<String>(&raw) {
                Ok(name) if !name.is_empty() => self.begin(name, out),
                _ => return false,
            },
            Member::QuotedArguments => {
                let inner: Option<String> = serde_json::from_str(&raw).ok();
                let object = inner.filter(|text| text.trim_start().starts_with('{'));
                self.give(object.unwrap_or(raw), out);
            }
            Member::Arguments if self.name.is_none() => self.give(raw, out),
            Member::Arguments | Member::Other => {}
        }
        true
    }

    fn begin(&mut self, name: String, out: &mut Vec<OutputEvent>) {
        out.push(OutputEvent::CallStart { name: name.clone() });
        self.name = Some(name);
        if let Some(arguments) = self.early.take() {
            self.give(arguments, out);
        }
    }

    /// Passes whole arguments on, or keeps them until there is a name.
    fn give(&mut self, arguments: String, out: &mut Vec<OutputEvent>) {
        if self.name.is_none() {
            self.early = Some(arguments);
            return;
        }
        self.argued = true;
        out.push(OutputEvent::Arguments(arguments));
    }

    fn end(&mut self, out: &mut Vec<OutputEvent>) {
        if self.name.is_none() {
            return;
        }
        if !self.argued {
            out.push(OutputEvent::Arguments("{}".to_owned()));
        }
        out.push(OutputEvent::CallEnd);
    }
}

fn append(c: char, out: &mut Vec<OutputEvent>) {
    if let Some(OutputEvent::Arguments(text)) = out.last_mut() {
        text.push(c);
    } else {
        out.push(OutputEvent::Arguments(c.to_string()));
    }
}
