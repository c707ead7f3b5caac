//! Formats that write the arguments of a call as JSON.
//!
//! ```text
//! <tool_call>
//! {"name": "get_weather", "arguments": {"city": "Oslo"}}
//! </tool_call>
//! ```
//!
//! They differ in the texts around: [`FORMATS`] has those; [`parser`](super::json_call_parser)
//! reads them all, with any white space.

use serde_json::Value;
use wharf_grammar::{Grammar, GrammarError, Trigger};

use super::{
    CallGrammar, ToolFormat, ToolSpec, custom::json_arguments, json_call_parser::JsonCallParser,
};
use crate::output::OutputParser;

/// A format's texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct JsonCalls {
    name: &'static str,
    /// Other names, vLLM's.
    aliases: &'static [&'static str],
    /// All its markers.
    markers: &'static [&'static str],
    /// What begins a call, or a section of calls.
    pub(super) opens: &'static [&'static str],
    /// What ends one. Without any, the last call's end does.
    pub(super) closes: &'static [&'static str],
    /// An answer that begins with `{` or `[` is a call without more ado.
    pub(super) at_start: bool,
    /// What stands before a function's name that is not in JSON.
    pub(super) before_name: &'static [&'static str],
    /// What stands after it.
    pub(super) after_name: &'static [&'static str],
    /// A name may follow an opening at once.
    pub(super) bare_name: bool,
    /// The name is the object's only key, and its value the arguments.
    pub(super) keyed: bool,
    written: Written,
}

/// How models write calls: what a grammar allows.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// Before the first call.
    open: &'static str,
    /// Before each call.
    before: &'static str,
    /// Between a call's name and its arguments.
    middle: &'static str,
    /// After each call.
    after: &'static str,
    /// Between two calls.
    separator: &'static str,
    /// After the last call.
    close: &'static str,
    /// Text that fires it in free text: the beginning of `open` and `before`.
    trigger: &'static str,
}

/// `{"name": …, "arguments": …}`, each between the markers, on lines of its own.
const HERMES: JsonCalls = JsonCalls {
    name: "hermes",
    aliases: &["qwen", "qwen2_5", "qwen3", "granite4", "ernie45"],
    markers: &["<tool_call>", "</tool_call>"],
    opens: &["<tool_call>"],
    closes: &["</tool_call>"],
    at_start: false,
    before_name: &[],
    after_name: &[],
    bare_name: false,
    keyed: false,
    written: Written {
        open: "",
        before: "<tool_call>\n{\"name\": ",
        middle: ", \"arguments\": ",
        after: "}\n</tool_call>",
        separator: "\n",
        close: "",
        trigger: "<tool_call>",
    },
};

/// A list of such objects after a marker.
const LIST: Written = Written {
    open: "[",
    before: "{\"name\": ",
    middle: ", \"arguments\": ",
    after: "}",
    separator: ", ",
    close: "]",
    trigger: "",
};

