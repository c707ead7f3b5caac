//! Tools of a request: which may be called, which must.
//!
//! A custom tool is a function with one argument to the model (see [`wharf_text::tool_calls::custom`]).
//! The deprecated `functions` and `function_call` are tools by other names; errors name the field
//! that the client wrote.
use crate::error::ApiError;
use crate::form::{check_name, refusal};
use serde_json::{Value, json};
use wharf_api::ChatCompletionRequest;
use wharf_api::tools::{
    CustomDefinition, CustomFormat, FunctionDefinition, ToolChoice, ToolChoiceObject,
};
use wharf_engine::grammar::{Combined, GrammarError, closed};
use wharf_text::tool_calls::ToolSpec;
use wharf_text::tool_calls::custom::CustomInput;

/// Most tools of a request. (Our own bound; OpenAI's is 128.)
const TOOLS_MAX: usize = 512;

/// Tools that an answer may call or must.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// All of them as the template gets them: `{type: function, function: {...}}`.
    pub(crate) definitions: Vec<Value>,
    /// Those that may be called.
    pub(crate) callable: Vec<Callable>,
    pub(crate) mode: Mode,
    /// Several calls in one answer.
    pub(crate) parallel: bool,
    /// Asked for by `functions`.
    pub(crate) legacy: bool,
}

/// A tool that may be called.
#[derive(Debug, Clone)]
pub(crate) struct Callable {
    /// The field it comes from: `tools[0].function`.
    field: String,
    pub(crate) spec: ToolSpec,
    /// Of a custom tool: what its input must look like.
    pub(crate) input: Option<CustomInput>,
}

impl Callable {
    /// Why the tool cannot be enforced, with the path of the field that says so.
    pub(crate) fn refusal(&self, error: GrammarError) -> ApiError {
        let Self { field, input, .. } = self;
        let error = match (input, error) {
            (None, error) => return refusal(&format!("{field}.parameters"), error),
            // The schema is ours, and so are paths into it.
            (Some(_), GrammarError::Unsupported { keyword, reason, .. }) => {
                GrammarError::Unsupported { path: String::new(), keyword, reason }
            }
            (Some(_), GrammarError::Invalid { reason, .. }) => {
                GrammarError::Invalid { path: String::new(), reason }
            }
            (Some(_), error) => error,
        };
        refusal(&format!("{field}.format.grammar.definition"), error)
    }
}

/// Whether to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As the model likes.
    Auto,
    /// At least one call.
    Required,
    /// A call of the one that is callable.
    Named,
}

impl Tools {
    /// Those that may be called.
    pub(crate) fn specs(&self) -> Vec<ToolSpec> {
        self.callable.iter().map(|tool| tool.spec.clone()).collect()
    }

    /// Names of those of them that are custom tools.
    pub(crate) fn customs(&self) -> Vec<String> {
        let customs = self.callable.iter().filter(|tool| tool.input.is_some());
        customs.map(|tool| tool.spec.name.clone()).collect()
    }
}

/// A tool as the request has it.
enum Offered<'a> {
    Function(&'a FunctionDefinition),
    Custom(&'a CustomDefinition),
}

/// What a request that names a tool says of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Function,
    Custom,
    Any,
}

/// What a request says on tools; `None` where nothing can be called.
///
/// # Errors
/// The first field that makes no sense.
pub(crate) fn tools(request: &ChatCompletionRequest) -> Result<Option<Tools>, ApiError> {
    let by_tools = request.tools.as_deref().unwrap_or_default();
    let by_functions = request.functions.as_deref().unwrap_or_default();
    if !by_tools.is_empty() && !by_functions.is_empty() {
        return Err(ApiError::field("functions", "not together with `tools`"));
    }
    let mut all = Vec::new();
    for (at, tool) in by_tools.iter().enumerate() {
        let field = format!("tools[{at}]");
        all.push(match (tool.kind.as_str(), &tool.function, &tool.custom) {
            ("function", Some(function), _) => {
                (format!("{field}.function"), Offered::Function(function))
            }
            ("custom", _, Some(custom)) => (format!("{field}.custom"), Offered::Custom(custom)),
            (kind @ ("function" | "custom"), ..) => {
                return Err(ApiError::field(format!("{field}.{kind}"), "required"));
            }
            _ => {
                let reason = "must be `function` or `custom`";
                return Err(ApiError::field(format!("{field}.type"), reason));
            }
        });
    }
    let functions = by_functions.iter().enumerate();
    all.extend(functions.map(|(at, f)| (format!("functions[{at}]"), Offered::Function(f))));
    let legacy = !by_functions.is_empty();
    let (field, choice) = match (&request.tool_choice, &request.function_call) {
        (Some(choice), None) => ("tool_choice", Some(choice)),
        (None, Some(choice)) => ("function_call", Some(choice)),
        (None, None) => ("tool_choice", None),
        (Some(choice), Some(ToolChoice::Mode(none))) if none == "none" => {
            ("tool_choice", Some(choice))
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::field("function_call", "not together with `tool_choice`"));
        }
    };
    if all.is_empty() {
        return without_tools(field, choice).map(|()| None);
    }
    let (callable, definitions) = offer(&all)?;
    let parallel = request.parallel_tool_calls != Some(false) && !legacy;
    let tools = Tools { definitions, callable, mode: Mode::Auto, parallel, legacy };
    choose(tools, field, choice)
}

