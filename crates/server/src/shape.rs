//! What an answer may look like as a whole: reasoning, then calls or content in its form.
//!
//! Everything that constrains an answer becomes one grammar here; and what tells its parts apart
//! afterwards is chosen beside it, so that the two cannot disagree.
use crate::completeness::StopRule;
use crate::error::ApiError;
use crate::form::{Form, refusal};
use crate::parts::{Calls, Parts};
use crate::state::AppState;
use crate::tools::{Mode, Tools};
use std::sync::Arc;
use std::time::Instant;
use wharf_engine::grammar::{Constraint, Grammar, GrammarError};
use wharf_text::output::{OutputParser, PlainText};
use wharf_text::reasoning::{Opening, ReasoningFormat};
use wharf_text::tool_calls::custom::{CustomInput, CustomInputs};

/// White space that a model may write between its reasoning and a constrained answer.
const GAP: &str = r"[ \n\r\t]{0,4}";

/// What the answer is held to, and how it is read.
pub(crate) struct Shape {
    pub(crate) held_to: Option<HeldTo>,
    pub(crate) stop_rule: StopRule,
    pub(crate) parts: Parts,
}

/// A grammar that is still to be compiled, and the wishes it comes from.
pub(crate) struct HeldTo {
    grammar: Grammar,
    wishes: Wishes,
    /// What has been compiled lately costs nothing again, and waits for nobody.
    known: Option<Constraint>,
}

/// What a request asks of its answer.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    pub(crate) form: Option<Form>,
    pub(crate) tools: Option<Tools>,
    /// Most tokens of reasoning.
    pub(crate) thinking_budget: Option<usize>,
    pub(crate) include_reasoning: bool,
}

impl Wishes {
    /// Only the content's form.
    pub(crate) fn form(form: Option<Form>) -> Self {
        Self { form, tools: None, thinking_budget: None, include_reasoning: true }
    }

    /// Refuses what cannot be asked for together, or not of this model.
    pub(crate) fn check(&self, state: &AppState) -> Result<(), ApiError> {
        if let (Some(form), Some(tools)) = (&self.form, &self.tools)
            && tools.mode != Mode::Auto
        {
            let reason = "not together with a `tool_choice` that asks for a call";
            return Err(ApiError::field(&form.field, reason));
        }
        if self.thinking_budget.is_some() && state.reasoning_format.is_none() {
            let reason = "the model is not known to reason";
            return Err(ApiError::unsupported("thinking_token_budget", reason));
        }
        Ok(())
    }
}

/// The shape of an answer to `prompt`, a rendered conversation.
///
/// # Errors
/// What cannot be enforced, with its path.
pub(crate) fn chat(state: &AppState, wishes: Wishes, prompt: &str) -> Result<Shape, ApiError> {
    let opening = state.reasoning_format.map(|format| format.opening(prompt));
    let body = match body(state, &wishes) {
        Ok(body) => body,
        Err(error) => {
            // What is wrong with a custom tool's grammar is said of what the client wrote.
            check_inputs(state, &wishes, state.compiler.get()?.deadline())?;
            return Err(error);
        }
    };
    let body = match (body, wishes.thinking_budget) {
        (None, Some(_)) if opening != Some(Opening::Content) => Some(Grammar::any_text()),
        (body, _) => body,
    };
    let grammar = body.map(|body| match (state.reasoning_format, opening) {
        (Some(format), Some(opening)) => {
            after_reasoning(format, opening, wishes.thinking_budget, body)
        }
        _ => body,
    });
    let stop_rule = match (&grammar, &wishes.form, &wishes.tools) {
        (None, ..) => StopRule::Anywhere,
        (Some(_), None, tools) if tools.as_ref().is_none_or(|t| t.mode == Mode::Auto) => {
            StopRule::FreeText
        }
        _ => StopRule::Complete,
    };
    let parts = parts(state, &wishes, opening);
    let held_to = grammar.map(|grammar| HeldTo::new(state, grammar, wishes));
    Ok(Shape { held_to, stop_rule, parts })
}

/// The shape of a plain completion: its form, and nothing told apart.
pub(crate) fn completion(state: &AppState, form: Option<Form>) -> Shape {
    let held_to =
        form.map(|form| HeldTo::new(state, form.grammar.clone(), Wishes::form(Some(form))));
    let stop_rule = if held_to.is_some() { StopRule::Complete } else { StopRule::Anywhere };
    Shape { held_to, stop_rule, parts: Parts::plain() }
}

/// Compiles the grammars of custom tools by themselves, before a format writes them in its own way:
/// what is wrong with one is said of what the client wrote.
fn check_inputs(state: &AppState, wishes: &Wishes, deadline: Instant) -> Result<(), ApiError> {
    for tool in wishes.tools.iter().flat_map(|tools| &tools.callable) {
        if let Some(alone) = tool.input.as_ref().and_then(CustomInput::grammar) {
            let compiled = state.compiler.get()?.compile_by(&alone, deadline);
            compiled.map_err(|error| tool.refusal(error))?;
        }
    }
    Ok(())
}

/// What follows the reasoning; `None`: anything.
fn body(state: &AppState, wishes: &Wishes) -> Result<Option<Grammar>, ApiError> {
    let form = wishes.form.as_ref().map(|form| &form.grammar);
    let start = state.reasoning_format.map_or("", |format| format.content_start());
    let form = form.map(|form| match start {
        "" => form.clone(),
        start => Grammar::Sequence(vec![Grammar::Literal(start.to_owned()), form.clone()]),
    });
    let Some(tools) = &wishes.tools else { return Ok(form) };
    let calls = state.tool_format.grammar(&tools.specs(), tools.parallel);
    let calls = calls.map_err(|error| refused_tool(tools, error))?;
    Ok(Some(match (tools.mode, form) {
        (Mode::Auto, None) => Grammar::free(calls.triggers, calls.max_triggers),
        (Mode::Auto, Some(form)) => Grammar::AnyOf(vec![calls.required, form]),
        (Mode::Required | Mode::Named, _) => calls.required,
    }))
}

