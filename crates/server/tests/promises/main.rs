//! What the server promises, each promise a test named after it, over real HTTP: `wharf_server::serve`
//! with the real engine, driven by a scripted runner in place of a model.
//!
//! The sentences come from what users of such servers complain about: each of them was once broken
//! by somebody.

#[cfg(test)]
mod access;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod cancelling;
#[cfg(test)]
mod client;
#[cfg(test)]
mod custom_tools;
#[cfg(test)]
mod determinism;
#[cfg(test)]
mod draining;
#[cfg(test)]
mod legacy;
#[cfg(test)]
mod logprobs;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod priority;
#[cfg(test)]
mod prompts;
#[cfg(test)]
mod script;
#[cfg(test)]
mod server;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod structured;
#[cfg(test)]
mod text;
#[cfg(test)]
mod tools;
