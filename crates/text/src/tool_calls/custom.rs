//! Custom tools: those whose input is a text, and not JSON.
//!
//! No template and no model's format knows them, so a custom tool is a function with one argument
//! to the model, the string `input`. Here is what that makes of it on the way there (its schema,
//! the calls of a conversation) and on the way back: [`CustomInputs`] takes the string out of the
//! arguments while they come.

use serde_json::{Value, json};
use wharf_grammar::{Grammar, GrammarError, JsonStyle};

use super::ToolSpec;
use crate::output::{OutputEvent, OutputParser};

/// The argument that holds the input.
const INPUT: &str = "input";

/// What the input of a custom tool must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CustomInput {
    /// Any text.
    Text,
    /// Text that this regular expression matches as a whole, in the syntax of Rust's `regex`.
    Regex(String),
    /// Text of this grammar, in llguidance's dialect of Lark.
    Lark(String),
}

impl CustomInput {
    /// The grammar by itself, of text that stands nowhere; `None`: any text.
    pub fn grammar(&self) -> Option<Grammar> {
        match self {
            Self::Text => None,
            Self::Regex(pattern) => Some(Grammar::Regex(pattern.clone())),
            Self::Lark(text) => Some(Grammar::Lark(text.clone())),
        }
    }

    /// The function that the custom tool `name` is to the model, as grammars have it.
    pub fn spec(&self, name: &str) -> ToolSpec {
        let mut input = json!({"type": "string"});
        if let Self::Regex(pattern) = self {
            // A schema's pattern is searched for; this one is to match all of it.
            input["pattern"] = format!("^(?:{pattern})$").into();
        }
        let lark = match self {
            Self::Lark(text) => Some(text.clone()),
            Self::Text | Self::Regex(_) => None,
        };
        ToolSpec { name: name.to_owned(), parameters: parameters(input), lark }
    }

    /// The same as templates have it: for the model to read.
    pub fn definition(&self, name: &str, description: Option<&str>) -> Value {
        let input = match self {
            Self::Text => "The tool's input: any text.".to_owned(),
            Self::Regex(pattern) => {
                format!("The tool's input: text that this regular expression matches: {pattern}")
            }
            Self::Lark(text) => format!("The tool's input: text of this Lark grammar:\n{text}"),
        };
        let parameters = parameters(json!({"type": "string", "description": input}));
        let mut function = json!({"name": name});
        if let Some(description) = description {
            function["description"] = description.into();
        }
        function["parameters"] = parameters;
        json!({"type": "function", "function": function})
    }
}

fn parameters(input: Value) -> Value {
    json!({"type": "object", "properties": {INPUT: input}, "required": [INPUT],
        "additionalProperties": false})
}

/// The arguments, as JSON text, of a call with this input: as grammars have the model write them, so
/// that a conversation goes on with the tokens that it had.
pub fn arguments(input: &str) -> String {
    format!("{{\"{INPUT}\": {}}}", Value::from(input))
}

/// A call's arguments as JSON.
///
/// # Errors
/// Where a custom tool's grammar cannot be put into a JSON string. The path is the tool's name.
pub(super) fn json_arguments(tool: &ToolSpec) -> Result<Grammar, GrammarError> {
    let Some(lark) = &tool.lark else {
        let schema = tool.parameters.clone();
        return Ok(Grammar::Json { schema, style: JsonStyle::spaced() });
    };
    let input = Grammar::lark_in_json(lark).map_err(|error| at_tool(tool, error))?;
    let around = |text: &str| Grammar::Literal(text.to_owned());
    Ok(Grammar::Sequence(vec![around("{\"input\": \""), input, around("\"}")]))
}

/// Refuses grammars of custom tools: for formats that write texts without quotes, in which nothing
/// would tell the end of the text from the text.
pub(super) fn without_lark(tools: &[ToolSpec]) -> Result<(), GrammarError> {
    match tools.iter().find(|tool| tool.lark.is_some()) {
        None => Ok(()),
        Some(tool) => Err(GrammarError::Unsupported {
            path: tool.name.clone(),
            keyword: "lark".to_owned(),
            reason: Some("this model's call format does not write texts as JSON".to_owned()),
        }),
    }
}

fn at_tool(tool: &ToolSpec, error: GrammarError) -> GrammarError {
    let path = tool.name.clone();
    match error {
        GrammarError::Unsupported { keyword, reason, .. } => {
            GrammarError::Unsupported { path, keyword, reason }
        }
        GrammarError::Invalid { reason, .. } => GrammarError::Invalid { path, reason },
        other => other,
    }
}

/// Reads an answer as `inner` does; the [`OutputEvent::Arguments`] of custom tools are the text of
/// their input then, not JSON.
pub struct CustomInputs {
    inner: Box<dyn OutputParser>,
    /// The custom tools.
    names: Vec<String>,
    /// In a call of one of them.
    open: Option<InputReader>,
}

