//! Grammars of strings that are written without quotes, up to a closing tag.
//!
//! JSON Schema's keywords for strings have to be put into regular expressions here. What cannot
//! be is refused, with its path.

use serde_json::{Map, Value};
use wharf_grammar::{Grammar, GrammarError};

use super::schema_types::{is_annotation, resolve};

/// References and alternatives that are followed. A schema may refer to itself, and a bound on the
/// levels alone would leave their number to grow with each.
const STEPS: usize = 512;

/// Where a raw text stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawText<'a> {
    /// The schema that references point into.
    pub(super) root: &'a Value,
    /// What ends the text, with the white space that models write around it: `\n</parameter>\n`.
    pub(super) end: &'a str,
}

/// A schema of strings, and the path of it.
type Located<'a> = (&'a Map<String, Value>, &'a str);

impl RawText<'_> {
    /// Text that satisfies `schema`, which allows only strings, and its end.
    ///
    /// # Errors
    /// What cannot be enforced.
    pub(super) fn grammar(&self, schema: &Value, path: &str) -> Result<Grammar, GrammarError> {
        self.alternatives(schema, path, &mut { STEPS })
    }

    /// The tag in what ends the text.
    fn tag(&self) -> &str {
        self.end.trim()
    }

    /// Any text and its end.
    pub(super) fn any(&self) -> Grammar {
        let after = self.end.trim_start()[self.tag().len()..].to_owned();
        let until = Grammar::until(vec![self.tag().to_owned()], None);
        match after.is_empty() {
            true => until,
            false => Grammar::Sequence(vec![until, Grammar::Literal(after)]),
        }
    }

    fn alternatives(
        &self,
        schema: &Value,
        path: &str,
        steps: &mut usize,
    ) -> Result<Grammar, GrammarError> {
        let Some(keywords) = schema.as_object() else { return Ok(self.any()) };
        let Some(left) = steps.checked_sub(1) else {
            return Err(GrammarError::TooComplex(format!("`{path}` refers to too much")));
        };
        *steps = left;
        let constraints: Vec<&str> = keywords
            .keys()
            .map(String::as_str)
            .filter(|keyword| *keyword != "type" && !is_annotation(keyword))
            .collect();
        match constraints.as_slice() {
            [] => Ok(self.any()),
            ["$ref"] => match resolve(&keywords["$ref"], self.root) {
                Some(schema) => self.alternatives(schema, path, steps),
                None => Err(invalid(&at(path, "$ref"), "the reference leads nowhere")),
            },
            ["enum"] => match keywords["enum"].as_array() {
                Some(values) => self.one_of(values.iter(), &at(path, "enum")),
                None => Err(invalid(&at(path, "enum"), "it must be an array")),
            },
            ["const"] => self.one_of(std::iter::once(&keywords["const"]), &at(path, "const")),
            [list @ ("anyOf" | "allOf")] => match keywords[*list].as_array().map(Vec::as_slice) {
                Some(all @ ([_] | [_, ..])) if *list == "anyOf" || all.len() == 1 => {
                    let each = all.iter().enumerate().map(|(index, schema)| {
                        self.alternatives(schema, &format!("{}[{index}]", at(path, list)), steps)
                    });
                    Ok(Grammar::AnyOf(each.collect::<Result<_, _>>()?))
                }
                _ => Err(unsupported((keywords, path), list)),
            },
            several => self.constrained((keywords, path), several),
        }
    }

    fn one_of<'v>(
        &self,
        values: impl Iterator<Item = &'v Value>,
        path: &str,
    ) -> Result<Grammar, GrammarError> {
        let texts: Vec<Grammar> = values
            .filter_map(Value::as_str)
            .map(|text| match text.contains(self.tag()) {
                true => Err(invalid(path, &format!("a value contains `{}`", self.tag()))),
                false => Ok(Grammar::Literal(format!("{text}{}", self.end))),
            })
            .collect::<Result<_, _>>()?;
        match texts.is_empty() {
            true => Err(invalid(path, "it allows no string")),
            false => Ok(Grammar::AnyOf(texts)),
        }
    }

    /// Text by regular expression. It never has the tag's first character, so that it cannot
    /// end early; text and end are one lexeme, so that neither can take from the other.
    fn constrained(&self, schema: Located, keywords: &[&str]) -> Result<Grammar, GrammarError> {
        let first = self.tag().chars().next().map(String::from).unwrap_or_default();
        let other = format!("[^{}]", regex_escaped(&first));
        let mut patterns = Vec::new();
        let (mut min, mut max) = (0, String::new());
        for keyword in keywords {
            let value = &schema.0[*keyword];
            match (*keyword, value.as_u64(), value.as_str()) {
                ("minLength", Some(length), _) => min = length,
                ("maxLength", Some(length), _) => max = length.to_string(),
                ("pattern", _, Some(pattern)) => {
                    patterns.push(anchored(pattern).ok_or_else(|| unsupported(schema, keyword))?)
                }
                ("format", _, Some(format)) => patterns
                    .push(format_pattern(format).ok_or_else(|| unsupported(schema, keyword))?),
                _ => return Err(unsupported(schema, keyword)),
            }
        }
        let length = match (min, max.as_str()) {
            (0, "") => format!("{other}*"),
            (min, max) => format!("{other}{{{min},{max}}}"),
        };
        let end = Value::from(self.end).to_string();
        let patterns: String = patterns.iter().map(|p| format!(" & {}", lark_regex(p))).collect();
        Ok(Grammar::Lark(format!("start: TEXT\nTEXT: ({}{patterns}) {end}\n", lark_regex(&length))))
    }
}

