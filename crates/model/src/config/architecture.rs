//! The networks we run, a row each: what an architecture's name alone says, whichever file describes
//! the model. What a file says comes on top (`hf`, and `gguf`'s `metadata`).

use wharf_kernels::activation::Activation;

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
    /// SmolLM3: Llama with some layers that don't rotate (NoPE).
    SmolLm3,
    /// Granite 3: Llama with multipliers of embeddings, residuals, scores and logits.
    Granite,
    /// OLMo 2: Llama with norms after attention and feed-forward layers, not before.
    Olmo2,
    /// Phi-3, Phi-3.5 and Phi-4: Llama with fused projections, LongRoPE and (mini) partial rotation.
    Phi3,
    /// Gemma 2: scaled embeddings, norms before and after, GELU, soft caps, every other layer a window.
    Gemma2,
    /// Gemma 3's text model: Gemma 2 with norms of queries and keys instead of a cap of scores, and
    /// with a rotation of its own in the layers with a window, five of six.
    Gemma3,
    /// Qwen3's mixtures of experts.
    Qwen3Moe,
    /// Mixtral: Mistral with a mixture of experts.
    Mixtral,
    /// gpt-oss: a mixture of experts with biases everywhere, a clamped SwiGLU, every other layer a
    /// window, and a learnt sink for each head's attention.
    GptOss,
    /// Qwen3.5's text model: gated delta nets in three layers of four, gated attention in the fourth.
    Qwen35,
    /// The same with a mixture of experts.
    Qwen35Moe,
    /// Qwen3-Next: the same before, with projections fused by key heads.
    Qwen3Next,
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
    /// Whether attention has a sink for each head.
    pub(crate) sinks: bool,
    /// What tensors are called.
    pub(crate) names: TensorNames,
    /// Whether `mlp_bias` may give the feed-forward layer biases.
    pub(crate) optional_mlp_bias: bool,
    /// Norms of queries and keys.
    pub(crate) qk_norm: QkNorm,
    /// Norms of the residual stream.
    pub(crate) norms: Norms,
    /// Whether queries, keys and values are one tensor in the file, and gate and up another.
    pub(crate) fused: bool,
    /// Whether heads may be rotated in part.
    pub(crate) partial_rotary: bool,
    /// What gates are put through.
    pub(crate) activation: Activation,
    /// Whether this is a Gemma: embeddings are multiplied by the root of their width, and scores by that
    /// of `query_pre_attn_scalar`, inverse.
    pub(crate) gemma: bool,
    /// Whether Hugging Face's files store norms less 1.
    pub(crate) norms_less_1: bool,
    /// Linear attention in some layers, and a gate after attention in the others.
    pub(crate) hybrid: Option<HybridTraits>,
    /// Whether `attn_logit_softcapping` is honoured.
    pub(crate) capped_scores: bool,
    /// Whether layers with a window have a rotation of their own. (The only such model states the
    /// context that its scaling gives, not the one that it scales.)
    pub(crate) local_rope: bool,
    /// Whether the feed-forward layer is a mixture of experts.
    pub(crate) experts: Option<ExpertTraits>,
    /// Whether embeddings, residuals, attention scores and logits have multipliers in the file.
    pub(crate) multipliers: bool,
    /// Layers that see a window only.
    pub(crate) windows: Windows,
    /// Every so many layers one goes without rotation (NoPE), where no list says which.
    pub(crate) nope_interval: Option<usize>,
    /// Fields that config.json may lack.
    pub(crate) defaults: Defaults,
}

/// What an architecture's name says of its layers of linear attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HybridTraits {
    /// Every so many layers one has attention, where no list says which.
    pub(crate) full_attention_interval: usize,
    /// Whether queries, keys, values and gates are one tensor in the file, and alpha and beta another,
    /// all by key heads. (GGUF's have the former apart, and value heads in Hugging Face's order.)
    pub(crate) fused: bool,
}

/// What an architecture's name says of its experts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertTraits {
    /// The field of their width.
    pub(crate) intermediate_size: &'static str,
    /// Defaults of `num_experts` (or `num_local_experts`) and `num_experts_per_tok`.
    pub(crate) num_experts: usize,
    pub(crate) num_experts_per_tok: usize,
    /// Whether the weights of a token's experts add up to 1.
    pub(crate) norm_topk_prob: NormTopkProb,
    /// Default of `shared_expert_intermediate_size`. `None`: there is no shared expert.
    pub(crate) shared_intermediate_size: Option<usize>,
}

