//! Reads calls whose arguments stand between tags, in any format of [`super::tagged`].
//!
//! Strings are passed on as they come; other values once they are complete, as only then it is
//! known whether they are the JSON that the schema asks for, or which elements they have.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    ToolSpec,
    elements_reader::elements_to_json,
    json_call::Call,
    json_object::Step,
    schema_types::{Form, Types, ends_in_string, escaped, form, member, quoted, to_json, types_of},
    tagged::{Objects, Tags},
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
    /// In an object with name and arguments.
    Object,
    /// After it, where the call's end may follow.
    AfterObject,
}

/// Reads answers with tagged arguments.
pub(super) struct TaggedParser {
    tags: Tags,
    /// The schemas of the tools' arguments.
    schemas: HashMap<String, Value>,
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
    /// What ends the value; of one with elements also what begins an element of the same name.
    value_ends: Vec<String>,
    /// Elements of the parameter's own name that are open in its value.
    open_elements: usize,
    /// The value, where it is not passed on as it comes.
    value: String,
    /// The call that is written as an object.
    object: Call,
}

impl TaggedParser {
    pub(super) fn new(tags: Tags, tools: &[ToolSpec]) -> Self {
        let schemas = tools.iter().map(|tool| (tool.name.clone(), tool.parameters.clone()));
        Self {
            tags,
            schemas: schemas.collect(),
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
            open_elements: 0,
            value: String::new(),
            object: Call::new(),
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
            State::Object => self.object(out),
            State::AfterObject => self.after_object(),
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
            Beginning::Other if self.is_object(Objects::InSection) => self.begin_object(),
            Beginning::Other => self.no_call(out),
        }
        true
    }

    /// Whether an object follows, where the format has them.
    fn is_object(&self, place: Objects) -> bool {
        self.tags.objects == place && self.pending.text().trim_start().starts_with('{')
    }

    fn begin_object(&mut self) {
        self.object = Call::new();
        self.state = State::Object;
    }

    fn object(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let mut events = Vec::new();
        let (len, end) = self.object.read(self.pending.text(), false, &mut events);
        let text = self.pending.take(len);
        if self.object.has_begun() {
            self.markup.clear();
            self.surroundings.call();
        } else {
            self.markup.push_str(text);
        }
        out.append(&mut events);
        match end {
            None => return false,
            Some(Step::End) if self.object.has_begun() => self.state = State::AfterObject,
            Some(_) => self.no_call(out),
        }
        true
    }

    fn after_object(&mut self) -> bool {
        if self.tags.objects == Objects::InCall {
            let space = whitespace(self.pending.text());
            let after = self.after(space);
            match after.beginning(&[self.tags.call_end]) {
                Beginning::Unsure => return false,
                Beginning::Marker(_) => self.pending.skip(space + self.tags.call_end.len()),
                Beginning::Other => {}
            }
        }
        self.state = if self.in_section { State::Section } else { State::Content };
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
        if self.is_object(Objects::InCall) {
            self.begin_object();
            return true;
        }
        let text = self.pending.text();
        let start = whitespace(text);
        let is_name = |c: char| c.is_alphanumeric() || "_-.:/".contains(c);
        let end = text[start..].find(|c| !is_name(c)).map_or(text.len(), |at| start + at);
        let space = whitespace(&text[end..]);
        if end + space == text.len() && !self.pending.ended() {
            return false;
        }
        let name = text[start..end].to_owned();
        let after = self.after(end + space);
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
        if self.tags.elements.is_some() && self.key.starts_with('/') {
            // What this closes is not open.
            self.state = State::Call;
            return true;
        }
        self.form = match self.schema() {
            (Some(schema), root) => form(schema, root),
            // The format tells what the schema does not.
            (None, _) if (marker, markers.len()) == (0, 3) => Form::Text,
            (None, _) => Form::Loose(Types::ALL),
        };
        self.state = State::BeforeValue;
        true
    }

