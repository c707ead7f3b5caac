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

/// Refuses a schema that is none, and keywords that would have to be ignored.
pub(crate) fn check(schema: &Value) -> Result<(), GrammarError> {
    if !matches!(schema, Value::Object(_) | Value::Bool(_)) {
        let reason = "a JSON schema must be an object or a boolean".to_owned();
        return Err(GrammarError::Invalid { path: String::new(), reason });
    }
    if lenient(schema) {
        return Ok(());
    }
    walk(schema, "", &mut |path, key, value| {
        if UNENFORCED.contains(&key) && asserts(key, value) {
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

/// Where `keyword` first stands as a keyword.
pub(crate) fn path_of(schema: &Value, keyword: &str) -> Option<String> {
    let mut found = None;
    let visit = &mut |path: &str, key: &str, _: &Value| {
        if key == keyword {
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
