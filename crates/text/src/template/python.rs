//! How Python prints values: `str`, `repr` and `json.dumps`.
//!
//! Templates were written against Python, and models were trained on what they printed
//! there, so `1e20` is `1e+20`, `True` is capitalised and JSON has a space after its
//! commas. Everything is written through a [`Bounded`] text, because a value that a
//! template builds can be far larger printed than it is in memory.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::limits::Generator;

/// Values nested deeper than this are refused.
const MAX_DEPTH: usize = 200;

/// A text that may not grow past a limit.
pub(super) struct Bounded {
    text: String,
    limit: usize,
}

impl Bounded {
    /// An empty text of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { text: String::new(), limit }
    }

    /// Appends.
    ///
    /// # Errors
    /// When the text would pass its limit.
    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        if text.len() > self.limit - self.text.len() {
            return Err(Error::new(ErrorKind::OutOfFuel, "the text it makes is too long"));
        }
        self.text.push_str(text);
        Ok(())
    }

    /// Appends one character.
    ///
    /// # Errors
    /// When the text would pass its limit.
    pub(super) fn push_char(&mut self, c: char) -> Result<(), Error> {
        self.push(c.encode_utf8(&mut [0; 4]))
    }

    /// The text.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// A JSON value as a template sees it: `null` is `none`, an object keeps the order of its
/// keys.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(bool) => Value::from(*bool),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), ..) => Value::from(integer),
            (None, Some(integer), _) => Value::from(integer),
            (None, None, float) => Value::from(float.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(object) => {
            Value::from_pairs(object.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// Python's `str(value)`.
///
/// # Errors
/// When the text passes its limit, or the value is nested too deep.
pub(super) fn write_str(value: &Value, out: &mut Bounded) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.push(text),
        None if value.is_undefined() => Ok(()),
        None => write_repr(value, out, 0),
    }
}

/// Python's `repr(value)`.
fn write_repr(value: &Value, out: &mut Bounded, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    if let Some(text) = value.as_str() {
        return write_quoted(text, out);
    }
    match value.kind() {
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::Number => out.push(&number(value, "nan", "inf")),
        ValueKind::Seq => {
            let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
            out.push(open)?;
            for (index, item) in value.try_iter()?.enumerate() {
                out.push(if index > 0 { ", " } else { "" })?;
                write_repr(&item, out, depth + 1)?;
            }
            out.push(if value.is_tuple() && value.len() == Some(1) { "," } else { "" })?;
            out.push(close)
        }
        ValueKind::Map => {
            out.push("{")?;
            for (index, key) in value.try_iter()?.enumerate() {
                out.push(if index > 0 { ", " } else { "" })?;
                write_repr(&key, out, depth + 1)?;
                out.push(": ")?;
                write_repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push("}")
        }
        ValueKind::Iterable => {
            // A lazy sequence, such as two lists added; in Python it would be a list.
            out.push("[")?;
            for (index, item) in value.try_iter()?.enumerate() {
                out.push(if index > 0 { ", " } else { "" })?;
                write_repr(&item, out, depth + 1)?;
            }
            out.push("]")
        }
        _ => out.push(&value.to_string()),
    }
}

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a value is nested too deep")
}

/// Python's quotes: single, unless that would need a backslash and double would not.
fn write_quoted(text: &str, out: &mut Bounded) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push_char(quote)?;
    for c in text.chars() {
        match c {
            '\n' => out.push("\\n")?,
            '\r' => out.push("\\r")?,
            '\t' => out.push("\\t")?,
            '\\' => out.push("\\\\")?,
            c if c == quote => {
                out.push("\\")?;
                out.push_char(c)?;
            }
            c if c != ' ' && (c.is_control() || c.is_whitespace()) || c == '\u{AD}' => {
                let code = u32::from(c);
                out.push(&match code {
                    0..=0xFF => format!("\\x{code:02x}"),
                    _ => format!("\\u{code:04x}"),
                })?;
            }
            c => out.push_char(c)?,
        }
    }
    out.push_char(quote)
}