const DEEPSEEK_V3: JsonCalls = JsonCalls {
    name: "deepseek_v3",
    aliases: &[],
    markers: &[
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁end｜>",
        "```",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        "<｜tool▁call▁begin｜>",
        "\n```json\n",
        "<｜tool▁sep｜>",
    ],
    opens: &["<｜tool▁calls▁begin｜>"],
    closes: &["<｜tool▁calls▁end｜>", "<｜tool▁call▁end｜>", "```"],
    before_name: &["<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "<｜tool▁call▁begin｜>"],
    after_name: &["\n```json\n", "<｜tool▁sep｜>"],
    written: Written {
        open: "<｜tool▁calls▁begin｜>",
        before: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        middle: "\n```json\n",
        after: "\n```<｜tool▁call▁end｜>",
        separator: "\n",
        close: "<｜tool▁calls▁end｜>",
        trigger: "<｜tool▁calls▁begin｜>",
    },
    ..HERMES
};

/// All formats with JSON.
pub(super) static FORMATS: &[JsonCalls] = &[
    HERMES,
    JsonCalls {
        name: "llama3_json",
        aliases: &["llama4_json"],
        markers: &["<|python_tag|>"],
        opens: &["<|python_tag|>"],
        closes: &[],
        at_start: true,
        written: Written {
            open: "",
            before: "{\"name\": ",
            middle: ", \"parameters\": ",
            after: "}",
            separator: "; ",
            close: "",
            trigger: "",
        },
        ..HERMES
    },
    JsonCalls {
        name: "mistral",
        aliases: &[],
        markers: &["[TOOL_CALLS]", "[ARGS]"],
        opens: &["[TOOL_CALLS]"],
        closes: &[],
        after_name: &["[ARGS]"],
        bare_name: true,
        written: Written { open: "[TOOL_CALLS][", trigger: "[TOOL_CALLS]", ..LIST },
        ..HERMES
    },
    JsonCalls {
        name: "granite",
        aliases: &[],
        markers: &["<|tool_call|>", "<tool_call>"],
        opens: &["<|tool_call|>", "<tool_call>"],
        closes: &[],
        written: Written { open: "<|tool_call|>[", trigger: "<|tool_call|>", ..LIST },
        ..HERMES
    },
    JsonCalls {
        name: "granite-20b-fc",
        aliases: &[],
        markers: &["<function_call>"],
        opens: &["<function_call>"],
        closes: &[],
        written: Written {
            before: "<function_call> {\"name\": ",
            after: "}",
            separator: " ",
            trigger: "<function_call>",
            ..HERMES.written
        },
        ..HERMES
    },
    JsonCalls {
        name: "longcat",
        aliases: &[],
        markers: &["<longcat_tool_call>", "</longcat_tool_call>"],
        opens: &["<longcat_tool_call>"],
        closes: &["</longcat_tool_call>"],
        written: Written {
            before: "<longcat_tool_call>{\"name\": ",
            after: "}</longcat_tool_call>",
            trigger: "<longcat_tool_call>",
            ..HERMES.written
        },
        ..HERMES
    },
    JsonCalls {
        name: "gigachat3",
        aliases: &[],
        markers: &["<|function_call|>", "<|role_sep|>", "<|message_sep|>"],
        opens: &[
            "<|function_call|>",
            "<|message_sep|>\n\nfunction call<|role_sep|>",
            "<|role_sep|>",
        ],
        closes: &["<|message_sep|>"],
        written: Written {
            before: "<|function_call|>{\"name\": ",
            after: "}",
            trigger: "<|function_call|>",
            ..HERMES.written
        },
        ..HERMES
    },
    JsonCalls {
        name: "jamba",
        aliases: &["hunyuan_a13b"],
        markers: &["<tool_calls>", "</tool_calls>"],
        opens: &["<tool_calls>"],
        closes: &["</tool_calls>"],
        written: Written {
            open: "<tool_calls>[",
            close: "]</tool_calls>",
            trigger: "<tool_calls>",
            ..LIST
        },
        ..HERMES
    },
    JsonCalls {
        name: "phi4_mini_json",
        aliases: &[],
        markers: &["functools"],
        opens: &["functools"],
        closes: &[],
        written: Written { open: "functools[", trigger: "functools[", ..LIST },
        ..HERMES
    },
    JsonCalls {
        name: "apertus",
        aliases: &[],
        markers: &["<|tools_prefix|>", "<|tools_suffix|>"],
        opens: &["<|tools_prefix|>"],
        closes: &["<|tools_suffix|>"],
        keyed: true,
        written: Written {
            open: "<|tools_prefix|>[",
            before: "{",
            middle: ": ",
            close: "]<|tools_suffix|>",
            trigger: "<|tools_prefix|>",
            ..LIST
        },
        ..HERMES
    },
    JsonCalls {
        name: "internlm",
        aliases: &[],
        markers: &["<|action_start|><|plugin|>", "<|action_start|>", "<|action_end|>"],
        opens: &["<|action_start|><|plugin|>", "<|action_start|>"],
        closes: &["<|action_end|>"],
        written: Written {
            before: "<|action_start|><|plugin|>{\"name\": ",
            middle: ", \"parameters\": ",
            after: "}<|action_end|>",
            trigger: "<|action_start|>",
            ..HERMES.written
        },
        ..HERMES
    },
    JsonCalls {
        name: "xlam",
        aliases: &[],
        markers: &["[TOOL_CALLS]", "<tool_call>", "```json", "</tool_call>", "```"],
        opens: &["[TOOL_CALLS]", "<tool_call>", "```json"],
        closes: &["</tool_call>", "```"],
        at_start: true,
        written: LIST,
        ..HERMES
    },
    DEEPSEEK_V3,
    JsonCalls {
        name: "deepseek_v31",
        written: Written {
            before: "<｜tool▁call▁begin｜>",
            middle: "<｜tool▁sep｜>",
            after: "<｜tool▁call▁end｜>",
            separator: "",
            ..DEEPSEEK_V3.written
        },
        ..DEEPSEEK_V3
    },
    JsonCalls {
        name: "kimi_k2",
        markers: &[
            "<|tool_calls_section_begin|>",
            "<|tool_call_section_begin|>",
            "<|tool_calls_section_end|>",
            "<|tool_call_section_end|>",
            "<|tool_call_end|>",
            "<|tool_call_begin|>functions.",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
        ],
        opens: &["<|tool_calls_section_begin|>", "<|tool_call_section_begin|>"],
        closes: &["<|tool_calls_section_end|>", "<|tool_call_section_end|>", "<|tool_call_end|>"],
        before_name: &["<|tool_call_begin|>functions.", "<|tool_call_begin|>"],
        after_name: &["<|tool_call_argument_begin|>"],
        written: Written {
            open: "<|tool_calls_section_begin|>",
            before: "<|tool_call_begin|>functions.",
            middle: ":0<|tool_call_argument_begin|>",
            after: "<|tool_call_end|>",
            separator: "",
            close: "<|tool_calls_section_end|>",
            trigger: "<|tool_calls_section_begin|>",
        },
        ..DEEPSEEK_V3
    },
];

impl JsonCalls {
    /// Whether the function's name is written as a JSON string.
    fn quoted(&self) -> bool {
        self.before_name.is_empty()
    }

    /// A call of any of `tools`.
    fn call(&self, tools: &[ToolSpec]) -> Result<Grammar, GrammarError> {
        let Written { before, middle, after, .. } = self.written;
        let one = |tool: &ToolSpec| {
            let name = if self.quoted() {
                Value::from(tool.name.as_str()).to_string()
            } else {
                tool.name.clone()
            };
            Ok(Grammar::Sequence(vec![
                Grammar::Literal(format!("{before}{name}{middle}")),
                json_arguments(tool)?,
                Grammar::Literal(after.to_owned()),
            ]))
        };
        tools.iter().map(one).collect::<Result<_, _>>().map(Grammar::AnyOf)
    }
}

impl ToolFormat for JsonCalls {
    fn name(&self) -> &'static str {
        self.name
    }

    fn aliases(&self) -> &'static [&'static str] {
        self.aliases
    }

    fn markers(&self) -> &'static [&'static str] {
        self.markers
    }

    fn parser(&self, _: &[ToolSpec]) -> Box<dyn OutputParser> {
        Box::new(JsonCallParser::new(*self))
    }

    fn grammar(&self, tools: &[ToolSpec], parallel: bool) -> Result<CallGrammar, GrammarError> {
        let Written { open, separator, close, trigger, .. } = self.written;
        let calls = Grammar::Repeat {
            item: Box::new(self.call(tools)?),
            separator: separator.to_owned(),
            min: 1,
            max: (!parallel).then_some(1),
        };
        let required = Grammar::Sequence(vec![
            Grammar::Literal(open.to_owned()),
            calls,
            Grammar::Literal(close.to_owned()),
        ]);
        // What a trigger fires on is cut off what must follow.
        let begin = format!("{open}{}", self.written.before);
        let (text, at_start) = if trigger.is_empty() {
            (begin.split_inclusive('"').next().unwrap_or(&begin).to_owned(), true)
        } else {
            (trigger.to_owned(), false)
        };
        let then = without_prefix(&required, &text);
        let triggers = then.map(|then| Trigger { text, at_start, then }).into_iter().collect();
        Ok(CallGrammar { required, triggers, max_triggers: Some(1) })
    }
}

