//! From messages to the prompt's text, and from text to token ids. Runs on the compute pool.
use crate::error::ApiError;
use crate::refuse;
use crate::state::AppState;
use crate::validate::to_usize;
use serde_json::{Map, Value, json};
use wharf_api::{ChatMessage, ContentPart, GenerationFields, Integer, MessageContent, Role};
use wharf_text::template::RenderInput;
use wharf_text::tool_calls::custom;

/// Template variables that have a field of their own, or that nobody may replace.
const RESERVED: [&str; 9] = [
    "messages",
    "tools",
    "documents",
    "chat_template",
    "tokenize",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
];

/// Longest sequences that a text to be truncated may have.
const TRUNCATABLE: usize = 4;

/// How to render a conversation.
#[derive(Debug, Default)]
pub(crate) struct Rendering<'a> {
    pub(crate) add_generation_prompt: Option<bool>,
    pub(crate) continue_final_message: Option<bool>,
    pub(crate) documents: Option<&'a [Value]>,
    pub(crate) kwargs: Option<&'a Map<String, Value>>,
    pub(crate) reasoning_effort: Option<&'a str>,
    /// Tools that may be called, as OpenAI writes them.
    pub(crate) tools: Option<&'a [Value]>,
}

/// Renders `messages` with the model's template.
///
/// # Errors
/// A message of a shape that cannot be, contradicting options, no template, or what the template
/// itself says.
pub(crate) fn render(
    state: &AppState,
    messages: &[ChatMessage],
    rendering: &Rendering<'_>,
) -> Result<String, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::field("messages", "must have at least one message"));
    }
    let continue_final_message = rendering.continue_final_message == Some(true);
    if continue_final_message && rendering.add_generation_prompt == Some(true) {
        let reason = "not together with `add_generation_prompt`";
        return Err(ApiError::field("continue_final_message", reason));
    }
    let messages: Vec<Value> = messages
        .iter()
        .enumerate()
        .map(|(at, message)| template_message(message, at))
        .collect::<Result<_, _>>()?;
    let Some(template) = &state.template else {
        return Err(ApiError::Template(
            "This model has no chat template; use /v1/completions instead.".to_owned(),
        ));
    };
    let mut kwargs = rendering.kwargs.cloned().unwrap_or_default();
    if let Some(key) = RESERVED.iter().find(|key| kwargs.contains_key(**key)) {
        let reason = "it cannot be set here";
        return Err(ApiError::field(format!("chat_template_kwargs.{key}"), reason));
    }
    // The same name has the same values wherever it stands.
    if let Some(effort) = kwargs.get("reasoning_effort").filter(|effort| !effort.is_null()) {
        refuse::reasoning_effort("chat_template_kwargs.reasoning_effort", effort.as_str())?;
    }
    if let Some(effort) = rendering.reasoning_effort {
        if effort == "none" {
            // The names that templates have for it.
            for switch in ["enable_thinking", "thinking"] {
                kwargs.entry(switch).or_insert(Value::Bool(false));
            }
        }
        kwargs.entry("reasoning_effort").or_insert_with(|| effort.into());
    }
    let input = RenderInput {
        messages,
        tools: rendering.tools.map(<[Value]>::to_vec),
        documents: rendering.documents.map(<[Value]>::to_vec),
        add_generation_prompt: rendering.add_generation_prompt.unwrap_or(!continue_final_message),
        continue_final_message,
        kwargs,
        verbatim: false,
    };
    template.render(&input).map_err(|error| ApiError::Template(error.to_string()))
}

/// A message as the template crate takes it, which brings it into the forms that this template
/// reads. Here only what is the protocol's own: the deprecated function shapes become tools, and
/// everything a text model cannot have is refused.
fn template_message(message: &ChatMessage, at: usize) -> Result<Value, ApiError> {
    let role = match message.role {
        Role::Developer => "developer",
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool | Role::Function => "tool",
    };
    let calls = tool_calls(message, at)?;
    let content = match &message.content {
        Some(MessageContent::Text(text)) => Value::from(text.as_str()),
        Some(MessageContent::Parts(parts)) => text_parts(message, parts, at)?,
        // Templates expect null only beside calls.
        None if message.role == Role::Assistant && !calls.is_empty() => Value::Null,
        None if message.role == Role::Assistant => {
            Value::from(message.refusal.as_deref().unwrap_or_default())
        }
        None => {
            let path = format!("messages[{at}].content");
            return Err(ApiError::field(path, "required for this role"));
        }
    };
    let mut out = json!({"role": role, "content": content});
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            out[key] = value;
        }
    };
    set("name", message.name.clone().map(Value::from));
    set("tool_call_id", message.tool_call_id.clone().map(Value::from));
    // Both names are read; the template crate gives it the ones that templates look for.
    let reasoning = message.reasoning.as_ref().or(message.reasoning_content.as_ref());
    set("reasoning_content", reasoning.cloned().map(Value::from));
    set("tool_calls", (!calls.is_empty()).then_some(Value::Array(calls)));
    Ok(out)
}

