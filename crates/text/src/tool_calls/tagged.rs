//! Formats that write each argument between tags.
//!
//! ```text
//! <tool_call>
//! <function=get_weather>
//! <parameter=city>
//! Oslo
//! </parameter>
//! </function>
//! </tool_call>
//! ```
//!
//! They differ in the texts of their tags: [`FORMATS`] has those, with the white space that models
//! write; [`parser`](super::tagged_parser) reads them with any white space. Whether `42` is a
//! number is not in the text: the tool's schema says it.

use serde_json::Value;
use wharf_grammar::{Grammar, GrammarError, JsonStyle, Trigger};

use super::{
    CallGrammar, ToolFormat, ToolSpec,
    custom::without_lark,
    elements::Elements,
    raw_text::{RawText, regex_escaped},
    schema_types::{Form, form, is_annotation, is_bare},
    tagged_parser::TaggedParser,
};
use crate::output::OutputParser;

/// The texts of a format's tags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tags {
    pub(super) name: &'static str,
    pub(super) aliases: &'static [&'static str],
    pub(super) markers: &'static [&'static str],
    /// What surrounds calls.
    pub(super) section: Option<[&'static str; 2]>,
    /// A section holds several calls; else each has its own.
    pub(super) shared: bool,
    /// Calls are calls without a section too.
    pub(super) bare: bool,
    /// Before the function's name. Models also write `other_calls`.
    pub(super) call: &'static str,
    pub(super) other_calls: &'static [&'static str],
    /// After it.
    pub(super) name_end: &'static str,
    /// Before a parameter's name. Models also write `other_keys`.
    pub(super) key: &'static str,
    pub(super) other_keys: &'static [&'static str],
    /// After it: before text, and before JSON. The same where the format does not tell.
    pub(super) key_ends: [&'static str; 2],
    /// Before the value.
    pub(super) value: &'static str,
    /// After it. Where that begins with a newline, a value may begin with one that is not its own.
    pub(super) value_end: &'static str,
    /// Text may be written between these, and can hold tags then.
    pub(super) quotes: Option<[&'static str; 2]>,
    /// Between a parameter's name and its value its type may stand, between these.
    pub(super) types: Option<[&'static str; 2]>,
    /// What stands before each tag, where values are elements: see [`super::elements`]. A value
    /// ends with a tag of its parameter's name then.
    pub(super) elements: Option<&'static str>,
    /// After the last parameter.
    pub(super) call_end: &'static str,
    /// Models also write calls as objects with name and arguments.
    pub(super) objects: Objects,
}

/// Where models write `{"name": …, "arguments": …}` in a format with tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objects {
    Nowhere,
    /// In a section, in place of a call.
    InSection,
    /// In a call, in place of the function's name and the parameters.
    InCall,
}

const NONE: Tags = Tags {
    name: "",
    aliases: &[],
    markers: &[],
    section: None,
    shared: false,
    bare: false,
    call: "",
    other_calls: &[],
    name_end: "",
    key: "",
    other_keys: &[],
    key_ends: ["", ""],
    value: "",
    value_end: "",
    quotes: None,
    types: None,
    elements: None,
    call_end: "",
    objects: Objects::Nowhere,
};

pub(super) const QWEN3_CODER: Tags = Tags {
    name: "qwen3_coder",
    aliases: &["qwen3_xml"],
    markers: &["<tool_call>", "</tool_call>"],
    section: Some(["<tool_call>\n", "\n</tool_call>"]),
    bare: true,
    call: "<function=",
    name_end: ">\n",
    key: "<parameter=",
    key_ends: [">\n", ">\n"],
    value_end: "\n</parameter>\n",
    call_end: "</function>",
    ..NONE
};

pub(super) const GLM45: Tags = Tags {
    name: "glm45",
    markers: &[
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
    ],
    call: "<tool_call>",
    name_end: "\n",
    key: "<arg_key>",
    key_ends: ["</arg_key>\n", "</arg_key>\n"],
    value: "<arg_value>",
    value_end: "</arg_value>\n",
    call_end: "</tool_call>",
    ..NONE
};

pub(super) const DEEPSEEK_V32: Tags = Tags {
    name: "deepseek_v32",
    markers: &["｜DSML｜"],
    section: Some(["<｜DSML｜function_calls>\n", "\n</｜DSML｜function_calls>"]),
    shared: true,
    call: "<｜DSML｜invoke name=\"",
    name_end: "\">\n",
    key: "<｜DSML｜parameter name=\"",
    key_ends: ["\" string=\"true\">", "\" string=\"false\">"],
    value_end: "</｜DSML｜parameter>\n",
    call_end: "</｜DSML｜invoke>",
    ..NONE
};

pub(super) const MINIMAX_M2: Tags = Tags {
    name: "minimax_m2",
    markers: &["<minimax:tool_call>", "</minimax:tool_call>"],
    section: Some(["<minimax:tool_call>\n", "\n</minimax:tool_call>"]),
    shared: true,
    call: "<invoke name=\"",
    name_end: "\">\n",
    key: "<parameter name=\"",
    key_ends: ["\">", "\">"],
    value_end: "</parameter>\n",
    call_end: "</invoke>",
    ..NONE
};

/// All formats with tags.
pub(super) static FORMATS: &[Tags] = &[
    QWEN3_CODER,
    Tags { name: "step3p5", aliases: &[], ..QWEN3_CODER },
    Tags {
        name: "seed_oss",
        aliases: &[],
        markers: &["<seed:tool_call>", "</seed:tool_call>"],
        section: Some(["<seed:tool_call>\n", "\n</seed:tool_call>"]),
        key_ends: [">", ">"],
        value_end: "</parameter>\n",
        ..QWEN3_CODER
    },
    GLM45,
    Tags {
        name: "glm47",
        name_end: "",
        key_ends: ["</arg_key>", "</arg_key>"],
        value_end: "</arg_value>",
        ..GLM45
    },
    Tags { name: "poolside_v1", name_end: "", ..GLM45 },
    Tags {
        name: "hy_v3",
        markers: &[
            "<tool_calls>",
            "</tool_calls>",
            "<tool_call>",
            "</tool_call>",
            "<tool_sep>",
            "<arg_key>",
            "</arg_key>",
            "<arg_value>",
            "</arg_value>",
        ],
        section: Some(["<tool_calls>\n", "\n</tool_calls>"]),
        shared: true,
        name_end: "<tool_sep>\n",
        ..GLM45
    },
    Tags {
        name: "k2_horizon",
        markers: &[
            "<ifm|tool_calls>",
            "</ifm|tool_calls>",
            "<ifm|tool_call>",
            "</ifm|tool_call>",
            "<ifm|arg_key>",
            "</ifm|arg_key>",
            "<ifm|arg_type>",
            "</ifm|arg_type>",
            "<ifm|arg_value>",
            "</ifm|arg_value>",
        ],
        section: Some(["<ifm|tool_calls>\n", "\n</ifm|tool_calls>"]),
        shared: true,
        bare: true,
        call: "<ifm|tool_call>",
        key: "<ifm|arg_key>",
        key_ends: ["</ifm|arg_key>\n", "</ifm|arg_key>\n"],
        types: Some(["<ifm|arg_type>", "</ifm|arg_type>"]),
        value: "<ifm|arg_value>",
        value_end: "</ifm|arg_value>\n",
        call_end: "</ifm|tool_call>",
        objects: Objects::InCall,
        ..GLM45
    },
    MINIMAX_M2,
    Tags {
        name: "dots",
        markers: &["<dots_function_call>", "</dots_function_call>"],
        section: Some(["<dots_function_call>\n", "\n</dots_function_call>"]),
        objects: Objects::InSection,
        ..MINIMAX_M2
    },
    Tags {
        name: "minimax_m3",
        markers: &["]<]minimax[>["],
        section: Some(["]<]minimax[>[<tool_call>\n", "\n]<]minimax[>[</tool_call>"]),
        shared: true,
        call: "]<]minimax[>[<invoke name=\"",
        name_end: "\">",
        key: "]<]minimax[>[<",
        key_ends: [">", ">"],
        elements: Some("]<]minimax[>["),
        call_end: "]<]minimax[>[</invoke>",
        ..NONE
    },
    DEEPSEEK_V32,
    Tags {
        name: "deepseek_v4",
        section: Some(["<｜DSML｜tool_calls>\n", "\n</｜DSML｜tool_calls>"]),
        ..DEEPSEEK_V32
    },
    Tags {
        name: "step3",
        markers: &[
            "<｜tool_calls_begin｜>",
            "<｜tool_calls_end｜>",
            "<｜tool_call_begin｜>",
            "<｜tool_call_end｜>",
            "<｜tool_sep｜>",
        ],
        section: Some(["<｜tool_calls_begin｜>\n", "\n<｜tool_calls_end｜>"]),
        shared: true,
        call: "<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name=\"",
        name_end: "\">\n",
        key: "<steptml:parameter name=\"",
        key_ends: ["\">", "\">"],
        value_end: "</steptml:parameter>\n",
        call_end: "</steptml:invoke><｜tool_call_end｜>",
        ..NONE
    },
    Tags {
        name: "minicpm5",
        call: "<function name=\"",
        // Its tokenizer loses the space in some positions.
        other_calls: &["<functionname=\"", "<function\u{120}name=\""],
        name_end: "\">",
        key: "<param name=\"",
        other_keys: &["<paramname=\"", "<param\u{120}name=\""],
        key_ends: ["\">", "\">"],
        value_end: "</param>",
        quotes: Some(["<![CDATA[", "]]>"]),
        call_end: "</function>",
        ..NONE
    },
];

impl ToolFormat for Tags {
    fn name(&self) -> &'static str {
        self.name
    }

    fn aliases(&self) -> &'static [&'static str] {
        self.aliases
    }

    fn markers(&self) -> &'static [&'static str] {
        self.markers
    }

    fn parser(&self, tools: &[ToolSpec]) -> Box<dyn OutputParser> {
        Box::new(TaggedParser::new(*self, tools))
    }

    fn grammar(&self, tools: &[ToolSpec], parallel: bool) -> Result<CallGrammar, GrammarError> {
        without_lark(tools)?;
        let (named, calls) = self.calls(tools)?;
        // What marks the beginning of all that belongs together, and what follows that.
        let (marker, rest) = match self.section {
            None => (self.call, named.clone()),
            Some([open, close]) => {
                let marker = open.trim_end();
                let before = Grammar::Literal(open[marker.len()..].to_owned());
                let mut parts = vec![before, calls.clone()];
                if self.shared && parallel {
                    let next = vec![Grammar::Literal("\n".to_owned()), calls];
                    parts.push(repeated(Grammar::Sequence(next), "", 0, None));
                }
                parts.push(Grammar::Literal(close.to_owned()));
                (marker, Grammar::Sequence(parts))
            }
        };
        let whole = Grammar::Sequence(vec![Grammar::Literal(marker.to_owned()), rest.clone()]);
        let bare = (self.bare && self.section.is_some()).then_some(self.call);
        let mut triggers = vec![Trigger { text: marker.to_owned(), at_start: false, then: rest }];
        triggers.extend(bare.iter().chain(self.other_calls).map(|text| Trigger {
            text: (*text).to_owned(),
            at_start: false,
            then: named.clone(),
        }));
        let several = parallel && !self.shared;
        Ok(CallGrammar {
            required: if several { repeated(whole, "\n", 1, None) } else { whole },
            triggers,
            max_triggers: (!several).then_some(1),
        })
    }
}

