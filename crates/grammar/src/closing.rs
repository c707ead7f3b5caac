//! Closes schemas: objects that name members, and do not say whether there may be others, have no
//! others.
//!
//! A schema cannot be closed by itself where several speak of one value: `allOf` of two closed
//! objects forbids in each what the other names. Where that would happen, nothing is closed.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::{GrammarError, schema::join};

/// What is done where schemas are combined, so that closing one would forbid what another names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combined {
    /// The schema is refused, for who asked that it be closed.
    Refused,
    /// They stay open. What satisfies the closed schema then always satisfies the schema itself.
    Open,
}

/// The schema with its objects closed.
///
/// # Errors
/// With [`Combined::Refused`]: combinations, and references to places that hold no schema.
pub fn closed(schema: &Value, combined: Combined) -> Result<Value, GrammarError> {
    let schemas = Schemas::of(schema)?;
    let speaks = schemas.reached(Node::has_shape, true);
    let gapes = schemas.reached(Node::gapes, false);
    let mut open = vec![false; schemas.nodes.len()];
    for (at, node) in schemas.nodes.iter().enumerate() {
        let conflict = gapes[at].then(|| node.conflict(&speaks, combined)).flatten();
        match (conflict, combined) {
            (Some(keyword), Combined::Refused) => return Err(node.refusal(keyword)),
            (Some(_), Combined::Open) => schemas.mark(at, &mut open),
            (None, Combined::Refused) if node.is_lost => return Err(node.refusal("$ref")),
            (None, _) => {}
        }
    }
    let mut out = schema.clone();
    for (node, open) in schemas.nodes.iter().zip(open) {
        let target = (node.gapes() && !open).then(|| out.pointer_mut(&node.pointer)).flatten();
        if let Some(Value::Object(keywords)) = target {
            keywords.insert("additionalProperties".into(), Value::Bool(false));
        }
    }
    Ok(out)
}

/// Keywords whose value is a schema. Not those that turn its meaning around, as `not` does: they
/// are refused, or the user has them ignored.
const ONE: &[&str] = &["items", "additionalProperties", "additionalItems"];
/// Keywords whose value is a list of schemas.
const LIST: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems", "items"];
/// Keywords whose value is a map of schemas.
const MAP: &[&str] = &["properties", "patternProperties", "$defs", "definitions"];
/// Keywords whose schemas speak of the same value as the schema that has them.
const IN_PLACE: &[&str] = &["allOf", "anyOf", "oneOf", "$ref"];
/// Keywords that say what a value consists of.
const SHAPE: &[&str] = &[
    "properties",
    "patternProperties",
    "additionalProperties",
    "items",
    "prefixItems",
    "additionalItems",
];
/// Keywords with schemas that are not closed and may name members of the same value.
const ALOOF: &[&str] = &["if", "dependentSchemas"];
/// Levels of schemas within schemas.
const DEPTH_MAX: usize = 256;

/// A schema and all schemas in it.
struct Schemas<'v> {
    nodes: Vec<Node<'v>>,
}

/// A schema that is an object.
struct Node<'v> {
    keywords: &'v Map<String, Value>,
    /// Where it is, for people.
    path: String,
    /// The same as a JSON pointer.
    pointer: String,
    /// The keyword and the schema: those in it, and the one that it refers to.
    parts: Vec<(&'v str, usize)>,
    /// It refers to something else.
    is_lost: bool,
}

impl Node<'_> {
    fn has(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.keywords.contains_key(*keyword))
    }

    fn has_shape(&self) -> bool {
        self.has(SHAPE)
    }

    /// It names members and does not say whether there may be others.
    fn gapes(&self) -> bool {
        self.has(&["properties", "patternProperties"])
            && !self.has(&["additionalProperties", "unevaluatedProperties"])
    }

    /// The keyword that combines it with others that say what the value consists of.
    fn conflict(&self, speaks: &[bool], combined: Combined) -> Option<&'static str> {
        let count = |keyword: &str| {
            self.parts.iter().filter(|(name, part)| *name == keyword && speaks[*part]).count()
        };
        let counts = IN_PLACE.iter().map(|keyword| match *keyword {
            // Each holds by itself. But what satisfies one of them closed may satisfy two as they
            // were.
            "oneOf" if combined == Combined::Open => (*keyword, 2 * count(keyword).min(1)),
            "anyOf" | "oneOf" => (*keyword, count(keyword).min(1)),
            _ => (*keyword, count(keyword)),
        });
        let counts: Vec<(&str, usize)> = counts.filter(|(_, count)| *count > 0).collect();
        let own = usize::from(self.has_shape()) + usize::from(self.has(ALOOF));
        let all: usize = own + counts.iter().map(|(_, count)| count).sum::<usize>();
        let first = counts.first().map(|(keyword, _)| *keyword);
        (all > 1).then_some(first.or(self.has(ALOOF).then_some("if"))).flatten()
    }

    fn refusal(&self, keyword: &str) -> GrammarError {
        let reason = match keyword {
            "$ref" if self.is_lost => "it refers to no schema in this one that could be closed",
            _ => {
                "closing what it combines would forbid what each other names; say \
                 `additionalProperties` there"
            }
        };
        GrammarError::Unsupported {
            path: join(&self.path, keyword),
            keyword: keyword.to_owned(),
            reason: Some(reason.to_owned()),
        }
    }
}

