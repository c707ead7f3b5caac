//! Tools for templates that know none: the same in plain messages, in the hermes format.
//!
//! The tools go into the system message, calls into the assistant's content, and results into a
//! user's message; so a model that has never seen a tool can be asked for a call all the same.

use serde_json::{Value as Json, json};

/// Rewrites `messages`, so that nothing in them needs a template that knows tools.
pub(super) fn rewrite(messages: &mut Vec<Json>, tools: Option<&[Json]>) {
    let mut out: Vec<Json> = Vec::with_capacity(messages.len() + 1);
    let mut answering = false;
    for mut message in std::mem::take(messages) {
        let role = message.get("role").and_then(Json::as_str).unwrap_or_default().to_owned();
        if role == "tool" {
            let result = format!("<tool_response>\n{}\n</tool_response>", text(&message));
            match out.last_mut().filter(|_| answering) {
                // The results of one turn are one message.
                Some(last) => last["content"] = format!("{}\n{result}", text(last)).into(),
                None => out.push(json!({"role": "user", "content": result})),
            }
            answering = true;
            continue;
        }
        answering = false;
        if let Some(calls) = message.get("tool_calls").and_then(Json::as_array) {
            let mut parts: Vec<String> = Vec::new();
            parts.extend(Some(text(&message)).filter(|content| !content.is_empty()));
            parts.extend(calls.iter().filter_map(|call| call.get("function")).map(call));
            message["content"] = parts.join("\n").into();
            if let Some(fields) = message.as_object_mut() {
                fields.remove("tool_calls");
            }
        }
        out.push(message);
    }
    if let Some(tools) = tools.filter(|tools| !tools.is_empty()) {
        let block = system_block(tools);
        match out.first_mut().filter(|first| first["role"] == "system") {
            Some(system) => system["content"] = format!("{}\n\n{block}", text(system)).into(),
            None => out.insert(0, json!({"role": "system", "content": block})),
        }
    }
    *messages = out;
}

/// What the model is told of its tools.
fn system_block(tools: &[Json]) -> String {
    let lines: Vec<String> = tools.iter().map(Json::to_string).collect();
    format!(
        "You can call functions. These are the functions, one on each line:\n\
         <tools>\n{}\n</tools>\n\n\
         To call a function, write its name and its arguments as JSON, like this:\n\
         <tool_call>\n{{\"name\": \"function_name\", \"arguments\": {{\"argument\": \"value\"}}}}\n\
         </tool_call>\n\n\
         What a function gives back comes to you between <tool_response> and </tool_response>.",
        lines.join("\n")
    )
}

/// A call as the model is to write it.
fn call(function: &Json) -> String {
    let arguments = match &function["arguments"] {
        Json::String(text) if !text.trim().is_empty() => text.clone(),
        Json::String(_) | Json::Null => "{}".to_owned(),
        other => other.to_string(),
    };
    format!(
        "<tool_call>\n{{\"name\": {}, \"arguments\": {arguments}}}\n</tool_call>",
        function["name"]
    )
}

/// The text of a message's content: a string, or parts of text.
fn text(message: &Json) -> String {
    match &message["content"] {
        Json::String(text) => text.clone(),
        Json::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part.get("text").and_then(Json::as_str));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_with_tools_becomes_one_without() {
        let mut messages = vec![
            json!({"role": "user", "content": "Weather?"}),
            json!({"role": "assistant", "content": null, "tool_calls": [
                {"function": {"name": "f", "arguments": {"a": 1}}},
                {"function": {"name": "g", "arguments": ""}},
            ]}),
            json!({"role": "tool", "content": "31"}),
            json!({"role": "tool", "content": [{"type": "text", "text": "32"}]}),
            json!({"role": "assistant", "content": "Hot."}),
        ];
        let tools = [json!({"type": "function", "function": {"name": "f"}})];
        rewrite(&mut messages, Some(&tools));
        let roles: Vec<_> = messages.iter().map(|m| m["role"].as_str().unwrap_or("")).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
        assert!(text(&messages[0]).contains("<tools>\n{\"type\":\"function\""));
        assert_eq!(
            text(&messages[2]),
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1}}\n</tool_call>\n\
             <tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>"
        );
        assert!(messages[2].get("tool_calls").is_none());
        assert_eq!(
            text(&messages[3]),
            "<tool_response>\n31\n</tool_response>\n<tool_response>\n32\n</tool_response>"
        );
    }

    #[test]
    fn the_tools_follow_the_instructions_that_are_there() {
        let mut messages = vec![json!({"role": "system", "content": "Be brief."})];
        rewrite(&mut messages, Some(&[json!({"a": 1})]));
        assert_eq!(messages.len(), 1);
        assert!(text(&messages[0]).starts_with("Be brief.\n\nYou can call functions."));
        let before = messages.clone();
        rewrite(&mut messages, None);
        assert_eq!(messages, before);
    }
}
