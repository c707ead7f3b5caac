//! The form that a request's content must take, by whichever of its names the request asks for it:
//! `response_format`, vLLM's `structured_outputs`, and the `guided_*` of before.
//!
//! One form at most; what cannot be enforced is refused with its path, here or by the compiler.
use crate::error::ApiError;
use serde_json::Value;
use wharf_api::GenerationFields;
use wharf_api::response_format::{JsonSchemaFormat, ResponseFormat, ResponseFormatKind};
use wharf_engine::grammar::{Grammar, GrammarError, JsonStyle};
use wharf_text::tool_calls::arguments_in_style;

/// What `response_format.json_schema.name` and a function's name are made of.
const NAME_CHARS_MAX: usize = 64;

/// What the content must look like.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    pub(crate) grammar: Grammar,
    /// The field that asks for it, to which an error's path is added.
    pub(crate) field: String,
}

/// The form that `fields` ask for.
///
/// # Errors
/// More than one, or one of a shape that none has.
pub(crate) fn form(fields: &GenerationFields) -> Result<Option<Form>, ApiError> {
    if let Some(backend) = &fields.guided_decoding_backend {
        // vLLM's choice between libraries; here there is one.
        text("guided_decoding_backend", backend)?;
    }
    let style = style(fields)?;
    let guided = style.clone().unwrap_or_default();
    let mut forms = Vec::new();
    if let Some(format) = &fields.response_format {
        forms.extend(response_format(format, &guided)?);
    }
    for (name, value) in [
        ("guided_json", &fields.guided_json),
        ("guided_regex", &fields.guided_regex),
        ("guided_choice", &fields.guided_choice),
        ("guided_grammar", &fields.guided_grammar),
        ("structural_tag", &fields.structural_tag),
    ] {
        let Some(value) = value else { continue };
        let kind = name.strip_prefix("guided_").unwrap_or(name);
        forms.push(Form { grammar: constraint(name, kind, value, &guided)?, field: name.into() });
    }
    if let Some(value) = &fields.structured_outputs {
        forms.extend(structured_outputs(value)?);
    }
    if let [first, second, ..] = forms.as_slice() {
        let reason = format!("not together with `{}`: one constraint at most", first.field);
        return Err(ApiError::field(&second.field, reason));
    }
    let form = forms.pop();
    let is_json = matches!(&form, Some(Form { grammar: Grammar::Json { .. }, .. }));
    if style.is_some() && !is_json {
        let reason = "it is only allowed with a JSON constraint";
        return Err(ApiError::field("guided_whitespace_pattern", reason));
    }
    Ok(form)
}

/// An error of `form`'s grammar, with the field's path before its own.
pub(crate) fn refusal(field: &str, error: GrammarError) -> ApiError {
    let at = |path: &str| match path {
        "" => field.to_owned(),
        path if path.starts_with('[') => format!("{field}{path}"),
        path => format!("{field}.{path}"),
    };
    match &error {
        GrammarError::Unsupported { path, .. } => {
            ApiError::Unsupported { field: at(path), reason: error.to_string() }
        }
        GrammarError::Invalid { path, .. } => ApiError::field(at(path), error.to_string()),
        GrammarError::TooComplex(_) | GrammarError::TimedOut(_) | GrammarError::Internal(_) => {
            ApiError::field(field, error.to_string())
        }
    }
}

fn style(fields: &GenerationFields) -> Result<Option<JsonStyle>, ApiError> {
    let name = "guided_whitespace_pattern";
    let pattern = fields.guided_whitespace_pattern.as_ref().map(|value| text(name, value));
    Ok(pattern.transpose()?.map(with_whitespace))
}

/// JSON with the user's white space between its tokens.
fn with_whitespace(pattern: &str) -> JsonStyle {
    JsonStyle { whitespace: Some(pattern.to_owned()), ..JsonStyle::compact() }
}

fn response_format(format: &ResponseFormat, style: &JsonStyle) -> Result<Option<Form>, ApiError> {
    let form = |grammar, field: &str| Ok(Some(Form { grammar, field: field.into() }));
    match format.kind {
        ResponseFormatKind::Text => Ok(None),
        ResponseFormatKind::JsonObject => {
            form(Grammar::json_object(style.clone()), "response_format")
        }
        ResponseFormatKind::JsonSchema => {
            let Some(JsonSchemaFormat { name, schema, .. }) = &format.json_schema else {
                return Err(ApiError::field("response_format.json_schema", "required"));
            };
            check_name("response_format.json_schema.name", name)?;
            let field = "response_format.json_schema.schema";
            let Some(schema) = schema else { return Err(ApiError::field(field, "required")) };
            form(constraint(field, "json", schema, style)?, field)
        }
        ResponseFormatKind::StructuralTag => {
            let parts = [
                ("format", &format.format),
                ("structures", &format.structures),
                ("triggers", &format.triggers),
            ];
            let given = parts.into_iter().filter_map(|(key, value)| {
                value.as_ref().map(|value| (key.to_owned(), value.clone()))
            });
            let tag = Value::Object(given.collect());
            form(constraint("response_format", "structural_tag", &tag, style)?, "response_format")
        }
    }
}

