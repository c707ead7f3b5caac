//! Tools of a request: which may be called, which must.
//!
//! The deprecated `functions` and `function_call` are tools by other names; errors name the field
//! that the client wrote.
use crate::error::ApiError;
use crate::form::{check_name, refusal};
use serde_json::{Value, json};
use wharf_api::ChatCompletionRequest;
use wharf_api::tools::{FunctionDefinition, ToolChoice, ToolChoiceObject};
use wharf_engine::grammar::{Combined, closed};
use wharf_text::tool_calls::ToolSpec;

/// Most tools of a request. (Our own bound; OpenAI's is 128.)
const TOOLS_MAX: usize = 512;

/// Tools that an answer may call or must.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// All of them as the template gets them: `{type: function, function: {...}}`.
    pub(crate) definitions: Vec<Value>,
    /// Those that may be called, each with the field it comes from.
    pub(crate) callable: Vec<(String, ToolSpec)>,
    pub(crate) mode: Mode,
    /// Several calls in one answer.
    pub(crate) parallel: bool,
    /// Asked for by `functions`.
    pub(crate) legacy: bool,
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
        self.callable.iter().map(|(_, spec)| spec.clone()).collect()
    }
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
        match (tool.kind.as_str(), &tool.function) {
            ("function", Some(function)) => all.push((format!("{field}.function"), function)),
            ("function", None) => {
                return Err(ApiError::field(format!("{field}.function"), "required"));
            }
            ("custom", _) => {
                let reason = "only tools of type `function` are";
                return Err(ApiError::unsupported(field, reason));
            }
            _ => return Err(ApiError::field(format!("{field}.type"), "must be `function`")),
        }
    }
    let functions = by_functions.iter().enumerate();
    all.extend(functions.map(|(at, function)| (format!("functions[{at}]"), function)));
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
    let callable = specs(&all)?;
    let definitions = all.iter().map(|(_, function)| definition(function)).collect();
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

/// Checks names and schemas.
fn specs(all: &[(String, &FunctionDefinition)]) -> Result<Vec<(String, ToolSpec)>, ApiError> {
    if all.len() > TOOLS_MAX {
        let (field, _) = &all[TOOLS_MAX];
        return Err(ApiError::field(
            field,
            format!("at most {TOOLS_MAX} tools, got {}", all.len()),
        ));
    }
    let mut specs: Vec<(String, ToolSpec)> = Vec::with_capacity(all.len());
    for (field, function) in all {
        let name = format!("{field}.name");
        check_name(&name, &function.name)?;
        if specs.iter().any(|(_, spec)| spec.name == function.name) {
            return Err(ApiError::field(name, "there is another tool of this name"));
        }
        let parameters = match &function.parameters {
            None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
            Some(Value::Object(schema)) => {
                let mut schema = schema.clone();
                let kind = schema.entry("type").or_insert_with(|| "object".into());
                if kind != "object" {
                    let path = format!("{field}.parameters.type");
                    return Err(ApiError::field(path, "must be `object`: arguments have names"));
                }
                Value::Object(schema)
            }
            Some(_) => {
                let path = format!("{field}.parameters");
                return Err(ApiError::field(path, "must be a JSON schema of an object"));
            }
        };
        // Nobody asked for it, so that what cannot be closed stays as it is.
        let parameters = closed(&parameters, Combined::Open)
            .map_err(|error| refusal(&format!("{field}.parameters"), error))?;
        let spec = ToolSpec { name: function.name.clone(), parameters };
        specs.push((field.clone(), spec));
    }
    Ok(specs)
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
    let (path, name) = match (object.kind.as_deref(), &object.function, &object.name) {
        (Some("allowed_tools"), ..) => return allowed(tools, field, object),
        (Some("custom"), ..) => {
            let reason = "only tools of type `function` are";
            return Err(ApiError::unsupported(format!("{field}.type"), reason));
        }
        (Some("function") | None, Some(function), _) => {
            (format!("{field}.function.name"), function.name.as_str())
        }
        (Some("function") | None, None, Some(name)) => (format!("{field}.name"), name.as_str()),
        (Some("function"), None, None) => {
            return Err(ApiError::field(format!("{field}.function"), "required"));
        }
        (None, None, None) => return Err(ApiError::field(field, "names no tool")),
        (Some(_), ..) => {
            let reason = "must be `function` or `allowed_tools`";
            return Err(ApiError::field(format!("{field}.type"), reason));
        }
    };
    let callable = keep(&tools, &[(path, name)])?;
    // One call of the one function: that is what naming it asks for.
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
        let name = tool.pointer("/function/name").or_else(|| tool.get("name"));
        let path = format!("{field}.tools[{at}].function.name");
        match name.and_then(Value::as_str) {
            Some(name) => names.push((path, name)),
            None => return Err(ApiError::field(path, "required")),
        }
    }
    let callable = keep(&tools, &names)?;
    Ok(Tools { callable, mode, ..tools })
}

/// The callable tools of these names.
fn keep(tools: &Tools, names: &[(String, &str)]) -> Result<Vec<(String, ToolSpec)>, ApiError> {
    for (path, name) in names {
        if !tools.callable.iter().any(|(_, spec)| spec.name == *name) {
            let name: String = name.chars().take(64).collect();
            return Err(ApiError::field(path, format!("there is no tool `{name}`")));
        }
    }
    let named = |spec: &ToolSpec| names.iter().any(|(_, name)| spec.name == *name);
    Ok(tools.callable.iter().filter(|(_, spec)| named(spec)).cloned().collect())
}
