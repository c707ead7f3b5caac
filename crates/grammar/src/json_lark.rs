//! A user's Lark grammar for the inside of a JSON string.
//!
//! JSON escapes character by character, and no escape is the beginning of another. So the escaped
//! texts of a grammar are the texts of the same grammar with its terminals escaped: its rules stay,
//! and each string and regular expression in it is rewritten here. Every character has one escape,
//! and only those that need one (`"`, `\`, and below the space) are escaped.
//!
//! What does not survive that is refused: complements of terminals, special tokens, grammars within
//! the grammar, and attributes of rules.

use std::fmt::Write;

use llguidance::derivre::Regex;
use serde_json::Value;

use crate::{Grammar, GrammarError, lark::quote};

impl Grammar {
    /// The texts of the Lark grammar `text`, each as it is written between the quotes of a JSON
    /// string.
    ///
    /// # Errors
    /// What this cannot be done with. Whether the grammar itself is sound is not looked at.
    pub fn lark_in_json(text: &str) -> Result<Self, GrammarError> {
        let mut rewriter = Rewriter { rest: text, out: String::with_capacity(text.len() * 2) };
        while rewriter.step()? {}
        Ok(Self::Lark(rewriter.out))
    }
}

/// Terminals of llguidance's `common` whose texts may need escapes.
const COMMON: &[(&str, &str)] = &[
    ("WS", r"[ \t\f\r\n]+"),
    ("WS_INLINE", r"[ \t]+"),
    ("CR", r"\r"),
    ("LF", r"\n"),
    ("NEWLINE", r"(\r?\n)+"),
    ("ESCAPED_STRING", r#"\"([^\"\\]|\\.)*\""#),
    ("SH_COMMENT", r"#[^\n]*"),
    ("CPP_COMMENT", r"\/\/[^\n]*"),
    ("C_COMMENT", r"\/\*[^*]*\*+(?:[^\/*][^*]*\*+)*\/"),
    ("SQL_COMMENT", r"--[^\n]*"),
];

fn unsupported(keyword: &str) -> GrammarError {
    GrammarError::Unsupported {
        path: String::new(),
        keyword: keyword.chars().take(64).collect(),
        reason: Some("the model writes this text as a JSON string".to_owned()),
    }
}

struct Rewriter<'t> {
    rest: &'t str,
    out: String,
}

impl<'t> Rewriter<'t> {
    /// Rewrites the next token; whether there was one.
    fn step(&mut self) -> Result<bool, GrammarError> {
        let Some(first) = self.rest.chars().next() else { return Ok(false) };
        match first {
            '#' => self.comment(),
            '/' if self.rest.starts_with("//") => self.comment(),
            '/' => self.regex()?,
            '"' => self.strings()?,
            '%' => self.statement()?,
            '[' if self.is_attributes() => return Err(unsupported(self.line())),
            // `=` only stands in attributes.
            '<' | '@' | '=' => return Err(unsupported(self.line())),
            '~' => {
                let repeats = self.rest[1..].trim_start().starts_with(|c: char| c.is_ascii_digit());
                if !repeats {
                    return Err(unsupported("~"));
                }
                self.copy(1);
            }
            other => self.copy(other.len_utf8()),
        }
        Ok(true)
    }

    fn take(&mut self, length: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    fn copy(&mut self, length: usize) {
        let text = self.take(length);
        self.out.push_str(text);
    }

    /// What is left of this line.
    fn line(&self) -> &'t str {
        self.rest.lines().next().unwrap_or_default().trim()
    }

    fn comment(&mut self) {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        self.take(end);
    }

    /// Whether this is `[lazy]` and the like: before the colon of a rule.
    fn is_attributes(&self) -> bool {
        let after = self.rest.split_once(']').map(|(_, after)| after.trim_start());
        after.is_some_and(|after| after.starts_with(':'))
    }

