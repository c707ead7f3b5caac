//! Tool calls: how each family of models writes them.
//!
//! One file per format. A format knows two things: how to read calls out of a text as it comes
//! ([`ToolFormat::parser`]), and what a well-formed call looks like ([`ToolFormat::grammar`]), so
//! that an ill-formed one cannot be generated.

mod argument_styles;
pub mod custom;
mod elements;
mod elements_reader;
mod gemma;
mod gemma_parser;
mod harmony;
mod json_call;
mod json_call_parser;
mod json_calls;
mod json_object;
mod python_literal;
mod pythonic;
mod pythonic_parser;
mod raw_text;
mod schema_types;
mod tagged;
mod tagged_parser;

use std::sync::LazyLock;

use serde_json::Value;
use wharf_grammar::{Grammar, GrammarError, Trigger};

pub use argument_styles::arguments_in_style;

use crate::output::OutputParser;

/// A function that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments; an object.
    pub parameters: Value,
    /// A grammar in Lark of its only argument, the string of a [`custom`] tool.
    pub lark: Option<String>,
}

/// How a family of models writes tool calls.
pub trait ToolFormat: Send + Sync {
    /// As `--tool-call-parser` has it: vLLM's name.
    fn name(&self) -> &'static str;

    /// Other names it goes by.
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// Texts that mark calls. Where the vocabulary has one of them as a special token, it has to be
    /// shown to the parser.
    fn markers(&self) -> &'static [&'static str];

    /// A parser for one answer. `tools`: formats without types in their text look up the types of
    /// arguments there; names that are not there are passed on as they are.
    fn parser(&self, tools: &[ToolSpec]) -> Box<dyn OutputParser>;

    /// What calls of these tools look like.
    ///
    /// # Errors
    /// Where the format cannot say what a schema asks for: not every format writes arguments as
    /// JSON. The error's path is one into the tool's `parameters`, after the tool's name
    /// (`get_weather.properties.city.minLength`).
    fn grammar(&self, tools: &[ToolSpec], parallel: bool) -> Result<CallGrammar, GrammarError>;
}

/// What the calls of an answer look like, in two forms.
#[derive(Debug, Clone, PartialEq)]
pub struct CallGrammar {
    /// An answer that has to call: one call, or with `parallel` one or more.
    pub required: Grammar,
    /// Where free text turns into calls: for an answer that may call. With each trigger comes all
    /// that belongs to it, for formats that wrap several calls in one section too.
    pub triggers: Vec<Trigger>,
    /// How many times triggers may fire; `None`: any number.
    pub max_triggers: Option<usize>,
}

/// All formats, by name.
pub fn formats() -> &'static [&'static dyn ToolFormat] {
    static FORMATS: LazyLock<Vec<&dyn ToolFormat>> = LazyLock::new(|| {
        let json = json_calls::FORMATS.iter().map(|format| format as &dyn ToolFormat);
        let tagged = tagged::FORMATS.iter().map(|format| format as &dyn ToolFormat);
        let pythonic = pythonic::FORMATS.iter().map(|format| format as &dyn ToolFormat);
        let gemma = gemma::FORMATS.iter().map(|format| format as &dyn ToolFormat);
        let harmony = std::iter::once(&harmony::Harmony as &dyn ToolFormat);
        json.chain(tagged).chain(pythonic).chain(gemma).chain(harmony).collect()
    });
    &FORMATS
}

/// The format of this name, or of one of its other names.
pub fn by_name(name: &str) -> Option<&'static dyn ToolFormat> {
    let called =
        |format: &dyn ToolFormat| format.name() == name || format.aliases().contains(&name);
    formats().iter().copied().find(|format| called(*format))
}

/// Texts that distinguish a chat template, and the format that it writes calls in. The first row
/// counts of which a template holds all.
const SIGNS: &[(&[&str], &str)] = &[
    (&["<|channel|>commentary"], "openai"),
    (&["｜DSML｜", "function_calls"], "deepseek_v32"),
    (&["｜DSML｜", "tool_calls"], "deepseek_v4"),
    (&["<｜tool▁calls▁begin｜>", "```json"], "deepseek_v3"),
    (&["<｜tool▁calls▁begin｜>"], "deepseek_v31"),
    (&["<|tool_calls_section_begin|>"], "kimi_k2"),
    (&["]<]minimax[>["], "minimax_m3"),
    (&["<minimax:tool_call>"], "minimax_m2"),
    (&["<dots_function_call>"], "dots"),
    (&["<seed:tool_call>"], "seed_oss"),
    (&["<steptml:invoke"], "step3"),
    (&["<arg_key>", "<tool_sep>"], "hy_v3"),
    (&["<arg_key>"], "glm45"),
    (&["<function=", "<parameter="], "qwen3_coder"),
    (&["<function name="], "minicpm5"),
    (&["<start_function_call>"], "functiongemma"),
    (&["<|tool_call>call:"], "gemma4"),
    (&["<|tool_call_start|>"], "lfm2"),
    // LFM2's templates show the tools, and leave it to the model how it calls them.
    (&["<|tool_list_start|>"], "lfm2"),
    (&["<function_calls>"], "olmo3"),
    (&["<longcat_tool_call>"], "longcat"),
    (&["<ifm|tool_call"], "k2_horizon"),
    (&["<|role_sep|>", "function call"], "gigachat3"),
    (&["<|tools_prefix|>"], "apertus"),
    (&["<|action_start|>"], "internlm"),
    (&["functools["], "phi4_mini_json"),
    (&["[TOOL_CALLS]"], "mistral"),
    (&["<|tool_call|>"], "granite"),
    (&["<function_call>"], "granite-20b-fc"),
    (&["<tool_calls>"], "jamba"),
    (&["<tool_call>"], "hermes"),
    (&["\"parameters\":", "<|eot_id|>"], "llama3_json"),
    (&["<|python_start|>"], "llama4_pythonic"),
    // What a prompt tells models, where it shows no marker of calls.
    (&["List of tools: ["], "lfm2"),
    (&["[func_name1("], "pythonic"),
    (&["make calls in a single JSON array"], "xlam"),
];

/// The format that a chat template writes calls in, as far as that can be seen in it.
pub fn detect(template: &str) -> Option<&'static dyn ToolFormat> {
    let row = SIGNS.iter().find(|(signs, _)| signs.iter().all(|sign| template.contains(sign)));
    row.and_then(|(_, name)| by_name(name))
}