/// `item`, from `min` to `max` times.
pub(super) fn repeated(item: Grammar, separator: &str, min: usize, max: Option<usize>) -> Grammar {
    Grammar::Repeat { item: Box::new(item), separator: separator.to_owned(), min, max }
}

impl Tags {
    /// What follows the text before a function's name, and whole calls. Where there is another way
    /// to write calls, tools that tags cannot write are left to that.
    fn calls(&self, tools: &[ToolSpec]) -> Result<(Grammar, Grammar), GrammarError> {
        let mut named = Vec::new();
        for tool in tools {
            match self.call(tool) {
                Err(error) if self.objects == Objects::Nowhere => return Err(error),
                call => named.extend(call),
            }
        }
        let objects = |after: &str| {
            let object = |tool: &ToolSpec| {
                let name = Value::from(tool.name.as_str());
                Grammar::Sequence(vec![
                    Grammar::Literal(format!("{{\"name\": {name}, \"arguments\": ")),
                    json(&tool.parameters, &tool.parameters),
                    Grammar::Literal(format!("}}{after}")),
                ])
            };
            tools.iter().map(object).collect::<Vec<_>>()
        };
        if self.objects == Objects::InCall {
            named.extend(objects(self.call_end));
        }
        let named = Grammar::AnyOf(named);
        let call = vec![Grammar::Literal(self.call.to_owned()), named.clone()];
        let mut calls = vec![Grammar::Sequence(call)];
        if self.objects == Objects::InSection {
            if named == Grammar::AnyOf(Vec::new()) {
                calls.clear();
            }
            calls.extend(objects(""));
        }
        Ok((named, Grammar::AnyOf(calls)))
    }