    /// `"text"`, or `"a".."z"`.
    fn strings(&mut self) -> Result<(), GrammarError> {
        let (text, insensitive) = self.string()?;
        let after = self.rest.trim_start_matches([' ', '\t']);
        if let Some(range) = after.strip_prefix("..") {
            self.rest = range.trim_start_matches([' ', '\t']);
            let (last, _) = self.string()?;
            let class = format!("[{}-{}]", code_point(&text)?, code_point(&last)?);
            let _ = write!(self.out, "/{}/", set(&class)?);
            return Ok(());
        }
        let escaped = escaped(&text);
        if insensitive && escaped != text {
            // The letters of an escape have their case.
            return Err(unsupported(&format!("{}i", quote(&text))));
        }
        self.out.push_str(&quote(&escaped));
        self.out.push_str(if insensitive { "i" } else { "" });
        Ok(())
    }

    /// A string's text, and whether its case does not matter.
    fn string(&mut self) -> Result<(String, bool), GrammarError> {
        let end = unescaped(self.rest, 1, '"').filter(|_| self.rest.starts_with('"'));
        let end = end.ok_or_else(|| unsupported(self.line()))?;
        let raw = self.take(end + 1);
        let text = serde_json::from_str(raw).map_err(|_| unsupported(raw))?;
        let insensitive = self.rest.starts_with('i');
        self.take(usize::from(insensitive));
        Ok((text, insensitive))
    }

    fn regex(&mut self) -> Result<(), GrammarError> {
        let end = unescaped(self.rest, 1, '/').ok_or_else(|| unsupported(self.line()))?;
        let raw = self.take(end + 1);
        let flags = self.rest.len() - self.rest.trim_start_matches(char::is_alphabetic).len();
        let flags = self.take(flags);
        if flags.contains(|flag| flag != 'i' && flag != 's') {
            return Err(unsupported(&format!("{raw}{flags}")));
        }
        let pattern = regex(&raw[1..raw.len() - 1], flags.contains('s'))?;
        let _ = write!(self.out, "/{pattern}/{flags}");
        Ok(())
    }

    fn statement(&mut self) -> Result<(), GrammarError> {
        if self.rest.starts_with("%ignore") {
            self.copy("%ignore".len());
            return Ok(());
        }
        let line = self.line();
        let options = line.strip_prefix("%llguidance").map(str::trim);
        if options == Some("{}") {
            self.take(line.len());
            return Ok(());
        }
        let names = line.strip_prefix("%import").map(str::trim).and_then(|path| {
            let path = path.strip_prefix("common")?.trim_start();
            // One, perhaps by another name; or several between parentheses.
            match path.strip_prefix('.') {
                Some(one) => Some(vec![one]),
                None => Some(path.strip_prefix('(')?.strip_suffix(')')?.split(',').collect()),
            }
        });
        for name in names.ok_or_else(|| unsupported(line))? {
            let (name, alias) = name.split_once("->").unwrap_or((name, name));
            let (name, alias) = (name.trim(), alias.trim());
            let _ = match COMMON.iter().find(|(known, _)| *known == name) {
                Some((_, pattern)) => writeln!(self.out, "{alias}: /{}/", regex(pattern, false)?),
                None if name == alias => writeln!(self.out, "%import common.{name}"),
                None => writeln!(self.out, "%import common.{name} -> {alias}"),
            };
        }
        self.take(line.len());
        Ok(())
    }
}

/// Where `end` stands in `text` from `from` on, not after a backslash.
fn unescaped(text: &str, from: usize, end: char) -> Option<usize> {
    let mut escape = false;
    text[from..].char_indices().find_map(|(at, c)| {
        let found = c == end && !escape;
        escape = c == '\\' && !escape;
        found.then_some(from + at)
    })
}

/// The only character of a range's end, for a class of a regular expression.
fn code_point(text: &str) -> Result<String, GrammarError> {
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(c), None) => Ok(format!("\\x{{{:x}}}", u32::from(c))),
        _ => Err(unsupported(&format!("{}..", quote(text)))),
    }
}

fn needs_escape(c: char) -> bool {
    c < ' ' || c == '"' || c == '\\'
}

