//! The shapes of the models that are measured: what is needed to make one with random weights, and
//! to say how many bytes and multiplications a token costs.
//!
//! The numbers are those of the published config.json files.

use clap::builder::PossibleValue;

/// Whose network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Llama,
    /// Llama with normalised queries and keys.
    Qwen3,
}

/// Llama 3's stretching of the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RopeScaling {
    pub(crate) factor: f64,
    pub(crate) low_freq_factor: f64,
    pub(crate) high_freq_factor: f64,
    pub(crate) original_context: usize,
}

/// A decoder with tied embeddings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
    /// Longest sequence, tokens.
    pub(crate) context: usize,
    pub(crate) rms_norm_eps: f64,
    pub(crate) rope_theta: f64,
    pub(crate) rope_scaling: Option<RopeScaling>,
}

/// For tests.
pub(crate) const TINY: Shape = Shape {
    name: "tiny",
    family: Family::Qwen3,
    layers: 2,
    hidden: 64,
    intermediate: 128,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    vocab: 512,
    context: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    rope_scaling: None,
};

pub(crate) const QWEN3_0_6B: Shape = Shape {
    name: "qwen3-0.6b",
    family: Family::Qwen3,
    layers: 28,
    hidden: 1024,
    intermediate: 3072,
    heads: 16,
    kv_heads: 8,
    head_dim: 128,
    vocab: 151_936,
    context: 40_960,
    rms_norm_eps: 1e-6,
    rope_theta: 1_000_000.0,
    rope_scaling: None,
};

pub(crate) const LLAMA_3_2_1B: Shape = Shape {
    name: "llama-3.2-1b",
    family: Family::Llama,
    layers: 16,
    hidden: 2048,
    intermediate: 8192,
    heads: 32,
    kv_heads: 8,
    head_dim: 64,
    vocab: 128_256,
    context: 131_072,
    rms_norm_eps: 1e-5,
    rope_theta: 500_000.0,
    rope_scaling: Some(RopeScaling {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    }),
};

/// The default model, which is fetched and not made.
pub(crate) const SMOLLM2_135M: Shape = Shape {
    name: "smollm2",
    family: Family::Llama,
    layers: 30,
    hidden: 576,
    intermediate: 1536,
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    vocab: 49_152,
    context: 8192,
    rms_norm_eps: 1e-5,
    rope_theta: 100_000.0,
    rope_scaling: None,
};

/// One tensor of a model, by its names in both kinds of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) hugging_face: String,
    pub(crate) gguf: String,
    pub(crate) size: Size,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// The weights of a norm: all 1.
    Norm(usize),
    /// `[rows, cols]`, random.
    Matrix(usize, usize),
}

impl Size {
    pub(crate) fn weights(self) -> usize {
        match self {
            Size::Norm(len) => len,
            Size::Matrix(rows, cols) => rows * cols,
        }
    }
}

impl Shape {
    /// Every tensor, in the order of the files.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let tensor = |hugging_face: &str, gguf: &str, size| Tensor {
            hugging_face: format!("model.{hugging_face}.weight"),
            gguf: format!("{gguf}.weight"),
            size,
        };
        let mut tensors =
            vec![tensor("embed_tokens", "token_embd", Size::Matrix(self.vocab, self.hidden))];
        for layer in 0..self.layers {
            tensors.extend(self.layer().into_iter().map(|(hugging_face, gguf, size)| {
                let (outer, inner) = (format!("layers.{layer}"), format!("blk.{layer}"));
                tensor(&format!("{outer}.{hugging_face}"), &format!("{inner}.{gguf}"), size)
            }));
        }
        tensors.push(tensor("norm", "output_norm", Size::Norm(self.hidden)));
        tensors
    }

    /// Weights that every token is multiplied with: of all matrices, as the embedding is the output.
    pub(crate) fn multiplied_weights(&self) -> usize {
        let is_matrix = |size: &Size| matches!(size, Size::Matrix(..));
        self.tensors().iter().map(|t| t.size).filter(is_matrix).map(Size::weights).sum()
    }

    /// Bytes of a token's keys and values as 16-bit numbers.
    pub(crate) fn kv_token_bytes(&self) -> usize {
        const BYTES: usize = 2;
        2 * self.layers * self.kv_heads * self.head_dim * BYTES
    }

    /// The tensors of a layer: their names in a Hugging Face file, in a GGUF file.
    fn layer(&self) -> Vec<(&'static str, &'static str, Size)> {
        let (hidden, wide) = (self.hidden, self.intermediate);
        let (heads, kv_heads) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut layer = vec![
            ("input_layernorm", "attn_norm", Size::Norm(hidden)),
            ("self_attn.q_proj", "attn_q", Size::Matrix(heads, hidden)),
            ("self_attn.k_proj", "attn_k", Size::Matrix(kv_heads, hidden)),
            ("self_attn.v_proj", "attn_v", Size::Matrix(kv_heads, hidden)),
            ("self_attn.o_proj", "attn_output", Size::Matrix(hidden, heads)),
            ("post_attention_layernorm", "ffn_norm", Size::Norm(hidden)),
            ("mlp.gate_proj", "ffn_gate", Size::Matrix(wide, hidden)),
            ("mlp.up_proj", "ffn_up", Size::Matrix(wide, hidden)),
            ("mlp.down_proj", "ffn_down", Size::Matrix(hidden, wide)),
        ];
        if self.family == Family::Qwen3 {
            layer.push(("self_attn.q_norm", "attn_q_norm", Size::Norm(self.head_dim)));
            layer.push(("self_attn.k_norm", "attn_k_norm", Size::Norm(self.head_dim)));
        }
        layer
    }
}

/// A shape that can be made, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Makeable {
    Tiny,
    Qwen3,
    Llama,
}

impl Makeable {
    pub(crate) fn shape(self) -> &'static Shape {
        match self {
            Makeable::Tiny => &TINY,
            Makeable::Qwen3 => &QWEN3_0_6B,
            Makeable::Llama => &LLAMA_3_2_1B,
        }
    }
}

impl clap::ValueEnum for Makeable {
    fn value_variants<'a>() -> &'a [Self] {
        &[Makeable::Tiny, Makeable::Qwen3, Makeable::Llama]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.shape().name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_have_the_published_numbers_of_parameters() {
        // 596 and 1,236 million, of which the norms are less than a thousandth.
        assert_eq!(QWEN3_0_6B.multiplied_weights(), 595_984_384);
        assert_eq!(LLAMA_3_2_1B.multiplied_weights(), 1_235_746_816);
        assert_eq!(SMOLLM2_135M.multiplied_weights(), 134_479_872);
    }
}
