//! vLLM's structural tags: free text, tags that hold a form, and sequences of both, as JSON.
//!
//! The newer form is `{"type": "structural_tag", "format": {…}}`, the older one a list of
//! `structures` with the `triggers` that begin them.

use serde_json::{Map, Value};

use crate::{Grammar, GrammarError, JsonStyle, Trigger};

/// Writes values of a schema in a style that is not JSON: the style's name, the schema, its path.
/// `None`: there is no such style.
pub type OtherStyles<'a> = dyn Fn(&str, &Value, &str) -> Option<Result<Grammar, GrammarError>> + 'a;

/// Nested formats, at most.
const DEPTH_MAX: usize = 32;

impl Grammar {
    /// A structural tag, whose JSON is written in `style`. `others`: what writes values in styles
    /// that are not JSON.
    ///
    /// # Errors
    /// What is none, and kinds of formats that are not there, with their path.
    pub fn from_structural_tag(
        value: &Value,
        style: &JsonStyle,
        others: &OtherStyles<'_>,
    ) -> Result<Self, GrammarError> {
        let Value::Object(tag) = value else {
            return Err(invalid("", "must be an object"));
        };
        if let Some(format) = tag.get("format") {
            return Reader { style, others }.read(format, "format", 0);
        }
        let structures = list(tag, "", "structures")?;
        let triggers = texts(tag, "", "triggers")?;
        let tags = structures.iter().enumerate().map(|(at, structure)| {
            let path = format!("structures[{at}]");
            let structure = object(structure, &path)?;
            let schema = structure.get("schema").cloned().unwrap_or(Value::Bool(true));
            let content = Self::Json { schema, style: style.clone() };
            Ok(Tag {
                begin: text(structure, &path, "begin")?,
                content,
                end: text(structure, &path, "end")?,
            })
        });
        let tags = tags.collect::<Result<Vec<_>, _>>()?;
        Ok(Self::free(triggered(&triggers, &tags, "triggers")?, None))
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
            Grammar::Free { triggers, excludes, .. }
                if triggers.is_empty() && !self.end.is_empty() =>
            {
                parts.push(Grammar::Until {
                    ends: vec![self.end.clone()],
                    excludes: excludes.clone(),
                    max_tokens: None,
                });
            }
            content => parts.extend([content.clone(), Grammar::Literal(self.end.clone())]),
        }
        Some(Grammar::Sequence(parts))
    }
}

/// Reads formats of the newer form.
struct Reader<'a> {
    /// How JSON is written.
    style: &'a JsonStyle,
    others: &'a OtherStyles<'a>,
}