/// What tensors are called where architectures differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TensorNames {
    /// As Llama's and Qwen's.
    Usual,
    /// Experts are `block_sparse_moe`'s `w1` to `w3`.
    Mixtral,
    /// Experts are one tensor of gates and ups, and one of downs; and what GGUF calls the norm after
    /// attention is the one before the feed-forward layer.
    GptOss,
}

/// Whether the weights of a token's experts add up to 1.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NormTopkProb {
    /// They do.
    Always,
    /// The field `norm_topk_prob` says, or else this does.
    Field(bool),
}

/// What a field missing in config.json is: the default of the class in transformers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defaults {
    /// `None`, here and in the next two: the field must be there.
    pub(crate) num_attention_heads: Option<usize>,
    pub(crate) vocab_size: Option<usize>,
    pub(crate) max_position_embeddings: Option<usize>,
    /// `None`: as many as there are heads.
    pub(crate) num_key_value_heads: Option<usize>,
    /// `None`: the heads' share of the hidden size.
    pub(crate) head_dim: Option<usize>,
    /// Share of a head that is rotated.
    pub(crate) partial_rotary_factor: f64,
    pub(crate) rms_norm_eps: f64,
    pub(crate) rope_theta: f64,
    /// Unlike the others this one is a field of some classes only.
    pub(crate) original_max_position_embeddings: Option<usize>,
    pub(crate) sliding_window: Option<usize>,
    pub(crate) attn_logit_softcapping: Option<f64>,
    pub(crate) final_logit_softcapping: Option<f64>,
    pub(crate) tie_word_embeddings: bool,
}

/// Which layers see a window only, where `layer_types` does not list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Windows {
    /// None; `layer_types` is not read.
    None,
    /// All, if there is a `sliding_window`; `layer_types` is not read.
    All,
    /// Those from `max_window_layers` on, if `use_sliding_window` says so.
    From,
    /// All, if `use_sliding_window` says so; `layer_types` is not read.
    AllIfUsed,
    /// Those that don't rotate, if `use_sliding_window` says so.
    Nope,
    /// All but every so many.
    AllBut(usize),
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
    /// All four, unless `attention_bias` says not.
    Usual,
}

/// What of a row's queries, and of its keys, is normalised together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Nothing.
    None,
    /// Each head.
    Heads,
    /// All heads.
    Row,
}

/// Where the norms stand around attention and feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// What goes in is normalised.
    Before,
    /// What comes out is, before it is added.
    After,
    /// Both are.
    Both,
}

const LLAMA: Traits = Traits {
    name: "LlamaForCausalLM",
    model_type: "llama",
    gguf: Some("llama"),
    interleaved_in_gguf: true,
    attention_bias: AttentionBias::Optional,
    sinks: false,
    names: TensorNames::Usual,
    optional_mlp_bias: true,
    qk_norm: QkNorm::None,
    norms: Norms::Before,
    fused: false,
    partial_rotary: false,
    activation: Activation::Silu,
    gemma: false,
    norms_less_1: false,
    hybrid: None,
    capped_scores: false,
    local_rope: false,
    experts: None,
    multipliers: false,
    windows: Windows::None,
    nope_interval: None,
    defaults: Defaults {
        num_attention_heads: None,
        vocab_size: None,
        max_position_embeddings: None,
        num_key_value_heads: None,
        head_dim: None,
        partial_rotary_factor: 1.0,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        original_max_position_embeddings: None,
        sliding_window: None,
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        tie_word_embeddings: false,
    },
};

const QWEN3: Traits = Traits {
    name: "Qwen3ForCausalLM",
    model_type: "qwen3",
    gguf: Some("qwen3"),
    interleaved_in_gguf: false,
    optional_mlp_bias: false,
    qk_norm: QkNorm::Heads,
    windows: Windows::From,
    defaults: Defaults {
        num_key_value_heads: Some(32),
        head_dim: Some(128),
        sliding_window: Some(4096),
        ..LLAMA.defaults
    },
    ..LLAMA
};

