//! llama.cpp's GBNF as Lark.

use crate::GrammarError;

/// `text` in Lark; its rule `root` becomes `start`.
///
/// # Errors
/// What is no GBNF.
pub(crate) fn to_lark(text: &str) -> Result<String, GrammarError> {
    let mut reader = Reader { rest: text, line: 1 };
    let mut out = String::new();
    let mut has_root = false;
    reader.skip_blank(true);
    while !reader.rest.is_empty() {
        let name = reader.name()?;
        reader.skip_blank(false);
        reader.expect("::=")?;
        has_root |= name == "root";
        out.push_str(&rule_name(&name));
        out.push_str(": ");
        reader.alternatives(&mut out, false)?;
        out.push('\n');
        reader.skip_blank(true);
    }
    if !has_root {
        return Err(reader.fault("there is no rule `root`"));
    }
    Ok(out)
}

/// A name that Lark takes for a rule.
fn rule_name(name: &str) -> String {
    if name == "root" { "start".to_owned() } else { format!("g_{}", name.to_lowercase()) }
}

struct Reader<'t> {
    rest: &'t str,
    line: usize,
}

impl<'t> Reader<'t> {
    fn fault(&self, reason: &str) -> GrammarError {
        let reason = format!("line {} of the GBNF grammar: {reason}", self.line);
        GrammarError::Invalid { path: String::new(), reason }
    }

    fn take(&mut self, bytes: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn expect(&mut self, text: &str) -> Result<(), GrammarError> {
        if !self.rest.starts_with(text) {
            return Err(self.fault(&format!("`{text}` expected")));
        }
        self.take(text.len());
        Ok(())
    }

    /// White space and comments; line ends too where `lines`.
    fn skip_blank(&mut self, lines: bool) {
        loop {
            let blank = |c: char| c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'));
            let bytes = self.rest.len() - self.rest.trim_start_matches(blank).len();
            self.take(bytes);
            if !self.rest.starts_with('#') {
                return;
            }
            let bytes = self.rest.find('\n').unwrap_or(self.rest.len());
            self.take(bytes);
        }
    }

    fn name(&mut self) -> Result<String, GrammarError> {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let bytes = self.rest.len() - self.rest.trim_start_matches(letter).len();
        if bytes == 0 {
            return Err(self.fault("a rule's name expected"));
        }
        Ok(self.take(bytes).to_owned())
    }

    /// `a b | c`, to the end of the line, or of the parenthesis.
    fn alternatives(&mut self, out: &mut String, nested: bool) -> Result<(), GrammarError> {
        let mut items = 0;
        loop {
            self.skip_blank(nested || self.goes_on());
            match self.rest.chars().next() {
                None | Some('\n' | '\r') => break,
                Some(')') if nested => break,
                Some('|') => {
                    self.take(1);
                    if items == 0 {
                        out.push_str("\"\"");
                    }
                    out.push_str(" | ");
                    items = 0;
                    self.skip_blank(true);
                }
                Some(_) => {
                    self.item(out)?;
                    out.push(' ');
                    items += 1;
                }
            }
        }
        if items == 0 {
            out.push_str("\"\"");
        }
        Ok(())
    }

    /// The next line goes on with an alternative.
    fn goes_on(&self) -> bool {
        self.rest.trim_start().starts_with('|')
    }

    fn item(&mut self, out: &mut String) -> Result<(), GrammarError> {
        match self.rest.chars().next() {
            Some('"') => self.literal(out)?,
            Some('[') => self.class(out)?,
            Some('.') => {
                self.take(1);
                out.push_str("/(?s:.)/");
            }
            Some('(') => {
                self.take(1);
                out.push('(');
                self.alternatives(out, true)?;
                self.expect(")")?;
                out.push(')');
            }
            _ => {
                let name = self.name()?;
                out.push_str(&rule_name(&name));
            }
        }
        match self.rest.chars().next() {
            Some(sign @ ('*' | '+' | '?')) => {
                self.take(1);
                out.push(sign);
            }
            Some('{') => {
                let end = self.rest.find('}').ok_or_else(|| self.fault("`}` expected"))?;
                let range = self.take(end + 1);
                if !range.chars().all(|c| matches!(c, '{' | '}' | ',' | ' ' | '0'..='9')) {
                    return Err(self.fault("a repetition must be {n}, {n,} or {n,m}"));
                }
                out.push_str(range);
            }
            _ => {}
        }
        Ok(())
    }

    fn literal(&mut self, out: &mut String) -> Result<(), GrammarError> {
        self.take(1);
        let mut text = String::new();
        while !self.rest.starts_with('"') {
            text.push(self.character()?);
        }
        self.take(1);
        let quoted = serde_json::Value::from(text).to_string();
        out.push_str(&quoted.replace('\u{7f}', "\\u007f"));
        Ok(())
    }

    fn class(&mut self, out: &mut String) -> Result<(), GrammarError> {
        self.take(1);
        out.push_str("/[");
        if self.rest.starts_with('^') {
            self.take(1);
            out.push('^');
        }
        while !self.rest.starts_with(']') {
            let dash = self.rest.starts_with('-');
            let character = self.character()?;
            if dash && !out.ends_with(['[', '^']) && !self.rest.starts_with(']') {
                out.push('-');
                continue;
            }
            // By number: nothing then has a meaning of its own.
            out.push_str(&format!("\\x{{{:x}}}", u32::from(character)));
        }
        self.take(1);
        out.push_str("]/");
        Ok(())
    }

    /// A character of a literal or class, its escape undone.
    fn character(&mut self) -> Result<char, GrammarError> {
        let Some(first) = self.rest.chars().next().filter(|&c| c != '\n') else {
            return Err(self.fault("a string or a class is not closed"));
        };
        self.take(first.len_utf8());
        if first != '\\' {
            return Ok(first);
        }
        let Some(escape) = self.rest.chars().next() else {
            return Err(self.fault("the grammar ends with a backslash"));
        };
        self.take(escape.len_utf8());
        let digits = match escape {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            '\\' | '"' | '[' | ']' | '-' | '^' | '/' | '.' => return Ok(escape),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(self.fault(&format!("unknown escape `\\{escape}`"))),
        };
        let code = self.rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let Some(character) = code.and_then(char::from_u32) else {
            return Err(self.fault(&format!("`\\{escape}` wants {digits} hexadecimal digits")));
        };
        self.take(digits);
        Ok(character)
    }
}