impl Reader<'_> {
    fn read(&self, value: &Value, path: &str, depth: usize) -> Result<Grammar, GrammarError> {
        if depth > DEPTH_MAX {
            return Err(GrammarError::TooComplex("formats are nested too deeply".into()));
        }
        let format = object(value, path)?;
        let nested = |value: &Value, at: &str| self.read(value, &join(path, at), depth + 1);
        let all = |key: &str| {
            let items = list(format, path, key)?.iter().enumerate();
            let items = items.map(|(at, item)| nested(item, &format!("{key}[{at}]")));
            items.collect::<Result<Vec<_>, _>>()
        };
        match text(format, path, "type")?.as_str() {
            "const_string" => Ok(Grammar::Literal(text(format, path, "value")?)),
            "json_schema" => self.json_schema(format, path),
            "regex" => {
                no_excludes(format, path)?;
                Ok(Grammar::Regex(text(format, path, "pattern")?))
            }
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
                let tag = self.tag(format, path, depth)?;
                tag.after("").ok_or_else(|| invalid(path, "has no beginning"))
            }
            "triggered_tags" => self.triggered_tags(format, path, depth),
            "tags_with_separator" => {
                let tags = self.tags(format, path, depth)?;
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

    fn json_schema(
        &self,
        format: &Map<String, Value>,
        path: &str,
    ) -> Result<Grammar, GrammarError> {
        if flag(format, path, "any_order")? {
            return Err(unsupported(path, "any_order"));
        }
        no_excludes(format, path)?;
        let schema = required(format, path, "json_schema")?;
        let name = format.get("style").filter(|style| !style.is_null() && *style != "json");
        if let Some(name) = name {
            // They have white space of their own.
            if format.get("max_whitespace_cnt").is_some_and(|count| !count.is_null()) {
                return Err(unsupported(path, "max_whitespace_cnt"));
            }
            let name =
                name.as_str().ok_or_else(|| invalid(&join(path, "style"), "must be a text"))?;
            let other = (self.others)(name, schema, &join(path, "json_schema"));
            return other.unwrap_or_else(|| Err(unsupported(path, "style")));
        }
        let style = match format.get("max_whitespace_cnt") {
            None | Some(Value::Null) => self.style.clone(),
            Some(count) if self.style.whitespace.is_some() && count.is_u64() => {
                return Err(unsupported(path, "max_whitespace_cnt"));
            }
            // Ours has one space at most.
            Some(count) => match count.as_u64() {
                Some(0) => JsonStyle::compact(),
                Some(_) => self.style.clone(),
                None => {
                    let path = join(path, "max_whitespace_cnt");
                    return Err(invalid(&path, "must be a whole number, not negative"));
                }
            },
        };
        Ok(Grammar::Json { schema: schema.clone(), style })
    }

    fn tag(
        &self,
        format: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Result<Tag, GrammarError> {
        let content = required(format, path, "content")?;
        Ok(Tag {
            begin: text(format, path, "begin")?,
            content: self.read(content, &join(path, "content"), depth + 1)?,
            end: text(format, path, "end")?,
        })
    }

    fn tags(
        &self,
        format: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Result<Vec<Tag>, GrammarError> {
        let all = list(format, path, "tags")?.iter().enumerate();
        let each = all.map(|(at, value)| {
            let path = join(path, &format!("tags[{at}]"));
            self.tag(object(value, &path)?, &path, depth + 1)
        });
        each.collect()
    }

    fn triggered_tags(
        &self,
        format: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Result<Grammar, GrammarError> {
        let excludes = excludes(format, path)?;
        let (triggers, tags) = (texts(format, path, "triggers")?, self.tags(format, path, depth)?);
        let max = flag(format, path, "stop_after_first")?.then_some(1);
        let triggers = triggered(&triggers, &tags, &join(path, "triggers"))?;
        if !flag(format, path, "at_least_one")? {
            return Ok(Grammar::Free { triggers, max, excludes });
        }
        // The text up to the first tag, the tag, and then as it may go on.
        let first = triggers.iter().map(|trigger| {
            let until = Grammar::Until {
                ends: vec![trigger.text.clone()],
                excludes: excludes.clone(),
                max_tokens: None,
            };
            Grammar::Sequence(vec![until, trigger.then.clone()])
        });
        let first = Grammar::AnyOf(first.collect());
        if max.is_some() {
            return Ok(first);
        }
        Ok(Grammar::Sequence(vec![first, Grammar::Free { triggers, max, excludes }]))
    }
}

fn any_text(format: &Map<String, Value>, path: &str) -> Result<Grammar, GrammarError> {
    for key in ["max_tokens", "max_chars"] {
        if format.get(key).is_some_and(|value| !value.is_null()) {
            return Err(unsupported(path, key));
        }
    }
    Ok(Grammar::Free { triggers: Vec::new(), max: None, excludes: excludes(format, path)? })
}

/// Texts that free text must not have.
fn excludes(format: &Map<String, Value>, path: &str) -> Result<Vec<String>, GrammarError> {
    let path = join(path, "excludes");
    let list = match format.get("excludes") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(invalid(&path, "must be a list of texts")),
    };
    let texts = list.iter().enumerate().map(|(at, text)| match text.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(invalid(&format!("{path}[{at}]"), "must be a text that is not empty")),
    });
    texts.collect()
}

/// Forms that excludes would have to be cut out of.
fn no_excludes(format: &Map<String, Value>, path: &str) -> Result<(), GrammarError> {
    match excludes(format, path)?.is_empty() {
        true => Ok(()),
        false => Err(unsupported(path, "excludes")),
    }
}

/// Each trigger, with the tags that begin with it.
fn triggered(triggers: &[String], tags: &[Tag], path: &str) -> Result<Vec<Trigger>, GrammarError> {
    let each = triggers.iter().enumerate().map(|(at, trigger)| {
        let begun: Vec<Grammar> = tags.iter().filter_map(|tag| tag.after(trigger)).collect();
        if trigger.is_empty() || begun.is_empty() {
            return Err(invalid(&format!("{path}[{at}]"), "no tag begins with it"));
        }
        Ok(Trigger { text: trigger.clone(), at_start: false, then: Grammar::AnyOf(begun) })
    });
    each.collect()
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
