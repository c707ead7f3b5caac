//! What an answer must look like.

use serde_json::Value;

/// What an answer, or a part of one, must look like.
///
/// Text in a [`Grammar`] is what the client or a parser reads. Where it holds the text of one of
/// the vocabulary's special tokens (`<|python_tag|>`), it stands for that token.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// This text, exactly.
    Literal(String),
    /// A JSON value that satisfies the schema.
    Json {
        /// Any draft that llguidance reads; `true` or `{}` is any value.
        schema: Value,
        /// How it is written.
        style: JsonStyle,
    },
    /// Text that matches as a whole, in the syntax of Rust's `regex`.
    Regex(String),
    /// Text that a user's grammar produces, in llguidance's dialect of Lark. Its rule `start` is
    /// the beginning.
    Lark(String),
    /// The same in llama.cpp's GBNF. Its rule `root` is the beginning.
    Gbnf(String),
    /// One after the other.
    Sequence(Vec<Grammar>),
    /// One of these; at least one.
    AnyOf(Vec<Grammar>),
    /// This, from `min` to `max` times, with `separator` between.
    Repeat {
        /// What is repeated.
        item: Box<Grammar>,
        /// What stands between two; empty for nothing.
        separator: String,
        /// At least so often.
        min: usize,
        /// At most so often; `None`: any number.
        max: Option<usize>,
    },
    /// Any text up to the first place where one of `ends` ends, which belongs to it.
    Until {
        /// At least one, none empty.
        ends: Vec<String>,
        /// After so many tokens the first of `ends` must follow; `None`: any length.
        max_tokens: Option<usize>,
    },
    /// Any text to the end of the answer, in which each trigger, where it appears, must go on as
    /// it says. Without triggers: any text at all. It may be empty.
    Free {
        /// What interrupts the free text.
        triggers: Vec<Trigger>,
        /// How many times triggers may fire; `None`: any number. After the last one no text
        /// follows.
        max: Option<usize>,
    },
}

/// Where free text is not free.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    /// The text that fires it, not empty.
    pub text: String,
    /// Only where the free text begins with it (after white space); elsewhere it is text as any
    /// other. What follows is then the end of the answer.
    pub at_start: bool,
    /// What must follow `text`.
    pub then: Grammar,
}

/// How JSON is written, between its values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JsonStyle {
    /// Between members and elements: `, `.
    pub item_separator: String,
    /// Between a name and its value: `: `.
    pub key_separator: String,
    /// A regular expression for white space that may stand between any two JSON tokens, as the
    /// model likes; `None`: only the separators' own.
    pub whitespace: Option<String>,
}

impl JsonStyle {
    /// `{"a": 1, "b": [2, 3]}`, as Python's `json.dumps` and most training data have it. All of a
    /// structure's punctuation is forced then, and needs no sampling.
    pub fn spaced() -> Self {
        Self { item_separator: ", ".into(), key_separator: ": ".into(), whitespace: None }
    }

    /// `{"a":1,"b":[2,3]}`.
    pub fn compact() -> Self {
        Self { item_separator: ",".into(), key_separator: ":".into(), whitespace: None }
    }
}

impl Default for JsonStyle {
    fn default() -> Self {
        Self::spaced()
    }
}