    /// A call of `tool`, from its name on.
    fn call(&self, tool: &ToolSpec) -> Result<Grammar, GrammarError> {
        let mut parts = vec![Grammar::Literal(format!("{}{}", tool.name, self.name_end))];
        let arguments = arguments(&tool.parameters, &tool.name)?;
        for argument in arguments {
            let path = format!("{}.properties.{}", tool.name, argument.name);
            let item = self.argument(&argument, &tool.parameters, &path)?;
            parts.push(match argument.required {
                true => item,
                false => repeated(item, "", 0, Some(1)),
            });
        }
        parts.push(Grammar::Literal(self.call_end.to_owned()));
        Ok(Grammar::Sequence(parts))
    }

    /// An argument with its tags.
    pub(super) fn argument(
        &self,
        argument: &Argument,
        root: &Value,
        path: &str,
    ) -> Result<Grammar, GrammarError> {
        if self.key_ends.iter().any(|end| argument.name.contains(end.trim()))
            || argument.name.trim() != argument.name
            || argument.name.contains('\n')
        {
            return Err(GrammarError::Unsupported {
                path: path.to_owned(),
                keyword: argument.name.to_owned(),
                reason: Some("this model's call format cannot write this name".to_owned()),
            });
        }
        if let Some(mark) = self.elements {
            return Elements { mark, root }.argument(argument.name, argument.schema, path);
        }
        let raw = RawText { root, end: self.value_end };
        let form = form(argument.schema, root);
        let key_end = self.key_ends[usize::from(form == Form::Json)];
        let before = format!("{}{}{key_end}{}", self.key, argument.name, self.value);
        let mut parts = vec![Grammar::Literal(before)];
        match form {
            Form::Text if !is_bare(argument.schema) => {
                parts.push(raw.grammar(argument.schema, path)?);
            }
            Form::Text | Form::Loose(_) => parts.push(self.any_text(raw)),
            Form::Json => {
                parts.push(json(argument.schema, root));
                parts.push(Grammar::Literal(self.value_end.to_owned()));
            }
        }
        Ok(Grammar::Sequence(parts))
    }
}

