//! A [`Grammar`] as llguidance reads it: Lark, with the users' own grammars beside it.
//!
//! Every part becomes a rule of its own, so nothing here depends on precedence. Names of rules are
//! numbers, which no user's grammar can meet: those are grammars of their own, referred to by name.

use std::fmt::Write;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Map, Value};

use crate::{Grammar, GrammarError, JsonStyle, Trigger, gbnf, vocabulary::Specials};

/// Any text at all.
const ANY: &str = "/(?s:.*)/";
/// White space before what a text must begin with.
const BLANK: &str = r"/[ \t\r\n]*/";

/// `grammar` for llguidance. `specials`: texts that stand for a token.
pub(crate) fn top_level(
    grammar: &Grammar,
    specials: &Specials,
) -> Result<TopLevelGrammar, GrammarError> {
    let mut writer = Writer { specials, text: String::new(), rules: 0, others: Vec::new() };
    let start = writer.rule(grammar)?;
    let lark = format!("%llguidance {{}}\nstart: {start}\n{}", writer.text);
    let main = GrammarWithLexer { lark_grammar: Some(lark), ..GrammarWithLexer::default() };
    let grammars = std::iter::once(main).chain(writer.others).collect();
    Ok(TopLevelGrammar { grammars, max_tokens: None })
}

struct Writer<'a> {
    specials: &'a Specials,
    text: String,
    rules: usize,
    /// Users' own grammars.
    others: Vec<GrammarWithLexer>,
}

/// A piece of a text.
enum Piece<'t> {
    Text(&'t str),
    Token(u32),
}