impl<'v> Schemas<'v> {
    fn of(schema: &'v Value) -> Result<Self, GrammarError> {
        let mut schemas = Self { nodes: Vec::new() };
        schemas.add(schema, String::new(), String::new(), 0)?;
        let places: HashMap<String, usize> =
            schemas.nodes.iter().enumerate().map(|(at, node)| (node.pointer.clone(), at)).collect();
        for node in &mut schemas.nodes {
            let Some(reference) = node.keywords.get("$ref") else { continue };
            let pointer = reference.as_str().and_then(|reference| reference.strip_prefix('#'));
            match pointer.and_then(|pointer| places.get(pointer)) {
                Some(target) => node.parts.push(("$ref", *target)),
                None => node.is_lost = true,
            }
        }
        Ok(schemas)
    }

    /// Adds `schema` and those in it; its number, if it is an object.
    fn add(
        &mut self,
        schema: &'v Value,
        path: String,
        pointer: String,
        depth: usize,
    ) -> Result<Option<usize>, GrammarError> {
        let Value::Object(keywords) = schema else { return Ok(None) };
        if depth > DEPTH_MAX {
            return Err(GrammarError::TooComplex("schemas are nested too deeply".into()));
        }
        let number = self.nodes.len();
        let (parts, is_lost) = (Vec::new(), false);
        let node = Node { keywords, path: path.clone(), pointer: pointer.clone(), parts, is_lost };
        self.nodes.push(node);
        for (keyword, value) in keywords {
            let at = (join(&path, keyword), format!("{pointer}/{}", escaped(keyword)));
            let within: Vec<(String, String, &Value)> = match value {
                Value::Object(_) if ONE.contains(&keyword.as_str()) => vec![(at.0, at.1, value)],
                Value::Array(list) if LIST.contains(&keyword.as_str()) => {
                    let item = |(index, item)| {
                        (format!("{}[{index}]", at.0), format!("{}/{index}", at.1), item)
                    };
                    list.iter().enumerate().map(item).collect()
                }
                Value::Object(map) if MAP.contains(&keyword.as_str()) => {
                    let item = |(name, item): (&String, &'v Value)| {
                        (join(&at.0, name), format!("{}/{}", at.1, escaped(name)), item)
                    };
                    map.iter().map(item).collect()
                }
                _ => continue,
            };
            for (path, pointer, schema) in within {
                if let Some(part) = self.add(schema, path, pointer, depth + 1)? {
                    self.nodes[number].parts.push((keyword, part));
                }
            }
        }
        Ok(Some(number))
    }

    /// For each schema, whether `is` holds for it or for one that it has or refers to; `in_place`:
    /// only for those that speak of the same value.
    fn reached(&self, is: impl Fn(&Node<'v>) -> bool, in_place: bool) -> Vec<bool> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            for (keyword, part) in &node.parts {
                if !in_place || IN_PLACE.contains(keyword) {
                    users[*part].push(at);
                }
            }
        }
        let mut found: Vec<bool> = self.nodes.iter().map(is).collect();
        let mut next: Vec<usize> = (0..found.len()).filter(|at| found[*at]).collect();
        while let Some(at) = next.pop() {
            for user in std::mem::take(&mut users[at]) {
                if !std::mem::replace(&mut found[user], true) {
                    next.push(user);
                }
            }
        }
        found
    }

    /// Marks a schema, those in it and those that they refer to.
    fn mark(&self, at: usize, marks: &mut [bool]) {
        let mut next = vec![at];
        while let Some(at) = next.pop() {
            if !std::mem::replace(&mut marks[at], true) {
                next.extend(self.nodes[at].parts.iter().map(|(_, part)| *part));
            }
        }
    }
}