/// As it stands between the quotes of a JSON string.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// A regular expression of one character, escaped. Its letters keep their case.
fn escape(c: char) -> String {
    format!("(?-i:{})", escaped(&c.to_string()).replace('\\', "\\\\"))
}

/// A regular expression of one of a class's characters, escaped.
fn set(class: &str) -> Result<String, GrammarError> {
    let mut members = Regex::new(class).map_err(|_| unsupported(class))?;
    let special = ('\0'..'\u{80}').filter(|c| needs_escape(*c));
    let special: Vec<char> = special.filter(|c| members.is_match(&c.to_string())).collect();
    if special.is_empty() {
        return Ok(class.to_owned());
    }
    let escapes: Vec<String> = special.into_iter().map(escape).collect();
    Ok(format!(r#"(?:[{class}&&[^\x00-\x1f"\\]]|{})"#, escapes.join("|")))
}

/// A regular expression that matches the escaped texts of this one. `any`: its dots match line ends.
fn regex(pattern: &str, any: bool) -> Result<String, GrammarError> {
    let (mut rest, mut any, mut out) = (pattern, any, String::new());
    // What a dot is outside of each open group.
    let mut groups = Vec::new();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\\' => escape_length(rest),
            '[' => class_length(rest),
            '(' => group_length(rest),
            other => Some(other.len_utf8()),
        };
        let (atom, after) = rest.split_at(length.ok_or_else(|| unsupported(pattern))?);
        rest = after;
        match first {
            '\\' => out.push_str(&escape_sequence(atom)?),
            '[' => out.push_str(&set(atom)?),
            '.' => out.push_str(&set(if any { r"[\s\S]" } else { r"[^\n]" })?),
            '(' => {
                // `(?s)` is no group; it holds to the end of the one that it stands in.
                if !atom.ends_with(')') {
                    groups.push(any);
                }
                let (on, off) = atom.split_once('-').unwrap_or((atom, ""));
                let flags = atom.starts_with("(?") && !atom.contains('<');
                any = flags && on.contains('s') || any && !(flags && off.contains('s'));
                out.push_str(atom);
            }
            ')' => {
                any = groups.pop().unwrap_or(any);
                out.push(')');
            }
            other if needs_escape(other) => out.push_str(&escape(other)),
            other => out.push(other),
        }
    }
    Ok(out)
}

/// `\n`, `\x41`, `\p{Greek}`.
fn escape_length(text: &str) -> Option<usize> {
    let kind = text[1..].chars().next()?;
    let digits = match kind {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        'p' | 'P' => 1,
        kind => return Some(1 + kind.len_utf8()),
    };
    if text[2..].starts_with('{') {
        return text.find('}').map(|end| end + 1);
    }
    text.get(2..2 + digits).map(|_| 2 + digits)
}

fn escape_sequence(atom: &str) -> Result<String, GrammarError> {
    let digits = atom[2.min(atom.len())..].trim_matches(['{', '}']);
    let character = match atom.as_bytes().get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'f') => '\u{c}',
        Some(b'v') => '\u{b}',
        Some(b'a') => '\u{7}',
        Some(b'x' | b'u' | b'U') => {
            let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
            code.ok_or_else(|| unsupported(atom))?
        }
        Some(b'd' | b'w' | b'D' | b'W' | b's' | b'S' | b'p' | b'P') => {
            return set(&format!("[{atom}]"));
        }
        // Boundaries of words and the like.
        Some(other) if other.is_ascii_alphanumeric() => return Err(unsupported(atom)),
        _ => match atom[1..].chars().next() {
            Some(c) => c,
            None => return Err(unsupported(atom)),
        },
    };
    Ok(if needs_escape(character) { escape(character) } else { atom.to_owned() })
}