/// Text as `markupsafe` escapes it for HTML.
///
/// # Errors
/// When the text passes its limit.
pub(super) fn write_escaped(text: &str, out: &mut Bounded) -> Result<(), Error> {
    for c in text.chars() {
        match c {
            '&' => out.push("&amp;")?,
            '<' => out.push("&lt;")?,
            '>' => out.push("&gt;")?,
            '\'' => out.push("&#39;")?,
            '"' => out.push("&#34;")?,
            c => out.push_char(c)?,
        }
    }
    Ok(())
}

/// A number as Python prints it; `nan` and `inf` are spelled as given.
fn number(value: &Value, nan: &str, inf: &str) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(float) if float.is_nan() => nan.to_owned(),
        Ok(float) if float.is_infinite() => {
            format!("{}{inf}", if float < 0.0 { "-" } else { "" })
        }
        Ok(float) => finite_float(float),
        Err(_) => value.to_string(),
    }
}

/// Python's `repr` of a float: the shortest digits that read back as the same number, in
/// scientific notation below 1e-4 and from 1e16 on.
fn finite_float(float: f64) -> String {
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = float.to_string();
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The arguments of `json.dumps`.
#[derive(Debug, Clone)]
pub(super) struct JsonStyle {
    /// Write non-ASCII characters as `\uXXXX`.
    pub(super) ensure_ascii: bool,
    /// Text of one level of indentation; `None` keeps all on one line.
    pub(super) indent: Option<String>,
    /// Between items.
    pub(super) item_separator: String,
    /// Between key and value.
    pub(super) key_separator: String,
    /// Keys in the order of their code points.
    pub(super) sort_keys: bool,
}

impl Default for JsonStyle {
    fn default() -> Self {
        Self {
            ensure_ascii: false,
            indent: None,
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            sort_keys: false,
        }
    }
}

/// Python's `json.dumps(value)`.
///
/// # Errors
/// For what JSON cannot say (an undefined value, a function), a text past its limit, or a
/// value nested too deep.
pub(super) fn write_json(value: &Value, style: &JsonStyle, out: &mut Bounded) -> Result<(), Error> {
    write_json_at(value, style, out, 0)
}

fn write_json_at(
    value: &Value,
    style: &JsonStyle,
    out: &mut Bounded,
    depth: usize,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    if let Some(text) = value.as_str() {
        return write_json_string(text, style.ensure_ascii, out);
    }
    match value.kind() {
        ValueKind::None => out.push("null"),
        ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push(&number(value, "NaN", "Infinity")),
        ValueKind::Iterable if value.downcast_object_ref::<Generator>().is_some() => {
            Err(Error::new(ErrorKind::BadSerialization, "a generator is not JSON serializable"))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_json_items(["[", "]"], &items, style, out, depth, |item, out| {
                write_json_at(item, style, out, depth + 1)
            })
        }
        ValueKind::Map => {
            let mut pairs = Vec::with_capacity(value.len().unwrap_or(0));
            for key in value.try_iter()? {
                pairs.push((json_key(&key)?, value.get_item(&key)?));
            }
            if style.sort_keys {
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
            }
            write_json_items(["{", "}"], &pairs, style, out, depth, |(key, value), out| {
                write_json_string(key, style.ensure_ascii, out)?;
                out.push(&style.key_separator)?;
                write_json_at(value, style, out, depth + 1)
            })
        }
        kind => Err(Error::new(
            ErrorKind::BadSerialization,
            format!("a value of type {kind} is not JSON serializable"),
        )),
    }
}

/// A list or an object: brackets, separators and indentation around `write`.
fn write_json_items<T>(
    [open, close]: [&str; 2],
    items: &[T],
    style: &JsonStyle,
    out: &mut Bounded,
    depth: usize,
    write: impl Fn(&T, &mut Bounded) -> Result<(), Error>,
) -> Result<(), Error> {
    out.push(open)?;
    for (index, item) in items.iter().enumerate() {
        out.push(if index > 0 { &style.item_separator } else { "" })?;
        new_line(style, out, depth + 1)?;
        write(item, out)?;
    }
    if !items.is_empty() {
        new_line(style, out, depth)?;
    }
    out.push(close)
}

fn new_line(style: &JsonStyle, out: &mut Bounded, depth: usize) -> Result<(), Error> {
    if let Some(indent) = &style.indent {
        out.push("\n")?;
        for _ in 0..depth {
            out.push(indent)?;
        }
    }
    Ok(())
}

/// An object's key as a string, as Python turns one into it.
fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.to_string()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(number(key, "NaN", "Infinity")),
        kind => Err(Error::new(
            ErrorKind::BadSerialization,
            format!("a key of type {kind} is not JSON serializable"),
        )),
    }
}