    /// The parameter's schema, and the one that it is a part of.
    fn schema(&self) -> (Option<&Value>, &Value) {
        static ANYTHING: Value = Value::Bool(true);
        let root = self.schemas.get(&self.function).unwrap_or(&ANYTHING);
        (member(root, root, &self.key), root)
    }

    /// Skips the type that may stand before a value; whether the text goes on.
    fn skip_type(&mut self) -> bool {
        let Some([open, close]) = self.tags.types else { return true };
        let text = self.pending.text();
        let Some(rest) = text.strip_prefix(open) else {
            return self.pending.ended() || !open.starts_with(text);
        };
        let Some(len) = rest.find(close) else { return self.pending.ended() };
        if self.form == Form::Loose(Types::ALL) && rest[..len].trim() == "string" {
            self.form = Form::Text;
        }
        self.pending.skip(open.len() + len + close.len());
        self.pending.skip_whitespace()
    }

    fn before_value(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let mark = self.tags.value;
        if !mark.is_empty() {
            if !self.pending.skip_whitespace() || !self.skip_type() {
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
        if quote.is_some() {
            self.form = Form::Text;
        }
        let tag = self.tags.value_end.trim();
        self.value_ends = match (quote, self.tags.quotes, self.tags.elements) {
            (Some(_), Some([_, close]), _) => vec![format!("{close}{tag}")],
            (_, _, Some(mark)) => self.element_ends(mark),
            _ if newline => vec![tag.to_owned(), format!("\n{tag}")],
            _ => vec![tag.to_owned()],
        };
        self.value.clear();
        self.open_elements = 0;
        if self.form == Form::Text {
            let opened = format!("{}\"", self.member());
            out.push(OutputEvent::Arguments(opened));
        }
        self.state = State::Value;
        true
    }

    /// What ends an element; and what begins one in it of the same name, where it may hold any.
    fn element_ends(&self, mark: &str) -> Vec<String> {
        let key = &self.key;
        let mut ends = vec![format!("{mark}</{key}>")];
        let types = match self.schema() {
            (Some(schema), root) => types_of(schema, root),
            (None, _) => Types::ALL,
        };
        let nests = types.contains(Types::ARRAY) || types.contains(Types::OBJECT);
        ends.extend((nests && self.form != Form::Text).then(|| format!("{mark}<{key}>")));
        ends
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
        let opens = self.tags.elements.is_some() && end == 1;
        if opens || self.open_elements > 0 {
            self.open_elements =
                if opens { self.open_elements + 1 } else { self.open_elements - 1 };
            self.value.push_str(&self.value_ends[end]);
            return true;
        }
        if self.form == Form::Json && ends_in_string(self.value.trim()) {
            // The tag stands in a string of the JSON.
            self.value.push_str(&self.value_ends[end]);
            return true;
        }
        let closed = if self.form == Form::Text {
            "\"".to_owned()
        } else {
            let json = self.value_json(true);
            format!("{}{json}", self.member())
        };
        out.push(OutputEvent::Arguments(closed));
        self.state = State::Call;
        true
    }

    /// The value, which has come to its end or was cut, as JSON.
    fn value_json(&self, complete: bool) -> String {
        static ANYTHING: Value = Value::Bool(true);
        match self.tags.elements {
            Some(mark) => {
                let (schema, root) = self.schema();
                let schema = (schema.unwrap_or(&ANYTHING), root);
                elements_to_json(&self.value, mark, schema, complete)
            }
            None if complete => to_json(self.form, &self.value),
            None => self.value.trim().to_owned(),
        }
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
            State::Object if !self.object.has_begun() => self.no_call(out),
            State::Call => self.no_parameter(out),
            // What there is of a value that was cut; of a text all has been passed on.
            State::Value if self.form != Form::Text && !self.value.trim().is_empty() => {
                let json = self.value_json(false);
                let cut = format!("{}{json}", self.member());
                out.push(OutputEvent::Arguments(cut));
            }
            _ => {}
        }
        self.surroundings.finish(out);
    }
}
