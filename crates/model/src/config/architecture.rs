//! The networks we run, a row each: what an architecture's name alone says, whichever file describes
//! the model. What a file says comes on top (`hf`, and `gguf`'s `metadata`).

/// The networks we run. They are one decoder with options; this says which, and whose defaults hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1 to 3.3, SmolLM2.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: Llama with biases on queries, keys and values.
    Qwen2,
    /// Qwen3: Llama with normalised queries and keys.
    Qwen3,
}

/// What an architecture's name says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    /// Hugging Face's class.
    pub(crate) name: &'static str,
    /// Hugging Face's `model_type`.
    pub(crate) model_type: &'static str,
    /// llama.cpp's `general.architecture`. `None`: its converter writes such models as another's.
    pub(crate) gguf: Option<&'static str>,
    /// Whether that converter permutes the rows of queries and keys (to rotate neighbouring pairs
    /// instead of halves).
    pub(crate) interleaved_in_gguf: bool,
    /// Biases of attention's projections.
    pub(crate) attention_bias: AttentionBias,
    /// Whether `mlp_bias` may give the feed-forward layer biases.
    pub(crate) optional_mlp_bias: bool,
    /// Norms of queries and keys.
    pub(crate) qk_norm: bool,
}

/// Which of attention's projections have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttentionBias {
    /// None.
    Absent,
    /// Queries, keys and values.
    Qkv,
    /// All four, if `attention_bias` says so.
    Optional,
}

const LLAMA: Traits = Traits {
    name: "LlamaForCausalLM",
    model_type: "llama",
    gguf: Some("llama"),
    interleaved_in_gguf: true,
    attention_bias: AttentionBias::Optional,
    optional_mlp_bias: true,
    qk_norm: false,
};

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// Hugging Face's name.
    pub fn name(self) -> &'static str {
        self.traits().name
    }

    pub(crate) fn traits(self) -> Traits {
        match self {
            Self::Llama => LLAMA,
            Self::Mistral => Traits {
                name: "MistralForCausalLM",
                model_type: "mistral",
                gguf: None,
                attention_bias: AttentionBias::Absent,
                optional_mlp_bias: false,
                ..LLAMA
            },
            Self::Qwen2 => Traits {
                name: "Qwen2ForCausalLM",
                model_type: "qwen2",
                gguf: Some("qwen2"),
                interleaved_in_gguf: false,
                attention_bias: AttentionBias::Qkv,
                optional_mlp_bias: false,
                ..LLAMA
            },
            Self::Qwen3 => Traits {
                name: "Qwen3ForCausalLM",
                model_type: "qwen3",
                gguf: Some("qwen3"),
                interleaved_in_gguf: false,
                optional_mlp_bias: false,
                qk_norm: true,
                ..LLAMA
            },
        }
    }
}