fn write_json_string(text: &str, ensure_ascii: bool, out: &mut Bounded) -> Result<(), Error> {
    out.push("\"")?;
    for c in text.chars() {
        match c {
            '"' => out.push("\\\"")?,
            '\\' => out.push("\\\\")?,
            '\n' => out.push("\\n")?,
            '\r' => out.push("\\r")?,
            '\t' => out.push("\\t")?,
            '\u{8}' => out.push("\\b")?,
            '\u{C}' => out.push("\\f")?,
            c if c < ' ' || (ensure_ascii && !c.is_ascii()) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push(&format!("\\u{unit:04x}"))?;
                }
            }
            c => out.push_char(c)?,
        }
    }
    out.push("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: serde_json::Value, style: &JsonStyle) -> String {
        let mut out = Bounded::new(10_000);
        write_json(&from_json(&value), style, &mut out).unwrap();
        out.into_text()
    }

    fn str_of(value: Value) -> String {
        let mut out = Bounded::new(10_000);
        write_str(&value, &mut out).unwrap();
        out.into_text()
    }

    #[test]
    fn floats_are_printed_as_python_does() {
        for (float, text) in [
            (1e20, "1e+20"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1.5, "1.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-0.0, "-0.0"),
            (3.0, "3.0"),
            (1.234e-7, "1.234e-07"),
            (1e100, "1e+100"),
            (123456789.123, "123456789.123"),
        ] {
            assert_eq!(finite_float(float), text);
        }
    }

    #[test]
    fn json_is_printed_as_json_dumps_does() {
        let value =
            serde_json::json!({"b": [1, 2.5, null, true], "a": "é\"\n\u{1}<&>", "e": {}, "l": []});
        assert_eq!(
            json(value.clone(), &JsonStyle::default()),
            "{\"b\": [1, 2.5, null, true], \"a\": \"é\\\"\\n\\u0001<&>\", \"e\": {}, \"l\": []}"
        );
        let style = JsonStyle {
            ensure_ascii: true,
            indent: Some("  ".to_owned()),
            item_separator: ",".to_owned(),
            sort_keys: true,
            ..JsonStyle::default()
        };
        assert_eq!(
            json(value, &style),
            "{\n  \"a\": \"\\u00e9\\\"\\n\\u0001<&>\",\n  \"b\": [\n    1,\n    2.5,\n    null,\n    true\n  ],\n  \"e\": {},\n  \"l\": []\n}"
        );
    }

    #[test]
    fn values_are_printed_as_str_does() {
        let value = from_json(&serde_json::json!({"a": ["x", "it's", 'q'], "n": null}));
        assert_eq!(str_of(value), "{'a': ['x', \"it's\", 'q'], 'n': None}");
        assert_eq!(str_of(Value::from(true)), "True");
        assert_eq!(str_of(Value::UNDEFINED), "");
        assert_eq!(str_of(Value::from("it's\n")), "it's\n");
        assert_eq!(str_of(Value::from(vec!["\n\u{7f}\u{2028}"])), "['\\n\\x7f\\u2028']");
    }

    #[test]
    fn a_text_past_its_limit_is_refused() {
        let mut out = Bounded::new(3);
        assert!(write_str(&Value::from("abcd"), &mut out).is_err());
        assert!(write_json(&Value::UNDEFINED, &JsonStyle::default(), &mut out).is_err());
    }
}
