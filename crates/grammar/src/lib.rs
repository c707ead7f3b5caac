//! Grammars: what an answer must look like, and which tokens may come next.
//!
//! - [`Grammar`] says what an answer must look like: a small language of literals, JSON schemas,
//!   regular expressions, users' own grammars, and free text with places where it is not free.
//!   Whoever knows a format (`text` for tool calls, `server` for requests) writes one.
//! - [`Compiler`] turns it into a [`Constraint`], within limits of time and size, or says which
//!   part of it cannot be enforced. Nothing is dropped in silence.
//! - [`Matcher`] follows one answer token by token: which tokens may come next, which must, and
//!   whether the answer may end.
//!
//! llguidance does the work, and nobody outside of this crate sees it. Not here: what a request
//! looks like (`server`), sampling (`engine`), text from tokens (`text`).

mod budget;
mod cache;
mod closing;
mod compiler;
mod error;
mod gbnf;
mod grammar;
mod json_lark;
mod lark;
mod mask;
mod matcher;
mod refusal;
mod schema;
mod structural_tag;
mod vocabulary;

pub use closing::{Combined, closed};
pub use compiler::{Compiler, Constraint, Limits};
pub use error::{GrammarError, MatchError};
pub use grammar::{Grammar, JsonStyle, Trigger};
pub use mask::TokenMask;
pub use matcher::Matcher;
pub use structural_tag::OtherStyles;
pub use vocabulary::{Tokenize, Vocabulary};
