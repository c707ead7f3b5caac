//! Models: reading weights (Hugging Face directories, GGUF files) and running the architectures.
//!
//! A model file is untrusted input: every size and offset is checked, and what is wrong is an error
//! that names the file and the field, never a panic or a huge allocation. No HTTP here: fetching
//! lives in `hub`.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

pub use wharf_kernels::attention::{BLOCK_TOKENS, KvFormat};
pub use wharf_kernels::isa::{Isa, Level};

/// What went wrong reading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A field of a file is missing or wrong.
    #[error("{}: {field}: {reason}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The field in it.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// How to load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Kernels to use.
    pub isa: Isa,
    /// Threads of the forward pass.
    pub threads: NonZeroUsize,
}

/// A vocabulary as a model file gives it; `text` builds the tokenizer from it.
#[derive(Debug, Clone)]
pub enum TokenizerSource {
    /// Hugging Face files, as they are.
    HuggingFace {
        /// tokenizer.json
        tokenizer_json: Vec<u8>,
        /// tokenizer_config.json
        tokenizer_config: Option<Vec<u8>>,
    },
    /// GGUF metadata.
    Gguf(GgufVocabulary),
}

/// GGUF's `tokenizer.ggml.*`.
#[derive(Debug, Clone, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: "gpt2" (byte-level BPE) or "llama" (SentencePiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: pre-tokenizer type.
    pub pre: Option<String>,
    /// Token texts, by id.
    pub tokens: Vec<String>,
    /// SentencePiece scores, by id (may be empty).
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type` by id (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; may be empty).
    pub token_types: Vec<u32>,
    /// BPE merges, "left right".
    pub merges: Vec<String>,
    /// Special ids.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Unknown.
    pub unk: Option<u32>,
    /// Whether encoding begins with BOS.
    pub add_bos: Option<bool>,
    /// Whether encoding ends with EOS.
    pub add_eos: Option<bool>,
    /// SentencePiece: prefix a space.
    pub add_space_prefix: Option<bool>,
}

/// generation_config.json: defaults where a request is silent. `None`: the file is silent too.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct GenerationDefaults {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub max_new_tokens: Option<u32>,
}

/// What the rest of Wharf needs to know of a model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The file's own name for the model ("SmolLM2 135M Instruct"), if any.
    pub name: Option<String>,
    /// Architecture, Hugging Face's name ("LlamaForCausalLM").
    pub architecture: String,
    /// Rows of the output matrix.
    pub vocab_size: usize,
    /// Longest context the model was made for.
    pub max_model_len: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// KV heads per layer.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Ids that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// Vocabulary.
    pub tokenizer: TokenizerSource,
    /// The chat template's Jinja text, if the model has one.
    pub chat_template: Option<String>,
    /// generation_config.json.
    pub generation: GenerationDefaults,
    /// Bytes of weights in memory.
    pub weight_bytes: usize,
}

/// One sequence's part of a step.
#[derive(Debug, Clone)]
pub struct BatchSequence {
    /// Its rows are `first_row .. first_row + num_rows` of [`Batch::tokens`].
    pub first_row: usize,
    /// How many.
    pub num_rows: usize,
    /// Position of its first row in the sequence.
    pub start: usize,
    /// KV blocks: `block_table[p / BLOCK_TOKENS]` holds position `p`.
    pub block_table: Vec<u32>,
}

/// The tokens of one step, of any number of sequences.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// `[rows]`
    pub tokens: Vec<u32>,
    /// Who the rows belong to.
    pub sequences: Vec<BatchSequence>,
    /// Rows whose logits are wanted, ascending.
    pub logits_rows: Vec<usize>,
}

/// A loaded model: weights, its paged KV cache, its threads and its scratch memory.
pub struct Model {
    info: ModelInfo,
}

impl Model {
    /// Loads a Hugging Face directory or a GGUF file.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let _ = (path, options);
        todo!()
    }
    /// About it.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
    /// Bytes one KV block takes over all layers.
    pub fn kv_block_bytes(&self, format: KvFormat) -> usize {
        let _ = format;
        todo!()
    }
    /// (Re)allocates the KV cache. Must be called before [`Model::forward`].
    pub fn allocate_kv(&mut self, num_blocks: usize, format: KvFormat) {
        let _ = (num_blocks, format);
    }
    /// Runs one step; `logits` becomes `[logits_rows.len(), vocab_size]`.
    pub fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), ModelError> {
        let _ = (batch, logits);
        todo!()
    }
}
