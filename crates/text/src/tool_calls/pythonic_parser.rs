//! Reads calls in Python, in any format of [`super::pythonic`].
//!
//! A call counts once its first argument begins: what is none until then is content, exactly.
//! Strings are passed on as they come; other values once they are complete.

use super::{
    ToolSpec,
    python_literal::{Dialect, NoValue, Piece, Place, quote, string_piece, value},
    pythonic::Surround,
    schema_types::quoted,
};
use crate::output::{
    OutputEvent, OutputParser,
    pending::{Beginning, Pending, whitespace},
    surroundings::Surroundings,
};

/// Where the text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the beginning of an answer that may begin with calls.
    Start,
    Content,
    /// Before the bracket.
    Opened,
    /// Before a call, or the end of the calls.
    Calls,
    /// Before an argument's value.
    Value,
    /// In a string.
    String(&'static str),
    /// After a value.
    AfterValue,
    /// After the bracket that ends the calls.
    Closed,
}

/// Reads answers with calls in Python.
pub(super) struct PythonicParser {
    surround: Surround,
    /// The names of the tools; empty: any name.
    tools: Vec<String>,
    state: State,
    pending: Pending,
    surroundings: Surroundings,
    /// Markup that has been read and turns out to be content if no call follows.
    markup: String,
    /// The calls have no marker.
    without_marker: bool,
    key: String,
    /// How many arguments of the open call there were.
    arguments: usize,
    /// A value is looked for again once there are so many bytes of it.
    enough: usize,
}

/// What stands before a call's first value.
enum Head {
    /// A call of this name: its first argument's name, if there is one, and the bytes up to the
    /// value or after the closing parenthesis.
    Call {
        name: String,
        key: Option<String>,
        len: usize,
    },
    Unsure,
    Other,
}

impl PythonicParser {
    pub(super) fn new(surround: Surround, tools: &[ToolSpec]) -> Self {
        Self {
            surround,
            tools: tools.iter().map(|tool| tool.name.clone()).collect(),
            state: if surround.unmarked { State::Start } else { State::Content },
            pending: Pending::default(),
            surroundings: Surroundings::default(),
            markup: String::new(),
            without_marker: false,
            key: String::new(),
            arguments: 0,
            enough: 0,
        }
    }

    /// Reads on; whether there may be more to read.
    fn step(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        match self.state {
            State::Start => self.start(),
            State::Content => self.content(out),
            State::Opened => self.opened(out),
            State::Calls => self.calls(out),
            State::Value => self.value(out),
            State::String(quote) => self.string(quote, out),
            State::AfterValue => self.after_value(out),
            State::Closed => self.closed(),
        }
    }

    /// Moves white space from the text to the markup; whether anything follows it.
    fn skip_whitespace(&mut self) -> bool {
        let space = whitespace(self.pending.text());
        let space = self.pending.take(space);
        self.markup.push_str(space);
        !self.pending.is_empty()
    }

    fn start(&mut self) -> bool {
        if !self.skip_whitespace() && !self.pending.ended() {
            return false;
        }
        self.without_marker = self.pending.text().starts_with('[');
        self.state = if self.without_marker { State::Opened } else { State::Content };
        true
    }

    fn content(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let markup = std::mem::take(&mut self.markup);
        self.surroundings.push(&markup, out);
        let [open, _] = self.surround.markers;
        let markers: &[&str] = if open.is_empty() { &[] } else { std::slice::from_ref(open) };
        let (before, marker) = self.pending.take_before(markers);
        self.surroundings.push(before, out);
        if marker.is_none() {
            return false;
        }
        self.markup = (*open).to_owned();
        self.without_marker = false;
        self.state = if self.surround.brackets { State::Opened } else { State::Calls };
        true
    }

    fn opened(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        if !self.skip_whitespace() && !self.pending.ended() {
            return false;
        }
        if !self.pending.text().starts_with('[') {
            return self.no_call(out);
        }
        self.pending.skip(1);
        self.markup.push('[');
        self.state = State::Calls;
        true
    }

    /// What is no call is content.
    fn no_call(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let markup = std::mem::take(&mut self.markup);
        self.surroundings.push(&markup, out);
        self.state = State::Content;
        true
    }

    fn calls(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        if !self.skip_whitespace() {
            return if self.pending.ended() { self.no_call(out) } else { false };
        }
        let end = if self.surround.brackets { "]" } else { self.surround.markers[1] };
        match self.pending.beginning(&[end, ",", ";"]) {
            Beginning::Unsure => return false,
            // A list without calls begins nothing.
            Beginning::Marker(0) if self.without_marker && self.markup.contains('[') => {
                return self.no_call(out);
            }
            Beginning::Marker(0) => {
                self.pending.skip(end.len());
                self.markup.clear();
                self.surroundings.call();
                self.state = if self.surround.brackets { State::Closed } else { State::Content };
                return true;
            }
            // Not before the first call.
            Beginning::Marker(_) if self.markup.trim().is_empty() => {
                self.pending.skip(1);
                return true;
            }
            _ => {}
        }
        let first = !self.markup.trim().is_empty();
        match head(self.pending.text(), self.pending.ended()) {
            Head::Unsure => false,
            Head::Call { name, key, len } if self.is_call(&name, first) => {
                self.pending.skip(len);
                self.markup.clear();
                self.surroundings.call();
                out.push(OutputEvent::CallStart { name });
                self.arguments = 0;
                self.state = State::Value;
                match key {
                    Some(key) => self.key = key,
                    None => self.end_call(out),
                }
                true
            }
            _ => self.no_call(out),
        }
    }

