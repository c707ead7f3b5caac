//! Reads calls whose arguments stand between tags, in any format of [`super::tagged`].
//!
//! Strings are passed on as they come; other values once they are complete, as only then it is
//! known whether they are the JSON that the schema asks for.

use std::collections::HashMap;

use super::{
    ToolSpec,
    schema_types::{Form, Types, ends_in_string, escaped, form, quoted, to_json},
    tagged::Tags,
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
    /// In a section, before a call or the section's end.
    Section,
    /// In the name of a function.
    Name,
    /// In a call, before a parameter or the call's end.
    Call,
    /// In the name of a parameter.
    Key,
    /// Before a value.
    BeforeValue,
    /// In a value.
    Value,
}

/// Reads answers with tagged arguments.
pub(super) struct TaggedParser {
    tags: Tags,
    forms: HashMap<String, HashMap<String, Form>>,
    state: State,
    pending: Pending,
    surroundings: Surroundings,
    /// Markup that has been read and turns out to be content if no call follows.
    markup: String,
    in_section: bool,
    /// Text between parameters.
    stray: String,
    /// The function whose call is open, the parameter's name, and how many there were before it.
    function: String,
    key: String,
    parameters: usize,
    form: Form,
    /// What ends the value.
    value_ends: Vec<String>,
    /// The value, where it is not passed on as it comes.
    value: String,
}