/// The calls of a message, the deprecated `function_call` among them. Templates know functions
/// only, so those of custom tools are written as the model wrote them.
fn tool_calls(message: &ChatMessage, at: usize) -> Result<Vec<Value>, ApiError> {
    let function = |name: &str, arguments: &str| json!({"name": name, "arguments": arguments});
    let mut calls = Vec::new();
    for (call_at, call) in message.tool_calls.iter().flatten().enumerate() {
        let path = |field: &str| format!("messages[{at}].tool_calls[{call_at}].{field}");
        let function = match (call.kind.as_str(), &call.function, &call.custom) {
            ("function", Some(call), _) => function(&call.name, &call.arguments),
            ("custom", _, Some(call)) => function(&call.name, &custom::arguments(&call.input)),
            (kind @ ("function" | "custom"), ..) => {
                return Err(ApiError::field(path(kind), "required"));
            }
            _ => {
                let reason = "must be `function` or `custom`";
                return Err(ApiError::field(path("type"), reason));
            }
        };
        calls.push(json!({"id": call.id, "type": "function", "function": function}));
    }
    calls.extend(message.function_call.iter().map(
        |call| json!({"type": "function", "function": function(&call.name, &call.arguments)}),
    ));
    Ok(calls)
}

/// Parts of text, each as `{type: text, text}`; no parts are the empty string.
fn text_parts(message: &ChatMessage, parts: &[ContentPart], at: usize) -> Result<Value, ApiError> {
    if parts.is_empty() {
        return Ok(Value::from(""));
    }
    let mut texts = Vec::with_capacity(parts.len());
    for (part_at, part) in parts.iter().enumerate() {
        let path = || format!("messages[{at}].content[{part_at}]");
        let (text, field) = match part.kind.as_str() {
            "text" | "input_text" | "output_text" => (&part.text, "text"),
            "refusal" if message.role == Role::Assistant => (&part.refusal, "refusal"),
            "image_url" | "input_image" | "image_pil" | "image_embeds" | "input_audio"
            | "audio_url" | "video_url" | "file" => {
                let kind = &part.kind;
                let reason = format!("`{kind}` parts need another model; this one is text-only");
                return Err(ApiError::unsupported(path(), reason));
            }
            other => {
                let other: String = other.chars().take(64).collect();
                let reason = format!("`{other}` is not a kind of part of this role");
                return Err(ApiError::field(format!("{}.type", path()), reason));
            }
        };
        match text {
            Some(text) => texts.push(json!({"type": "text", "text": text})),
            None => return Err(ApiError::field(format!("{}.{field}", path()), "required")),
        }
    }
    Ok(Value::Array(texts))
}

/// Tokenises `text`, and truncates the ids where the request asks for that.
///
/// # Errors
/// `context_length_exceeded` already here for a text so long that it cannot fit, whatever its
/// tokens; where it will be truncated, an error on more text than [`truncatable`] tokens can be;
/// what the tokenizer says.
pub(crate) fn encode(
    state: &AppState,
    fields: &GenerationFields,
    text: &str,
    add_special_tokens: bool,
) -> Result<Vec<u32>, ApiError> {
    let most = truncatable(state).saturating_mul(state.longest_token);
    if fields.truncate_prompt_tokens.is_some() && text.len() > most {
        let reason = format!("a text of {} bytes is too long; at most {most}", text.len());
        return Err(ApiError::field("truncate_prompt_tokens", reason));
    }
    if fields.truncate_prompt_tokens.is_none() {
        let fewest = text.len() / state.longest_token;
        if fewest > state.max_model_len {
            let limit = state.max_model_len;
            return Err(ApiError::ContextLength { prompt: fewest, limit, at_least: true });
        }
    }
    let ids = state
        .tokenizer
        .encode(text, fields.add_special_tokens.unwrap_or(add_special_tokens))
        .map_err(|error| ApiError::Body { message: error.to_string(), param: None })?;
    truncate(state, fields, ids)
}

/// Most tokens that are taken in where only a part of them can be of use: a few times the longest
/// sequence. More would be work for nothing, and as much of it as a body can hold.
pub(crate) fn truncatable(state: &AppState) -> usize {
    state.max_model_len.saturating_mul(TRUNCATABLE)
}

/// `truncate_prompt_tokens` and `truncation_side`.
pub(crate) fn truncate(
    state: &AppState,
    fields: &GenerationFields,
    mut ids: Vec<u32>,
) -> Result<Vec<u32>, ApiError> {
    let from_left = match fields.truncation_side.as_deref() {
        None | Some("left") => true,
        Some("right") => false,
        Some(_) => return Err(ApiError::field("truncation_side", "must be `left` or `right`")),
    };
    let Some(Integer(keep)) = fields.truncate_prompt_tokens else {
        return Ok(ids);
    };
    let keep = match keep {
        // One token must be left for the answer.
        -1 => state.max_model_len.saturating_sub(1),
        1.. => to_usize(keep),
        _ => {
            let reason = format!("must be -1 or at least 1, got {keep}");
            return Err(ApiError::field("truncate_prompt_tokens", reason));
        }
    };
    if from_left {
        ids.drain(..ids.len().saturating_sub(keep));
    } else {
        ids.truncate(keep);
    }
    Ok(ids)
}
