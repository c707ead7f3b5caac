//! What happens to the messages before a template sees them.
//!
//! Two layers. What transformers does to every conversation: the names under which
//! reasoning is found, and the mark for `continue_final_message`. And what a server owes
//! its clients beyond that: the OpenAI API lets every role have its content as a string or
//! as a list of parts, or (an assistant that calls tools) as null, while most templates can
//! read only one of these. Which ones a template can read is found out by rendering tiny
//! conversations with it, and messages are brought into that form.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::{RenderInput, TemplateError};

/// The text whose appearance in a probe's rendering shows that content was read.
const NEEDLE: &str = "wharf-probe-text";

/// Which forms of content a template can read.
#[derive(Debug, Clone, Default)]
pub(super) struct ContentForms {
    /// Roles whose lists of parts have to be made one string.
    parts_unread: Vec<&'static str>,
    /// Roles whose strings have to be made a list of one part.
    strings_unread: Vec<&'static str>,
    /// Null content has to be made an empty string.
    null_unread: bool,
    /// The template knows the role `developer`; otherwise it is renamed `system`.
    knows_developer: bool,
}

/// After this no more is probed: what has not been tried is taken not to work.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// The roles that are probed; another role is treated as `user`.
const ROLES: [&str; 4] = ["user", "system", "assistant", "tool"];

impl ContentForms {
    /// Finds out by rendering. `source`: the template's text.
    pub(super) fn probe(
        source: &str,
        render: impl Fn(&RenderInput) -> Result<String, TemplateError>,
    ) -> Self {
        let mut forms = Self { knows_developer: source.contains("developer"), ..Self::default() };
        let start = Instant::now();
        let render = |input: &RenderInput| match start.elapsed() < PROBE_TIME {
            true => render(input),
            false => Err(TemplateError::Render("it takes too long".to_owned())),
        };
        let reads = |role, content: Json| {
            render(&probe_input(role, content)).is_ok_and(|text| {
                // A template that prints the list itself has not read it.
                text.contains(NEEDLE) && !text.contains("'text'") && !text.contains("\"text\"")
            })
        };
        for role in ROLES {
            let string = reads(role, json!(NEEDLE));
            let parts = reads(role, json!([{"type": "text", "text": NEEDLE}]));
            if !parts {
                forms.parts_unread.push(role);
            } else if !string {
                forms.strings_unread.push(role);
            }
        }
        let with_calls = |content: Json| {
            let mut input = probe_input("assistant", content);
            input.messages[1]["tool_calls"] = json!([{"id": "call00001", "type": "function",
                "function": {"name": "probe", "arguments": {}}}]);
            render(&input)
        };
        let empty = with_calls(json!(""));
        forms.null_unread = match (with_calls(Json::Null), &empty) {
            (Ok(null), Ok(empty)) => null.matches("None").count() > empty.matches("None").count(),
            (Err(_), _) => true,
            (Ok(_), Err(_)) => false,
        };
        forms
    }

    /// Brings `messages` into forms that the template can read.
    ///
    /// # Errors
    /// When a message has parts that are not text and the template cannot read parts.
    pub(super) fn apply(&self, messages: &mut [Json]) -> Result<(), TemplateError> {
        for (index, message) in messages.iter_mut().enumerate() {
            if message["role"] == "developer" && !self.knows_developer {
                message["role"] = json!("system");
            }
            parse_arguments(message);
            let role = message["role"].as_str().unwrap_or("user");
            let role = ROLES.into_iter().find(|known| *known == role).unwrap_or("user");
            let Some(message) = message.as_object_mut() else {
                continue;
            };
            let content = message.get("content").unwrap_or(&Json::Null);
            let new = match content {
                Json::Null if self.null_unread => Some(json!("")),
                Json::Array(parts) if self.parts_unread.contains(&role) => {
                    Some(Json::String(joined_text(index, parts)?))
                }
                Json::String(text) if self.strings_unread.contains(&role) => {
                    Some(json!([{"type": "text", "text": text}]))
                }
                _ => None,
            };
            if let Some(new) = new {
                message.insert("content".to_owned(), new);
            }
        }
        Ok(())
    }
}

