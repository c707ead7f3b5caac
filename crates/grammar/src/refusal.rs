//! What llguidance says against a grammar, in our words and with a path.

use serde_json::Value;

use crate::{Grammar, GrammarError, schema};

/// The error that `message` means for `grammar`.
pub(crate) fn of(message: &str, grammar: &Grammar) -> GrammarError {
    let reason = shortened(message);
    if let Some(keyword) = unimplemented_keyword(message) {
        let mut path = None;
        // Never fails: it only looks.
        let _ = grammar.each_schema(&mut |schema| {
            path = path.take().or_else(|| schema::path_of(schema, &keyword));
            Ok::<(), GrammarError>(())
        });
        let path = path.unwrap_or_default();
        return GrammarError::Unsupported { path, keyword, reason: None };
    }
    let complex = ["fuel", "too large", "too many", "too big", "too complex", "limit"];
    if complex.iter().any(|word| message.to_lowercase().contains(word)) {
        return GrammarError::TooComplex(reason);
    }
    GrammarError::Invalid { path: String::new(), reason }
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
    let lines = message.lines().filter(|line| !line.trim().is_empty()).take(2);
    let text = lines.collect::<Vec<_>>().join(": ");
    text.chars().take(400).collect()
}
