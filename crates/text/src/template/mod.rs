//! Chat templates: a conversation to the prompt's text.
//!
//! A model's template is a Jinja program that comes with its weights. It is run by
//! minijinja, made to behave as transformers' `apply_chat_template` does, byte for byte
//! where the reference cases say so: its extra functions and filters, Python's way of
//! printing values (`python`), and what it does to the messages beforehand
//! (`messages`).
//!
//! A template is untrusted, as all of a model's files are. `limits` bounds the
//! instructions, time, memory and depth of a rendering, and nothing a template does can
//! reach a file or another template.

mod environment;
mod filters;
mod generation;
mod hermes;
mod limits;
mod messages;
mod python;

use std::fmt;
use std::sync::Arc;

use minijinja::{Environment, Value};
use serde_json::{Value as Json, json};

use messages::ContentForms;

/// Why a template failed. None of these is helped by a retry.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template's own text is broken.
    #[error("chat template: {0}")]
    Syntax(String),
    /// The template called `raise_exception`: the conversation is not one it takes.
    #[error("{0}")]
    Raised(String),
    /// It failed on these messages, or would have passed the limits.
    #[error("chat template: {0}")]
    Render(String),
}

/// Gives the time that `strftime_now` formats.
pub type Clock = Arc<dyn Fn() -> jiff::Zoned + Send + Sync>;

/// A compiled chat template. Rendering takes `&self`; it may be shared between threads.
pub struct ChatTemplate {
    /// The template's text, its `{% generation %}` blocks already rewritten.
    source: String,
    /// Functions, filters and settings.
    environment: Environment<'static>,
    /// `bos_token`, `eos_token` and the like.
    variables: Vec<(String, Value)>,
    /// Which forms of `content` the template can read, found out by trying.
    forms: ContentForms,
    /// Whether it prints tools, found out by trying.
    knows_tools: bool,
}

/// What a rendering is given.
#[derive(Debug, Clone, Default)]
pub struct RenderInput {
    /// OpenAI messages, as JSON.
    pub messages: Vec<Json>,
    /// `tools`; `None` is passed to the template as `none`.
    pub tools: Option<Vec<Json>>,
    /// `documents`.
    pub documents: Option<Vec<Json>>,
    /// End with the header of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Leave the last message open (transformers' `continue_final_message`).
    pub continue_final_message: bool,
    /// `chat_template_kwargs`: more variables for the template.
    pub kwargs: serde_json::Map<String, Json>,
    /// Pass the messages as they are, as transformers does. By default they are first
    /// brought into the forms that this template can read: `arguments` strings become
    /// objects, lists of text parts become strings, `developer` becomes `system`.
    pub verbatim: bool,
}

