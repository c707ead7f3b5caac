//! Text in and out: tokenizer, incremental detokeniser, chat template, stop strings.

pub mod detokenizer;
pub mod stop;
pub mod template;
pub mod tokenizer;