    /// Without a marker a list is one of calls only where the first of them is a tool's.
    fn is_call(&self, name: &str, first: bool) -> bool {
        !(first && self.without_marker)
            || self.tools.is_empty()
            || self.tools.iter().any(|tool| tool == name)
    }

    fn end_call(&mut self, out: &mut Vec<OutputEvent>) {
        let end = if self.arguments == 0 { "{}" } else { "}" };
        out.extend([OutputEvent::Arguments(end.to_owned()), OutputEvent::CallEnd]);
        self.surroundings.call();
        self.state = State::Calls;
    }

    /// What stands before a value in the arguments.
    fn member(&mut self) -> String {
        self.arguments += 1;
        let before = if self.arguments == 1 { "{" } else { ", " };
        format!("{before}{}: ", quoted(&self.key))
    }

    fn value(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let text = self.pending.text();
        if let Some(quote) = quote(text, Dialect::Python) {
            self.pending.skip(quote.len());
            let opened = format!("{}\"", self.member());
            out.push(OutputEvent::Arguments(opened));
            self.state = State::String(quote);
            return true;
        }
        // Looking again only when there is an eighth more keeps it from being quadratic.
        if text.len() < self.enough && !self.pending.ended() {
            return false;
        }
        self.enough = 0;
        match value(text, Dialect::Python, self.pending.ended()) {
            Ok((json, len)) => {
                self.pending.skip(len);
                let member = self.member() + &json;
                out.push(OutputEvent::Arguments(member));
                self.state = State::AfterValue;
                true
            }
            Err(NoValue::Unsure) => {
                self.enough = text.len() + text.len() / 8;
                false
            }
            Err(NoValue::Malformed) => self.no_call(out),
        }
    }

    fn string(&mut self, quote: &'static str, out: &mut Vec<OutputEvent>) -> bool {
        let text = self.pending.text();
        let ended = self.pending.ended();
        if text.is_empty() {
            return false;
        }
        match string_piece(text, (Dialect::Python, quote), Place::Argument, ended) {
            Piece::Text(text, len) => {
                self.pending.skip(len);
                if !text.is_empty() {
                    out.push(OutputEvent::Arguments(text));
                }
            }
            Piece::End(len) => {
                self.pending.skip(len);
                out.push(OutputEvent::Arguments("\"".to_owned()));
                self.state = State::AfterValue;
            }
            Piece::Unsure => return false,
        }
        true
    }

    fn after_value(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let text = self.pending.text();
        let start = whitespace(text);
        let Some(c) = text[start..].chars().next() else { return false };
        if c == ')' {
            self.pending.skip(start + 1);
            self.end_call(out);
            return true;
        }
        let after = start + 1;
        if c != ',' {
            return self.no_call(out);
        }
        // Python allows a comma after the last argument.
        let space = whitespace(&text[after..]);
        if text[after + space..].starts_with(')') {
            self.pending.skip(after + space);
            return true;
        }
        match keyword(&text[after..], self.pending.ended()) {
            Ok((key, len)) => {
                self.pending.skip(after + len);
                self.key = key;
                self.state = State::Value;
                true
            }
            Err(NoValue::Unsure) => false,
            Err(NoValue::Malformed) => self.no_call(out),
        }
    }

    fn closed(&mut self) -> bool {
        let [_, close] = self.surround.markers;
        if !self.pending.skip_whitespace() && !self.pending.ended() {
            return false;
        }
        if !close.is_empty() {
            match self.pending.beginning(&[close]) {
                Beginning::Unsure => return false,
                Beginning::Marker(_) => self.pending.skip(close.len()),
                Beginning::Other => {}
            }
        }
        self.state = State::Content;
        true
    }
}

/// `name(key=`, up to the value's first character, or `name()`.
fn head(text: &str, ended: bool) -> Head {
    let other = if ended { Head::Other } else { Head::Unsure };
    let is_name = |c: char| c.is_alphanumeric() || "_.-".contains(c);
    let name_len = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let name = text[..name_len].to_owned();
    if name_len == text.len() && name_len > 0 {
        return other;
    }
    let Some(rest) = text[name_len..].strip_prefix('(').filter(|_| name_len > 0) else {
        return Head::Other;
    };
    let start = name_len + 1;
    let inner = rest.trim_start();
    if inner.is_empty() {
        return other;
    }
    if inner.starts_with(')') {
        return Head::Call { name, key: None, len: text.len() - inner.len() + 1 };
    }
    match keyword(rest, ended) {
        Ok((key, len)) => Head::Call { name, key: Some(key), len: start + len },
        Err(NoValue::Unsure) => Head::Unsure,
        Err(NoValue::Malformed) => Head::Other,
    }
}

/// `key=`, up to the first character of a value.
fn keyword(text: &str, ended: bool) -> Result<(String, usize), NoValue> {
    let end = if ended { NoValue::Malformed } else { NoValue::Unsure };
    let start = whitespace(text);
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let key_len = text[start..].find(|c| !is_name(c)).ok_or(end)?;
    let key = &text[start..start + key_len];
    let rest = text[start + key_len..].trim_start();
    if rest.is_empty() {
        return Err(end);
    }
    let rest = rest.strip_prefix('=').filter(|_| key_len > 0).ok_or(NoValue::Malformed)?;
    let value = rest.trim_start();
    match value.chars().next() {
        None => Err(end),
        Some(c) if c.is_alphanumeric() || "'\"[({_+-.".contains(c) => {
            Ok((key.to_owned(), text.len() - value.len()))
        }
        Some(_) => Err(NoValue::Malformed),
    }
}

impl OutputParser for PythonicParser {
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
