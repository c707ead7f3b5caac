//! Instances of JSON schemas, written as a grammar of [`JsonStyle::spaced`] has them.
//!
//! [`JsonStyle::spaced`]: wharf_grammar::JsonStyle::spaced

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// The corpora beside the checkout, where they are.
pub(crate) fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/jsonschema");
    folder.exists().then_some(folder)
}

/// `value` with its members in the schema's order and our spaces.
pub(crate) fn in_style(value: &Value, schema: &Value) -> String {
    let mut text = String::new();
    written(&ordered(value, schema, schema), &mut text);
    text
}

/// `value` in our style: `", "` and `": "`, characters as they are.
fn written(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                written(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (at, (name, item)) in members.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { ", " });
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push_str(": ");
                written(item, out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// `value` with its members in the schema's order, in which they are written.
fn ordered(value: &Value, schema: &Value, root: &Value) -> Value {
    let schema = resolved(schema, root);
    let combined = |keyword: &str| {
        schema.get(keyword).and_then(Value::as_array).into_iter().flatten().collect::<Vec<_>>()
    };
    let mut all = vec![schema];
    for keyword in ["allOf", "anyOf", "oneOf"] {
        all.extend(combined(keyword).into_iter().map(|part| resolved(part, root)));
    }
    match value {
        Value::Object(members) => {
            let mut out = Map::new();
            for schema in &all {
                let known = schema.get("properties").and_then(Value::as_object);
                for (name, part) in known.into_iter().flatten() {
                    if let Some(member) = members.get(name).filter(|_| !out.contains_key(name)) {
                        out.insert(name.clone(), ordered(member, part, root));
                    }
                }
            }
            for (name, member) in members {
                if !out.contains_key(name) {
                    let other = all.iter().find_map(|s| s.get("additionalProperties"));
                    let other = other.cloned().unwrap_or(Value::Bool(true));
                    out.insert(name.clone(), ordered(member, &other, root));
                }
            }
            Value::Object(out)
        }
        Value::Array(items) => {
            let part = all.iter().find_map(|schema| schema.get("items"));
            let part = part.cloned().unwrap_or(Value::Bool(true));
            items.iter().map(|item| ordered(item, &part, root)).collect()
        }
        other => other.clone(),
    }
}

fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}
