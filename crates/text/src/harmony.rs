//! Harmony, the format of gpt-oss: an answer is a row of messages with headers of their own.
//!
//! ```text
//! <|channel|>analysis<|message|>They ask for…<|end|><|start|>assistant<|channel|>commentary
//! to=functions.get_weather <|constrain|>json<|message|>{"city":"Oslo"}<|call|>
//! ```
//!
//! `analysis` is reasoning; `final`, and `commentary` to nobody, is content; what has a recipient
//! is a call. Reasoning and calls cannot be read one after the other, so one parser reads all of
//! it, as the format of reasoning and as that of calls. `<|call|>` ends an answer, so there is one
//! call at most.

use serde::de::IgnoredAny;

use crate::output::{
    OutputEvent, OutputParser,
    pending::{Beginning, Pending, whitespace},
};

/// Every marker.
pub(crate) const MARKERS: &[&str] = &[
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
];

/// What begins a header; the first only where the answer does not begin with it.
const HEADER: &[&str] = &["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "to="];

const START: usize = 0;

/// What ends a message. A new header ends one too.
const MESSAGE_ENDS: &[&str] = &["<|start|>", "<|end|>", "<|call|>", "<|return|>"];

/// What a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// What the model thinks.
    Reasoning,
    /// What it answers.
    Content,
    /// A call of this function.
    Call(String),
    /// Not the model's own: it has gone on to write what others would say.
    Foreign,
}

impl Message {
    /// Reads a header: the text between `<|start|>` and `<|message|>`.
    pub(crate) fn from_header(header: &str) -> Self {
        let channel_at = header.find("<|channel|>");
        let role = header[..channel_at.unwrap_or(header.len())].split_whitespace().next();
        let own = role.is_none_or(|role| role.starts_with("assistant") || role.starts_with("to="));
        let channel = channel_at.map_or("", |at| word(&header[at + "<|channel|>".len()..]));
        let recipient = header.find("to=").map(|at| word(&header[at + "to=".len()..]));
        match (own, recipient) {
            (false, _) => Self::Foreign,
            (true, Some(name)) => {
                Self::Call(name.strip_prefix("functions.").unwrap_or(name).to_owned())
            }
            (true, None) if channel == "analysis" => Self::Reasoning,
            (true, None) => Self::Content,
        }
    }
}

/// The first word, up to white space or a marker.
fn word(text: &str) -> &str {
    let text = text.trim_start();
    &text[..text.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(text.len())]
}

/// Where the text stands.
#[derive(Debug)]
enum State {
    /// Before a header, or text without one.
    Between,
    /// In a header; what of it has come.
    Header(String),
    /// In a message.
    Message(Message),
}

/// Reads an answer in harmony.
#[derive(Debug)]
pub(crate) struct HarmonyParser {
    state: State,
    pending: Pending,
    /// The arguments of the call that is open.
    arguments: String,
    /// Nothing of the content message has come but white space.
    fresh: bool,
}

impl HarmonyParser {
    /// `within`: the message that the prompt has begun.
    pub(crate) fn new(within: Option<Message>) -> Self {
        Self {
            state: within.map_or(State::Between, State::Message),
            pending: Pending::default(),
            arguments: String::new(),
            fresh: true,
        }
    }

    /// Reads on; whether there may be more to read.
    fn step(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        match &self.state {
            State::Between => self.between(),
            State::Header(_) => self.header(out),
            State::Message(_) => self.message(out),
        }
    }

    fn between(&mut self) -> bool {
        if !self.pending.skip_whitespace() {
            return false;
        }
        match self.pending.beginning(HEADER) {
            Beginning::Unsure => return false,
            Beginning::Marker(index) => {
                if index == START {
                    self.pending.skip(HEADER[START].len());
                }
                self.state = State::Header(String::new());
            }
            Beginning::Other => {
                self.fresh = true;
                self.state = State::Message(Message::Content);
            }
        }
        true
    }

    fn header(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let State::Header(header) = &mut self.state else { return false };
        let (before, end) = self.pending.take_before(&["<|message|>"]);
        header.push_str(before);
        if end.is_none() {
            return false;
        }
        let message = Message::from_header(header);
        if let Message::Call(name) = &message {
            out.push(OutputEvent::CallStart { name: name.clone() });
            self.arguments.clear();
        }
        self.fresh = true;
        self.state = State::Message(message);
        true
    }

    fn message(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let State::Message(message) = &self.state else { return false };
        let (text, end) = self.pending.take_before(MESSAGE_ENDS);
        match message {
            Message::Reasoning if !text.is_empty() => {
                out.push(OutputEvent::Reasoning(text.to_owned()));
            }
            Message::Content => {
                let text = &text[if self.fresh { whitespace(text) } else { 0 }..];
                if !text.is_empty() {
                    self.fresh = false;
                    out.push(OutputEvent::Content(text.to_owned()));
                }
            }
            Message::Call(_) if !text.is_empty() => {
                self.arguments.push_str(text);
                out.push(OutputEvent::Arguments(text.to_owned()));
            }
            _ => {}
        }
        let Some(end) = end else { return false };
        self.end_call(out);
        self.state = if end == START { State::Header(String::new()) } else { State::Between };
        true
    }

    /// A call is complete where its arguments are: `<|call|>` is not shown, as it ends the answer.
    fn end_call(&mut self, out: &mut Vec<OutputEvent>) {
        let complete = || serde_json::from_str::<IgnoredAny>(&self.arguments).is_ok();
        if matches!(self.state, State::Message(Message::Call(_))) && complete() {
            out.push(OutputEvent::CallEnd);
        }
    }
}

impl OutputParser for HarmonyParser {
    fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        self.pending.push(text);
        while self.step(out) {}
    }

    fn finish(&mut self, out: &mut Vec<OutputEvent>) {
        self.pending.end();
        while self.step(out) {}
        self.end_call(out);
    }

    fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Message(Message::Reasoning))
    }
}
