//! The styles of a structural tag's `json_schema` that are not JSON: the arguments of a call, each
//! between tags, without the tags of the call around them.
//!
//! They are the formats of [`tagged`](super::tagged) under vLLM's names. What stands around the
//! arguments, their last newline included, is the structural tag's own to say.

use serde_json::Value;
use wharf_grammar::{Grammar, GrammarError};

use super::tagged::{DEEPSEEK_V32, GLM45, MINIMAX_M2, QWEN3_CODER, Tags, arguments, repeated};

/// A style.
struct Style {
    name: &'static str,
    tags: Tags,
    /// Between two arguments.
    separator: &'static str,
}

/// All of them.
fn styles() -> [Style; 5] {
    let style = |name, tags| Style { name, tags, separator: "" };
    [
        Style {
            name: "qwen_xml",
            tags: Tags { value_end: "\n</parameter>", ..QWEN3_CODER },
            separator: "\n",
        },
        style(
            "glm_xml",
            Tags { key_ends: ["</arg_key>", "</arg_key>"], value_end: "</arg_value>", ..GLM45 },
        ),
        style("minimax_xml", MINIMAX_M2),
        style("deepseek_xml", DEEPSEEK_V32),
        style(
            "deepseek_v4_1_xml",
            Tags {
                key: "<｜DSML｜ parameter name=\"",
                value_end: "</｜DSML｜ parameter>\n",
                ..DEEPSEEK_V32
            },
        ),
    ]
}

/// Values of `schema`, whose path is `path`, in the style of this name; `None`: there is none.
///
/// # Errors
/// What the style cannot write.
pub fn arguments_in_style(
    name: &str,
    schema: &Value,
    path: &str,
) -> Option<Result<Grammar, GrammarError>> {
    let style = styles().into_iter().find(|style| style.name == name)?;
    Some(style.arguments(schema, path))
}

impl Style {
    fn arguments(&self, schema: &Value, path: &str) -> Result<Grammar, GrammarError> {
        let named = schema
            .as_object()
            .filter(|keywords| keywords.get("type").is_none_or(|kind| kind == "object"));
        if named.is_none() {
            return Err(GrammarError::Invalid {
                path: path.to_owned(),
                reason: "this style writes the members of an object".to_owned(),
            });
        }
        let arguments = arguments(schema, path)?;
        let items = arguments.iter().map(|argument| {
            let path = format!("{path}.properties.{}", argument.name);
            Ok((self.tags.argument(argument, schema, &path)?, argument.required))
        });
        let items: Vec<(Grammar, bool)> = items.collect::<Result<_, GrammarError>>()?;
        Ok(match self.separator {
            "" => Grammar::Sequence(items.into_iter().map(optional).collect()),
            separator => separated(&items, separator),
        })
    }
}

/// `item`, or nothing where it is not required.
fn optional((item, required): (Grammar, bool)) -> Grammar {
    if required { item } else { repeated(item, "", 0, Some(1)) }
}

/// `items` with `separator` between those that are there.
fn separated(items: &[(Grammar, bool)], separator: &str) -> Grammar {
    let after = |item: &(Grammar, bool)| {
        let before = Grammar::Literal(separator.to_owned());
        optional((Grammar::Sequence(vec![before, item.0.clone()]), item.1))
    };
    // The first that is there is one up to the first that is required.
    let last = items.iter().position(|(_, required)| *required);
    let firsts = items.iter().enumerate().take(last.map_or(items.len(), |last| last + 1));
    let mut ways: Vec<Grammar> = firsts
        .map(|(at, (item, _))| {
            let rest = items[at + 1..].iter().map(after);
            Grammar::Sequence(std::iter::once(item.clone()).chain(rest).collect())
        })
        .collect();
    if last.is_none() {
        ways.push(Grammar::Literal(String::new()));
    }
    Grammar::AnyOf(ways)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_style_writes_objects_only_and_says_where_it_cannot() {
        for (schema, path) in [
            (json!({"type": "string"}), "s"),
            (json!(true), "s"),
            (json!({"type": "object", "minProperties": 2}), "s.minProperties"),
            (json!({"properties": {"a</arg_key>": {}}}), "s.properties.a</arg_key>"),
            (
                json!({"properties": {"a": {"type": "string", "format": "hostname"}}}),
                "s.properties.a.format",
            ),
        ] {
            match arguments_in_style("glm_xml", &schema, "s").expect("a style") {
                Err(
                    GrammarError::Unsupported { path: found, .. }
                    | GrammarError::Invalid { path: found, .. },
                ) => assert_eq!(found, path),
                other => panic!("{schema}: {other:?}"),
            }
        }
        assert!(arguments_in_style("json", &json!({}), "s").is_none());
    }
}
