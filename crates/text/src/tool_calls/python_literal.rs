//! Literals of Python, and of Gemma's own notation, to JSON.
//!
//! Models that call functions the way Python does write Python: single quotes, `True`, `None`,
//! tuples and sets. They also forget to escape quotes in strings, so a quote ends a string only
//! where a string can end.
//!
//! Not here: names, operators and calls in values. Such a text is no literal.

use super::schema_types::{escaped, quoted};

/// How literals are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// As in Python.
    Python,
    /// Strings between two of these, without escapes; names without quotes.
    Marked(&'static str),
}

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoValue {
    /// More text is needed.
    Unsure,
    /// It is no literal.
    Malformed,
}

/// Where a string stands, which says what may follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// An argument of a call.
    Argument,
    /// In a list, tuple, set or dict.
    Nested,
}

/// What comes next in a string.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// This text, as a piece of a JSON string, read from so many bytes.
    Text(String, usize),
    /// The string's end, of so many bytes.
    End(usize),
    /// More text is needed.
    Unsure,
}

/// Levels of nesting. Deeper ones are malformed, so that no text can exhaust the stack.
const DEPTH: usize = 64;

/// The value that `text` begins with, as JSON, and how many bytes it has. `ended`: no more text
/// will come.
pub(super) fn value(text: &str, dialect: Dialect, ended: bool) -> Result<(String, usize), NoValue> {
    let mut reader = Reader { text, at: 0, dialect, ended, json: String::new() };
    reader.value(DEPTH)?;
    Ok((reader.json, reader.at))
}

/// The quote that `text` begins with.
pub(super) fn quote(text: &str, dialect: Dialect) -> Option<&'static str> {
    let quotes: &[&str] = match dialect {
        Dialect::Python => &["'", "\""],
        Dialect::Marked(quote) => &[quote],
    };
    quotes.iter().copied().find(|quote| text.starts_with(quote))
}

/// The next piece of a string that began with `quote`.
pub(super) fn string_piece(
    text: &str,
    (dialect, quote): (Dialect, &str),
    place: Place,
    ended: bool,
) -> Piece {
    if let Some(after) = text.strip_prefix(quote) {
        return match dialect == Dialect::Python {
            false => Piece::End(quote.len()),
            true => match can_end(after, place, ended) {
                None => Piece::Unsure,
                Some(true) => Piece::End(quote.len()),
                Some(false) => Piece::Text(escaped(quote), quote.len()),
            },
        };
    }
    if dialect == Dialect::Python && text.starts_with('\\') {
        return escape(text, ended);
    }
    // Plain text, up to what may be the quote or an escape.
    let is_end = |rest: &str| {
        rest.starts_with(quote)
            || (!ended && quote.starts_with(rest))
            || (dialect == Dialect::Python && rest.starts_with('\\'))
    };
    let len = text.char_indices().map(|(at, _)| at).find(|&at| is_end(&text[at..]));
    match len.unwrap_or(text.len()) {
        0 => Piece::Unsure,
        len => Piece::Text(escaped(&text[..len]), len),
    }
}

/// Whether a string can end before `after`: else its quote is a part of it that was not escaped.
fn can_end(after: &str, place: Place, ended: bool) -> Option<bool> {
    let end_of_text = ended.then_some(true);
    let mut rest = after.trim_start().chars();
    match (rest.next(), place) {
        (None, _) => end_of_text,
        (Some(c), Place::Nested) => Some(",:]})".contains(c)),
        (Some(')'), Place::Argument) => match rest.next() {
            None => end_of_text,
            Some(c) => Some(c.is_whitespace() || "],;<".contains(c)),
        },
        (Some(','), Place::Argument) => {
            let next = rest.as_str().trim_start();
            let name = next.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(next.len());
            match next[name..].trim_start().chars().next() {
                None => end_of_text,
                Some('=') => Some(name > 0),
                Some(c) => Some(name == 0 && c == ')'),
            }
        }
        _ => Some(false),
    }
}

/// Python's escapes, and JSON's `\/`. An unknown one is the backslash and what follows it.
fn escape(text: &str, ended: bool) -> Piece {
    let Some(c) = text[1..].chars().next() else {
        return if ended { Piece::Text("\\\\".to_owned(), 1) } else { Piece::Unsure };
    };
    let simple = match c {
        '\n' => "",
        '\\' | '\'' | '"' | '/' => &text[1..2],
        'a' => "\u{7}",
        'b' => "\u{8}",
        'f' => "\u{c}",
        'n' => "\n",
        'r' => "\r",
        't' => "\t",
        'v' => "\u{b}",
        'x' | 'u' | 'U' => return code_escape(text, c, ended),
        _ => return Piece::Text("\\\\".to_owned(), 1),
    };
    Piece::Text(escaped(simple), 2)
}

