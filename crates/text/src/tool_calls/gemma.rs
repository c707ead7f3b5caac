//! Gemma's calls: `<start_function_call>call:get_weather{city:<escape>Oslo<escape>}`.
//!
//! Arguments are written like JSON's, but with names without quotes and strings between markers,
//! in which nothing is escaped. FunctionGemma and Gemma 4 differ in the markers.

use serde_json::Value;
use wharf_grammar::{Grammar, GrammarError, Trigger};

use super::{
    CallGrammar, ToolFormat, ToolSpec,
    custom::without_lark,
    gemma_parser::GemmaParser,
    pythonic::separated,
    raw_text::RawText,
    schema_types::{Form, form, is_annotation},
    tagged::{arguments, json, repeated},
};
use crate::output::OutputParser;

/// The markers of a format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gemma {
    name: &'static str,
    /// Before a call, after it, and around strings.
    pub(super) markers: &'static [&'static str; 3],
}

/// All formats of Gemma.
pub(super) static FORMATS: &[Gemma] = &[
    Gemma {
        name: "functiongemma",
        markers: &["<start_function_call>", "<end_function_call>", "<escape>"],
    },
    Gemma { name: "gemma4", markers: &["<|tool_call>", "<tool_call|>", "<|\"|>"] },
];

impl ToolFormat for Gemma {
    fn name(&self) -> &'static str {
        self.name
    }

    fn markers(&self) -> &'static [&'static str] {
        self.markers
    }

    fn parser(&self, _tools: &[ToolSpec]) -> Box<dyn OutputParser> {
        Box::new(GemmaParser::new(*self))
    }

    fn grammar(&self, tools: &[ToolSpec], parallel: bool) -> Result<CallGrammar, GrammarError> {
        without_lark(tools)?;
        let [open, close, _] = self.markers;
        let call = |tool: &ToolSpec| {
            Ok(Grammar::Sequence(vec![
                Grammar::Literal(format!("call:{}", tool.name)),
                self.object(&tool.parameters, &tool.parameters, &tool.name, &mut { STEPS })?,
                Grammar::Literal((*close).to_owned()),
            ]))
        };
        let calls = Grammar::AnyOf(tools.iter().map(call).collect::<Result<_, GrammarError>>()?);
        let whole = Grammar::Sequence(vec![Grammar::Literal((*open).to_owned()), calls.clone()]);
        Ok(CallGrammar {
            required: if parallel { repeated(whole, "", 1, None) } else { whole },
            triggers: vec![Trigger { text: (*open).to_owned(), at_start: false, then: calls }],
            max_triggers: (!parallel).then_some(1),
        })
    }
}

/// Values that are looked at. A schema may refer to itself, and a bound on the levels alone would
/// leave their number to grow with each.
const STEPS: usize = 512;

impl Gemma {
    /// An object, its members in the schema's order.
    fn object(
        &self,
        schema: &Value,
        root: &Value,
        path: &str,
        steps: &mut usize,
    ) -> Result<Grammar, GrammarError> {
        let members = arguments(schema, path)?;
        let mut items = Vec::new();
        for member in &members {
            let path = format!("{path}.properties.{}", member.name);
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
            if member.name.is_empty() || !member.name.chars().all(plain) {
                return Err(unsupported(&path, member.name));
            }
            items.push(Grammar::Sequence(vec![
                Grammar::Literal(format!("{}:", member.name)),
                self.value(member.schema, root, &path, steps)?,
            ]));
        }
        Ok(Grammar::Sequence(vec![
            Grammar::Literal("{".to_owned()),
            separated(",", &members, &items),
            Grammar::Literal("}".to_owned()),
        ]))
    }

    fn value(
        &self,
        schema: &Value,
        root: &Value,
        path: &str,
        steps: &mut usize,
    ) -> Result<Grammar, GrammarError> {
        let Some(left) = steps.checked_sub(1) else {
            return Err(GrammarError::TooComplex(format!("`{path}` refers to too much")));
        };
        *steps = left;
        let [.., quote] = self.markers;
        let text = RawText { root, end: quote };
        let string =
            |text: Grammar| Grammar::Sequence(vec![Grammar::Literal((*quote).to_owned()), text]);
        match form(schema, root) {
            Form::Text => return Ok(string(text.grammar(schema, path)?)),
            Form::Loose(_) => return Ok(string(text.any())),
            Form::Json => {}
        }
        let keyword = |name: &str| schema.get(name);
        let keywords = schema.as_object().into_iter().flatten().map(|(keyword, _)| keyword);
        let constraints = keywords.filter(|keyword| !is_annotation(keyword)).count();
        for alone in ["$ref", "anyOf"] {
            if keyword(alone).is_some() && constraints > 1 {
                return Err(unsupported(&format!("{path}.{alone}"), alone));
            }
        }
        if let Some(reference) = keyword("$ref") {
            return match super::schema_types::resolve(reference, root) {
                Some(target) => self.value(target, root, path, steps),
                None => Err(unsupported(&format!("{path}.$ref"), "$ref")),
            };
        }
        if let Some(alternatives) = keyword("anyOf").and_then(Value::as_array) {
            let each = alternatives.iter().enumerate().map(|(index, schema)| {
                self.value(schema, root, &format!("{path}.anyOf[{index}]"), steps)
            });
            return Ok(Grammar::AnyOf(each.collect::<Result<_, _>>()?));
        }
        // Nothing in these is written with quotes.
        let is_scalar = |name: &Value| {
            ["integer", "number", "boolean", "null"].iter().any(|scalar| name == scalar)
        };
        match keyword("type") {
            Some(Value::String(name)) if name == "object" => self.object(schema, root, path, steps),
            Some(Value::String(name)) if name == "array" => self.array(schema, root, path, steps),
            Some(Value::Array(names)) if names.iter().all(is_scalar) => Ok(json(schema, root)),
            Some(name) if is_scalar(name) => Ok(json(schema, root)),
            _ => Err(unsupported(path, "type")),
        }
    }

    fn array(
        &self,
        schema: &Value,
        root: &Value,
        path: &str,
        steps: &mut usize,
    ) -> Result<Grammar, GrammarError> {
        static ANYTHING: Value = Value::Bool(true);
        let keywords = schema.as_object().into_iter().flatten().map(|(keyword, _)| keyword);
        for keyword in keywords {
            let known = ["type", "items", "minItems", "maxItems"].contains(&keyword.as_str());
            if !known && !is_annotation(keyword) {
                return Err(unsupported(&format!("{path}.{keyword}"), keyword));
            }
        }
        let bound = |keyword: &str| {
            let bound = schema.get(keyword).and_then(Value::as_u64);
            bound.and_then(|bound| usize::try_from(bound).ok())
        };
        let items = schema.get("items").unwrap_or(&ANYTHING);
        let item = self.value(items, root, &format!("{path}.items"), steps)?;
        let list = match bound("maxItems") {
            Some(0) => Grammar::Literal(String::new()),
            max => repeated(item, ",", bound("minItems").unwrap_or(0), max),
        };
        Ok(Grammar::Sequence(vec![
            Grammar::Literal("[".to_owned()),
            list,
            Grammar::Literal("]".to_owned()),
        ]))
    }
}

fn unsupported(path: &str, keyword: &str) -> GrammarError {
    GrammarError::Unsupported {
        path: path.to_owned(),
        keyword: keyword.to_owned(),
        reason: Some("this model's call format has no way to write it".to_owned()),
    }
}
