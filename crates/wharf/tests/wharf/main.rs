//! The real `wharf` binary, run as a user runs it.
#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

mod clients;
mod command_line;
mod end_to_end;
mod program;