/// What is left of `grammar` after `prefix`, with which every text of it begins.
fn without_prefix(grammar: &Grammar, prefix: &str) -> Option<Grammar> {
    if prefix.is_empty() {
        return Some(grammar.clone());
    }
    match grammar {
        Grammar::Literal(text) => {
            text.strip_prefix(prefix).map(|rest| Grammar::Literal(rest.into()))
        }
        Grammar::Sequence(parts) => {
            let (first, rest) = parts.split_first()?;
            let first = match first {
                Grammar::Literal(text) if prefix.starts_with(text.as_str()) => {
                    let prefix = &prefix[text.len()..];
                    return without_prefix(&Grammar::Sequence(rest.to_vec()), prefix);
                }
                first => without_prefix(first, prefix)?,
            };
            Some(Grammar::Sequence(std::iter::once(first).chain(rest.iter().cloned()).collect()))
        }
        Grammar::AnyOf(parts) => {
            let parts = parts.iter().map(|part| without_prefix(part, prefix));
            parts.collect::<Option<Vec<_>>>().map(Grammar::AnyOf)
        }
        Grammar::Repeat { item, separator, min: 1, max } => {
            let first = without_prefix(item, prefix)?;
            let more =
                Grammar::Sequence(vec![Grammar::Literal(separator.clone()), item.as_ref().clone()]);
            let more = Grammar::Repeat {
                item: Box::new(more),
                separator: String::new(),
                min: 0,
                max: max.map(|max| max - 1),
            };
            Some(Grammar::Sequence(vec![first, more]))
        }
        _ => None,
    }
}
