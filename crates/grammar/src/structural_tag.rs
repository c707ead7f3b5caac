//! vLLM's structural tags: free text, tags that hold a form, and sequences of both, as JSON.
//!
//! The newer form is `{"type": "structural_tag", "format": {…}}`, the older one a list of
//! `structures` with the `triggers` that begin them.

use serde_json::{Map, Value};

use crate::{Grammar, GrammarError, JsonStyle, Trigger};

/// Any text.
const ANY: &str = "(?s:.*)";
/// Nested formats, at most.
const DEPTH_MAX: usize = 32;

impl Grammar {
    /// A structural tag.
    ///
    /// # Errors
    /// What is none, and kinds of formats that are not there, with their path.
    pub fn from_structural_tag(value: &Value) -> Result<Self, GrammarError> {
        let Value::Object(tag) = value else {
            return Err(invalid("", "must be an object"));
        };
        if let Some(format) = tag.get("format") {
            return read(format, "format", 0);
        }
        let structures = list(tag, "", "structures")?;
        let triggers = texts(tag, "", "triggers")?;
        let tags = structures.iter().enumerate().map(|(at, structure)| {
            let path = format!("structures[{at}]");
            let structure = object(structure, &path)?;
            let schema = structure.get("schema").cloned().unwrap_or(Value::Bool(true));
            let content = Self::Json { schema, style: JsonStyle::spaced() };
            Ok(Tag {
                begin: text(structure, &path, "begin")?,
                content,
                end: text(structure, &path, "end")?,
            })
        });
        triggered(&triggers, &tags.collect::<Result<Vec<_>, _>>()?, "triggers", None)
    }
}

/// What stands between two texts.
struct Tag {
    begin: String,
    content: Grammar,
    end: String,
}

impl Tag {
    /// After `prefix` of its beginning.
    fn after(&self, prefix: &str) -> Option<Grammar> {
        let begin = self.begin.strip_prefix(prefix)?;
        let mut parts = vec![Grammar::Literal(begin.to_owned())];
        match &self.content {
            Grammar::Regex(any) if any == ANY && !self.end.is_empty() => {
                parts.push(Grammar::Until { ends: vec![self.end.clone()], max_tokens: None });
            }
            content => parts.extend([content.clone(), Grammar::Literal(self.end.clone())]),
        }
        Some(Grammar::Sequence(parts))
    }
}

/// A format of the newer form.
fn read(value: &Value, path: &str, depth: usize) -> Result<Grammar, GrammarError> {
    if depth > DEPTH_MAX {
        return Err(GrammarError::TooComplex("formats are nested too deeply".into()));
    }
    let format = object(value, path)?;
    let kind = text(format, path, "type")?;
    let nested = |value: &Value, at: &str| read(value, &join(path, at), depth + 1);
    let all = |key: &str| {
        let items = list(format, path, key)?.iter().enumerate();
        items.map(|(at, item)| nested(item, &format!("{key}[{at}]"))).collect::<Result<Vec<_>, _>>()
    };
    match kind.as_str() {
        "const_string" => Ok(Grammar::Literal(text(format, path, "value")?)),
        "json_schema" => {
            if format.get("style").is_some_and(|style| style != "json" && !style.is_null()) {
                return Err(unsupported(path, "style"));
            }
            if flag(format, path, "any_order")? {
                return Err(unsupported(path, "any_order"));
            }
            no_excludes(format, path)?;
            let schema = required(format, path, "json_schema")?.clone();
            Ok(Grammar::Json { schema, style: JsonStyle::spaced() })
        }
        "regex" => Ok(Grammar::Regex(text(format, path, "pattern")?)),
        "grammar" => Ok(Grammar::from_user_text(&text(format, path, "grammar")?)),
        "any_text" => any_text(format, path),
        "sequence" => Ok(Grammar::Sequence(all("elements")?)),
        "or" => Ok(Grammar::AnyOf(all("elements")?)),
        "optional" => Ok(Grammar::Repeat {
            item: Box::new(nested(required(format, path, "content")?, "content")?),
            separator: String::new(),
            min: 0,
            max: Some(1),
        }),
        "tag" => {
            let tag = tag(format, path, depth)?;
            tag.after("").ok_or_else(|| invalid(path, "has no beginning"))
        }
        "triggered_tags" => triggered_tags(format, path, depth),
        "tags_with_separator" => {
            let tags = tags(format, path, depth)?;
            let item = Grammar::AnyOf(tags.iter().filter_map(|tag| tag.after("")).collect());
            let min = usize::from(flag(format, path, "at_least_one")?);
            let max = flag(format, path, "stop_after_first")?.then_some(1);
            let separator = text(format, path, "separator")?;
            Ok(Grammar::Repeat { item: Box::new(item), separator, min, max })
        }
        other => Err(GrammarError::Unsupported {
            path: join(path, "type"),
            keyword: other.chars().take(64).collect(),
            reason: Some("there is no such kind of format here".into()),
        }),
    }
}