/// Without tools only `"none"` makes sense.
fn without_tools(field: &str, choice: Option<&ToolChoice>) -> Result<(), ApiError> {
    match choice {
        None => Ok(()),
        Some(ToolChoice::Mode(mode)) if mode == "none" => Ok(()),
        Some(ToolChoice::Mode(mode)) if !matches!(mode.as_str(), "auto" | "required") => {
            Err(unknown_mode(field, mode))
        }
        Some(_) => Err(ApiError::field(field, "it is only allowed with tools")),
    }
}

fn unknown_mode(field: &str, mode: &str) -> ApiError {
    let mode: String = mode.chars().take(64).collect();
    ApiError::field(field, format!("`{mode}` is not none, auto or required"))
}

/// The tools, and what the template gets of them. Checks names and schemas.
fn offer(all: &[(String, Offered<'_>)]) -> Result<(Vec<Callable>, Vec<Value>), ApiError> {
    if all.len() > TOOLS_MAX {
        let (field, _) = &all[TOOLS_MAX];
        return Err(ApiError::field(
            field,
            format!("at most {TOOLS_MAX} tools, got {}", all.len()),
        ));
    }
    let mut callable: Vec<Callable> = Vec::with_capacity(all.len());
    let mut definitions = Vec::with_capacity(all.len());
    for (field, tool) in all {
        let (Offered::Function(FunctionDefinition { name, .. })
        | Offered::Custom(CustomDefinition { name, .. })) = tool;
        let path = format!("{field}.name");
        check_name(&path, name)?;
        if callable.iter().any(|known| known.spec.name == *name) {
            return Err(ApiError::field(path, "there is another tool of this name"));
        }
        let (spec, input) = match tool {
            Offered::Function(function) => {
                definitions.push(definition(function));
                // Nobody asked for it, so that what cannot be closed stays as it is.
                let parameters = closed(&parameters(field, function)?, Combined::Open)
                    .map_err(|error| refusal(&format!("{field}.parameters"), error))?;
                (ToolSpec { name: name.clone(), parameters, lark: None }, None)
            }
            Offered::Custom(custom) => {
                let input = custom_input(field, custom.format.as_ref())?;
                definitions.push(input.definition(name, custom.description.as_deref()));
                (input.spec(name), Some(input))
            }
        };
        callable.push(Callable { field: field.clone(), spec, input });
    }
    Ok((callable, definitions))
}

/// The schema of a function's arguments, an object's.
fn parameters(field: &str, function: &FunctionDefinition) -> Result<Value, ApiError> {
    match &function.parameters {
        None | Some(Value::Null) => Ok(json!({"type": "object", "properties": {}})),
        Some(Value::Object(schema)) => {
            let mut schema = schema.clone();
            let kind = schema.entry("type").or_insert_with(|| "object".into());
            if kind != "object" {
                let path = format!("{field}.parameters.type");
                return Err(ApiError::field(path, "must be `object`: arguments have names"));
            }
            Ok(Value::Object(schema))
        }
        Some(_) => {
            let path = format!("{field}.parameters");
            Err(ApiError::field(path, "must be a JSON schema of an object"))
        }
    }
}

/// What the input of a custom tool must look like.
fn custom_input(field: &str, format: Option<&CustomFormat>) -> Result<CustomInput, ApiError> {
    let Some(CustomFormat { kind, grammar }) = format else { return Ok(CustomInput::Text) };
    let field = format!("{field}.format");
    let grammar = match (kind.as_str(), grammar) {
        ("text", None) => return Ok(CustomInput::Text),
        ("text", Some(_)) => {
            let reason = "it is only allowed where `type` is `grammar`";
            return Err(ApiError::field(format!("{field}.grammar"), reason));
        }
        ("grammar", Some(grammar)) => grammar,
        ("grammar", None) => return Err(ApiError::field(format!("{field}.grammar"), "required")),
        _ => {
            return Err(ApiError::field(format!("{field}.type"), "must be `text` or `grammar`"));
        }
    };
    let definition = grammar.definition.clone();
    match grammar.syntax.as_str() {
        "regex" => Ok(CustomInput::Regex(definition)),
        "lark" => Ok(CustomInput::Lark(definition)),
        _ => {
            let path = format!("{field}.grammar.syntax");
            Err(ApiError::field(path, "must be `lark` or `regex`"))
        }
    }
}

/// As templates know tools.
fn definition(function: &FunctionDefinition) -> Value {
    let mut out = json!({"name": function.name});
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            out[key] = value;
        }
    };
    set("description", function.description.clone().map(Value::from));
    set("parameters", function.parameters.clone());
    set("strict", function.strict.map(Value::from));
    json!({"type": "function", "function": out})
}

