//! Which formats of tool calls and reasoning a model has: the user's word, or its chat template's.

use anyhow::{Result, bail};
use wharf_text::reasoning::{self, ReasoningFormat};
use wharf_text::tool_calls::{self, ToolFormat};

/// What a template that knows no tools is given.
const FALLBACK: &str = "hermes";

/// How the model writes tool calls.
pub(super) fn tools(
    named: Option<&str>,
    template: Option<&str>,
) -> Result<&'static dyn ToolFormat> {
    let found = match named {
        Some(name) => tool_calls::by_name(name),
        None => template.and_then(tool_calls::detect).or_else(|| tool_calls::by_name(FALLBACK)),
    };
    let Some(format) = found else {
        let names: Vec<&str> = tool_calls::formats().iter().map(|format| format.name()).collect();
        bail!(
            "there is no --tool-call-parser {:?}; there are {}",
            named.unwrap_or_default(),
            names.join(", ")
        );
    };
    tracing::info!("tool calls are read as {}", format.name());
    Ok(format)
}

/// How the model marks its reasoning, if it does.
pub(super) fn reasoning(
    named: Option<&str>,
    template: Option<&str>,
) -> Result<Option<&'static dyn ReasoningFormat>> {
    let found = match named {
        Some("none") => return Ok(None),
        Some(name) => match reasoning::by_name(name) {
            Some(format) => Some(format),
            None => {
                let all = reasoning::formats().iter().map(|format| format.name());
                let names: Vec<&str> = std::iter::once("none").chain(all).collect();
                bail!("there is no --reasoning-parser {name:?}; there are {}", names.join(", "));
            }
        },
        None => template.and_then(reasoning::detect),
    };
    if let Some(format) = found {
        tracing::info!("reasoning is read as {}", format.name());
    }
    Ok(found)
}
