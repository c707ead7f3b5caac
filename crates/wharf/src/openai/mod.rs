//! A client for OpenAI-compatible servers, as far as `chat` and `bench` need one. It reads what any
//! such server sends, ours or another's, and so depends on nothing that only ours does.

mod client;
mod sse;

pub(crate) use client::{Client, RequestError, StreamEvent, Usage};