impl Writer<'_> {
    /// Writes `grammar` as a rule; its name.
    fn rule(&mut self, grammar: &Grammar) -> Result<String, GrammarError> {
        let body = match grammar {
            Grammar::Literal(text) => self.literal(text),
            Grammar::Json { schema, style } => json(schema, style)?,
            Grammar::Regex(pattern) => format!("/{}/", escape_regex(pattern)?),
            Grammar::Lark(text) => self.other(text.clone()),
            Grammar::Gbnf(text) => {
                let lark = gbnf::to_lark(text)?;
                self.other(lark)
            }
            Grammar::Sequence(parts) => {
                let parts = parts.iter().map(|part| self.rule(part));
                let parts = parts.collect::<Result<Vec<_>, _>>()?;
                if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") }
            }
            Grammar::AnyOf(parts) => {
                if parts.is_empty() {
                    let reason = "no alternative is left".to_owned();
                    return Err(GrammarError::Invalid { path: String::new(), reason });
                }
                let parts = parts.iter().map(|part| self.rule(part));
                parts.collect::<Result<Vec<_>, _>>()?.join(" | ")
            }
            Grammar::Repeat { item, separator, min, max } => {
                self.repeat(item, separator, *min, *max)?
            }
            Grammar::Until { ends, excludes, .. } => {
                check_excludes(excludes)?;
                let text = self.text_without(&[], excludes);
                self.until(&text, ends)
            }
            Grammar::Free { triggers, max, excludes } => {
                check_excludes(excludes)?;
                self.free(triggers, *max, excludes)?
            }
        };
        Ok(self.define(&body))
    }

    /// A new rule; its name.
    fn define(&mut self, body: &str) -> String {
        self.define_as("", body)
    }

    fn define_as(&mut self, options: &str, body: &str) -> String {
        let name = format!("r{}", self.rules);
        self.rules += 1;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{name}{options}: {body}");
        name
    }

    /// A new terminal; its name.
    fn terminal(&mut self, body: &str) -> String {
        let name = format!("T{}", self.rules);
        self.rules += 1;
        let _ = writeln!(self.text, "{name}: {body}");
        name
    }

    fn other(&mut self, lark: String) -> String {
        let name = format!("user{}", self.others.len());
        let body = format!("@{name}");
        self.others.push(GrammarWithLexer {
            name: Some(name),
            lark_grammar: Some(lark),
            json_schema: None,
        });
        body
    }

    fn literal(&self, text: &str) -> String {
        let pieces = self.specials.split(text).into_iter().map(|piece| match piece {
            Piece::Text(text) => quote(text),
            Piece::Token(id) => format!("<[{id}]>"),
        });
        let pieces: Vec<String> = pieces.collect();
        if pieces.is_empty() { "\"\"".to_owned() } else { pieces.join(" ") }
    }

    fn repeat(
        &mut self,
        item: &Grammar,
        separator: &str,
        min: usize,
        max: Option<usize>,
    ) -> Result<String, GrammarError> {
        if max.is_some_and(|max| max < min) {
            let reason = format!("cannot repeat at least {min} times and at most {max:?}");
            return Err(GrammarError::Internal(reason));
        }
        if max == Some(0) {
            return Ok("\"\"".to_owned());
        }
        let item = self.rule(item)?;
        let separator = self.literal(separator);
        let next = self.define(&format!("{separator} {item}"));
        let range = |min: usize, max: Option<usize>| match max {
            Some(max) => format!("{{{min},{max}}}"),
            None => format!("{{{min},}}"),
        };
        let rest = match (min.saturating_sub(1), max.map(|max| max - 1)) {
            (_, Some(0)) => String::new(),
            (0, None) => format!("{next}*"),
            (min, max) => format!("{next}{}", range(min, max)),
        };
        let some = self.define(&format!("{item} {rest}"));
        Ok(if min == 0 { format!("{some}?") } else { some })
    }

    /// Text that `text` (a terminal's body) matches, up to and with one of `ends`.
    fn until(&mut self, text: &str, ends: &[String]) -> String {
        let ways: Vec<String> = ends.iter().map(|end| self.up_to(text, end)).collect();
        ways.join(" | ")
    }

    /// The same with one end.
    fn up_to(&mut self, text: &str, end: &str) -> String {
        let mut pieces = self.specials.split(end).into_iter();
        let mut way = match pieces.next() {
            // Lazy: it ends with the first place where the end stands.
            Some(Piece::Text(end)) => {
                let terminal = self.terminal(&format!("{text} {}", quote(end)));
                self.define_as("[lazy]", &terminal)
            }
            Some(Piece::Token(id)) => {
                let terminal = self.terminal(text);
                format!("{terminal} <[{id}]>")
            }
            None => "\"\"".to_owned(),
        };
        for piece in pieces {
            way.push(' ');
            way.push_str(&match piece {
                Piece::Text(text) => quote(text),
                Piece::Token(id) => format!("<[{id}]>"),
            });
        }
        self.define(&way)
    }

    fn free(
        &mut self,
        triggers: &[Trigger],
        max: Option<usize>,
        excludes: &[String],
    ) -> Result<String, GrammarError> {
        let at_start: Vec<&Trigger> = triggers.iter().filter(|t| t.at_start).collect();
        let text = self.text_without(&at_start, excludes);
        let mut ways = Vec::new();
        for trigger in &at_start {
            let then = self.rule(&trigger.then)?;
            let literal = self.literal(&trigger.text);
            ways.push(self.define(&format!("{BLANK} {literal} {then}")));
        }
        let mut calls = Vec::new();
        for trigger in triggers.iter().filter(|trigger| !trigger.at_start) {
            let before = self.up_to(&text, &trigger.text);
            let then = self.rule(&trigger.then)?;
            calls.push(self.define(&format!("{before} {then}")));
        }
        let tail = self.terminal(&text);
        if calls.is_empty() {
            ways.push(tail);
        } else {
            let call = self.define(&calls.join(" | "));
            ways.push(match max {
                None => self.define(&format!("{call}* {tail}")),
                Some(0) => tail,
                Some(1) => self.define(&format!("{call} | {tail}")),
                Some(max) => {
                    let some = self.define(&format!("{call}{{0,{}}} {tail}", max - 1));
                    self.define(&format!("{call}{{{max}}} | {some}"))
                }
            });
        }
        Ok(ways.join(" | "))
    }

    /// A terminal's body: any text that begins with none of `at_start` and has none of `excludes`.
    ///
    /// Text never has special tokens, so an exclude with one in it needs nothing more. Its
    /// characters are excluded all the same: other tokens can spell them, and the client reads text.
    fn text_without(&mut self, at_start: &[&Trigger], excludes: &[String]) -> String {
        let texts = at_start.iter().filter_map(|trigger| {
            // One that begins with a token is told from text by that token.
            match self.specials.split(&trigger.text).into_iter().next()? {
                Piece::Text(text) => Some(quote(text)),
                Piece::Token(_) => None,
            }
        });
        let begun: Vec<String> = texts.collect();
        let mut forbidden = Vec::new();
        if !begun.is_empty() {
            forbidden.push(format!("{BLANK} ({}) {ANY}", begun.join(" | ")));
        }
        if !excludes.is_empty() {
            let texts: Vec<String> = excludes.iter().map(|text| quote(text)).collect();
            forbidden.push(format!("{ANY} ({}) {ANY}", texts.join(" | ")));
        }
        if forbidden.is_empty() {
            return ANY.to_owned();
        }
        // A terminal of its own, so that what follows it is no part of the intersection.
        let without: Vec<String> = forbidden.iter().map(|text| format!("~({text})")).collect();
        self.terminal(&format!("{ANY} & {}", without.join(" & ")))
    }
}

