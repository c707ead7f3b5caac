//! Formats that write calls as Python does: `[get_weather(city='Oslo'), ping()]`.
//!
//! They differ in what surrounds the calls. Where nothing does, an answer that begins with a list
//! that begins with a call of a tool is one of calls; any other list is content.

use wharf_grammar::{Grammar, GrammarError, Trigger};

use super::{
    CallGrammar, ToolFormat, ToolSpec,
    custom::without_lark,
    pythonic_parser::PythonicParser,
    schema_types::is_annotation,
    tagged::{Argument, arguments, json, repeated},
};
use crate::output::OutputParser;

/// What surrounds a format's calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surround {
    name: &'static str,
    /// Before the calls and after them; both empty: nothing.
    pub(super) markers: &'static [&'static str; 2],
    /// An answer may begin with calls without a marker.
    pub(super) unmarked: bool,
    /// Calls stand in brackets, with commas between; else one on each line.
    pub(super) brackets: bool,
}

/// All formats of calls in Python.
pub(super) static FORMATS: &[Surround] = &[
    Surround { name: "pythonic", markers: &["", ""], unmarked: true, brackets: true },
    Surround {
        name: "llama4_pythonic",
        markers: &["<|python_start|>", "<|python_end|>"],
        unmarked: true,
        brackets: true,
    },
    Surround {
        name: "lfm2",
        markers: &["<|tool_call_start|>", "<|tool_call_end|>"],
        unmarked: false,
        brackets: true,
    },
    Surround {
        name: "olmo3",
        markers: &["<function_calls>", "</function_calls>"],
        unmarked: false,
        brackets: false,
    },
];

impl ToolFormat for Surround {
    fn name(&self) -> &'static str {
        self.name
    }

    fn markers(&self) -> &'static [&'static str] {
        if self.markers[0].is_empty() { &[] } else { self.markers }
    }

    fn parser(&self, tools: &[ToolSpec]) -> Box<dyn OutputParser> {
        Box::new(PythonicParser::new(*self, tools))
    }

    fn grammar(&self, tools: &[ToolSpec], parallel: bool) -> Result<CallGrammar, GrammarError> {
        without_lark(tools)?;
        let rests: Vec<Grammar> = tools.iter().map(after_name).collect::<Result<_, _>>()?;
        let named = tools.iter().zip(&rests).map(|(tool, rest)| {
            Grammar::Sequence(vec![Grammar::Literal(format!("{}(", tool.name)), rest.clone()])
        });
        let call = Grammar::AnyOf(named.collect());
        let [open, close] = self.markers;
        let (before, separator, after) =
            if self.brackets { ("[", ", ", "]") } else { ("\n", "\n", "\n") };
        // What follows the first call.
        let mut rest = Vec::new();
        if parallel {
            let next = vec![Grammar::Literal(separator.to_owned()), call.clone()];
            rest.push(repeated(Grammar::Sequence(next), "", 0, None));
        }
        rest.push(Grammar::Literal(format!("{after}{close}")));
        let calls = |first: &[Grammar]| Grammar::Sequence([first, &rest].concat());
        let mut triggers = Vec::new();
        if !open.is_empty() {
            let then = calls(&[Grammar::Literal(before.to_owned()), call.clone()]);
            triggers.push(Trigger { text: (*open).to_owned(), at_start: false, then });
        }
        if self.unmarked {
            let rest = Grammar::Sequence(
                [&rest[..rest.len() - 1], &[Grammar::Literal(after.into())]].concat(),
            );
            triggers.extend(tools.iter().zip(rests).map(|(tool, arguments)| Trigger {
                text: format!("{before}{}(", tool.name),
                at_start: true,
                then: Grammar::Sequence(vec![arguments, rest.clone()]),
            }));
        }
        Ok(CallGrammar {
            required: calls(&[Grammar::Literal(format!("{open}{before}")), call.clone()]),
            triggers,
            max_triggers: Some(1),
        })
    }
}

/// A call of `tool`, from its first argument on. Values are written as JSON, which is read as the
/// literals that models write; the names Python has for JSON's are given the model where it can
/// be.
fn after_name(tool: &ToolSpec) -> Result<Grammar, GrammarError> {
    let arguments = arguments(&tool.parameters, &tool.name)?;
    let mut items = Vec::new();
    for argument in &arguments {
        let is_identifier = argument.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !argument.name.starts_with(|c: char| c.is_ascii_digit());
        if !is_identifier || argument.name.is_empty() {
            return Err(GrammarError::Unsupported {
                path: format!("{}.properties.{}", tool.name, argument.name),
                keyword: argument.name.to_owned(),
                reason: Some("this model's call format cannot write this name".to_owned()),
            });
        }
        items.push(Grammar::Sequence(vec![
            Grammar::Literal(format!("{}=", argument.name)),
            argument_value(argument, tool),
        ]));
    }
    let list = separated(", ", &arguments, &items);
    Ok(Grammar::Sequence(vec![list, Grammar::Literal(")".to_owned())]))
}

fn argument_value(argument: &Argument, tool: &ToolSpec) -> Grammar {
    let is = |name: &str| {
        argument.schema.as_object().is_some_and(|keywords| {
            keywords.iter().all(|(keyword, value)| match keyword.as_str() {
                "type" => value == name,
                keyword => is_annotation(keyword),
            }) && keywords.contains_key("type")
        })
    };
    let names = |names: &[&str]| {
        Grammar::AnyOf(names.iter().map(|name| Grammar::Literal((*name).to_owned())).collect())
    };
    match argument.schema {
        _ if is("boolean") => names(&["True", "False"]),
        _ if is("null") => names(&["None"]),
        schema => json(schema, &tool.parameters),
    }
}

/// The items with separators between; those that are not required may be left out. Each stands once,
/// in order: before the first required one the separators follow the items, after it they precede
/// them, and where none is required the first that is there has none.
pub(super) fn separated(separator: &str, arguments: &[Argument], items: &[Grammar]) -> Grammar {
    let comma = |item: &Grammar, before: bool| {
        let comma = Grammar::Literal(separator.to_owned());
        let parts = if before { vec![comma, item.clone()] } else { vec![item.clone(), comma] };
        Grammar::Sequence(parts)
    };
    let optional = |item: Grammar| repeated(item, "", 0, Some(1));
    let after = |from: usize| {
        arguments.iter().zip(items).skip(from).map(|(argument, item)| {
            let item = comma(item, true);
            if argument.required { item } else { optional(item) }
        })
    };
    if let Some(first) = arguments.iter().position(|argument| argument.required) {
        let before = items[..first].iter().map(|item| optional(comma(item, false)));
        let parts = before.chain(std::iter::once(items[first].clone())).chain(after(first + 1));
        return Grammar::Sequence(parts.collect());
    }
    let starts = (0..items.len())
        .map(|first| std::iter::once(items[first].clone()).chain(after(first + 1)).collect());
    match items.is_empty() {
        true => Grammar::Sequence(Vec::new()),
        false => optional(Grammar::AnyOf(starts.map(Grammar::Sequence).collect())),
    }
}
