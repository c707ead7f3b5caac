//! How chat completions are written: whole messages, and chunks of them.
use crate::answer::{FINGERPRINT, Format, Head};
use crate::choice::{Finish, LogprobEntry, Update};
use crate::logprobs::TokenNames;
use crate::parts::Calls;
use crate::sse::Frames;
use crate::state::AppState;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use wharf_api::tools::{CustomCall, FunctionCall, ToolCall};
use wharf_api::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatResponseMessage,
    CustomDelta, FinishReason, FunctionDelta, Role, ToolCallDelta, Usage,
};
use wharf_text::output::OutputEvent;

/// Chat completions and their chunks.
pub(crate) struct ChatFormat {
    pub(crate) state: Arc<AppState>,
    pub(crate) head: Head,
    pub(crate) calls: Calls,
    /// Names of the custom tools.
    pub(crate) customs: Arc<[String]>,
    pub(crate) logprobs: bool,
    pub(crate) tokens_as_ids: bool,
    pub(crate) return_token_ids: bool,
    /// Where the request wants ids; taken by the first chunk.
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    /// `n` of them.
    pub(crate) choices: Vec<ChoiceState>,
}

/// What a choice has still to say, and what it has said.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChoiceState {
    /// Tool calls begun.
    calls: usize,
    /// The last of them is one of a custom tool.
    custom: bool,
    /// Ids that no chunk has had.
    unsent_token_ids: Vec<u32>,
}

impl ChatFormat {
    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<&Usage>) -> ChatChunk {
        ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            system_fingerprint: Some(FINGERPRINT.to_owned()),
            usage: usage.cloned(),
            prompt_token_ids: None,
        }
    }

    fn names(&self) -> TokenNames<'_> {
        TokenNames { tokenizer: self.state.tokenizer.as_ref(), as_ids: self.tokens_as_ids }
    }

    /// What `part` adds to choice `index`; `None` for what only ends.
    fn delta(&mut self, index: usize, part: OutputEvent) -> Option<ChatDelta> {
        let choice = &mut self.choices[index];
        Some(match part {
            OutputEvent::Content(text) => ChatDelta { content: Some(text), ..ChatDelta::default() },
            OutputEvent::Reasoning(text) => ChatDelta {
                reasoning: Some(text.clone()),
                reasoning_content: Some(text),
                ..ChatDelta::default()
            },
            OutputEvent::CallStart { name } => {
                choice.calls += 1;
                choice.custom = self.customs.contains(&name);
                call_delta(self.calls, choice, Some(name), String::new())
            }
            OutputEvent::Arguments(text) => call_delta(self.calls, choice, None, text),
            OutputEvent::CallEnd => return None,
        })
    }

    /// A choice of a chunk; ids and log-probabilities go with an update's first.
    fn choice(
        &mut self,
        index: usize,
        delta: ChatDelta,
        entries: &mut Vec<LogprobEntry>,
    ) -> ChatChunkChoice {
        let unsent = std::mem::take(&mut self.choices[index].unsent_token_ids);
        let entries = std::mem::take(entries);
        ChatChunkChoice {
            index,
            delta,
            logprobs: self.logprobs.then(|| self.names().chat(&entries)),
            finish_reason: None,
            stop_reason: None,
            token_ids: self.return_token_ids.then_some(unsent),
        }
    }
}

/// A part of the call that `choice` is at: with `begin`, the name, its first.
fn call_delta(
    calls: Calls,
    choice: &ChoiceState,
    begin: Option<String>,
    text: String,
) -> ChatDelta {
    let first = begin.is_some();
    let (mut function, mut custom) = (None, None);
    if choice.custom {
        custom = Some(CustomDelta { name: begin, input: Some(text) });
    } else {
        function = Some(FunctionDelta { name: begin, arguments: Some(text) });
    }
    if calls.legacy {
        return ChatDelta { function_call: function, ..ChatDelta::default() };
    }
    let call = ToolCallDelta {
        index: choice.calls.saturating_sub(1),
        id: first.then(|| calls.new_id()),
        kind: first.then(|| kind(choice.custom).to_owned()),
        function,
        custom,
    };
    ChatDelta { tool_calls: Some(vec![call]), ..ChatDelta::default() }
}

fn kind(custom: bool) -> &'static str {
    if custom { "custom" } else { "function" }
}

