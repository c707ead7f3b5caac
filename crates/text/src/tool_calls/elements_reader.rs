//! Reads values that are written as elements: see [`super::elements`].
//!
//! An element is an object, an array or a text by the tool's schema, and where that says nothing by
//! what is in it: elements that are all called `item` are an array.

use std::collections::HashMap;

use serde_json::Value;

use super::schema_types::{Form, Types, escaped, form, item, member, quoted, to_json, types_of};

/// Levels of nesting. A deeper element is text, so that no text can exhaust the stack.
const DEPTH: usize = 64;

static ANYTHING: Value = Value::Bool(true);

/// An element.
#[derive(Debug, Default)]
struct Element<'a> {
    name: &'a str,
    /// Where what is in it begins, a byte offset.
    start: usize,
    /// What is in it.
    text: &'a str,
    elements: Vec<Element<'a>>,
    closed: bool,
}

/// The JSON of what is in an element, `text`, a value of `schema` in the schema `root`. `complete`:
/// the element is closed. Of one that is not, the JSON is as far as it goes.
pub(super) fn elements_to_json(
    text: &str,
    mark: &str,
    (schema, root): (&Value, &Value),
    complete: bool,
) -> String {
    let mut out = String::new();
    read(text, mark, complete).write(schema, root, &mut out);
    out
}

/// The tree of elements in `text`. A closing tag closes all that were opened after its own.
fn read<'a>(text: &'a str, mark: &str, complete: bool) -> Element<'a> {
    let mut open = vec![Element::default()];
    let mut end = text.len();
    for (at, _) in text.match_indices(mark) {
        let after = &text[at + mark.len()..];
        let Some(len) = after.find('>') else {
            // A tag that was cut.
            end = at;
            break;
        };
        let next = at + mark.len() + len + 1;
        let Some(tag) = after[..len].strip_prefix('<') else { continue };
        match tag.strip_prefix('/') {
            None if open.len() < DEPTH => {
                open.push(Element { name: tag, start: next, ..Element::default() });
            }
            None => {}
            Some(name) => {
                if let Some(level) = open.iter().rposition(|element| element.name == name) {
                    close(&mut open, level.max(1), &text[..at], true);
                }
            }
        }
    }
    close(&mut open, 1, &text[..end], complete);
    let elements = open.pop().map_or(Vec::new(), |root| root.elements);
    Element { text: &text[..end], elements, closed: complete, ..Element::default() }
}

/// Closes the elements from `level` on, where `text` ends.
fn close<'a>(open: &mut Vec<Element<'a>>, level: usize, text: &'a str, closed: bool) {
    while open.len() > level {
        let Some(mut element) = open.pop() else { return };
        element.text = &text[element.start.min(text.len())..];
        element.closed = closed;
        if let Some(parent) = open.last_mut() {
            parent.elements.push(element);
        }
    }
}

impl Element<'_> {
    fn write(&self, schema: &Value, root: &Value, out: &mut String) {
        let types = types_of(schema, root);
        let (array, object) = (types.contains(Types::ARRAY), types.contains(Types::OBJECT));
        if self.elements.is_empty() || !(array || object) {
            self.write_text((schema, root), types, out);
        } else if array && (!object || self.elements.iter().all(|element| element.name == "item")) {
            let items = item(schema, root).unwrap_or(&ANYTHING);
            write_list(self.elements.iter(), (items, root), self.closed, out);
        } else {
            self.write_object(schema, root, out);
        }
    }

    fn write_text(&self, (schema, root): (&Value, &Value), types: Types, out: &mut String) {
        let form = form(schema, root);
        let nothing = self.text.trim().is_empty() && !types.contains(Types::STRING);
        match form {
            Form::Text if self.closed => out.push_str(&quoted(self.text)),
            Form::Text => {
                out.push('"');
                out.push_str(&escaped(self.text));
            }
            _ if !self.closed => out.push_str(self.text.trim()),
            _ if nothing && types.contains(Types::ARRAY) => out.push_str("[]"),
            _ if nothing && types.contains(Types::OBJECT) => out.push_str("{}"),
            _ if nothing && types.contains(Types::NULL) => out.push_str("null"),
            form => out.push_str(&to_json(form, self.text)),
        }
    }

    /// Elements of one name are one member, an array.
    fn write_object(&self, schema: &Value, root: &Value, out: &mut String) {
        out.push('{');
        let mut names: Vec<&str> = Vec::new();
        let mut members: HashMap<&str, Vec<&Element>> = HashMap::new();
        for element in &self.elements {
            let same = members.entry(element.name).or_default();
            if same.is_empty() {
                names.push(element.name);
            }
            same.push(element);
        }
        for (index, name) in names.into_iter().enumerate() {
            let before = if index == 0 { "" } else { ", " };
            out.push_str(&format!("{before}{}: ", quoted(name)));
            let value = member(schema, root, name).unwrap_or(&ANYTHING);
            match members.get(name).map_or(&[][..], Vec::as_slice) {
                [one] => one.write(value, root, out),
                several => {
                    let items = item(value, root).unwrap_or(&ANYTHING);
                    let closed = several.iter().all(|element| element.closed);
                    write_list(several.iter().copied(), (items, root), closed, out);
                }
            }
        }
        if self.closed {
            out.push('}');
        }
    }
}

fn write_list<'a>(
    elements: impl Iterator<Item = &'a Element<'a>>,
    (items, root): (&Value, &Value),
    closed: bool,
    out: &mut String,
) {
    out.push('[');
    for (index, element) in elements.enumerate() {
        out.push_str(if index == 0 { "" } else { ", " });
        element.write(items, root, out);
    }
    if closed {
        out.push(']');
    }
}
