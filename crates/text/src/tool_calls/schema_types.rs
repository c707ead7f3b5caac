//! What a schema says of a value that is written without quotes.
//!
//! Formats that write arguments between tags leave out what JSON's quotes tell: whether `42` is a
//! number or a text. The tool's schema decides. Parsers and grammars both ask here, so that what a
//! grammar lets through is read as it was meant.

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

/// A set of JSON types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const NONE: Self = Self(0);
    pub(super) const STRING: Self = Self(1);
    pub(super) const NULL: Self = Self(2);
    const BOOLEAN: Self = Self(4);
    const INTEGER: Self = Self(8);
    /// Numbers that are not integers.
    const FRACTION: Self = Self(16);
    pub(super) const ARRAY: Self = Self(32);
    pub(super) const OBJECT: Self = Self(64);
    pub(super) const ALL: Self = Self(127);

    fn named(name: &str) -> Self {
        match name {
            "string" => Self::STRING,
            "null" => Self::NULL,
            "boolean" => Self::BOOLEAN,
            "integer" => Self::INTEGER,
            "number" => Self::INTEGER.or(Self::FRACTION),
            "array" => Self::ARRAY,
            "object" => Self::OBJECT,
            // `float`, `any`: not a type of JSON Schema, so it says nothing.
            _ => Self::ALL,
        }
    }

    fn of_value(value: &Value) -> Self {
        Self::of_json(&value.to_string()).unwrap_or(Self::NONE)
    }

    /// The type of a JSON text; `None`: it is none.
    fn of_json(text: &str) -> Option<Self> {
        // Not read as a value: a number too large for a float is a number all the same.
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        let integer = || text.parse().is_ok_and(|number: f64| number.fract() == 0.0);
        Some(match text.as_bytes().first()? {
            b'n' => Self::NULL,
            b't' | b'f' => Self::BOOLEAN,
            b'"' => Self::STRING,
            b'[' => Self::ARRAY,
            b'{' => Self::OBJECT,
            _ if integer() => Self::INTEGER,
            _ => Self::FRACTION,
        })
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How a value of a schema is written between tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A string, as it is: quotes are part of it.
    Text,
    /// JSON. A closing tag inside of a JSON string belongs to it.
    Json,
    /// JSON where it is of one of the types other than strings, text otherwise.
    Loose(Types),
}

/// Schemas that are looked at to find out about one. A schema may refer to itself, and a bound on
/// the levels alone would leave their number to grow with each.
const STEPS: usize = 512;

/// The types that a value of `schema` may have, a part of the schema `root`.
pub(super) fn types_of(schema: &Value, root: &Value) -> Types {
    types(schema, root, &mut { STEPS })
}

/// The schema of the member `name` of objects that satisfy `schema`, where it says one.
pub(super) fn member<'a>(schema: &'a Value, root: &'a Value, name: &str) -> Option<&'a Value> {
    let find = |keywords: &'a Map<String, Value>| {
        let named = keywords.get("properties").and_then(|properties| properties.get(name));
        named.or_else(|| keywords.get("additionalProperties").filter(|other| other.is_object()))
    };
    search(schema, root, &mut { STEPS }, &find)
}

/// The schema of the items of arrays that satisfy `schema`, where it says one.
pub(super) fn item<'a>(schema: &'a Value, root: &'a Value) -> Option<&'a Value> {
    search(schema, root, &mut { STEPS }, &|keywords| keywords.get("items"))
}

/// What `find` finds first in `schema`, in what it refers to and in its alternatives.
fn search<'a>(
    schema: &'a Value,
    root: &'a Value,
    steps: &mut usize,
    find: &dyn Fn(&'a Map<String, Value>) -> Option<&'a Value>,
) -> Option<&'a Value> {
    let keywords = schema.as_object()?;
    *steps = steps.checked_sub(1)?;
    let target = keywords.get("$ref").and_then(|reference| resolve(reference, root));
    let lists = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|list| keywords.get(list));
    let mut others = target.into_iter().chain(lists.filter_map(Value::as_array).flatten());
    find(keywords).or_else(|| others.find_map(|schema| search(schema, root, steps, find)))
}

/// How a value of `schema` is written, a part of the schema `root`.
pub(super) fn form(schema: &Value, root: &Value) -> Form {
    let types = types_of(schema, root);
    if types == Types::STRING {
        Form::Text
    } else if types.contains(Types::STRING) && is_bare(schema) {
        Form::Loose(types)
    } else {
        Form::Json
    }
}

fn types(schema: &Value, root: &Value, steps: &mut usize) -> Types {
    let Some(keywords) = schema.as_object() else {
        return if schema == &Value::Bool(false) { Types::NONE } else { Types::ALL };
    };
    let Some(left) = steps.checked_sub(1) else { return Types::ALL };
    *steps = left;
    let mut found = Types::ALL;
    for (keyword, value) in keywords {
        let list = value.as_array().map_or(&[][..], Vec::as_slice);
        let named = |name: &Value| name.as_str().map_or(Types::ALL, Types::named);
        found = found.and(match keyword.as_str() {
            "type" if value.is_array() => list.iter().map(named).fold(Types::NONE, Types::or),
            "type" => named(value),
            "enum" => list.iter().map(Types::of_value).fold(Types::NONE, Types::or),
            "const" => Types::of_value(value),
            "anyOf" | "oneOf" => {
                list.iter().fold(Types::NONE, |all, schema| all.or(types(schema, root, steps)))
            }
            "allOf" => {
                list.iter().fold(Types::ALL, |all, schema| all.and(types(schema, root, steps)))
            }
            "$ref" => match resolve(value, root) {
                Some(schema) => types(schema, root, steps),
                None => Types::ALL,
            },
            _ => continue,
        });
    }
    found
}