/// `[a-z]`, with those in it.
fn class_length(text: &str) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(c) = text[at..].chars().next() {
        at += match c {
            '\\' => 1 + text[at + 1..].chars().next()?.len_utf8(),
            '[' => {
                depth += 1;
                // A bracket that closes right at the beginning is a character.
                let inner = text[at + 1..].trim_start_matches('^');
                let skipped = text[at + 1..].len() - inner.len();
                1 + skipped + usize::from(inner.starts_with(']'))
            }
            ']' if depth == 1 => return Some(at + 1),
            ']' => {
                depth -= 1;
                1
            }
            c => c.len_utf8(),
        };
    }
    None
}

/// `(`, `(?:`, `(?P<name>`, `(?i-s:`, `(?s)`.
fn group_length(text: &str) -> Option<usize> {
    let Some(inner) = text.strip_prefix("(?") else { return Some(1) };
    if inner.starts_with("P<") || inner.starts_with('<') {
        let end = inner.find('>')?;
        let name = inner[..end].trim_start_matches('P').trim_start_matches('<');
        let sound = name.chars().all(|c| c.is_alphanumeric() || c == '_');
        return (sound && !name.is_empty()).then_some(2 + end + 1);
    }
    let end = inner.find([':', ')'])?;
    inner[..end].chars().all(|c| matches!(c, 'i' | 's' | '-')).then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::{Compiler, Limits, Matcher, Vocabulary};

    /// Bytes, and an end.
    fn compiler() -> Compiler {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        tokens.push(b"</s>".to_vec());
        let special = (0..257).map(|id| id == 256).collect();
        let tokenize = Box::new(|text: &str| text.bytes().map(u32::from).collect());
        let vocabulary = Vocabulary { tokens, special, eos_token_ids: vec![256], tokenize };
        Compiler::new(vocabulary, Limits::default()).expect("a sound vocabulary")
    }

    /// Whether all of `text` is one of the grammar's.
    fn accepts(mut matcher: Matcher, text: &str) -> bool {
        text.bytes().all(|byte| matcher.consume(u32::from(byte)).is_ok()) && matcher.is_complete()
    }

    /// Grammars with texts of them, and others that are none.
    const CASES: &[(&str, &[&str], &[&str])] = &[
        (
            "start: expr\nexpr: term (\"+\" term)*\nterm: NUM | \"(\" expr \")\"\nNUM: /[0-9]+/",
            &["1+(2+33)", "7"],
            &["1+", "(1"],
        ),
        (
            // Line ends, tabs, quotes and backslashes, in strings and in regular expressions.
            "%llguidance {}\nstart: line+ // a comment \"x\"\nline: NAME \" = \" STRING \"\\n\"\n\
             NAME: /[a-z]+/ # another\nSTRING: /\"([^\"\\\\\\n]|\\\\.)*\"/",
            &["a = \"x\"\n", "a = \"\"\nbc = \"\\n \\\" ü\"\n"],
            &["a = \"x\"", "a = \"x\ny\"\n"],
        ),
        (
            "%import common.ESCAPED_STRING\n%import common (INT, NEWLINE)\n\
             %import common.WS_INLINE -> GAP\n\
             start: (INT | ESCAPED_STRING) (\";\" NEWLINE)*\n%ignore GAP",
            &["\"a\\\"b\"", "1;\n;\r\n", "1 \t;\n\n"],
            &["\"a", "a", "1\n"],
        ),
        (
            "start: A B C D\nA: \"!\"..\"~\"\nB: /./s\nC: /[\\s\"]/\nD: \"select\"i | /x\\x22+y/i",
            &["\"\n\tSELECT", "\\\\\"X\"\"Y", "~ü\nselect"],
            &["\u{7f}\n\tselect", "a\nbselect"],
        ),
        (
            "start: /(?s:.)(?:.|\\n)(.[^\\W\\d]|\\p{Greek})\\/[]\"]/",
            &["\n\nα/]", "aabc/\"", "\"\\\"é/\""],
            &["\n\n\n_/]", "aab1/]"],
        ),
        (
            "start: \"a\"~2..3 [B] B? (\"\\u0001\" | B{2})\nB: \"\\\"\\t\"",
            &["aa\u{1}", "aaa\"\t\u{1}"],
            &["a\u{1}"],
        ),
    ];

    #[test]
    fn escaped_texts_are_those_of_the_escaped_grammar() {
        let compiler = compiler();
        for (grammar, texts, others) in CASES {
            let alone = compiler.compile(&Grammar::Lark((*grammar).to_owned())).expect("compiles");
            let inside = Grammar::lark_in_json(grammar).expect("can be rewritten");
            let string = Grammar::Sequence(vec![
                Grammar::Literal("\"".to_owned()),
                inside.clone(),
                Grammar::Literal("\"".to_owned()),
            ]);
            let string = compiler.compile(&string).unwrap_or_else(|e| panic!("{e}: {inside:?}"));
            for (all, wanted) in [(texts, true), (others, false)] {
                for text in *all {
                    assert_eq!(accepts(alone.matcher(), text), wanted, "{text:?} of {grammar}");
                    let json = Value::from(*text).to_string();
                    assert_eq!(accepts(string.matcher(), &json), wanted, "{json} of {inside:?}");
                }
            }
        }
    }

    #[test]
    fn what_the_escaped_grammar_writes_is_a_text_of_the_grammar() {
        let compiler = compiler();
        let mut dice = 7_u64;
        for (grammar, ..) in CASES {
            let alone = compiler.compile(&Grammar::Lark((*grammar).to_owned())).expect("compiles");
            let inside = Grammar::lark_in_json(grammar).expect("can be rewritten");
            let end = Grammar::Literal("\"".to_owned());
            let string = Grammar::Sequence(vec![end.clone(), inside, end]);
            let string = compiler.compile(&string).expect("compiles");
            let mut ended = 0;
            for _ in 0..40 {
                let (mut matcher, mut json) = (string.matcher(), Vec::new());
                while !matcher.is_finished() && json.len() < 400 {
                    let mask = matcher.mask().expect("a mask");
                    let allowed: Vec<u32> = (0..256).filter(|&id| mask.contains(id)).collect();
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // What ends things comes more often than by chance.
                    let ends = allowed.iter().filter(|id| b"\" =\\n;)".contains(&(**id as u8)));
                    let ends: Vec<u32> = ends.copied().collect();
                    let from = if ends.is_empty() || dice >> 63 == 0 { &allowed } else { &ends };
                    let id = from[(dice >> 33) as usize % from.len()];
                    json.push(id as u8);
                    matcher.consume(id).expect("an allowed token");
                }
                if !matcher.is_finished() {
                    continue;
                }
                ended += 1;
                let json = String::from_utf8(json).expect("text");
                let text: String = serde_json::from_str(&json).expect("a JSON string");
                assert!(accepts(alone.matcher(), &text), "{text:?} of {grammar}");
            }
            assert!(ended > 5, "{ended} of 40 walks ended: {grammar}");
        }
    }

    #[test]
    fn what_cannot_be_escaped_is_refused_and_named() {
        for (grammar, keyword) in [
            ("start: A\nA: ~\"a\"", "~"),
            ("start: <|call|>", "<|call|>"),
            ("start: @other", "@other"),
            ("start: %json {}", "%json {}"),
            (
                "%llguidance {\"no_forcing\": true}\nstart: \"a\"",
                "%llguidance {\"no_forcing\": true}",
            ),
            ("start: a\na[lazy]: /.*/", "[lazy]: /.*/"),
            ("start: a\na[stop=\"x\"]: /.*/", "[stop=\"x\"]: /.*/"),
            ("start: \"a\\n\"i", "\"a\\n\"i"),
            ("start: /a b/x", "/a b/x"),
            ("start: /a\\b/", "\\b"),
            ("start: /a(?=b)/", "a(?=b)"),
            ("start: \"a", "\"a"),
        ] {
            match Grammar::lark_in_json(grammar) {
                Err(GrammarError::Unsupported { keyword: found, .. }) => {
                    assert_eq!(found, keyword, "{grammar}");
                }
                other => panic!("{grammar}: {other:?}"),
            }
        }
    }
}