const QWEN35: Traits = Traits {
    name: "Qwen3_5ForCausalLM",
    model_type: "qwen3_5_text",
    gguf: Some("qwen35"),
    interleaved_in_gguf: false,
    optional_mlp_bias: false,
    qk_norm: QkNorm::Heads,
    norms_less_1: true,
    partial_rotary: true,
    hybrid: Some(HybridTraits { full_attention_interval: 4, fused: false }),
    defaults: Defaults {
        num_attention_heads: Some(16),
        vocab_size: Some(248_320),
        max_position_embeddings: Some(32_768),
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        partial_rotary_factor: 0.25,
        ..LLAMA.defaults
    },
    ..LLAMA
};

const GEMMA2: Traits = Traits {
    name: "Gemma2ForCausalLM",
    model_type: "gemma2",
    gguf: Some("gemma2"),
    interleaved_in_gguf: false,
    optional_mlp_bias: false,
    norms: Norms::Both,
    activation: Activation::GeluTanh,
    gemma: true,
    norms_less_1: true,
    capped_scores: true,
    windows: Windows::AllBut(2),
    defaults: Defaults {
        num_key_value_heads: Some(4),
        head_dim: Some(256),
        sliding_window: Some(4096),
        attn_logit_softcapping: Some(50.0),
        final_logit_softcapping: Some(30.0),
        tie_word_embeddings: true,
        ..LLAMA.defaults
    },
    ..LLAMA
};

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::SmolLm3,
        Self::Granite,
        Self::Olmo2,
        Self::Phi3,
        Self::Gemma2,
        Self::Gemma3,
        Self::Qwen3Moe,
        Self::Mixtral,
        Self::GptOss,
        Self::Qwen35,
        Self::Qwen35Moe,
        Self::Qwen3Next,
    ];

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
                windows: Windows::All,
                defaults: Defaults {
                    num_key_value_heads: Some(8),
                    sliding_window: Some(4096),
                    ..LLAMA.defaults
                },
                ..LLAMA
            },
            Self::Qwen2 => Traits {
                name: "Qwen2ForCausalLM",
                model_type: "qwen2",
                gguf: Some("qwen2"),
                interleaved_in_gguf: false,
                attention_bias: AttentionBias::Qkv,
                optional_mlp_bias: false,
                windows: Windows::From,
                defaults: Defaults {
                    num_key_value_heads: Some(32),
                    sliding_window: Some(4096),
                    ..LLAMA.defaults
                },
                ..LLAMA
            },
            Self::Qwen3 => QWEN3,
            Self::SmolLm3 => Traits {
                name: "SmolLM3ForCausalLM",
                model_type: "smollm3",
                gguf: Some("smollm3"),
                windows: Windows::Nope,
                nope_interval: Some(4),
                defaults: Defaults {
                    num_key_value_heads: Some(4),
                    rope_theta: 2_000_000.0,
                    tie_word_embeddings: true,
                    ..LLAMA.defaults
                },
                ..LLAMA
            },
            Self::Granite => Traits {
                name: "GraniteForCausalLM",
                model_type: "granite",
                gguf: Some("granite"),
                multipliers: true,
                ..LLAMA
            },
            Self::Olmo2 => Traits {
                name: "Olmo2ForCausalLM",
                model_type: "olmo2",
                gguf: Some("olmo2"),
                interleaved_in_gguf: false,
                optional_mlp_bias: false,
                qk_norm: QkNorm::Row,
                norms: Norms::After,
                defaults: Defaults { rms_norm_eps: 1e-5, ..LLAMA.defaults },
                ..LLAMA
            },
            Self::Phi3 => Traits {
                name: "Phi3ForCausalLM",
                model_type: "phi3",
                gguf: Some("phi3"),
                interleaved_in_gguf: false,
                attention_bias: AttentionBias::Absent,
                optional_mlp_bias: false,
                fused: true,
                partial_rotary: true,
                windows: Windows::All,
                defaults: Defaults {
                    rms_norm_eps: 1e-5,
                    original_max_position_embeddings: Some(4096),
                    ..LLAMA.defaults
                },
                ..LLAMA
            },
            Self::Gemma2 => GEMMA2,
            Self::Gemma3 => Traits {
                name: "Gemma3ForCausalLM",
                model_type: "gemma3_text",
                gguf: Some("gemma3"),
                qk_norm: QkNorm::Heads,
                capped_scores: false,
                local_rope: true,
                windows: Windows::AllBut(6),
                defaults: Defaults {
                    num_attention_heads: Some(8),
                    vocab_size: Some(262_208),
                    max_position_embeddings: Some(131_072),
                    rope_theta: 1_000_000.0,
                    attn_logit_softcapping: None,
                    final_logit_softcapping: None,
                    ..GEMMA2.defaults
                },
                ..GEMMA2
            },
            Self::Qwen3Moe => Traits {
                name: "Qwen3MoeForCausalLM",
                model_type: "qwen3_moe",
                gguf: Some("qwen3moe"),
                windows: Windows::AllIfUsed,
                experts: Some(ExpertTraits {
                    intermediate_size: "moe_intermediate_size",
                    num_experts: 128,
                    num_experts_per_tok: 8,
                    norm_topk_prob: NormTopkProb::Field(false),
                    shared_intermediate_size: None,
                }),
                defaults: Defaults {
                    num_key_value_heads: Some(4),
                    head_dim: None,
                    ..QWEN3.defaults
                },
                ..QWEN3
            },
            Self::Qwen35 => QWEN35,
            Self::Qwen35Moe => Traits {
                name: "Qwen3_5MoeForCausalLM",
                model_type: "qwen3_5_moe_text",
                gguf: Some("qwen35moe"),
                experts: Some(ExpertTraits {
                    intermediate_size: "moe_intermediate_size",
                    num_experts: 256,
                    num_experts_per_tok: 8,
                    norm_topk_prob: NormTopkProb::Always,
                    shared_intermediate_size: Some(512),
                }),
                defaults: Defaults { num_key_value_heads: Some(2), ..QWEN35.defaults },
                ..QWEN35
            },
            Self::Qwen3Next => Traits {
                name: "Qwen3NextForCausalLM",
                model_type: "qwen3_next",
                gguf: Some("qwen3next"),
                hybrid: Some(HybridTraits { full_attention_interval: 4, fused: true }),
                experts: Some(ExpertTraits {
                    intermediate_size: "moe_intermediate_size",
                    num_experts: 512,
                    num_experts_per_tok: 10,
                    norm_topk_prob: NormTopkProb::Field(true),
                    shared_intermediate_size: Some(512),
                }),
                defaults: Defaults {
                    vocab_size: Some(151_936),
                    num_key_value_heads: Some(2),
                    ..QWEN35.defaults
                },
                ..QWEN35
            },
            Self::Mixtral => Traits {
                name: "MixtralForCausalLM",
                model_type: "mixtral",
                gguf: None,
                attention_bias: AttentionBias::Absent,
                optional_mlp_bias: false,
                windows: Windows::All,
                experts: Some(ExpertTraits {
                    intermediate_size: "intermediate_size",
                    num_experts: 8,
                    num_experts_per_tok: 2,
                    norm_topk_prob: NormTopkProb::Always,
                    shared_intermediate_size: None,
                }),
                names: TensorNames::Mixtral,
                defaults: Defaults {
                    num_key_value_heads: Some(8),
                    rms_norm_eps: 1e-5,
                    rope_theta: 1_000_000.0,
                    ..LLAMA.defaults
                },
                ..LLAMA
            },
            Self::GptOss => Traits {
                name: "GptOssForCausalLM",
                model_type: "gpt_oss",
                gguf: Some("gpt-oss"),
                interleaved_in_gguf: false,
                attention_bias: AttentionBias::Usual,
                sinks: true,
                names: TensorNames::GptOss,
                optional_mlp_bias: false,
                activation: Activation::ClampedSwiglu,
                windows: Windows::AllBut(2),
                experts: Some(ExpertTraits {
                    intermediate_size: "intermediate_size",
                    num_experts: 128,
                    num_experts_per_tok: 4,
                    // The softmax of the chosen ones: that of all, divided by their sum.
                    norm_topk_prob: NormTopkProb::Always,
                    shared_intermediate_size: None,
                }),
                defaults: Defaults {
                    num_attention_heads: Some(64),
                    vocab_size: Some(201_088),
                    max_position_embeddings: Some(131_072),
                    num_key_value_heads: Some(8),
                    head_dim: Some(64),
                    rms_norm_eps: 1e-5,
                    rope_theta: 150_000.0,
                    sliding_window: Some(128),
                    ..LLAMA.defaults
                },
                ..LLAMA
            },
        }
    }
}
