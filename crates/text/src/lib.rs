//! Text in and out: tokenizer, incremental detokeniser, chat template, stop strings, and the parts
//! of an answer: reasoning, content, tool calls.

pub mod detokenizer;
mod harmony;
pub mod output;
pub mod reasoning;
pub mod stop;
pub mod template;
pub mod tokenizer;
pub mod tool_calls;
