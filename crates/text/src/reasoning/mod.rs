//! Reasoning: how each family of models marks what it thinks before it answers.
//!
//! Most families write a marker, what they think, another marker, and the answer: `marked` has
//! them all in one table. `harmony` is the one that does not.

mod harmony;
mod marked;

use std::sync::LazyLock;

use crate::output::OutputParser;

/// How a family of models marks its reasoning.
pub trait ReasoningFormat: Send + Sync {
    /// As `--reasoning-parser` has it: vLLM's name, where vLLM has the format.
    fn name(&self) -> &'static str;

    /// Texts that begin and end reasoning, and others that mark parts of the answer. Where the
    /// vocabulary has one of them as a special token, it has to be shown to the parser.
    fn markers(&self) -> &'static [&'static str];

    /// The text that begins reasoning, for the grammar of an answer: `<think>`.
    fn start(&self) -> &'static str;

    /// The text that ends it: `</think>`.
    fn end(&self) -> &'static str;

    /// The text that must stand before content, with and without reasoning before it, where the
    /// prompt does not hold it already; empty for most.
    fn content_start(&self) -> &'static str {
        ""
    }

    /// Where an answer to this prompt begins.
    fn opening(&self, prompt: &str) -> Opening;

    /// A parser for one answer; `content` reads what is not reasoning. White space between the end
    /// of reasoning and content belongs to neither, so that content alone satisfies a constraint.
    fn parser(&self, opening: Opening, content: Box<dyn OutputParser>) -> Box<dyn OutputParser>;
}

/// Where an answer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The model may begin to think, with the marker, or not.
    Undecided,
    /// In the middle of reasoning: the prompt ends with the marker, or the model omits it.
    Reasoning,
    /// After the reasoning, which is over or switched off.
    Content,
}

/// All formats.
pub fn formats() -> &'static [&'static dyn ReasoningFormat] {
    static FORMATS: LazyLock<Vec<&dyn ReasoningFormat>> = LazyLock::new(|| {
        let marked = marked::FORMATS.iter().map(|format| format as &dyn ReasoningFormat);
        marked.chain(std::iter::once(&harmony::Harmony as &dyn ReasoningFormat)).collect()
    });
    &FORMATS
}

/// The format of this name.
pub fn by_name(name: &str) -> Option<&'static dyn ReasoningFormat> {
    formats().iter().copied().find(|format| format.name() == name)
}

/// Texts that distinguish a chat template, and the format that it marks reasoning in. The first
/// row counts of which a template holds all. Formats that differ in nothing but their name go by
/// one of their names here.
const SIGNS: &[(&[&str], &str)] = &[
    (&["<|channel|>analysis"], "openai_gptoss"),
    (&["<|channel>"], "gemma4"),
    (&["[THINK]"], "mistral"),
    (&["<seed:think>"], "seed_oss"),
    (&["<mm:think>"], "minimax_m3"),
    (&["◁think▷"], "kimi_vl"),
    (&["<|START_THINKING|>"], "cohere_command3"),
    (&["Here is my thought process:"], "granite"),
    (&["<|inner_prefix|>"], "apertus"),
    (&["<think></think>", "<response></response>"], "granite_3_3"),
    (&["</think>", "<|extra_0|>"], "hunyuan_a13b"),
    (&["</think>", "｜DSML｜"], "deepseek_v3"),
    (&["</think>", "<minimax:tool_call>"], "minimax_m2"),
    // DeepSeek R1's own template only removes reasoning from earlier answers.
    (&["</think>", "<｜Assistant｜>"], "deepseek_r1"),
    (&["</think>"], "qwen3"),
];

/// The format that a chat template marks reasoning in, as far as that can be seen in it.
pub fn detect(template: &str) -> Option<&'static dyn ReasoningFormat> {
    let row = SIGNS.iter().find(|(signs, _)| signs.iter().all(|sign| template.contains(sign)));
    row.and_then(|(_, name)| by_name(name))
}