/// `body` after the reasoning that the prompt leaves open, or that the model may begin.
fn after_reasoning(
    format: &dyn ReasoningFormat,
    opening: Opening,
    budget: Option<usize>,
    body: Grammar,
) -> Grammar {
    let until = Grammar::until(vec![format.end().to_owned()], budget);
    let free = matches!(body, Grammar::Free { .. });
    let gap = (!free).then(|| Grammar::Regex(GAP.to_owned()));
    let rest: Vec<Grammar> =
        std::iter::once(until).chain(gap).chain(std::iter::once(body.clone())).collect();
    match opening {
        Opening::Content => body,
        Opening::Reasoning => Grammar::Sequence(rest),
        Opening::Undecided => {
            let start = Grammar::Literal(format.start().to_owned());
            let thought = Grammar::Sequence(std::iter::once(start).chain(rest).collect());
            Grammar::AnyOf(vec![thought, body])
        }
    }
}

impl HeldTo {
    /// On the compute pool: a grammar may be a megabyte, and is looked for among others.
    fn new(state: &AppState, grammar: Grammar, wishes: Wishes) -> Self {
        Self { known: state.compiler.known(&grammar), grammar, wishes }
    }

    /// # Errors
    /// What cannot be enforced, with its path.
    pub(crate) async fn compile(self, state: &Arc<AppState>) -> Result<Constraint, ApiError> {
        if let Some(known) = self.known {
            return Ok(known);
        }
        let shared = Arc::clone(state);
        state.compute.compile(move || self.compile_now(&shared)).await
    }

    /// The parts that come from the request are compiled first, each alone, so that an error has
    /// the path of its own field.
    fn compile_now(&self, state: &AppState) -> Result<Constraint, ApiError> {
        let Self { grammar, wishes, .. } = self;
        let compiler = state.compiler.get()?;
        let deadline = compiler.deadline();
        if let Some(form) = &wishes.form {
            let checked = compiler.compile_by(&form.grammar, deadline);
            checked.map_err(|error| refusal(&form.field, error))?;
        }
        check_inputs(state, wishes, deadline)?;
        for tool in wishes.tools.iter().flat_map(|tools| &tools.callable) {
            let checked = compiler.check_schema(&tool.spec.parameters, deadline);
            checked.map_err(|error| tool.refusal(error))?;
        }
        let field = match (&wishes.form, &wishes.tools) {
            (Some(form), _) => form.field.as_str(),
            (None, Some(_)) => "tools",
            (None, None) => "thinking_token_budget",
        };
        compiler.compile_by(grammar, deadline).map_err(|error| refusal(field, error))
    }
}

/// An error whose path begins with the tool's name.
fn refused_tool(tools: &Tools, error: GrammarError) -> ApiError {
    let (GrammarError::Unsupported { path, .. } | GrammarError::Invalid { path, .. }) = &error
    else {
        return refusal("tools", error);
    };
    // Names have no dots.
    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
    let tool = tools.callable.iter().find(|tool| tool.spec.name == name);
    let Some(tool) = tool else { return refusal("tools", error) };
    let path = rest.to_owned();
    tool.refusal(match error {
        GrammarError::Unsupported { keyword, reason, .. } => {
            GrammarError::Unsupported { path, keyword, reason }
        }
        GrammarError::Invalid { reason, .. } => GrammarError::Invalid { path, reason },
        other => other,
    })
}

/// How the answer is read.
fn parts(state: &AppState, wishes: &Wishes, opening: Option<Opening>) -> Parts {
    let specs = wishes.tools.as_ref().map(Tools::specs);
    let calls = wishes.tools.as_ref().map_or_else(
        || Parts::plain().calls,
        |tools| Calls {
            legacy: tools.legacy,
            named: tools.mode == Mode::Named,
            short_ids: state.tool_format.name() == "mistral",
        },
    );
    let mut shown = Vec::new();
    if specs.is_some() {
        shown.extend(state.special_in(state.tool_format.markers()));
    }
    if let Some(format) = state.reasoning_format {
        shown.extend(state.special_in(format.markers()));
    }
    let (tool_format, reasoning) = (state.tool_format, state.reasoning_format.zip(opening));
    let customs: Arc<[String]> = wishes.tools.as_ref().map_or_else(Vec::new, Tools::customs).into();
    let names = customs.to_vec();
    let parser = move || -> Box<dyn OutputParser> {
        let content: Box<dyn OutputParser> = match &specs {
            Some(specs) if names.is_empty() => tool_format.parser(specs),
            Some(specs) => Box::new(CustomInputs::new(tool_format.parser(specs), names.clone())),
            None => Box::new(PlainText),
        };
        match reasoning {
            Some((format, opening)) => format.parser(opening, content),
            None => content,
        }
    };
    Parts {
        parser: Arc::new(parser),
        shown: shown.into(),
        reasons: reasoning.is_some(),
        include_reasoning: wishes.include_reasoning,
        only_calls: wishes.tools.as_ref().is_some_and(|tools| tools.mode != Mode::Auto),
        calls,
        customs,
    }
}
