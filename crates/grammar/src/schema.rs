//! JSON schemas: what must be refused although llguidance would take it, and where a keyword stands.

use serde_json::Value;

use crate::GrammarError;

/// Keywords that assert something and are not enforced.
const UNENFORCED: &[&str] = &[
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
];

/// Keywords whose value is a schema.
const ONE: &[&str] = &[
    "items",
    "additionalProperties",
    "additionalItems",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
];
/// Keywords whose value is a list of schemas.
const LIST: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems", "items"];
/// Keywords whose value is a map of schemas.
const MAP: &[&str] =
    &["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// What a keyword's value must be (JSON Schema draft 2020-12, the meta-schema), for those whose
/// wrong values llguidance takes, or refuses without saying where.
fn wrong(key: &str, value: &Value) -> Option<&'static str> {
    const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let is_schema = |value: &Value| matches!(value, Value::Object(_) | Value::Bool(_));
    let all = |value: &Value, sound: &dyn Fn(&Value) -> bool| {
        value.as_array().is_some_and(|items| items.iter().all(sound))
    };
    let (sound, wanted) = match key {
        "type" => (
            is_type(value) || all(value, &is_type),
            "must be the name of a type, or a list of them",
        ),
        "properties" | "patternProperties" | "$defs" | "definitions" => (
            value.as_object().is_some_and(|map| map.values().all(is_schema)),
            "must be an object of schemas",
        ),
        "allOf" | "anyOf" | "oneOf" => (
            all(value, &is_schema) && value != &Value::Array(Vec::new()),
            "must be a list with at least one schema",
        ),
        "additionalProperties" => (is_schema(value), "must be a schema"),
        "required" => (all(value, &Value::is_string), "must be a list of names"),
        "enum" => (value.is_array(), "must be a list"),
        "pattern" | "format" | "$ref" => (value.is_string(), "must be a text"),
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
            // The older drafts' exclusive limits are flags.
            let flag = key.starts_with("exclusive") && value.is_boolean();
            (value.is_number() || flag, "must be a number")
        }
        "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
            (value.is_u64(), "must be a whole number, 0 or more, without a fraction")
        }
        _ => (true, ""),
    };
    (!sound).then_some(wanted)
}

/// Refuses a schema that is none, and keywords that would have to be ignored.
pub(crate) fn check(schema: &Value) -> Result<(), GrammarError> {
    if !matches!(schema, Value::Object(_) | Value::Bool(_)) {
        let reason = "a JSON schema must be an object or a boolean".to_owned();
        return Err(GrammarError::Invalid { path: String::new(), reason });
    }
    let lenient = lenient(schema);
    walk(schema, "", &mut |path, key, value| {
        if let Some(reason) = wrong(key, value) {
            return Err(GrammarError::Invalid { path: join(path, key), reason: reason.to_owned() });
        }
        if !lenient && UNENFORCED.contains(&key) && asserts(key, value) {
            return Err(GrammarError::Unsupported {
                path: join(path, key),
                keyword: key.to_owned(),
                reason: None,
            });
        }
        Ok(())
    })
}

/// `x-guidance.lenient`, the user's own choice.
fn lenient(schema: &Value) -> bool {
    schema.pointer("/x-guidance/lenient") == Some(&Value::Bool(true))
}

/// Whether the keyword says anything with this value.
fn asserts(key: &str, value: &Value) -> bool {
    match value {
        Value::Bool(false) => key != "uniqueItems",
        Value::Bool(true) => key == "uniqueItems",
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// Where `keyword` first stands as a keyword, with a value that is meant.
pub(crate) fn path_of(
    schema: &Value,
    keyword: &str,
    meant: &dyn Fn(&Value) -> bool,
) -> Option<String> {
    let mut found = None;
    let visit = &mut |path: &str, key: &str, value: &Value| {
        if key == keyword && meant(value) {
            found = Some(join(path, key));
            return Err(GrammarError::Internal(String::new()));
        }
        Ok(())
    };
    // An error only ends the walk.
    let _ = walk(schema, "", visit);
    found
}

type Visit<'a> = &'a mut dyn FnMut(&str, &str, &Value) -> Result<(), GrammarError>;

/// Calls `visit` with each keyword: the path of its schema, the keyword, its value.
fn walk(schema: &Value, path: &str, visit: Visit<'_>) -> Result<(), GrammarError> {
    let Value::Object(keywords) = schema else { return Ok(()) };
    for (key, value) in keywords {
        visit(path, key, value)?;
        let here = join(path, key);
        match value {
            Value::Object(_) if ONE.contains(&key.as_str()) => walk(value, &here, visit)?,
            Value::Array(items) if LIST.contains(&key.as_str()) => {
                for (at, item) in items.iter().enumerate() {
                    walk(item, &format!("{here}[{at}]"), visit)?;
                }
            }
            Value::Object(map) if MAP.contains(&key.as_str()) => {
                for (name, item) in map {
                    walk(item, &join(&here, name), visit)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