/// `\xhh`, `\uhhhh` and `\Uhhhhhhhh`. Two halves of a character are one character.
fn code_escape(text: &str, kind: char, ended: bool) -> Piece {
    let digits = match kind {
        'x' => 2,
        'u' => 4,
        _ => 8,
    };
    let code = |text: &str| text.get(2..2 + digits).and_then(|d| u32::from_str_radix(d, 16).ok());
    let hex = text[2..].chars().take(digits).take_while(char::is_ascii_hexdigit).count();
    if hex < digits {
        let may_come = hex + 2 == text.len() && !ended;
        return if may_come { Piece::Unsure } else { Piece::Text("\\\\".to_owned(), 1) };
    }
    let Some(first) = code(text) else { return Piece::Text("\\\\".to_owned(), 1) };
    let len = 2 + digits;
    if kind == 'u' && (0xd800..0xdc00).contains(&first) {
        let rest = &text[len..];
        let may_come =
            rest.len() < 6 && (rest.is_empty() || rest.starts_with("\\u") || rest == "\\");
        if may_come && !ended {
            return Piece::Unsure;
        }
        let second = rest.starts_with("\\u").then(|| code(rest)).flatten();
        if let Some(second) = second.filter(|code| (0xdc00..0xe000).contains(code)) {
            let c = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return Piece::Text(char::from_u32(c).unwrap_or('\u{fffd}').to_string(), 2 * len);
        }
    }
    let c = char::from_u32(first).unwrap_or('\u{fffd}');
    Piece::Text(escaped(&c.to_string()), len)
}

/// Reads one value.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    dialect: Dialect,
    ended: bool,
    json: String,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// The next character that is not white space.
    fn next(&mut self) -> Result<char, NoValue> {
        self.at = self.text.len() - self.rest().trim_start().len();
        self.rest().chars().next().ok_or(self.at_end())
    }

    /// What it means that the text ends here.
    fn at_end(&self) -> NoValue {
        if self.ended { NoValue::Malformed } else { NoValue::Unsure }
    }

    fn value(&mut self, depth: usize) -> Result<(), NoValue> {
        let depth = depth.checked_sub(1).ok_or(NoValue::Malformed)?;
        let c = self.next()?;
        if let Some(quote) = quote(self.rest(), self.dialect) {
            return self.string(quote);
        }
        match (c, self.dialect) {
            ('[', _) => self.list(']', depth),
            ('(', Dialect::Python) => self.list(')', depth),
            ('{', _) => self.braces(depth),
            _ => {
                let word = self.word()?;
                self.json.push_str(&scalar(&word, self.dialect).ok_or(NoValue::Malformed)?);
                Ok(())
            }
        }
    }

    fn string(&mut self, quote: &'static str) -> Result<(), NoValue> {
        self.at += quote.len();
        self.json.push('"');
        loop {
            match string_piece(self.rest(), (self.dialect, quote), Place::Nested, self.ended) {
                Piece::Text(text, len) => {
                    self.json.push_str(&text);
                    self.at += len;
                }
                Piece::End(len) => {
                    self.json.push('"');
                    self.at += len;
                    return Ok(());
                }
                Piece::Unsure => return Err(self.at_end()),
            }
        }
    }

    fn list(&mut self, close: char, depth: usize) -> Result<(), NoValue> {
        self.at += 1;
        self.json.push('[');
        let mut first = true;
        while self.next()? != close {
            self.separator(&mut first)?;
            if self.next()? == close {
                break;
            }
            if self.json.ends_with(',') {
                self.json.push(' ');
            }
            self.value(depth)?;
        }
        self.at += 1;
        self.trim_comma();
        self.json.push(']');
        Ok(())
    }

    /// A dict, or a set.
    fn braces(&mut self, depth: usize) -> Result<(), NoValue> {
        self.at += 1;
        let open = self.json.len();
        self.json.push('{');
        let (mut first, mut is_set) = (true, false);
        while self.next()? != '}' {
            let is_first = first;
            self.separator(&mut first)?;
            if self.next()? == '}' {
                break;
            }
            if self.json.ends_with(',') {
                self.json.push(' ');
            }
            let key = self.json.len();
            self.value(depth)?;
            if is_first {
                is_set = self.next()? != ':';
            }
            if is_set {
                continue;
            }
            if self.next()? != ':' {
                return Err(NoValue::Malformed);
            }
            self.at += 1;
            self.key(key)?;
            self.value(depth)?;
        }
        self.at += 1;
        self.trim_comma();
        if is_set {
            self.json.replace_range(open..=open, "[");
        }
        self.json.push(if is_set { ']' } else { '}' });
        Ok(())
    }

    /// Makes the value that was written from `from` on a key.
    fn key(&mut self, from: usize) -> Result<(), NoValue> {
        match self.json.as_bytes().get(from) {
            Some(b'"') => {}
            Some(b'[' | b'{') => return Err(NoValue::Malformed),
            _ => {
                let key = quoted(&self.json[from..]);
                self.json.replace_range(from.., &key);
            }
        }
        self.json.push_str(": ");
        Ok(())
    }

    /// Between two items a comma.
    fn separator(&mut self, first: &mut bool) -> Result<(), NoValue> {
        if !std::mem::take(first) {
            if self.next()? != ',' {
                return Err(NoValue::Malformed);
            }
            self.at += 1;
            self.json.push(',');
        }
        Ok(())
    }

    /// Python allows a comma after the last item.
    fn trim_comma(&mut self) {
        if self.json.ends_with(',') {
            self.json.pop();
        }
    }

    /// Text up to what ends an item.
    fn word(&mut self) -> Result<String, NoValue> {
        let python = self.dialect == Dialect::Python;
        let ends = |c: char| {
            ",:]})".contains(c) || (python && (c.is_whitespace() || "([{'\"".contains(c)))
        };
        let len = match self.rest().find(ends) {
            Some(len) => len,
            None if self.ended => self.rest().len(),
            None => return Err(NoValue::Unsure),
        };
        let word = self.rest()[..len].trim().to_owned();
        self.at += len;
        if word.is_empty() { Err(NoValue::Malformed) } else { Ok(word) }
    }
}