/// `structured_outputs`: exactly one kind, and how it is written.
fn structured_outputs(value: &Value) -> Result<Option<Form>, ApiError> {
    const FIELD: &str = "structured_outputs";
    let Value::Object(all) = value else {
        return Err(ApiError::field(FIELD, "must be an object"));
    };
    let mut style = JsonStyle::default();
    let mut form: Option<Form> = None;
    let (mut written, mut close) = (false, false);
    let given = || all.iter().filter(|(_, value)| !value.is_null());
    for (key, value) in given() {
        let path = format!("{FIELD}.{key}");
        match key.as_str() {
            "disable_any_whitespace" if flag(&path, value)? => style = JsonStyle::compact(),
            "whitespace_pattern" => {
                (style, written) = (with_whitespace(text(&path, value)?), true);
            }
            "disable_additional_properties" => close = flag(&path, value)?,
            _ => {}
        }
    }
    for (key, value) in given() {
        let path = format!("{FIELD}.{key}");
        match key.as_str() {
            "disable_any_whitespace" | "whitespace_pattern" | "disable_additional_properties" => {}
            "json" | "regex" | "choice" | "grammar" | "json_object" | "structural_tag" => {
                if let Some(form) = &form {
                    let reason = format!("not together with `{}`", form.field);
                    return Err(ApiError::field(path, reason));
                }
                if key == "json_object" && !flag(&path, value)? {
                    continue;
                }
                let mut grammar = constraint(&path, key, value, &style)?;
                if close {
                    grammar.close().map_err(|error| refusal(&path, error))?;
                }
                form = Some(Form { grammar, field: path });
            }
            _ => return Err(ApiError::field(path, "there is no such constraint")),
        }
    }
    if form.is_none() {
        let reason =
            "must have one of json, regex, choice, grammar, json_object and structural_tag";
        return Err(ApiError::field(FIELD, reason));
    }
    if written && !matches!(&form, Some(Form { grammar: Grammar::Json { .. }, .. })) {
        let reason = "it is only allowed with a JSON constraint";
        return Err(ApiError::field(format!("{FIELD}.whitespace_pattern"), reason));
    }
    Ok(form)
}

/// A constraint of one kind.
fn constraint(
    field: &str,
    kind: &str,
    value: &Value,
    style: &JsonStyle,
) -> Result<Grammar, ApiError> {
    match kind {
        "json" => Ok(Grammar::Json { schema: schema(field, value)?, style: style.clone() }),
        "json_object" => Ok(Grammar::json_object(style.clone())),
        "regex" => Ok(Grammar::Regex(text(field, value)?.to_owned())),
        "choice" => choice(field, value),
        "grammar" => Ok(Grammar::from_user_text(text(field, value)?)),
        _ => {
            // vLLM takes the text of one too.
            let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
            let tag = Grammar::from_structural_tag(
                parsed.as_ref().unwrap_or(value),
                style,
                &arguments_in_style,
            );
            tag.map_err(|error| refusal(field, error))
        }
    }
}

/// A schema, or JSON text of one.
fn schema(field: &str, value: &Value) -> Result<Value, ApiError> {
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(value.clone()),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(schema),
            Ok(_) => Err(ApiError::field(field, "the text holds no JSON schema")),
            Err(error) => Err(ApiError::field(field, format!("the text is no JSON: {error}"))),
        },
        _ => Err(ApiError::field(field, "must be a JSON schema, or text of one")),
    }
}

fn choice(field: &str, value: &Value) -> Result<Grammar, ApiError> {
    let Value::Array(texts) = value else {
        return Err(ApiError::field(field, "must be a list of texts"));
    };
    if texts.is_empty() {
        return Err(ApiError::field(field, "must not be empty"));
    }
    let each = texts.iter().enumerate().map(|(at, value)| {
        let path = format!("{field}[{at}]");
        match text(&path, value)? {
            "" => Err(ApiError::field(path, "must not be empty")),
            text => Ok(text.to_owned()),
        }
    });
    Ok(Grammar::choice(&each.collect::<Result<Vec<_>, _>>()?))
}

fn text<'v>(field: &str, value: &'v Value) -> Result<&'v str, ApiError> {
    value.as_str().ok_or_else(|| ApiError::field(field, "must be a text"))
}

fn flag(field: &str, value: &Value) -> Result<bool, ApiError> {
    value.as_bool().ok_or_else(|| ApiError::field(field, "must be true or false"))
}

/// A name as OpenAI takes it: `[a-zA-Z0-9_-]{1,64}`.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), ApiError> {
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(sound) {
        let reason = format!("must have 1 to {NAME_CHARS_MAX} of a-z, A-Z, 0-9, _ and -");
        return Err(ApiError::field(field, reason));
    }
    Ok(())
}
