//! What an answer must look like.

use serde_json::Value;

use crate::{Combined, GrammarError, closed};

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
        /// Texts that do not stand before that place; none empty.
        excludes: Vec<String>,
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
        /// Texts that the free text does not have, before a trigger or after what it began; none
        /// empty. What a trigger begins may have them.
        excludes: Vec<String>,
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

impl Grammar {
    /// Any text at all.
    pub fn any_text() -> Self {
        Self::free(Vec::new(), None)
    }

    /// Any text, with `triggers` that may fire `max` times.
    pub fn free(triggers: Vec<Trigger>, max: Option<usize>) -> Self {
        Self::Free { triggers, max, excludes: Vec::new() }
    }

    /// Any text up to and with one of these.
    pub fn until(ends: Vec<String>, max_tokens: Option<usize>) -> Self {
        Self::Until { ends, excludes: Vec::new(), max_tokens }
    }

    /// One of these texts.
    pub fn choice(texts: &[String]) -> Self {
        Self::AnyOf(texts.iter().cloned().map(Self::Literal).collect())
    }

    /// Any JSON object.
    pub fn json_object(style: JsonStyle) -> Self {
        Self::Json { schema: serde_json::json!({"type": "object"}), style }
    }

    /// A grammar as a user writes it: GBNF where it has GBNF's `::=`, else Lark.
    pub fn from_user_text(text: &str) -> Self {
        if text.contains("::=") { Self::Gbnf(text.to_owned()) } else { Self::Lark(text.to_owned()) }
    }

    /// Bytes of all its texts and schemas, about.
    pub(crate) fn source_bytes(&self) -> usize {
        match self {
            Self::Literal(text) | Self::Regex(text) | Self::Lark(text) | Self::Gbnf(text) => {
                text.len()
            }
            Self::Json { schema, .. } => schema.to_string().len(),
            Self::Sequence(parts) | Self::AnyOf(parts) => {
                parts.iter().map(Self::source_bytes).sum::<usize>() + parts.len()
            }
            Self::Repeat { item, separator, .. } => item.source_bytes() + separator.len(),
            Self::Until { ends, excludes, .. } => {
                ends.iter().chain(excludes).map(String::len).sum()
            }
            Self::Free { triggers, excludes, .. } => {
                let bytes = |trigger: &Trigger| trigger.text.len() + trigger.then.source_bytes();
                let excluded: usize = excludes.iter().map(String::len).sum();
                triggers.iter().map(bytes).sum::<usize>() + excluded
            }
        }
    }

    /// Closes the JSON schemas in it: objects that name members, and do not say whether there may
    /// be others, have no others.
    ///
    /// # Errors
    /// Schemas that would contradict themselves, with a path into the schema.
    pub fn close(&mut self) -> Result<(), GrammarError> {
        match self {
            Self::Json { schema, .. } => {
                *schema = closed(schema, Combined::Refused)?;
                Ok(())
            }
            Self::Sequence(parts) | Self::AnyOf(parts) => {
                parts.iter_mut().try_for_each(Self::close)
            }
            Self::Repeat { item, .. } => item.close(),
            Self::Free { triggers, .. } => {
                triggers.iter_mut().try_for_each(|trigger| trigger.then.close())
            }
            Self::Literal(_)
            | Self::Regex(_)
            | Self::Lark(_)
            | Self::Gbnf(_)
            | Self::Until { .. } => Ok(()),
        }
    }

    /// Calls `visit` with each JSON schema in it, until one fails.
    pub(crate) fn each_schema<E>(
        &self,
        visit: &mut dyn FnMut(&Value) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Json { schema, .. } => visit(schema),
            Self::Sequence(parts) | Self::AnyOf(parts) => {
                parts.iter().try_for_each(|part| part.each_schema(visit))
            }
            Self::Repeat { item, .. } => item.each_schema(visit),
            Self::Free { triggers, .. } => {
                triggers.iter().try_for_each(|trigger| trigger.then.each_schema(visit))
            }
            Self::Literal(_)
            | Self::Regex(_)
            | Self::Lark(_)
            | Self::Gbnf(_)
            | Self::Until { .. } => Ok(()),
        }
    }
}
