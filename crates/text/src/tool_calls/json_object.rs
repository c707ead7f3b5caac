//! One JSON object read as it comes: its members, with some of their values as raw text.
//!
//! A call is `{"name": …, "arguments": {…}}`, and its arguments have to reach the client while they
//! are written. So this follows the JSON by its punctuation only, and passes a value's text on as it
//! stands; whether that is valid is the grammar's business, not the reader's.

/// What a character does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing to tell.
    Quiet,
    /// A member's name is complete, and its value follows.
    Key(String),
    /// A character of the member's value.
    Value(char),
    /// The value is complete. The character that showed it belongs to what follows.
    ValueEnd,
    /// The object is complete, with this character.
    End,
    /// This is no JSON object.
    Broken,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Open,
    BeforeKey,
    Key,
    BeforeColon,
    BeforeValue,
    Value,
    AfterValue,
    Over,
}

/// A reader of one object.
#[derive(Debug)]
pub(super) struct ObjectReader {
    at: At,
    key: String,
    value: ValueReader,
}

impl ObjectReader {
    pub(super) fn new() -> Self {
        Self { at: At::Open, key: String::new(), value: ValueReader::default() }
    }

    /// Reads a character. After [`Step::ValueEnd`] the same character has to be given once more.
    pub(super) fn read(&mut self, c: char) -> Step {
        match self.at {
            At::Open if c == '{' => self.go(At::BeforeKey),
            At::BeforeKey if c == '"' => {
                self.key.clear();
                self.key.push('"');
                self.value = ValueReader::default();
                self.value.read('"');
                self.go(At::Key)
            }
            At::BeforeKey if c == '}' => {
                self.at = At::Over;
                Step::End
            }
            At::Key => {
                self.key.push(c);
                if self.value.read(c) == Progress::Last {
                    self.at = At::BeforeColon;
                }
                Step::Quiet
            }
            At::BeforeColon if c == ':' => {
                self.at = At::BeforeValue;
                match serde_json::from_str(&self.key) {
                    Ok(key) => Step::Key(key),
                    Err(_) => self.broken(),
                }
            }
            At::BeforeValue if !c.is_ascii_whitespace() && !matches!(c, ',' | '}' | ']' | ':') => {
                self.value = ValueReader::default();
                self.value.read(c);
                self.at = At::Value;
                Step::Value(c)
            }
            At::Value => match self.value.read(c) {
                Progress::Inside => Step::Value(c),
                Progress::Last => Step::Value(c),
                Progress::Before => {
                    self.at = At::AfterValue;
                    Step::ValueEnd
                }
            },
            At::AfterValue if c == ',' => self.go(At::BeforeKey),
            At::AfterValue if c == '}' => {
                self.at = At::Over;
                Step::End
            }
            At::Open | At::BeforeKey | At::BeforeColon | At::BeforeValue | At::AfterValue
                if c.is_ascii_whitespace() =>
            {
                Step::Quiet
            }
            _ => self.broken(),
        }
    }

    fn go(&mut self, at: At) -> Step {
        self.at = at;
        Step::Quiet
    }

    fn broken(&mut self) -> Step {
        self.at = At::Over;
        Step::Broken
    }
}

/// How far a value has got with a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It may go on.
    Inside,
    /// The character is its last: a closing bracket or quote.
    Last,
    /// The value ended before it.
    Before,
}

/// Follows any JSON value to its end.
#[derive(Debug, Default)]
pub(super) struct ValueReader {
    depth: usize,
    in_string: bool,
    escaped: bool,
    begun: bool,
    over: bool,
}

impl ValueReader {
    /// It has read something.
    pub(super) fn has_begun(&self) -> bool {
        self.begun || self.in_string
    }

    /// Reads a character of the value, or the first after it.
    pub(super) fn read(&mut self, c: char) -> Progress {
        if self.over {
            return Progress::Before;
        }
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_string = false;
                    return self.closed();
                }
                _ => {}
            }
            return Progress::Inside;
        }
        match c {
            '"' if !self.begun || self.depth > 0 => self.in_string = true,
            '{' | '[' if !self.begun || self.depth > 0 => self.depth += 1,
            '}' | ']' if self.depth > 0 => {
                self.depth -= 1;
                self.begun = true;
                return self.closed();
            }
            // A number, or a word.
            _ if self.depth == 0 && !is_scalar(c) => {
                self.over = true;
                return Progress::Before;
            }
            _ => {}
        }
        self.begun = true;
        Progress::Inside
    }

    fn closed(&mut self) -> Progress {
        self.begun = true;
        if self.depth > 0 {
            return Progress::Inside;
        }
        self.over = true;
        Progress::Last
    }
}

/// May stand in a number, `true`, `false` or `null`.
fn is_scalar(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members as (name, raw value), and whether the object ended.
    fn read(text: &str) -> (Vec<(String, String)>, Option<Step>) {
        let mut reader = ObjectReader::new();
        let mut members: Vec<(String, String)> = Vec::new();
        for c in text.chars() {
            let mut step = reader.read(c);
            if step == Step::ValueEnd {
                step = reader.read(c);
            }
            match step {
                Step::Key(key) => members.push((key, String::new())),
                Step::Value(c) => members.last_mut().expect("a key").1.push(c),
                end @ (Step::End | Step::Broken) => return (members, Some(end)),
                Step::Quiet | Step::ValueEnd => {}
            }
        }
        (members, None)
    }

    #[test]
    fn members_are_read_with_their_raw_values() {
        let (members, end) =
            read(r#"{ "a" : {"x": "}\"]"} , "\u00e9":[1,[2]],"n":-1.5e3,"t":true , "s":"a\\"}"#);
        let expected = [
            ("a", r#"{"x": "}\"]"}"#),
            ("é", "[1,[2]]"),
            ("n", "-1.5e3"),
            ("t", "true"),
            ("s", r#""a\\""#),
        ];
        let found: Vec<_> = members.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(end, Some(Step::End));
        assert_eq!(read("{}").1, Some(Step::End));
    }

    #[test]
    fn what_is_no_object_is_broken_and_what_is_not_over_is_neither() {
        for text in ["[", "{a", r#"{"a" 1"#, r#"{"a":}"#, r#"{"a":1 2"#, r#"{"a":"b" "c""#] {
            assert_eq!(read(text).1, Some(Step::Broken), "{text}");
        }
        for text in ["", "{", r#"{"a"#, r#"{"a": {"b": ["#, r#"{"a": 1"#] {
            assert_eq!(read(text).1, None, "{text}");
        }
    }
}
