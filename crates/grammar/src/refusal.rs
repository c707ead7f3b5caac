//! What llguidance says against a grammar, in our words and with a path.

use serde_json::Value;

use crate::{Grammar, GrammarError, schema};

/// The error that `message` means for `grammar`.
pub(crate) fn of(message: &str, grammar: &Grammar) -> GrammarError {
    let reason = shortened(message);
    if let Some(keyword) = unimplemented_keyword(message) {
        let path = path_in(grammar, &keyword, &|_| true);
        return GrammarError::Unsupported { path, keyword, reason: None };
    }
    let blamed =
        BLAMED.iter().find_map(|(text, keyword)| Some((message.split_once(text)?.1, keyword)));
    if let Some((value, keyword)) = blamed {
        let named = |it: &Value| it.as_str().is_none_or(|text| value.starts_with(text));
        let path = match path_in(grammar, keyword, &named) {
            path if path.is_empty() => path_in(grammar, keyword, &|_| true),
            path => path,
        };
        let (keyword, reason) = ((*keyword).to_owned(), Some(reason));
        return GrammarError::Unsupported { path, keyword, reason };
    }
    let complex = ["fuel", "too large", "too many", "too big", "too complex", "limit"];
    if complex.iter().any(|word| message.to_lowercase().contains(word)) {
        return GrammarError::TooComplex(reason);
    }
    GrammarError::Invalid { path: path_of_invalid(message, grammar), reason }
}

/// Where the text stands that `message` shows: a regular expression, or a reference's fragment.
fn path_of_invalid(message: &str, grammar: &Grammar) -> String {
    let shown = |value: &Value| {
        let text = value.as_str().map(|text| text.trim_start_matches('#'));
        text.is_some_and(|text| message.contains(text))
    };
    let keyword = [("regex", "pattern"), ("ointer", "$ref")];
    match keyword.iter().find(|(word, _)| message.contains(word)) {
        Some((_, keyword)) => path_in(grammar, keyword, &shown),
        None => String::new(),
    }
}

/// What llguidance says of schemas that it understands and cannot enforce, and the keyword that it
/// means.
const BLAMED: &[(&str, &str)] = &[
    ("Unknown format: ", "format"),
    ("oneOf constraints", "oneOf"),
    ("patternProperty", "patternProperties"),
    ("Resource '", "$ref"),
];

/// Where `keyword` first stands in one of the grammar's schemas, with a value that is meant.
fn path_in(grammar: &Grammar, keyword: &str, meant: &dyn Fn(&Value) -> bool) -> String {
    let mut path = None;
    // Never fails: it only looks.
    let _ = grammar.each_schema(&mut |schema| {
        path = path.take().or_else(|| schema::path_of(schema, keyword, meant));
        Ok::<(), GrammarError>(())
    });
    path.unwrap_or_default()
}

/// The first of `Unimplemented keys: ["uniqueItems"]`.
fn unimplemented_keyword(message: &str) -> Option<String> {
    let list = message.split("Unimplemented keys: ").nth(1)?;
    let end = list.find(']')?;
    let keys: Vec<Value> = serde_json::from_str(&list[..=end]).ok()?;
    keys.first()?.as_str().map(str::to_owned)
}

/// The first lines, for people.
fn shortened(message: &str) -> String {
    // Places in the text that we wrote say nothing to anybody.
    let message = match message.split_once("): ") {
        Some((place, rest)) if place.starts_with("at ") => rest,
        _ => message,
    };
    let message = message.strip_prefix("failed to compile JSON schema: ").unwrap_or(message);
    let lines = message.lines().filter(|line| !line.trim().is_empty()).take(2);
    let text = lines.collect::<Vec<_>>().join(": ");
    text.chars().take(400).collect()
}