fn any_text(format: &Map<String, Value>, path: &str) -> Result<Grammar, GrammarError> {
    for key in ["max_tokens", "max_chars"] {
        if format.get(key).is_some_and(|value| !value.is_null()) {
            return Err(unsupported(path, key));
        }
    }
    no_excludes(format, path)?;
    Ok(Grammar::Regex(ANY.into()))
}

/// Texts that must not appear: there is no grammar for that here.
fn no_excludes(format: &Map<String, Value>, path: &str) -> Result<(), GrammarError> {
    match format.get("excludes") {
        Some(Value::Array(list)) if !list.is_empty() => Err(unsupported(path, "excludes")),
        _ => Ok(()),
    }
}

fn tag(format: &Map<String, Value>, path: &str, depth: usize) -> Result<Tag, GrammarError> {
    let content = required(format, path, "content")?;
    Ok(Tag {
        begin: text(format, path, "begin")?,
        content: read(content, &join(path, "content"), depth + 1)?,
        end: text(format, path, "end")?,
    })
}

fn tags(format: &Map<String, Value>, path: &str, depth: usize) -> Result<Vec<Tag>, GrammarError> {
    let all = list(format, path, "tags")?.iter().enumerate();
    let each = all.map(|(at, value)| {
        let path = join(path, &format!("tags[{at}]"));
        tag(object(value, &path)?, &path, depth + 1)
    });
    each.collect()
}

fn triggered_tags(
    format: &Map<String, Value>,
    path: &str,
    depth: usize,
) -> Result<Grammar, GrammarError> {
    no_excludes(format, path)?;
    let (triggers, tags) = (texts(format, path, "triggers")?, tags(format, path, depth)?);
    let max = flag(format, path, "stop_after_first")?.then_some(1);
    let free = triggered(&triggers, &tags, &join(path, "triggers"), max)?;
    if !flag(format, path, "at_least_one")? {
        return Ok(free);
    }
    // The text up to the first tag, the tag, and then as it may go on.
    let Grammar::Free { triggers, .. } = &free else { return Ok(free) };
    let first = triggers.iter().map(|trigger| {
        let until = Grammar::Until { ends: vec![trigger.text.clone()], max_tokens: None };
        Grammar::Sequence(vec![until, trigger.then.clone()])
    });
    let first = Grammar::AnyOf(first.collect());
    Ok(if max.is_some() { first } else { Grammar::Sequence(vec![first, free]) })
}

/// Free text in which each trigger begins one of the tags that begin with it.
fn triggered(
    triggers: &[String],
    tags: &[Tag],
    path: &str,
    max: Option<usize>,
) -> Result<Grammar, GrammarError> {
    let each = triggers.iter().enumerate().map(|(at, trigger)| {
        let begun: Vec<Grammar> = tags.iter().filter_map(|tag| tag.after(trigger)).collect();
        if trigger.is_empty() || begun.is_empty() {
            return Err(invalid(&format!("{path}[{at}]"), "no tag begins with it"));
        }
        Ok(Trigger { text: trigger.clone(), at_start: false, then: Grammar::AnyOf(begun) })
    });
    Ok(Grammar::Free { triggers: each.collect::<Result<_, _>>()?, max })
}

fn object<'v>(value: &'v Value, path: &str) -> Result<&'v Map<String, Value>, GrammarError> {
    value.as_object().ok_or_else(|| invalid(path, "must be an object"))
}

fn required<'v>(
    map: &'v Map<String, Value>,
    path: &str,
    key: &str,
) -> Result<&'v Value, GrammarError> {
    map.get(key).ok_or_else(|| invalid(&join(path, key), "required"))
}

fn text(map: &Map<String, Value>, path: &str, key: &str) -> Result<String, GrammarError> {
    let value = required(map, path, key)?.as_str();
    value.map(str::to_owned).ok_or_else(|| invalid(&join(path, key), "must be a text"))
}

fn list<'v>(
    map: &'v Map<String, Value>,
    path: &str,
    key: &str,
) -> Result<&'v Vec<Value>, GrammarError> {
    let value = required(map, path, key)?.as_array().filter(|list| !list.is_empty());
    value.ok_or_else(|| invalid(&join(path, key), "must be a list with at least one item"))
}

fn texts(map: &Map<String, Value>, path: &str, key: &str) -> Result<Vec<String>, GrammarError> {
    let all = list(map, path, key)?.iter();
    let texts: Option<Vec<String>> = all.map(|item| item.as_str().map(str::to_owned)).collect();
    texts.ok_or_else(|| invalid(&join(path, key), "must be a list of texts"))
}

fn flag(map: &Map<String, Value>, path: &str, key: &str) -> Result<bool, GrammarError> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(invalid(&join(path, key), "must be true or false")),
    }
}

fn invalid(path: &str, reason: &str) -> GrammarError {
    GrammarError::Invalid { path: path.to_owned(), reason: reason.to_owned() }
}

fn unsupported(path: &str, keyword: &str) -> GrammarError {
    GrammarError::Unsupported {
        path: join(path, keyword),
        keyword: keyword.to_owned(),
        reason: None,
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