/// An empty one stands in every text.
fn check_excludes(excludes: &[String]) -> Result<(), GrammarError> {
    if excludes.iter().any(String::is_empty) {
        let reason = "an excluded text must not be empty".to_owned();
        return Err(GrammarError::Invalid { path: String::new(), reason });
    }
    Ok(())
}

impl Specials {
    /// `text` as text and tokens, in order.
    fn split<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((at, length, id)) = self.first_in(rest) {
            if at > 0 {
                pieces.push(Piece::Text(&rest[..at]));
            }
            pieces.push(Piece::Token(id));
            rest = &rest[at + length..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest));
        }
        pieces
    }
}

/// `text` as a Lark string.
pub(crate) fn quote(text: &str) -> String {
    // A JSON string, which Lark's is, but that it takes no raw delete character.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// `%json` with the style.
fn json(schema: &Value, style: &JsonStyle) -> Result<String, GrammarError> {
    let mut schema = match schema {
        Value::Object(schema) => schema.clone(),
        Value::Bool(true) => Map::new(),
        Value::Bool(false) => {
            let reason = "the schema `false` allows nothing".to_owned();
            return Err(GrammarError::Invalid { path: String::new(), reason });
        }
        _ => {
            let reason = "a JSON schema must be an object or a boolean".to_owned();
            return Err(GrammarError::Invalid { path: String::new(), reason });
        }
    };
    let mut options = Map::new();
    options.insert("item_separator".into(), style.item_separator.as_str().into());
    options.insert("key_separator".into(), style.key_separator.as_str().into());
    options.insert("whitespace_flexible".into(), style.whitespace.is_some().into());
    if let Some(pattern) = &style.whitespace {
        options.insert("whitespace_pattern".into(), pattern.as_str().into());
    }
    // What the schema itself says goes before.
    if let Some(Value::Object(own)) = schema.remove("x-guidance") {
        options.extend(own);
    }
    schema.insert("x-guidance".into(), Value::Object(options));
    Ok(format!("%json {}", Value::Object(schema)))
}

/// `pattern` between slashes.
fn escape_regex(pattern: &str) -> Result<String, GrammarError> {
    if pattern.is_empty() {
        return Ok("()".to_owned());
    }
    let mut out = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let Some(escaped) = characters.next() else {
                    let reason = "the regular expression ends with a backslash".to_owned();
                    return Err(GrammarError::Invalid { path: String::new(), reason });
                };
                if escaped == '\n' {
                    out.push_str("\\n");
                } else {
                    out.extend(['\\', escaped]);
                }
            }
            '/' => out.push_str("\\/"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            other => out.push(other),
        }
    }
    Ok(out)
}
