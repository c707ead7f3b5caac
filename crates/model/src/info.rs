//! What the rest of Wharf needs to know of a model: plain data, no behaviour.

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
    /// `tokenizer.ggml.token_type` by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused,
    /// 6 byte (may be empty).
    pub token_types: Vec<u32>,
    /// BPE merges, "left right".
    pub merges: Vec<String>,
    /// Beginning of sequence.
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
pub struct GenerationDefaults {
    /// At least 0; 0 is greedy, and what `do_sample: false` says.
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// 0: no limit.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    /// Above 0.
    pub repetition_penalty: Option<f32>,
    /// Tokens.
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
    /// Longest sequence: what the model was made for, or less if it was loaded for less.
    pub max_model_len: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Those of them that keep keys and values of every token.
    pub num_kv_layers: usize,
    /// KV heads per layer.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Ids that end a generation, ascending.
    pub eos_token_ids: Vec<u32>,
    /// Vocabulary.
    pub tokenizer: TokenizerSource,
    /// The chat template's Jinja text, if the model has one.
    pub chat_template: Option<String>,
    /// generation_config.json.
    pub generation: GenerationDefaults,
    /// Bytes of weights in memory.
    pub weight_bytes: usize,
    /// Bytes of the state that recurrent layers keep of a sequence; 0: there are no such layers.
    pub state_bytes: usize,
}