impl TaggedParser {
    pub(super) fn new(tags: Tags, tools: &[ToolSpec]) -> Self {
        let forms = tools.iter().map(|tool| {
            let properties = tool.parameters.get("properties").and_then(|p| p.as_object());
            let forms = properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), form(schema, &tool.parameters)));
            (tool.name.clone(), forms.collect())
        });
        Self {
            tags,
            forms: forms.collect(),
            state: State::Content,
            pending: Pending::default(),
            surroundings: Surroundings::default(),
            markup: String::new(),
            in_section: false,
            stray: String::new(),
            function: String::new(),
            key: String::new(),
            parameters: 0,
            form: Form::Text,
            value_ends: Vec::new(),
            value: String::new(),
        }
    }

    /// Reads on; whether there may be more to read.
    fn step(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        match self.state {
            State::Content => self.content(out),
            State::Section => self.section(out),
            State::Name => self.name(out),
            State::Call => self.call(out),
            State::Key => self.key(),
            State::BeforeValue => self.before_value(out),
            State::Value => self.value(out),
        }
    }

    /// Texts that begin a call.
    fn calls(&self) -> Vec<&'static str> {
        [&[self.tags.call], self.tags.other_calls].concat()
    }

    fn content(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let section = self.tags.section.map(|[open, _]| open.trim());
        let mut markers: Vec<&str> = section.into_iter().collect();
        if self.tags.bare || section.is_none() {
            markers.extend(self.calls());
        }
        let (before, marker) = self.pending.take_before(&markers);
        self.surroundings.push(before, out);
        let Some(marker) = marker else { return false };
        self.markup = markers[marker].to_owned();
        self.in_section = section == Some(markers[marker]);
        self.state = if self.in_section { State::Section } else { State::Name };
        true
    }

    fn section(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let space = whitespace(self.pending.text());
        let space = self.pending.take(space);
        self.markup.push_str(space);
        let mut markers = self.calls();
        markers.extend(self.tags.section.map(|[_, close]| close.trim()));
        match self.pending.beginning(&markers) {
            Beginning::Unsure => return false,
            Beginning::Marker(index) if index + 1 < markers.len() => {
                self.markup.push_str(markers[index]);
                self.pending.skip(markers[index].len());
                self.state = State::Name;
            }
            Beginning::Marker(index) => {
                self.pending.skip(markers[index].len());
                self.in_section = false;
                self.surroundings.call();
                self.state = State::Content;
            }
            Beginning::Other if self.pending.is_empty() && !self.pending.ended() => return false,
            Beginning::Other => self.no_call(out),
        }
        true
    }

    /// What looked like a call is content after all.
    fn no_call(&mut self, out: &mut Vec<OutputEvent>) {
        let markup = std::mem::take(&mut self.markup);
        self.surroundings.push(&markup, out);
        self.in_section = false;
        self.state = State::Content;
    }

    /// Text between parameters has no meaning; it is kept as content.
    fn no_parameter(&mut self, out: &mut Vec<OutputEvent>) {
        let stray = std::mem::take(&mut self.stray);
        if !stray.trim().is_empty() {
            out.push(OutputEvent::Content(stray.trim().to_owned()));
        }
    }

    /// A name counts once what follows it is what follows names.
    fn name(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let text = self.pending.text();
        let start = whitespace(text);
        let is_name = |c: char| c.is_alphanumeric() || "_-.:/".contains(c);
        let end = text[start..].find(|c| !is_name(c)).map_or(text.len(), |at| start + at);
        let space = whitespace(&text[end..]);
        if end + space == text.len() && !self.pending.ended() {
            return false;
        }
        let name = text[start..end].to_owned();
        let mut after = Pending::default();
        after.push(&text[end + space..]);
        if self.pending.ended() {
            after.end();
        }
        let name_end = self.tags.name_end.trim();
        let mut markers = vec![self.tags.call_end, self.tags.key];
        markers.extend(self.tags.other_keys);
        markers.extend((!name_end.is_empty()).then_some(name_end));
        let beginning = after.beginning(&markers);
        match beginning {
            Beginning::Unsure => return false,
            Beginning::Marker(index) if !name.is_empty() => {
                let ended_by_name_end = markers[index] == name_end;
                self.pending.skip(end + space + if ended_by_name_end { name_end.len() } else { 0 });
                self.surroundings.call();
                self.markup.clear();
                self.parameters = 0;
                self.function.clone_from(&name);
                out.push(OutputEvent::CallStart { name });
                self.state = State::Call;
            }
            _ => self.no_call(out),
        }
        true
    }

    fn call(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let mut markers = vec![self.tags.call_end, self.tags.key];
        markers.extend(self.tags.other_keys);
        markers
            .extend(self.tags.section.filter(|_| self.in_section).map(|[_, close]| close.trim()));
        let keys = self.tags.other_keys.len() + 1;
        let (before, marker) = self.pending.take_before(&markers);
        self.stray.push_str(before);
        let Some(marker) = marker else { return false };
        self.no_parameter(out);
        if (1..=keys).contains(&marker) {
            self.key.clear();
            self.state = State::Key;
            return true;
        }
        let end = if self.parameters == 0 { "{}" } else { "}" };
        out.extend([OutputEvent::Arguments(end.to_owned()), OutputEvent::CallEnd]);
        self.surroundings.call();
        let in_section = self.in_section && marker == 0;
        self.in_section = in_section;
        self.state = if in_section { State::Section } else { State::Content };
        true
    }

    fn key(&mut self) -> bool {
        let [text_end, json_end] = self.tags.key_ends.map(str::trim);
        let markers = [text_end, json_end, "\">"];
        let markers = if text_end == json_end { &markers[..1] } else { &markers[..] };
        let (before, marker) = self.pending.take_before(markers);
        self.key.push_str(before);
        let Some(marker) = marker else { return false };
        self.key = self.key.trim().to_owned();
        let known = self.forms.get(&self.function).and_then(|forms| forms.get(&self.key));
        self.form = known.copied().unwrap_or(match (marker, markers.len()) {
            // The format tells what the schema does not.
            (0, 3) => Form::Text,
            _ => Form::Loose(Types::ALL),
        });
        self.state = State::BeforeValue;
        true
    }

    fn before_value(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let mark = self.tags.value;
        if !mark.is_empty() {
            if !self.pending.skip_whitespace() {
                return false;
            }
            match self.pending.beginning(&[mark]) {
                Beginning::Unsure => return false,
                Beginning::Marker(_) => {}
                Beginning::Other => {
                    self.state = State::Call;
                    return true;
                }
            }
        }
        let rest = &self.pending.text()[mark.len()..];
        let newline = self.tags.value_end.starts_with('\n');
        let open = self.tags.quotes.map(|[open, _]| open);
        if !self.pending.ended()
            && (newline && rest.is_empty()
                || open.is_some_and(|o| o.len() > rest.len() && o.starts_with(rest)))
        {
            return false;
        }
        let quote = open.filter(|open| rest.starts_with(open));
        let skipped = quote.map_or(usize::from(newline && rest.starts_with('\n')), str::len);
        self.pending.skip(mark.len() + skipped);
        let tag = self.tags.value_end.trim();
        self.value_ends = match (quote, self.tags.quotes) {
            (Some(_), Some([_, close])) => vec![format!("{close}{tag}")],
            _ if newline => vec![tag.to_owned(), format!("\n{tag}")],
            _ => vec![tag.to_owned()],
        };
        if quote.is_some() {
            self.form = Form::Text;
        }
        self.value.clear();
        if self.form == Form::Text {
            let opened = format!("{}\"", self.member());
            out.push(OutputEvent::Arguments(opened));
        }
        self.state = State::Value;
        true
    }

    /// What stands before a value in the arguments.
    fn member(&mut self) -> String {
        self.parameters += 1;
        let before = if self.parameters == 1 { "{" } else { ", " };
        format!("{before}{}: ", quoted(&self.key))
    }

    fn value(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let ends: Vec<&str> = self.value_ends.iter().map(String::as_str).collect();
        let (text, end) = self.pending.take_before(&ends);
        if self.form == Form::Text {
            if !text.is_empty() {
                out.push(OutputEvent::Arguments(escaped(text)));
            }
        } else {
            self.value.push_str(text);
        }
        let Some(end) = end else { return false };
        if self.form == Form::Json && ends_in_string(self.value.trim()) {
            // The tag stands in a string of the JSON.
            self.value.push_str(&self.value_ends[end]);
            return true;
        }
        let closed = if self.form == Form::Text {
            "\"".to_owned()
        } else {
            let value = std::mem::take(&mut self.value);
            format!("{}{}", self.member(), to_json(self.form, &value))
        };
        out.push(OutputEvent::Arguments(closed));
        self.state = State::Call;
        true
    }
}

impl OutputParser for TaggedParser {
    fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        self.pending.push(text);
        while self.step(out) {}
    }

    fn finish(&mut self, out: &mut Vec<OutputEvent>) {
        self.pending.end();
        while self.step(out) {}
        match self.state {
            State::Section | State::Name => self.no_call(out),
            State::Call => self.no_parameter(out),
            // What there is of a value that was cut; of a text all has been passed on.
            State::Value if self.form != Form::Text && !self.value.trim().is_empty() => {
                let value = std::mem::take(&mut self.value);
                let cut = format!("{}{}", self.member(), value.trim());
                out.push(OutputEvent::Arguments(cut));
            }
            _ => {}
        }
        self.surroundings.finish(out);
    }
}
