//! Values as elements: what MiniMax M3 writes between tags.
//!
//! ```text
//! <size><width>3</width></size><tags><item>a</item><item>b</item></tags>
//! ```
//!
//! is `{"size": {"width": 3}, "tags": ["a", "b"]}`, with a mark before each tag, which is a token
//! of its own. So text cannot hold the mark, and needs no escapes. [`super::elements_reader`] reads
//! them.
//!
//! A value whose schema says more than elements can hold is written as JSON in its element: the
//! model may find that odd, but the schema holds.

use serde_json::Value;
use wharf_grammar::{Grammar, GrammarError};

use super::{
    raw_text::RawText,
    schema_types::{Form, Types, form, is_annotation, resolve, types_of},
    tagged::{arguments, json, repeated},
};

/// Values that are written as elements. A schema may refer to itself, and a bound on the levels
/// alone would leave their number to grow with each.
const STEPS: usize = 512;

/// How elements are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elements<'a> {
    /// What stands before each tag.
    pub(super) mark: &'a str,
    /// The schema that references point into.
    pub(super) root: &'a Value,
}

impl Elements<'_> {
    /// The element `name`, with a value of `schema`.
    ///
    /// # Errors
    /// Where a text cannot be held to its schema.
    pub(super) fn argument(
        &self,
        name: &str,
        schema: &Value,
        path: &str,
    ) -> Result<Grammar, GrammarError> {
        let value = match form(schema, self.root) {
            Form::Text => self.text().grammar(schema, path)?,
            // Its parts may be what no element can hold; the whole is JSON then.
            _ => self.value(schema, path, &mut { STEPS }).unwrap_or_else(|_| self.json(schema)),
        };
        Ok(self.element(name, value))
    }

    /// The tags of `name` around a value, which ends with the mark of the closing one.
    fn element(&self, name: &str, value: Grammar) -> Grammar {
        Grammar::Sequence(vec![
            Grammar::Literal(format!("{}<{name}>", self.mark)),
            value,
            Grammar::Literal(format!("</{name}>")),
        ])
    }

    fn text(&self) -> RawText<'_> {
        RawText { root: self.root, end: self.mark }
    }

    fn json(&self, schema: &Value) -> Grammar {
        Grammar::Sequence(vec![json(schema, self.root), Grammar::Literal(self.mark.to_owned())])
    }

    /// A value, with the mark after it.
    fn value(
        &self,
        schema: &Value,
        path: &str,
        steps: &mut usize,
    ) -> Result<Grammar, GrammarError> {
        match form(schema, self.root) {
            Form::Text => self.text().grammar(schema, path),
            Form::Loose(_) => Ok(self.text().any()),
            Form::Json => self.container(schema, path, steps),
        }
    }

    /// A value of a schema that allows more than strings. A string among its alternatives has
    /// quotes, so that it is not read as a number.
    fn container(
        &self,
        schema: &Value,
        path: &str,
        steps: &mut usize,
    ) -> Result<Grammar, GrammarError> {
        let Some(left) = steps.checked_sub(1) else {
            return Err(GrammarError::TooComplex(format!("`{path}` refers to too much")));
        };
        *steps = left;
        let keywords: Vec<(&str, &Value)> = schema
            .as_object()
            .into_iter()
            .flatten()
            .map(|(keyword, value)| (keyword.as_str(), value))
            .filter(|(keyword, _)| !is_annotation(keyword))
            .collect();
        match keywords.as_slice() {
            [("$ref", reference)] => match resolve(reference, self.root) {
                Some(target) => self.container(target, path, steps),
                None => Ok(self.json(schema)),
            },
            [("anyOf", Value::Array(all))] => {
                let nests = |schema: &&Value| self.nests(schema);
                if all.iter().filter(nests).count() > 1 {
                    // The elements would not tell which of them is meant.
                    return Ok(self.json(schema));
                }
                let each = all.iter().map(|schema| self.container(schema, path, steps));
                Ok(Grammar::AnyOf(each.collect::<Result<_, _>>()?))
            }
            _ if schema.get("type").is_some_and(|name| name == "object") => {
                self.object(schema, path, steps)
            }
            _ if schema.get("type").is_some_and(|name| name == "array") => {
                self.array(schema, path, steps)
            }
            _ => Ok(self.json(schema)),
        }
    }

    /// Whether values of `schema` may be objects or arrays.
    fn nests(&self, schema: &Value) -> bool {
        let types = types_of(schema, self.root);
        types.contains(Types::OBJECT) || types.contains(Types::ARRAY)
    }

    fn object(
        &self,
        schema: &Value,
        path: &str,
        steps: &mut usize,
    ) -> Result<Grammar, GrammarError> {
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with('/')
                && !name.contains(|c: char| c.is_whitespace() || "<>".contains(c))
        };
        let members = match arguments(schema, path) {
            Ok(members) if !members.is_empty() && members.iter().all(|m| is_name(m.name)) => {
                members
            }
            _ => return Ok(self.json(schema)),
        };
        let mut parts = Vec::new();
        for member in members {
            let path = format!("{path}.properties.{}", member.name);
            let value = self.value(member.schema, &path, steps)?;
            let element = self.element(member.name, value);
            parts.push(if member.required { element } else { repeated(element, "", 0, Some(1)) });
        }
        parts.push(Grammar::Literal(self.mark.to_owned()));
        Ok(Grammar::Sequence(parts))
    }

    fn array(
        &self,
        schema: &Value,
        path: &str,
        steps: &mut usize,
    ) -> Result<Grammar, GrammarError> {
        let known = |keyword: &String| {
            ["type", "items", "minItems", "maxItems"].contains(&keyword.as_str())
                || is_annotation(keyword)
        };
        let bound = |keyword: &str| {
            let bound = schema.get(keyword).and_then(Value::as_u64);
            bound.and_then(|bound| usize::try_from(bound).ok())
        };
        let (min, max) = (bound("minItems").unwrap_or(0), bound("maxItems"));
        let items = schema.get("items").filter(|items| items.is_object());
        let plain = schema.as_object().is_some_and(|keywords| keywords.keys().all(known));
        match items {
            Some(items) if plain && max.is_none_or(|max| max >= min.max(1)) => {
                let value = self.value(items, &format!("{path}.items"), steps)?;
                Ok(Grammar::Sequence(vec![
                    repeated(self.element("item", value), "", min, max),
                    Grammar::Literal(self.mark.to_owned()),
                ]))
            }
            _ => Ok(self.json(schema)),
        }
    }
}
