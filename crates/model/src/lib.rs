//! Models: reading weights (Hugging Face directories, GGUF files) and running the architectures.
//!
//! A model file is untrusted input: every size and offset is checked, and what is wrong is an error
//! that names the file and the field, never a panic or a huge allocation. What a file asks for and we
//! don't compute is refused too, never passed over. No HTTP here: fetching lives in `hub`.
//!
//! The way of a model: `directory` or `gguf` → `config` and `weights` → `plan` (check, then pack) →
//! `decoder` (the network). `mmap` alone has `unsafe`.

mod batch;
pub mod config;
mod decoder;
mod delta_net;
mod directory;
mod embedding;
mod error;
mod feed_forward;
mod generation;
pub mod gguf;
mod info;
mod linear;
mod matrix;
mod mmap;
mod model;
mod plan;
pub mod rope;
mod rows;
pub mod safetensors;
mod slots;
mod tensor;
mod weights;

pub use batch::{Batch, BatchSequence, StateSave, StateSlots};
pub use error::{Malformed, ModelError};
pub use info::{GenerationDefaults, GgufVocabulary, ModelInfo, TokenizerSource};
pub use model::{LoadOptions, Model};
pub use tensor::{Dtype, TensorInfo};
pub use wharf_kernels::{
    attention::{BLOCK_TOKENS, KvFormat},
    isa::{Isa, Level},
    matmul::Activations,
    quant::Quantization,
};
