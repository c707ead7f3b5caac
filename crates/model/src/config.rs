//! A decoder's shape and options, whichever file they were read from.
//!
//! [`parse`] reads Hugging Face's config.json (`hf`); GGUF's metadata is read into the same [`Config`].
//! Every number is bounded here, so that no product of two of them overflows later and no list made
//! from one of them is huge. Nothing here opens a file.

mod architecture;
mod fields;
mod hf;
mod quantization;

pub use architecture::{Architecture, Norms, QkNorm};
pub(crate) use architecture::{
    AttentionBias, ExpertTraits, HybridTraits, NormTopkProb, TensorNames, Traits, Windows,
};
pub(crate) use fields::Fields;
pub use hf::parse;
pub use quantization::{CodeLayout, StoredQuantization};

use wharf_kernels::{activation::Activation, delta_rule::HeadOrder};

use crate::{
    error::Malformed,
    rope::{RopeConfig, Scaling},
};

/// Which linear layers add a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// It has none; one in the file is an error.
    Absent,
    /// It has one; a file without is an error.
    Present,
    /// It has one if the file does (GGUF does not say otherwise).
    IfInFile,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// How many there are.
    pub num_experts: usize,
    /// How many a token goes through: those to which the router gives the largest probabilities.
    pub num_experts_per_tok: usize,
    /// Whether these are divided by their sum.
    pub norm_topk_prob: bool,
    /// Width of the expert that every token goes through, if there is one.
    pub shared_intermediate_size: Option<usize>,
}

/// Linear attention, a gated delta net, in the place of attention in some layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearAttentionConfig {
    /// Heads of queries and of keys.
    pub key_heads: usize,
    /// Heads of values; `key_heads` divides them.
    pub value_heads: usize,
    /// Width of a query and of a key.
    pub key_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Tokens that the convolution sees.
    pub taps: usize,
    /// Which key head a value head reads.
    pub order: HeadOrder,
    /// Per layer: it is one of these.
    pub layers: Vec<bool>,
}

impl LinearAttentionConfig {
    /// Queries, keys and values of a token.
    pub(crate) fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }

    fn check(&self, hidden: usize) -> Result<(), Malformed> {
        let (keys, values) = (self.key_heads, self.value_heads);
        if !values.is_multiple_of(keys) {
            let reason = format!("{keys} key heads do not divide {values} value heads");
            return Err(Malformed::new("linear_num_value_heads", reason));
        }
        let most = limits::WIDTH_RATIO * hidden;
        if self.channels() > most {
            let reason = format!(
                "queries, keys and values are {} wide, more than {} times the hidden size {hidden}",
                self.channels(),
                limits::WIDTH_RATIO
            );
            return Err(Malformed::new("linear_num_value_heads", reason));
        }
        Ok(())
    }
}

/// Everything about a decoder but its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Whose network.
    pub architecture: Architecture,
    /// Whether the files hold a model of images too, around the text model that is run.
    pub multimodal: bool,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer, or of an expert's.
    pub intermediate_size: usize,
    /// A mixture of experts in the place of one feed-forward layer.
    pub experts: Option<ExpertsConfig>,
    /// Linear attention in the place of attention in some layers.
    pub linear_attention: Option<LinearAttentionConfig>,
    /// Decoder layers.
    pub num_layers: usize,
    /// Layers after these that the file holds and we leave out: they guess tokens ahead.
    pub mtp_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// How many of a head's values are rotated, the first ones; even.
    pub rotary_dim: usize,
    /// Rows of the embedding and output matrices. 0 until the embedding tensor is seen, if the file
    /// leaves it to that (GGUF).
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_model_len: usize,
    /// Added to the mean square in the norms.
    pub rms_norm_eps: f32,
    /// Embeddings are multiplied by it.
    pub embedding_multiplier: f32,
    /// What attention and feed-forward layers give is multiplied by it before it is added to the
    /// residual stream.
    pub residual_multiplier: f32,
    /// Products of queries and keys are multiplied by it.
    pub attention_multiplier: f32,
    /// Logits are divided by it.
    pub logits_scaling: f32,
    /// Attention's scores are held below it, softly.
    pub attn_logit_softcapping: Option<f32>,
    /// Logits are held below it, softly.
    pub final_logit_softcapping: Option<f32>,
    /// What the feed-forward layer's gates are put through.
    pub activation: Activation,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// That of the layers with a window, where they have one of their own (Gemma 3).
    pub local_rope: Option<RopeConfig>,
    /// Biases of the query, key and value projections.
    pub qkv_bias: Bias,
    /// Bias of the attention's output projection.
    pub o_bias: Bias,
    /// Biases of the feed-forward layer, or of the experts and their router.
    pub mlp_bias: Bias,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Norms of the residual stream.
    pub norms: Norms,
    /// Whether the output matrix is the embedding. `None`: it is if the file has no other.
    pub tied: Option<bool>,
    /// Per layer: a token sees itself and the `window - 1` before it.
    pub windows: Vec<Option<usize>>,
    /// Per layer: queries and keys are not rotated (NoPE).
    pub nope_layers: Vec<bool>,
    /// How linear layers are stored, where not in plain numbers or GGUF's blocks.
    pub stored_quantization: Option<StoredQuantization>,
    /// Ids that end a generation.
    pub eos_token_ids: Vec<u32>,
}