/// A conversation with one message of `role`, and around it what such a message needs.
fn probe_input(role: &str, content: Json) -> RenderInput {
    let message = json!({"role": role, "content": content});
    let user = json!({"role": "user", "content": "?"});
    let call = json!({"role": "assistant", "content": "", "tool_calls": [{"id": "call00001",
        "type": "function", "function": {"name": "probe", "arguments": {}}}]});
    let messages = match role {
        "user" => vec![message],
        "system" => vec![message, user],
        "assistant" => vec![user, message],
        _ => {
            let mut answer = message;
            answer["tool_call_id"] = json!("call00001");
            answer["name"] = json!("probe");
            vec![user, call, answer]
        }
    };
    RenderInput { messages, verbatim: true, ..RenderInput::default() }
}

/// The text parts of message number `index`, joined by line ends.
fn joined_text(index: usize, parts: &[Json]) -> Result<String, TemplateError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (number, part) in parts.iter().enumerate() {
        let text = match part {
            Json::String(text) => Some(text.as_str()),
            part => part["text"].as_str().or_else(|| part["refusal"].as_str()),
        };
        texts.push(text.ok_or_else(|| {
            TemplateError::Render(format!(
                "messages[{index}].content[{number}] is not text, and this model's template reads text only"
            ))
        })?);
    }
    Ok(texts.join("\n"))
}

/// Turns `arguments` that are a JSON object written as a string, as the OpenAI API has
/// them, into the object, as templates want them. Other strings stay.
fn parse_arguments(message: &mut Json) {
    let Some(calls) = message.get_mut("tool_calls").and_then(Json::as_array_mut) else {
        return;
    };
    for call in calls {
        let Some(arguments) = call.get_mut("function").and_then(|f| f.get_mut("arguments")) else {
            continue;
        };
        let Some(text) = arguments.as_str() else {
            continue;
        };
        if text.trim().is_empty() {
            *arguments = json!({});
        } else if let Ok(object @ Json::Object(_)) = serde_json::from_str(text) {
            *arguments = object;
        }
    }
}

/// Gives reasoning the names that templates look for, as transformers does: the first of
/// `reasoning_content`, `thinking`, `reasoning` is also `reasoning_content`, and `thinking`
/// where that is absent.
pub(super) fn alias_reasoning(messages: &mut [Json]) {
    for message in messages.iter_mut().filter_map(Json::as_object_mut) {
        let names = ["reasoning_content", "thinking", "reasoning"];
        let found = names.iter().find_map(|name| message.get(*name).filter(|v| !v.is_null()));
        let Some(reasoning) = found.cloned() else {
            continue;
        };
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".to_owned(), reasoning);
    }
}

/// What is appended to the last message to find its end again in the rendering.
const END_MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Appends the mark to the last message's text and returns that text without it.
///
/// # Errors
/// When there is no last message with text, or the template does not read content.
pub(super) fn mark_final(messages: &mut [Json], source: &str) -> Result<String, TemplateError> {
    let failure = |reason: &str| {
        Err(TemplateError::Render(format!("continue_final_message is set, but {reason}")))
    };
    let Some(last) = messages.last_mut() else {
        return failure("there are no messages");
    };
    if !source.contains("content") {
        return failure("the template does not read content");
    }
    let text = match &mut last["content"] {
        Json::String(text) => text,
        Json::Array(parts) => {
            let text = parts.iter_mut().rev().find_map(|part| match part.get_mut("text") {
                Some(Json::String(text)) => Some(text),
                _ => None,
            });
            match text {
                Some(text) => text,
                None => return failure("the last message has no text part"),
            }
        }
        _ => return failure("the last message has no content"),
    };
    let unmarked = text.clone();
    text.push_str(END_MARK);
    Ok(unmarked)
}

/// Cuts the rendering where the last message's text ends.
///
/// # Errors
/// When the template did not print that text.
pub(super) fn cut_at_mark(mut text: String, last: &str) -> Result<String, TemplateError> {
    let mark = END_MARK.trim_end();
    let Some(at) = text.rfind(mark).filter(|_| text.contains(last.trim())) else {
        return Err(TemplateError::Render(
            "continue_final_message is set, but the template does not print the last message"
                .to_owned(),
        ));
    };
    let whole = text[at..].starts_with(END_MARK);
    text.truncate(at);
    if !whole {
        // The template trims its messages, so the end of this one is trimmed too.
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}

/// About how many bytes a JSON value has, for the limits.
pub(super) fn json_bytes(value: &Json) -> usize {
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => 8,
        Json::String(text) => 8 + text.len(),
        Json::Array(items) => 8 + items.iter().map(json_bytes).sum::<usize>(),
        Json::Object(object) => {
            8 + object.iter().map(|(key, value)| 8 + key.len() + json_bytes(value)).sum::<usize>()
        }
    }
}