impl CustomInputs {
    /// Around `inner`, for the custom tools `names`.
    pub fn new(inner: Box<dyn OutputParser>, names: Vec<String>) -> Self {
        Self { inner, names, open: None }
    }

    fn pass_on(&mut self, events: Vec<OutputEvent>, out: &mut Vec<OutputEvent>) {
        for event in events {
            let mut text = String::new();
            match (&event, &mut self.open) {
                (OutputEvent::CallStart { name }, _) => {
                    self.open = self.names.contains(name).then(InputReader::default);
                }
                (OutputEvent::Arguments(json), Some(reader)) => {
                    reader.push(json, &mut text);
                    if !text.is_empty() {
                        out.push(OutputEvent::Arguments(text));
                    }
                    continue;
                }
                (OutputEvent::CallEnd, Some(reader)) => {
                    reader.finish(&mut text);
                    if !text.is_empty() {
                        out.push(OutputEvent::Arguments(text));
                    }
                    self.open = None;
                }
                _ => {}
            }
            out.push(event);
        }
    }
}

impl OutputParser for CustomInputs {
    fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        let mut events = Vec::new();
        self.inner.push(text, &mut events);
        self.pass_on(events, out);
    }

    fn finish(&mut self, out: &mut Vec<OutputEvent>) {
        let mut events = Vec::new();
        self.inner.finish(&mut events);
        self.pass_on(events, out);
    }

    fn is_reasoning(&self) -> bool {
        self.inner.is_reasoning()
    }
}

/// The tokens before the input's first character; white space may stand before each.
const HEAD: [&str; 4] = ["{", "\"input\"", ":", "\""];

/// Takes the input out of its arguments.
#[derive(Debug, Default)]
struct InputReader {
    place: Place,
    /// What came of [`HEAD`]: arguments that begin otherwise are passed on as they are, so that
    /// nothing of a call is lost that no grammar held.
    head: String,
    /// The first half of a surrogate pair.
    high: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Before the characters of this token of [`HEAD`], from this byte on.
    Head(usize, usize),
    Text,
    /// After a backslash.
    Escape,
    /// In `\uXXXX`: digits there are, and their value.
    Hex(u32, u32),
    /// After the input.
    After,
    /// The arguments are something else.
    Other,
}

impl Default for Place {
    fn default() -> Self {
        Self::Head(0, 0)
    }
}

impl InputReader {
    fn push(&mut self, json: &str, out: &mut String) {
        json.chars().for_each(|c| self.read(c, out));
    }

    /// The call is complete.
    fn finish(&mut self, out: &mut String) {
        if matches!(self.place, Place::Head(..)) {
            out.push_str(&self.head);
        }
    }

    fn read(&mut self, c: char, out: &mut String) {
        match self.place {
            Place::Head(token, at) => {
                self.head.push(c);
                let wanted = HEAD[token];
                if at == 0 && c.is_ascii_whitespace() {
                    return;
                }
                self.place = if !wanted[at..].starts_with(c) {
                    out.push_str(&self.head);
                    Place::Other
                } else if at + 1 < wanted.len() {
                    Place::Head(token, at + 1)
                } else if token + 1 < HEAD.len() {
                    Place::Head(token + 1, 0)
                } else {
                    Place::Text
                };
            }
            Place::Text => match c {
                '\\' => self.place = Place::Escape,
                '"' => {
                    self.end_pair(out);
                    self.place = Place::After;
                }
                c => self.character(c, out),
            },
            Place::Escape => {
                self.place = Place::Text;
                match c {
                    'u' => self.place = Place::Hex(0, 0),
                    'n' => self.character('\n', out),
                    't' => self.character('\t', out),
                    'r' => self.character('\r', out),
                    'b' => self.character('\u{8}', out),
                    'f' => self.character('\u{c}', out),
                    c => self.character(c, out),
                }
            }
            Place::Hex(digits, value) => match c.to_digit(16) {
                Some(digit) if digits == 3 => {
                    self.place = Place::Text;
                    self.unit(value * 16 + digit, out);
                }
                Some(digit) => self.place = Place::Hex(digits + 1, value * 16 + digit),
                // No JSON: what it was to be is not known.
                None => {
                    self.place = Place::Text;
                    self.character(char::REPLACEMENT_CHARACTER, out);
                    self.read(c, out);
                }
            },
            Place::After => {}
            Place::Other => out.push(c),
        }
    }