/// A name as a part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// An object with this member.
    fn member(name: &str) -> Value {
        json!({"properties": {name: {}}})
    }

    /// The same, closed.
    fn only(name: &str) -> Value {
        json!({"properties": {name: {}}, "additionalProperties": false})
    }

    #[test]
    fn objects_that_do_not_say_are_closed_wherever_they_are() {
        for (schema, wanted) in [
            (member("a"), only("a")),
            (
                json!({"patternProperties": {"^x": member("a")}}),
                json!({"patternProperties": {"^x": only("a")}, "additionalProperties": false}),
            ),
            (json!({"type": "object"}), json!({"type": "object"})),
            (
                json!({"properties": {}, "additionalProperties": true}),
                json!({"properties": {}, "additionalProperties": true}),
            ),
            (
                json!({"additionalProperties": member("a")}),
                json!({"additionalProperties": only("a")}),
            ),
            (json!({"items": member("a")}), json!({"items": only("a")})),
            (
                json!({"items": [member("a")], "additionalItems": member("b")}),
                json!({"items": [only("a")], "additionalItems": only("b")}),
            ),
            (
                json!({"prefixItems": [member("a"), true]}),
                json!({"prefixItems": [only("a"), true]}),
            ),
            (
                json!({"anyOf": [member("a"), member("b"), {"type": "null"}]}),
                json!({"anyOf": [only("a"), only("b"), {"type": "null"}]}),
            ),
            (json!({"allOf": [member("a")]}), json!({"allOf": [only("a")]})),
            (
                json!({"$ref": "#/$defs/a~1b", "$defs": {"a/b": member("a")}}),
                json!({"$ref": "#/$defs/a~1b", "$defs": {"a/b": only("a")}}),
            ),
            (json!({"definitions": {"a": member("a")}}), json!({"definitions": {"a": only("a")}})),
            // A member with a keyword's name is none, nor is data that looks like a schema.
            (member("properties"), only("properties")),
            (
                json!({"const": member("a"), "enum": [member("a")]}),
                json!({"const": member("a"), "enum": [member("a")]}),
            ),
            // One that says nothing of members takes none away.
            (
                json!({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"minProperties": 1}]}),
                json!({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"minProperties": 1}], "additionalProperties": false}),
            ),
            // Who refers to itself.
            (
                json!({"properties": {"next": {"$ref": "#"}}}),
                json!({"properties": {"next": {"$ref": "#"}}, "additionalProperties": false}),
            ),
        ] {
            for combined in [Combined::Refused, Combined::Open] {
                assert_eq!(closed(&schema, combined), Ok(wanted.clone()), "{schema}");
            }
        }
    }

    #[test]
    fn what_would_contradict_itself_is_refused_or_left_open() {
        let [a, b] = [member("a"), member("b")];
        for (schema, path) in [
            (json!({"allOf": [a, b]}), "allOf"),
            (
                json!({"properties": {"x": {"allOf": [a, {"$ref": "#/$defs/B"}]}}, "additionalProperties": true, "$defs": {"B": b}}),
                "properties.x.allOf",
            ),
            (json!({"properties": {"a": {}}, "anyOf": [b]}), "anyOf"),
            (json!({"properties": {"a": {}}, "$ref": "#/$defs/B", "$defs": {"B": b}}), "$ref"),
            (json!({"properties": {"a": {}}, "if": {}, "then": b}), "if"),
            (json!({"additionalProperties": true, "allOf": [b]}), "allOf"),
            (json!({"items": a, "allOf": [{"items": b}]}), "allOf"),
        ] {
            match closed(&schema, Combined::Refused) {
                Err(GrammarError::Unsupported { path: found, .. }) => assert_eq!(found, path),
                other => panic!("{schema}: {other:?}"),
            }
            assert_eq!(closed(&schema, Combined::Open), Ok(schema.clone()), "{schema}");
        }
        for reference in ["#name", "#/components/X", "https://example.com/x"] {
            let schema = json!({"$ref": reference, "components": {"X": a}});
            let error = closed(&schema, Combined::Refused).expect_err("refused");
            assert!(matches!(error, GrammarError::Unsupported { path, .. } if path == "$ref"));
            assert_eq!(closed(&schema, Combined::Open), Ok(schema.clone()), "{schema}");
        }
    }

    #[test]
    fn what_is_combined_stays_open_alone() {
        let schema =
            json!({"properties": {"x": {"allOf": [member("a"), member("b")]}, "y": member("c")}});
        let wanted = json!({"properties": {"x": {"allOf": [member("a"), member("b")]}, "y": only("c")}, "additionalProperties": false});
        assert_eq!(closed(&schema, Combined::Open), Ok(wanted));
        // Of several exactly one: closed, `{"a": 1}` would satisfy one, and open it satisfies two.
        let schema = json!({"oneOf": [member("a"), member("b")]});
        assert_eq!(closed(&schema, Combined::Open), Ok(schema.clone()));
        let wanted = json!({"oneOf": [only("a"), only("b")]});
        assert_eq!(closed(&schema, Combined::Refused), Ok(wanted));
    }
}