/// `1 / sqrt(dim)`: the usual multiplier of attention's scores.
pub(crate) fn inverse_sqrt(dim: usize) -> f32 {
    (dim as f32).sqrt().recip()
}

/// The layers without rotation where each `interval`-th is one.
pub(crate) fn nope_layers(interval: Option<usize>, num_layers: usize) -> Vec<bool> {
    let nope = |layer: usize| interval.is_some_and(|by| (layer + 1).is_multiple_of(by));
    (0..num_layers).map(nope).collect()
}

/// Bounds past every known model, small enough that products of two fit.
pub(crate) mod limits {
    pub(crate) const HIDDEN: usize = 1 << 18;
    pub(crate) const INTERMEDIATE: usize = 1 << 21;
    pub(crate) const LAYERS: usize = 1 << 12;
    pub(crate) const EXPERTS: usize = 1 << 12;
    pub(crate) const HEADS: usize = 1 << 12;
    pub(crate) const HEAD_DIM: usize = 1 << 12;
    pub(crate) const TAPS: usize = wharf_kernels::short_conv::MAX_TAPS;
    pub(crate) const VOCAB: usize = 1 << 24;
    pub(crate) const CONTEXT: usize = 1 << 28;
    /// Heads together, or the feed-forward layer, per value of the residual stream (up to 8 in
    /// known models, 64 in toys). What we allocate is wider than the file pays for only by this and by padding.
    pub(crate) const WIDTH_RATIO: usize = 64;
    /// Vocabulary entries per value of the residual stream (19,000 in the smallest toys). A matrix
    /// so narrow that it is mostly padding has few rows then.
    pub(crate) const VOCAB_RATIO: usize = 1 << 15;
}

impl Config {
    /// What no file format checks by itself: how the numbers fit each other. The names of the fields
    /// in the errors are Hugging Face's.
    pub(crate) fn check(&self) -> Result<(), Malformed> {
        let (heads, kv_heads, dim) = (self.num_heads, self.num_kv_heads, self.head_dim);
        if heads % kv_heads != 0 {
            let reason = format!("{kv_heads} key-value heads do not divide {heads} heads");
            return Err(Malformed::new("num_key_value_heads", reason));
        }
        if dim % 2 != 0 {
            return Err(Malformed::new("head_dim", format!("{dim} is odd; rotation needs pairs")));
        }
        if let Some(experts) = &self.experts
            && experts.num_experts_per_tok > experts.num_experts
        {
            let (chosen, all) = (experts.num_experts_per_tok, experts.num_experts);
            let reason = format!("{chosen} of {all} experts can't be chosen");
            return Err(Malformed::new("num_experts_per_tok", reason));
        }
        let rotary = self.rotary_dim;
        if rotary == 0 || !rotary.is_multiple_of(2) || rotary > dim {
            let reason = format!("{rotary} of {dim} values can't be rotated in pairs");
            return Err(Malformed::new("partial_rotary_factor", reason));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(Malformed::new("rms_norm_eps", "must be a small positive number"));
        }
        let multipliers = [
            ("embedding_multiplier", self.embedding_multiplier),
            ("residual_multiplier", self.residual_multiplier),
            ("attention_multiplier", self.attention_multiplier),
            ("logits_scaling", self.logits_scaling),
            ("attn_logit_softcapping", self.attn_logit_softcapping.unwrap_or(1.0)),
            ("final_logit_softcapping", self.final_logit_softcapping.unwrap_or(1.0)),
        ];
        if let Some((name, value)) = multipliers.iter().find(|(_, value)| !value.is_normal()) {
            return Err(Malformed::new(*name, format!("{value} is no number to multiply by")));
        }
        self.check_widths()?;
        self.linear_attention.as_ref().map_or(Ok(()), |linear| linear.check(self.hidden_size))?;
        self.check_vocab("vocab_size")?;
        check_rope(&self.rope)?;
        self.local_rope.as_ref().map_or(Ok(()), check_rope)?;
        if self.max_model_len == 0 || self.max_model_len > limits::CONTEXT {
            let reason = format!("{} tokens of context are out of range", self.max_model_len);
            return Err(Malformed::new("max_position_embeddings", reason));
        }
        Ok(())
    }