    /// A unit of UTF-16.
    fn unit(&mut self, unit: u32, out: &mut String) {
        match (self.high.take(), unit) {
            (Some(high), 0xDC00..=0xDFFF) => {
                let code = 0x1_0000 + ((high - 0xD800) << 10) + (unit - 0xDC00);
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (high, unit) => {
                if high.is_some() {
                    out.push(char::REPLACEMENT_CHARACTER);
                }
                match unit {
                    0xD800..=0xDBFF => self.high = Some(unit),
                    unit => out.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
            }
        }
    }

    fn character(&mut self, c: char, out: &mut String) {
        self.end_pair(out);
        out.push(c);
    }

    /// A first half that nothing completes.
    fn end_pair(&mut self, out: &mut String) {
        if self.high.take().is_some() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool_calls::by_name;
    use proptest::prelude::*;

    /// Input of arguments that come in these pieces, and whether each piece's text was not empty.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a str>) -> String {
        let mut reader = InputReader::default();
        let mut out = String::new();
        pieces.into_iter().for_each(|piece| reader.push(piece, &mut out));
        reader.finish(&mut out);
        out
    }

    /// A JSON string's characters, each written in one of the ways that there are.
    fn written(text: &str, ways: &[u8]) -> String {
        let mut out = String::new();
        for (c, way) in text.chars().zip(ways.iter().cycle()) {
            let mut units = [0; 2];
            match (way % 3, c) {
                (0, _) => c.encode_utf16(&mut units).iter().for_each(|unit| {
                    out.push_str(&format!("\\u{unit:04x}"));
                }),
                (1, '/') => out.push_str("\\/"),
                _ => {
                    let quoted = Value::from(c.to_string()).to_string();
                    out.push_str(&quoted[1..quoted.len() - 1]);
                }
            }
        }
        out
    }

    /// `text` cut at these places, or the characters' borders before them.
    fn cut<'t>(text: &'t str, places: &[usize]) -> Vec<&'t str> {
        let mut places: Vec<usize> = places
            .iter()
            .map(|place| place % (text.len() + 1))
            .map(|place| (0..=place).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0))
            .collect();
        places.extend([0, text.len()]);
        places.sort_unstable();
        places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
    }

    proptest! {
        #[test]
        fn the_input_is_the_string_however_it_is_escaped_and_cut(
            text in any::<String>(), ways in prop::collection::vec(any::<u8>(), 1..9),
            places in prop::collection::vec(any::<usize>(), 0..12), space in "[ \n]{0,2}",
        ) {
            let string = written(&text, &ways);
            let json = format!("{space}{{{space}\"input\"{space}:{space}\"{string}\"{space}}}");
            let parsed: Value = serde_json::from_str(&json).expect("JSON");
            prop_assert_eq!(parsed["input"].as_str(), Some(text.as_str()));
            prop_assert_eq!(read(cut(&json, &places)), text);
        }

        #[test]
        fn what_is_no_input_is_passed_on_whole_however_it_is_cut(
            json in r#"\{("input": (5|null)|"inputs": "a"|"b": "\\u00e9")?\}"#,
            places in prop::collection::vec(any::<usize>(), 0..6),
        ) {
            prop_assert_eq!(read(cut(&json, &places)), json);
        }

        #[test]
        fn a_call_of_a_custom_tool_reads_as_its_input_and_others_stay_json(
            text in any::<String>(), places in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let call = |name: &str| {
                format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {}}}\n</tool_call>", arguments(&text))
            };
            let answer = format!("{}\n{}", call("run"), call("f"));
            let inner = by_name("hermes").expect("a format").parser(&[]);
            let mut parser = CustomInputs::new(inner, vec!["run".to_owned()]);
            let mut events = Vec::new();
            cut(&answer, &places).into_iter().for_each(|piece| parser.push(piece, &mut events));
            parser.finish(&mut events);
            let mut calls: Vec<(String, String, bool)> = Vec::new();
            for event in events {
                match event {
                    OutputEvent::CallStart { name } => calls.push((name, String::new(), false)),
                    OutputEvent::Arguments(text) => {
                        prop_assert!(!text.is_empty());
                        calls.last_mut().unwrap().1.push_str(&text);
                    }
                    OutputEvent::CallEnd => calls.last_mut().unwrap().2 = true,
                    other => panic!("{other:?}"),
                }
            }
            let wanted = [("run".to_owned(), text.clone(), true), ("f".to_owned(), arguments(&text), true)];
            prop_assert_eq!(calls, wanted);
        }
    }

    #[test]
    fn halves_of_pairs_are_replaced_and_a_cut_call_keeps_its_whole_characters() {
        for (json, input) in [
            (r#"{"input": "\ud83d\ude00"}"#, "😀"),
            (r#"{"input": "\ud83dx\ude00"}"#, "\u{fffd}x\u{fffd}"),
            (r#"{"input": "\ud83d\ud83d\ude00"}"#, "\u{fffd}😀"),
            (r#"{"input": "\ud83d"}"#, "\u{fffd}"),
            (r#"{"input": "\u00zz"}"#, "\u{fffd}zz"),
            (r#"{}"#, "{}"),
        ] {
            assert_eq!(read([json]), input, "{json}");
        }
        let mut reader = InputReader::default();
        let mut out = String::new();
        reader.push(r#"{"input": "a\n\ud83d\ude"#, &mut out);
        assert_eq!(out, "a\n");
    }
}