/// What a local reference refers to.
pub(super) fn resolve<'a>(reference: &Value, root: &'a Value) -> Option<&'a Value> {
    root.pointer(reference.as_str()?.strip_prefix('#')?)
}

/// Keywords that say nothing about the value.
pub(super) fn is_annotation(keyword: &str) -> bool {
    matches!(
        keyword,
        "title"
            | "description"
            | "default"
            | "examples"
            | "example"
            | "deprecated"
            | "readOnly"
            | "writeOnly"
            | "$comment"
            | "$schema"
            | "$id"
            | "$defs"
            | "definitions"
    )
}

/// Whether a schema says nothing but types: any value of them will do.
pub(super) fn is_bare(schema: &Value) -> bool {
    let Some(keywords) = schema.as_object() else { return schema == &Value::Bool(true) };
    keywords.iter().all(|(keyword, value)| match keyword.as_str() {
        "type" => true,
        "anyOf" => value.as_array().is_some_and(|all| all.iter().all(is_bare)),
        keyword => is_annotation(keyword),
    })
}

/// The JSON that `text`, written for a value of this form, stands for. What is no value of the
/// form is a string: nothing is lost.
pub(super) fn to_json(form: Form, text: &str) -> String {
    let types = match form {
        Form::Text => return quoted(text),
        Form::Json => Types::ALL,
        Form::Loose(types) => types,
    };
    let trimmed = text.trim();
    match Types::of_json(trimmed) {
        Some(found) if types.contains(found) => trimmed.to_owned(),
        Some(_) => quoted(text),
        // Templates print values the way Python does, and models follow them.
        None => match trimmed {
            "True" if types.contains(Types::BOOLEAN) => "true".to_owned(),
            "False" if types.contains(Types::BOOLEAN) => "false".to_owned(),
            "None" if types.contains(Types::NULL) => "null".to_owned(),
            _ => quoted(text),
        },
    }
}

/// Whether `text` is the beginning of a JSON value that ends in the middle of a string.
pub(super) fn ends_in_string(text: &str) -> bool {
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ => {}
        }
    }
    in_string && serde_json::from_str::<IgnoredAny>(text).is_err_and(|error| error.is_eof())
}

/// Text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Text as a piece of a JSON string: without the quotes.
pub(super) fn escaped(text: &str) -> String {
    let quoted = quoted(text);
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_schema_decides_how_a_value_is_written() {
        let root =
            json!({"$defs": {"Unit": {"enum": ["c", "f"]}, "Loop": {"$ref": "#/$defs/Loop"}}});
        let number_or_text = Form::Loose(Types::STRING.or(Types::INTEGER).or(Types::FRACTION));
        for (schema, expected) in [
            (json!({"type": "string", "minLength": 1}), Form::Text),
            (json!({"$ref": "#/$defs/Unit"}), Form::Text),
            (json!({"anyOf": [{"const": "a"}, {"type": "string"}]}), Form::Text),
            (json!({"type": "integer"}), Form::Json),
            (json!({"anyOf": [{"type": "object"}, {"type": "null"}]}), Form::Json),
            (json!({"type": ["string", "object"], "minLength": 2}), Form::Json),
            (json!({"type": ["string", "number"], "title": "T"}), number_or_text),
            (
                json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
                Form::Loose(Types::STRING.or(Types::NULL)),
            ),
            (json!({}), Form::Loose(Types::ALL)),
            (json!({"type": "float"}), Form::Loose(Types::ALL)),
            (json!({"$ref": "#/$defs/Loop"}), Form::Json),
        ] {
            assert_eq!(form(&schema, &root), expected, "{schema}");
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_many_times_is_looked_at_for_a_bounded_time() {
        let again = vec![json!({"$ref": "#/$defs/A"}); 100];
        let root = json!({"$defs": {"A": {"anyOf": again}}});
        let schema = json!({"$ref": "#/$defs/A"});
        assert_eq!(form(&schema, &root), Form::Json);
        assert_eq!(member(&schema, &root, "x"), None);
    }

    #[test]
    fn text_becomes_the_json_that_it_stands_for() {
        let or_null = Form::Loose(Types::STRING.or(Types::NULL));
        let or_integer = Form::Loose(Types::STRING.or(Types::INTEGER));
        for (form, text, json) in [
            (Form::Text, "42", r#""42""#),
            (Form::Text, " \"a\"\n", r#"" \"a\"\n""#),
            (Form::Json, " 42\n", "42"),
            (Form::Json, "True", "true"),
            (Form::Json, "1e9999", "1e9999"),
            (Form::Json, "None", "null"),
            (Form::Json, "abc", r#""abc""#),
            (Form::Json, "{\"a\": [1]}", "{\"a\": [1]}"),
            (or_null, "null", "null"),
            (or_null, "42", r#""42""#),
            (or_null, "True", r#""True""#),
            (or_integer, "42", "42"),
            (or_integer, "4.5", r#""4.5""#),
            (Form::Loose(Types::ALL), "4.5", "4.5"),
            (Form::Loose(Types::ALL), "Oslo", r#""Oslo""#),
        ] {
            assert_eq!(to_json(form, text), json, "{form:?} {text:?}");
        }
    }
}