impl Tags {
    /// Any text and its end. Where text can be quoted, what needs no quotes goes without.
    fn any_text(&self, raw: RawText) -> Grammar {
        let Some([open, close]) = self.quotes else { return raw.any() };
        let quoted = RawText { end: &format!("{close}{}", raw.end), ..raw };
        Grammar::AnyOf(vec![
            Grammar::Regex(format!("[^<&\\n]*{}", regex_escaped(raw.end))),
            Grammar::Sequence(vec![Grammar::Literal(open.to_owned()), quoted.any()]),
        ])
    }
}

/// A JSON value of `schema`, a part of the schema `root` that its references point into.
pub(super) fn json(schema: &Value, root: &Value) -> Grammar {
    let mut schema = schema.clone();
    if let Some(keywords) = schema.as_object_mut() {
        for definitions in ["$defs", "definitions"] {
            if let Some(value) = root.get(definitions) {
                keywords.entry(definitions).or_insert_with(|| value.clone());
            }
        }
    }
    Grammar::Json { schema, style: JsonStyle::spaced() }
}

/// An argument of a function.
pub(super) struct Argument<'a> {
    pub(super) name: &'a str,
    pub(super) schema: &'a Value,
    pub(super) required: bool,
}

/// The arguments that a function's schema names, in its order.
///
/// # Errors
/// Keywords that say more than which arguments there are: a format that writes arguments one by
/// one has no place for them.
pub(super) fn arguments<'a>(
    schema: &'a Value,
    path: &str,
) -> Result<Vec<Argument<'a>>, GrammarError> {
    static ANYTHING: Value = Value::Bool(true);
    let Some(keywords) = schema.as_object() else { return Ok(Vec::new()) };
    for keyword in keywords.keys() {
        let known = ["type", "properties", "required", "additionalProperties", "strict"];
        if !known.contains(&keyword.as_str()) && !is_annotation(keyword) {
            return Err(GrammarError::Unsupported {
                path: format!("{path}.{keyword}"),
                keyword: keyword.clone(),
                reason: Some("this model's call format writes arguments one by one".to_owned()),
            });
        }
    }
    let required: Vec<&str> = keywords
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let mut arguments: Vec<Argument> = keywords
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        // A property that nothing satisfies is one that is left out.
        .filter(|(_, schema)| **schema != Value::Bool(false))
        .map(|(name, schema)| Argument {
            name,
            schema,
            required: required.contains(&name.as_str()),
        })
        .collect();
    let others = keywords.get("additionalProperties").unwrap_or(&ANYTHING);
    for name in required {
        if arguments.iter().all(|argument| argument.name != name) {
            if *others == Value::Bool(false) {
                return Err(GrammarError::Invalid {
                    path: format!("{path}.required"),
                    reason: format!("`{name}` is required and not allowed"),
                });
            }
            arguments.push(Argument { name, schema: others, required: true });
        }
    }
    Ok(arguments)
}