    /// Bounds the products of numbers that are fine each by itself: a file of a few bytes could
    /// make us allocate gigabytes.
    fn check_widths(&self) -> Result<(), Malformed> {
        let (hidden, most) = (self.hidden_size, limits::WIDTH_RATIO * self.hidden_size);
        // There are no more key-value heads than heads, so they are within the bound too.
        let heads = self.num_heads * self.head_dim;
        if heads > most {
            let reason = format!(
                "{} heads of {} are {heads} values, more than {} times the hidden size {hidden}",
                self.num_heads,
                self.head_dim,
                limits::WIDTH_RATIO
            );
            return Err(Malformed::new("num_attention_heads", reason));
        }
        if self.intermediate_size > most {
            let reason = format!(
                "{} is more than {} times the hidden size {hidden}",
                self.intermediate_size,
                limits::WIDTH_RATIO
            );
            return Err(Malformed::new("intermediate_size", reason));
        }
        let shared = self.experts.and_then(|experts| experts.shared_intermediate_size);
        if shared.is_some_and(|shared| shared > most) {
            let reason = format!("is more than {} times the hidden size", limits::WIDTH_RATIO);
            return Err(Malformed::new("shared_expert_intermediate_size", reason));
        }
        Ok(())
    }

    /// Bounds the vocabulary; `field` is where its size was read. 0, not known yet, passes.
    pub(crate) fn check_vocab(&self, field: &str) -> Result<(), Malformed> {
        let most = limits::VOCAB.min(limits::VOCAB_RATIO * self.hidden_size);
        if self.vocab_size > most {
            let reason = format!(
                "{} tokens, the limit with a hidden size of {} is {most}",
                self.vocab_size, self.hidden_size
            );
            return Err(Malformed::new(field, reason));
        }
        Ok(())
    }
}

fn check_rope(rope: &RopeConfig) -> Result<(), Malformed> {
    let positive = |name: &str, value: f64| {
        if value.is_finite() && value > 0.0 {
            return Ok(());
        }
        Err(Malformed::new(name, format!("{value} is not a positive number")))
    };
    let at_least_one = |name: &str, value: f64| {
        if value.is_finite() && value >= 1.0 {
            return Ok(());
        }
        Err(Malformed::new(name, format!("{value} is not a number of at least 1")))
    };
    if !(rope.theta.is_finite() && rope.theta > 1.0) {
        let reason = format!("{} is not a number above 1", rope.theta);
        return Err(Malformed::new("rope_theta", reason));
    }
    match &rope.scaling {
        Scaling::None | Scaling::DynamicNtk | Scaling::Factors(_) => Ok(()),
        Scaling::Linear { factor } => at_least_one("rope factor", *factor),
        Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            at_least_one("rope factor", *factor)?;
            positive("rope low_freq_factor", *low_freq_factor)?;
            positive("rope original_max_position_embeddings", *original_context)?;
            if high_freq_factor.is_finite() && high_freq_factor > low_freq_factor {
                return Ok(());
            }
            Err(Malformed::new("rope high_freq_factor", "must be above low_freq_factor"))
        }
        Scaling::LongRope { original_context, attention_factor, .. } => {
            positive("rope original_max_position_embeddings", *original_context)?;
            positive("rope attention_factor", *attention_factor)
        }
        Scaling::Yarn {
            factor, original_context, attention_factor, beta_fast, beta_slow, ..
        } => {
            at_least_one("rope factor", *factor)?;
            positive("rope original_max_position_embeddings", *original_context)?;
            positive("rope attention_factor", *attention_factor)?;
            positive("rope beta_fast", *beta_fast)?;
            positive("rope beta_slow", *beta_slow)
        }
    }
}

/// The context that a scaling makes of `trained` positions (vLLM's rule): linear scaling multiplies it,
/// YaRN multiplies the original one, the others state it outright.
pub(crate) fn scaled_context(trained: usize, scaling: &Scaling) -> usize {
    match scaling {
        Scaling::Linear { factor } => (trained as f64 * factor) as usize,
        Scaling::Yarn { factor, original_context, .. } => (original_context * factor) as usize,
        _ => trained,
    }
}