fn at(path: &str, keyword: &str) -> String {
    format!("{path}.{keyword}")
}

fn invalid(path: &str, reason: &str) -> GrammarError {
    GrammarError::Invalid { path: path.to_owned(), reason: reason.to_owned() }
}

fn unsupported((schema, path): Located, keyword: &str) -> GrammarError {
    let shown = schema.get(keyword).filter(|value| value.is_string());
    GrammarError::Unsupported {
        path: at(path, keyword),
        keyword: shown.map_or(keyword.to_owned(), |value| format!("{keyword}: {value}")),
        reason: Some("this model's call format writes strings without quotes".to_owned()),
    }
}

/// A pattern that matches whole texts, from one that is searched for; `None` where its anchors are
/// in places that need more than moving them.
fn anchored(pattern: &str) -> Option<String> {
    let (from_start, inner) =
        pattern.strip_prefix('^').map_or((false, pattern), |inner| (true, inner));
    let ends = inner.ends_with('$') && !inner.ends_with("\\$");
    let inner = if ends { &inner[..inner.len() - 1] } else { inner };
    let (mut escape, mut class, mut depth) = (false, false, 0_usize);
    for c in inner.chars() {
        match c {
            _ if escape => {
                if c == 'b' || c == 'B' {
                    return None;
                }
                escape = false;
            }
            '\\' => escape = true,
            '[' if !class => class = true,
            ']' => class = false,
            _ if class => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            // `^a|b$` is `^a` or `b$`.
            '|' if depth == 0 && (from_start || ends) => return None,
            '^' | '$' => return None,
            _ => {}
        }
    }
    let any = "(?s:.*)";
    let (before, after) = (if from_start { "" } else { any }, if ends { "" } else { any });
    Some(format!("{before}({inner}){after}"))
}

/// Formats that have a regular expression; narrower than the standards where those are odd.
fn format_pattern(format: &str) -> Option<String> {
    const DATE: &str = r"[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))";
    const TIME: &str = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
    const BYTE: &str = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    const WORD: &str = r"[A-Za-z0-9]{1,24}(-[A-Za-z0-9]{1,24})?";
    Some(match format {
        "date" => DATE.to_owned(),
        "time" => TIME.to_owned(),
        "date-time" => format!("{DATE}T{TIME}"),
        "email" => format!(
            r"[A-Za-z0-9_+-]{{1,32}}(\.[A-Za-z0-9_+-]{{1,24}})?@({WORD}\.){{1,4}}[A-Za-z]{{2,24}}"
        ),
        "uuid" => r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}".to_owned(),
        "ipv4" => format!(r"({BYTE}\.){{3}}{BYTE}"),
        "uri" => format!(
            r"[a-z][a-z0-9]{{0,20}}://{WORD}(\.{WORD}){{0,8}}(:[0-9]{{1,4}})?(/[A-Za-z0-9_.~/-]*)?(\?[A-Za-z0-9_.~=&-]*)?(#[A-Za-z0-9_.~-]*)?"
        ),
        _ => return None,
    })
}

/// A regular expression as Lark has it.
fn lark_regex(pattern: &str) -> String {
    let mut out = String::from("/");
    let mut escape = false;
    for c in pattern.chars() {
        match c {
            '/' if !escape => out.push_str("\\/"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
        escape = c == '\\' && !escape;
    }
    out.push('/');
    out
}

/// Text as a regular expression that matches it.
pub(super) fn regex_escaped(text: &str) -> String {
    let is_meta = |c| "\\.+*?()|[]{}^$".contains(c);
    text.chars().flat_map(|c| is_meta(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_enforced_is_refused_with_its_path() {
        let root = json!({});
        let text = RawText { root: &root, end: "\n</p>\n" };
        for (schema, path) in [
            (json!({"pattern": "a|^b"}), "x.pattern"),
            (json!({"pattern": "^a|b$"}), "x.pattern"),
            (json!({"pattern": "\\ba"}), "x.pattern"),
            (json!({"format": "hostname"}), "x.format"),
            (json!({"not": {"const": "a"}}), "x.not"),
            (json!({"anyOf": [{"type": "string", "if": {}}]}), "x.anyOf[0].if"),
            (json!({"enum": ["a</p>b"]}), "x.enum"),
            (json!({"enum": [1]}), "x.enum"),
            (json!({"$ref": "#/$defs/Gone"}), "x.$ref"),
        ] {
            match text.grammar(&schema, "x") {
                Err(
                    GrammarError::Unsupported { path: found, .. }
                    | GrammarError::Invalid { path: found, .. },
                ) => {
                    assert_eq!(found, path, "{schema}");
                }
                other => panic!("{schema}: {other:?}"),
            }
        }
    }

    #[test]
    fn patterns_are_anchored_as_they_were_meant() {
        for (pattern, whole) in [
            ("^ab$", Some("(ab)")),
            ("ab", Some("(?s:.*)(ab)(?s:.*)")),
            ("^[$^|]\\$", Some("([$^|]\\$)(?s:.*)")),
            ("(a|b)$", Some("(?s:.*)((a|b))")),
            ("a|b", Some("(?s:.*)(a|b)(?s:.*)")),
            ("a^b", None),
        ] {
            assert_eq!(anchored(pattern).as_deref(), whole, "{pattern}");
        }
    }
}