/// A whole message of these parts.
fn message(parts: Vec<OutputEvent>, calls: Calls, customs: &[String]) -> ChatResponseMessage {
    let (mut content, mut reasoning) = (String::new(), String::new());
    let mut functions: Vec<FunctionCall> = Vec::new();
    for part in parts {
        match part {
            OutputEvent::Content(text) => content.push_str(&text),
            OutputEvent::Reasoning(text) => reasoning.push_str(&text),
            OutputEvent::CallStart { name } => {
                functions.push(FunctionCall { name, arguments: String::new() });
            }
            OutputEvent::Arguments(text) => {
                if let Some(open) = functions.last_mut() {
                    open.arguments.push_str(&text);
                }
            }
            OutputEvent::CallEnd => {}
        }
    }
    let silent = content.is_empty() && !(functions.is_empty() && reasoning.is_empty());
    let reasoning = (!reasoning.is_empty()).then_some(reasoning);
    let tool_call = |FunctionCall { name, arguments }: FunctionCall| {
        let (mut function, mut custom) = (None, None);
        if customs.contains(&name) {
            custom = Some(CustomCall { name, input: arguments });
        } else {
            function = Some(FunctionCall { name, arguments });
        }
        let kind = kind(custom.is_some()).to_owned();
        ToolCall { id: Some(calls.new_id()), kind, function, custom }
    };
    let (tool_calls, function_call) = if calls.legacy {
        (None, functions.into_iter().next())
    } else {
        let all: Vec<ToolCall> = functions.into_iter().map(tool_call).collect();
        ((!all.is_empty()).then_some(all), None)
    };
    ChatResponseMessage {
        role: Role::Assistant,
        content: (!silent).then_some(content),
        refusal: None,
        reasoning: reasoning.clone(),
        reasoning_content: reasoning,
        tool_calls,
        function_call,
    }
}

impl Format for ChatFormat {
    fn open(&mut self, usage: Option<&Usage>, out: &mut Frames) {
        for index in 0..self.choices.len() {
            let choice = ChatChunkChoice {
                index,
                delta: ChatDelta {
                    role: Some(Role::Assistant),
                    content: Some(String::new()),
                    ..ChatDelta::default()
                },
                logprobs: None,
                finish_reason: None,
                stop_reason: None,
                token_ids: None,
            };
            let mut chunk = self.chunk(vec![choice], usage);
            chunk.prompt_token_ids = self.prompt_token_ids.take();
            out.push(&chunk);
        }
    }

    fn update(&mut self, index: usize, update: Update, usage: Option<&Usage>, out: &mut Frames) {
        let visible = !update.is_empty();
        let Update { parts, mut logprobs, token_ids, finish } = update;
        if self.return_token_ids {
            self.choices[index].unsent_token_ids.extend(token_ids);
        }
        if !visible {
            return;
        }
        for part in parts {
            if let Some(delta) = self.delta(index, part) {
                let choice = self.choice(index, delta, &mut logprobs);
                out.push(&self.chunk(vec![choice], usage));
            }
        }
        let ids_left = finish.is_some() && !self.choices[index].unsent_token_ids.is_empty();
        if !logprobs.is_empty() || ids_left {
            let nothing = ChatDelta { content: Some(String::new()), ..ChatDelta::default() };
            let choice = self.choice(index, nothing, &mut logprobs);
            out.push(&self.chunk(vec![choice], usage));
        }
        if let Some(Finish { reason, stop }) = finish {
            let choice = ChatChunkChoice {
                index,
                delta: ChatDelta::default(),
                logprobs: None,
                finish_reason: Some(reason),
                stop_reason: stop,
                token_ids: None,
            };
            out.push(&self.chunk(vec![choice], usage));
        }
    }

    fn usage(&mut self, usage: Usage, out: &mut Frames) {
        out.push(&self.chunk(Vec::new(), Some(&usage)));
    }

    fn whole(&mut self, choices: Vec<Update>, usage: Usage) -> Response {
        let choice = |(index, update): (usize, Update)| {
            let (finish_reason, stop_reason) = match update.finish {
                Some(Finish { reason, stop }) => (reason, stop),
                // Every choice has ended when this is called.
                None => (FinishReason::Length, None),
            };
            ChatChoice {
                index,
                message: message(update.parts, self.calls, &self.customs),
                logprobs: self.logprobs.then(|| self.names().chat(&update.logprobs)),
                finish_reason,
                stop_reason,
                token_ids: self.return_token_ids.then_some(update.token_ids),
            }
        };
        let choices = choices.into_iter().enumerate().map(choice).collect();
        axum::Json(ChatCompletion {
            id: self.head.id.clone(),
            object: "chat.completion".to_owned(),
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage,
            system_fingerprint: Some(FINGERPRINT.to_owned()),
            prompt_token_ids: self.prompt_token_ids.take(),
        })
        .into_response()
    }
}