/// A word as JSON: a number, or a name. `None`: it is neither.
fn scalar(word: &str, dialect: Dialect) -> Option<String> {
    match word {
        "True" | "true" => return Some("true".to_owned()),
        "False" | "false" => return Some("false".to_owned()),
        "None" | "null" => return Some("null".to_owned()),
        _ => {}
    }
    if is_number(word) {
        return Some(word.to_owned());
    }
    number(word).or_else(|| {
        let is_name = word.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
        (is_name || dialect != Dialect::Python).then(|| quoted(word))
    })
}

/// Whether a word is a number in JSON; however large.
fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        && serde_json::from_str::<serde::de::IgnoredAny>(word).is_ok()
}

/// Numbers as Python has them and JSON has not: `007`, `1_000`, `+1`, `.5`, `1.`, `0x1f`.
fn number(word: &str) -> Option<String> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", word.strip_prefix('+').unwrap_or(word)),
    };
    let digits = digits.replace('_', "");
    if let Some(hex) = digits.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(|number| format!("{sign}{number}"));
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let (whole, rest) = digits.split_at(digits.find(['.', 'e', 'E']).unwrap_or(digits.len()));
    let whole = Some(whole.trim_start_matches('0')).filter(|w| !w.is_empty()).unwrap_or("0");
    let rest = match rest.strip_prefix('.') {
        Some(fraction) if !fraction.starts_with(|c: char| c.is_ascii_digit()) => {
            format!(".0{fraction}")
        }
        _ => rest.to_owned(),
    };
    let json = format!("{sign}{whole}{rest}");
    is_number(&json).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_become_json() {
        for (python, json) in [
            ("'a'", r#""a""#),
            (r#""it's""#, r#""it's""#),
            (r"'it\'s \n \x41é\ud83d\ude00\,'", r#""it's \n Aé😀\\,""#),
            ("[1, 2,]", "[1, 2]"),
            ("(1, 'a')", r#"[1, "a"]"#),
            ("{}", "{}"),
            ("{'a': {'b': None}, 'c': [True]}", r#"{"a": {"b": null}, "c": [true]}"#),
            ("{'urgent', 'bug'}", r#"["urgent", "bug"]"#),
            ("{1: 2}", r#"{"1": 2}"#),
            ("{{1}, {2}}", "[[1], [2]]"),
            ("007", "7"),
            ("-1_000", "-1000"),
            (".5", "0.5"),
            ("1.", "1.0"),
            ("+2e3", "2e3"),
            ("0x1F", "31"),
            ("null", "null"),
            ("abc", r#""abc""#),
        ] {
            let found = value(python, Dialect::Python, true);
            assert_eq!(found, Ok((json.to_owned(), python.len())), "{python}");
        }
        let gemma = r#"{a:<|"|>x "y" \n<|"|>,b:[1,true],c:{d e:New York}}"#;
        let json = r#"{"a": "x \"y\" \\n", "b": [1, true], "c": {"d e": "New York"}}"#;
        let found = value(gemma, Dialect::Marked("<|\"|>"), false);
        assert_eq!(found, Ok((json.to_owned(), gemma.len())));
    }

    #[test]
    fn what_is_no_literal_is_malformed_and_a_beginning_is_not() {
        for text in ["[f(1)]", "[1 2]", "{1: 2, 3}", "{[1]: 2}", ")", "[1}", &"[".repeat(100_000)] {
            assert_eq!(value(text, Dialect::Python, true), Err(NoValue::Malformed), "{text:.20}");
        }
        for text in ["", "[1, ", "'a", "'a'", "{'a'", "12", "'\\u12", "'\\"] {
            let nested = format!("[{text}");
            assert_eq!(value(&nested, Dialect::Python, false), Err(NoValue::Unsure), "{text}");
        }
    }
}
