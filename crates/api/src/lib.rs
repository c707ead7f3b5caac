//! Wire types of the OpenAI API and vLLM's extensions. Serde only; does nothing.
pub mod error;