/// A template longer than this is refused. The longest real ones have about 20 KB.
const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Variables that `chat_template_kwargs` cannot set, because the request has them as fields.
const RESERVED: [&str; 5] =
    ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message"];

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source_bytes", &self.source.len())
            .field("forms", &self.forms)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles `source`. `bos`/`eos`: the texts of the special tokens.
    ///
    /// The template is then rendered a few times on tiny conversations, to find out which
    /// forms of message content it can read.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`] when it is not a template, or is too long.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::Syntax(format!(
                "{} bytes long; at most {MAX_SOURCE_BYTES} are supported",
                source.len()
            )));
        }
        let mut variables = Vec::new();
        for (name, text) in [("bos_token", bos), ("eos_token", eos)] {
            if let Some(text) = text {
                variables.push((name.to_owned(), Value::from(text)));
            }
        }
        let mut template = Self {
            source: generation::rewrite(source),
            environment: environment::new(Arc::new(jiff::Zoned::now)),
            variables,
            forms: ContentForms::default(),
            knows_tools: true,
        };
        limits::compile(&template.source).map_err(|error| TemplateError::Syntax(text(&error)))?;
        template.forms = ContentForms::probe(source, |input| template.render(input));
        template.knows_tools = template.prints_tools();
        Ok(template)
    }

    /// Whether the template itself tells the model of tools. Where it does not, they are told in the
    /// system message, in the hermes format.
    pub fn knows_tools(&self) -> bool {
        self.knows_tools
    }

    /// Renders a tool and a call of a name that stands nowhere else.
    fn prints_tools(&self) -> bool {
        const NAME: &str = "wharf_probe_of_tools";
        let parameters = json!({"type": "object", "properties": {}, "required": []});
        let function = json!({"name": NAME, "description": "", "parameters": parameters});
        let user = json!({"role": "user", "content": "x"});
        let call = json!({"role": "assistant", "content": "", "tool_calls": [{"id": "call00001",
            "type": "function", "function": {"name": NAME, "arguments": {NAME: 1}}}]});
        let told = RenderInput {
            messages: vec![user.clone()],
            tools: Some(vec![json!({"type": "function", "function": function})]),
            add_generation_prompt: true,
            ..RenderInput::default()
        };
        let called = RenderInput { messages: vec![user, call], ..RenderInput::default() };
        // A template that fails on it knows them well enough to fail in its own words.
        let prints = |input| self.render(&input).map_or(true, |text| text.contains(NAME));
        prints(told) || prints(called)
    }

    /// The same template with another clock for `strftime_now`: a test freezes it.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { environment: environment::new(clock), ..self }
    }

    /// The same template with one more variable (`unk_token`, `pad_token`, …).
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), Value::from(value)));
        self
    }

    /// Renders a conversation to the prompt's text. Bounded in time and size.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] when the template refuses the conversation in its own
    /// words; [`TemplateError::Render`] when it fails on it, passes a limit, or
    /// `continue_final_message` cannot be done.
    pub fn render(&self, input: &RenderInput) -> Result<String, TemplateError> {
        if let Some(name) = RESERVED.iter().find(|name| input.kwargs.contains_key(**name)) {
            return Err(TemplateError::Render(format!(
                "chat_template_kwargs cannot set {name:?}, which has a field of its own"
            )));
        }
        let mut messages = input.messages.clone();
        if !input.verbatim {
            if !self.knows_tools {
                hermes::rewrite(&mut messages, input.tools.as_deref());
            }
            self.forms.apply(&mut messages)?;
        }
        messages::alias_reasoning(&mut messages);
        let continued = match input.continue_final_message {
            true => Some(messages::mark_final(&mut messages, &self.source)?),
            false => None,
        };
        let text = self.render_messages(messages, input)?;
        match continued {
            Some(continued) => messages::cut_at_mark(text, &continued),
            None => Ok(text),
        }
    }

    /// Renders messages that are already as the template is to see them.
    fn render_messages(
        &self,
        messages: Vec<Json>,
        input: &RenderInput,
    ) -> Result<String, TemplateError> {
        let input_bytes = [&messages]
            .into_iter()
            .chain(&input.tools)
            .chain(&input.documents)
            .flatten()
            .chain(input.kwargs.values())
            .map(messages::json_bytes)
            .sum();
        let mut variables: Vec<(String, Value)> = self.variables.clone();
        let kwargs = input.kwargs.iter();
        variables.extend(kwargs.map(|(name, value)| (name.clone(), python::from_json(value))));
        let list = |items: &Vec<Json>| Value::from_iter(items.iter().map(python::from_json));
        let optional = |items: &Option<Vec<Json>>| items.as_ref().map_or(Value::from(()), list);
        variables.push(("messages".to_owned(), list(&messages)));
        variables.push(("tools".to_owned(), optional(&input.tools)));
        variables.push(("documents".to_owned(), optional(&input.documents)));
        let add_generation_prompt = Value::from(input.add_generation_prompt);
        variables.push(("add_generation_prompt".to_owned(), add_generation_prompt));
        let context = Value::from_pairs(variables);
        limits::render(&self.environment, &self.source, context, input_bytes)
            .map_err(|error| failure(&error))
    }
}

/// What minijinja says, without the debugging dump.
fn text(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Tells the template's own exceptions from failures.
fn failure(error: &minijinja::Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(environment::Raised(message)) = error.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        cause = error.source();
    }
    TemplateError::Render(text(error))
}

#[cfg(test)]
mod tests;