/// Applies the choice; `None` where it is not to call.
fn choose(
    tools: Tools,
    field: &str,
    choice: Option<&ToolChoice>,
) -> Result<Option<Tools>, ApiError> {
    match choice {
        None => Ok(Some(tools)),
        Some(ToolChoice::Mode(mode)) => match mode.as_str() {
            "none" => Ok(None),
            "auto" => Ok(Some(tools)),
            "required" => Ok(Some(Tools { mode: Mode::Required, ..tools })),
            _ => Err(unknown_mode(field, mode)),
        },
        Some(ToolChoice::Object(object)) => choose_object(tools, field, object).map(Some),
    }
}

fn choose_object(tools: Tools, field: &str, object: &ToolChoiceObject) -> Result<Tools, ApiError> {
    let function = object.function.as_ref().map(|tool| tool.name.as_str());
    let custom = object.custom.as_ref().map(|tool| tool.name.as_str());
    let at = |inner: &str| format!("{field}.{inner}");
    let named = match (object.kind.as_deref(), function, custom, object.name.as_deref()) {
        (Some("allowed_tools"), ..) => return allowed(tools, field, object),
        (Some("custom"), _, Some(name), _) => (at("custom.name"), Kind::Custom, name),
        (Some("function") | None, Some(name), ..) => (at("function.name"), Kind::Function, name),
        (Some("function") | None, None, _, Some(name)) => (at("name"), Kind::Function, name),
        (Some(kind @ ("function" | "custom")), ..) => {
            return Err(ApiError::field(at(kind), "required"));
        }
        (None, ..) => return Err(ApiError::field(field, "names no tool")),
        (Some(_), ..) => {
            let reason = "must be `function`, `custom` or `allowed_tools`";
            return Err(ApiError::field(at("type"), reason));
        }
    };
    let callable = keep(&tools, &[named])?;
    // One call of the one tool: that is what naming it asks for.
    Ok(Tools { callable, mode: Mode::Named, parallel: false, ..tools })
}

/// `allowed_tools`: some of the tools, and whether one of them must be called.
fn allowed(tools: Tools, field: &str, object: &ToolChoiceObject) -> Result<Tools, ApiError> {
    let field = format!("{field}.allowed_tools");
    let Some(Value::Object(allowed)) = &object.allowed_tools else {
        return Err(ApiError::field(field, "required"));
    };
    let mode = match allowed.get("mode").and_then(Value::as_str) {
        Some("auto") => Mode::Auto,
        Some("required") => Mode::Required,
        _ => {
            return Err(ApiError::field(format!("{field}.mode"), "must be `auto` or `required`"));
        }
    };
    let Some(Value::Array(listed)) = allowed.get("tools") else {
        return Err(ApiError::field(format!("{field}.tools"), "required"));
    };
    if listed.is_empty() {
        return Err(ApiError::field(format!("{field}.tools"), "must not be empty"));
    }
    let mut names = Vec::with_capacity(listed.len());
    for (at, tool) in listed.iter().enumerate() {
        let path = format!("{field}.tools[{at}]");
        names.push(listed_tool(path, tool)?);
    }
    let callable = keep(&tools, &names)?;
    Ok(Tools { callable, mode, ..tools })
}

/// A tool of a list of allowed ones: where its name stands, its kind and its name.
fn listed_tool(path: String, tool: &Value) -> Result<(String, Kind, &str), ApiError> {
    let (kind, key) = match tool.get("type").map(Value::as_str) {
        Some(Some("function")) => (Kind::Function, "function"),
        Some(Some("custom")) => (Kind::Custom, "custom"),
        // Not all write the type.
        None => (Kind::Any, if tool.get("custom").is_some() { "custom" } else { "function" }),
        Some(_) => {
            let reason = "must be `function` or `custom`";
            return Err(ApiError::field(format!("{path}.type"), reason));
        }
    };
    let name = tool.get(key).and_then(|inner| inner.get("name")).or_else(|| tool.get("name"));
    let path = format!("{path}.{key}.name");
    match name.and_then(Value::as_str) {
        Some(name) => Ok((path, kind, name)),
        None => Err(ApiError::field(path, "required")),
    }
}

/// The callable tools of these names.
fn keep(tools: &Tools, names: &[(String, Kind, &str)]) -> Result<Vec<Callable>, ApiError> {
    let is = |tool: &Callable, kind: Kind, name: &str| {
        let of_kind = match kind {
            Kind::Function => tool.input.is_none(),
            Kind::Custom => tool.input.is_some(),
            Kind::Any => true,
        };
        of_kind && tool.spec.name == name
    };
    for (path, kind, name) in names {
        if !tools.callable.iter().any(|tool| is(tool, *kind, name)) {
            let name: String = name.chars().take(64).collect();
            let what = if *kind == Kind::Custom { "custom tool" } else { "tool" };
            return Err(ApiError::field(path, format!("there is no {what} `{name}`")));
        }
    }
    let named = |tool: &&Callable| names.iter().any(|(_, kind, name)| is(tool, *kind, name));
    Ok(tools.callable.iter().filter(named).cloned().collect())
}
