//! `wharf_hub::fetch` against a local server that plays the hub.
#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

mod fake_hub;
mod fetch;
