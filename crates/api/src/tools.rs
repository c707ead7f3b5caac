//! Tools: what a request offers, which it asks for, and what an assistant called.
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// One entry of `tools`.
#[derive(Debug, Clone, PartialEq, Serialize, DeriveDeserialize)]
pub struct Tool {
    /// `function` or `custom`; required.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function, where `type` is `function`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionDefinition>,
    /// The custom tool, where `type` is `custom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomDefinition>,
}

/// A tool whose input is text, not JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct CustomDefinition {
    /// `[a-zA-Z0-9_-]{1,64}`; required.
    pub name: String,
    /// For the model to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What the input must look like; absent means any text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<CustomFormat>,
}

/// What the input of a custom tool must look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct CustomFormat {
    /// `text` or `grammar`; required.
    #[serde(rename = "type")]
    pub kind: String,
    /// The grammar, where `type` is `grammar`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grammar: Option<CustomGrammar>,
}

/// A grammar of a custom tool's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct CustomGrammar {
    /// The grammar itself; required.
    pub definition: String,
    /// `lark` or `regex`; required.
    pub syntax: String,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, DeriveDeserialize)]
pub struct FunctionDefinition {
    /// `[a-zA-Z0-9_-]{1,64}`; required.
    pub name: String,
    /// For the model to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON schema; absent means no parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Whether the arguments must follow the schema. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// `tool_choice`, and the deprecated `function_call` with it.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolChoice {
    /// `"none"`, `"auto"`, `"required"`, or a mode nobody knows; the server decides.
    Mode(String),
    /// An object.
    Object(ToolChoiceObject),
}

/// `tool_choice` as an object.
#[derive(Debug, Clone, Default, PartialEq, DeriveDeserialize)]
#[serde(default)]
pub struct ToolChoiceObject {
    /// `function`, `custom` or `allowed_tools`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `{name}` where `type` is `function`.
    pub function: Option<NamedTool>,
    /// `{name}` where `type` is `custom`.
    pub custom: Option<NamedTool>,
    /// `{mode, tools}` where `type` is `allowed_tools`.
    pub allowed_tools: Option<Value>,
    /// The name, as `function_call` has it.
    pub name: Option<String>,
}

/// A tool by its name.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize)]
pub struct NamedTool {
    /// Required.
    pub name: String,
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ChoiceVisitor;
        impl<'de> Visitor<'de> for ChoiceVisitor {
            type Value = ToolChoice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an object")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
                Ok(ToolChoice::Mode(value.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                ToolChoiceObject::deserialize(MapAccessDeserializer::new(map))
                    .map(ToolChoice::Object)
            }
        }
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

/// A call that an assistant made, in a message of the conversation or of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct ToolCall {
    /// Which call; a `tool` message answers it by this id.
    #[serde(default)]
    pub id: Option<String>,
    /// `function` (the default) or `custom`.
    #[serde(rename = "type", default = "function_kind")]
    pub kind: String,
    /// What was called, where `type` is `function`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionCall>,
    /// What was called, where `type` is `custom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomCall>,
}

fn function_kind() -> String {
    "function".to_owned()
}

/// A function's name and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct FunctionCall {
    /// Required.
    pub name: String,
    /// The arguments as JSON text (a string that holds JSON). Absent means none.
    #[serde(default)]
    pub arguments: String,
}

/// A custom tool's name and its input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct CustomCall {
    /// Required.
    pub name: String,
    /// The text that the tool gets; required.
    pub input: String,
}
