//! From a model's tensors to its network, in two steps: first every tensor is found and its shape
//! checked, then they are packed. A file with parts missing is refused before anything is allocated.

mod packer;

use std::{cell::Cell, ops::Range};

use wharf_kernels::{quant::Quantization, team::Team};

use packer::Packer;

use crate::{
    config::{
        Bias, CodeLayout, Config, ExpertsConfig, Norms, QkNorm, StoredQuantization, TensorNames,
    },
    decoder::{Decoder, Embedding, Layer},
    error::ModelError,
    matrix::{Fused, Matrix, Rows, StridedMatrix},
    model::LoadOptions,
    rope::{Rope, Scaling},
    weights::{Inventory, Lent, Naming, Part, Weights},
};

/// A linear layer's tensors.
struct LinearPlan<'w> {
    /// `[out, in]`
    weight: Matrix<'w>,
    bias: Option<BiasPlan<'w>>,
    /// Rows of a head, if its rows are interleaved (see [`source_row`]).
    interleaved: Option<usize>,
}

/// Every so many of a vector's values.
#[derive(Clone, Copy)]
struct BiasPlan<'w> {
    lent: Lent<'w>,
    first: usize,
    step: usize,
}

impl<'w> BiasPlan<'w> {
    /// All of them.
    fn whole(lent: Lent<'w>) -> Self {
        Self { lent, first: 0, step: 1 }
    }

    fn decode(&self) -> Vec<f32> {
        self.lent.decode().into_iter().skip(self.first).step_by(self.step).collect()
    }
}

struct LayerPlan<'w> {
    attention_norm: Option<Lent<'w>>,
    query: LinearPlan<'w>,
    key: LinearPlan<'w>,
    value: LinearPlan<'w>,
    query_key_norms: Option<(Lent<'w>, Lent<'w>)>,
    attention_output: LinearPlan<'w>,
    sinks: Option<Lent<'w>>,
    post_attention_norm: Option<Lent<'w>>,
    feed_forward_norm: Option<Lent<'w>>,
    feed_forward: FeedForwardPlan<'w>,
    post_feed_forward_norm: Option<Lent<'w>>,
}

enum FeedForwardPlan<'w> {
    Gated(Box<GatedPlan<'w>>),
    Experts { router: Box<LinearPlan<'w>>, experts: Vec<GatedPlan<'w>>, of: ExpertsConfig },
}

struct GatedPlan<'w> {
    gate: LinearPlan<'w>,
    up: LinearPlan<'w>,
    down: LinearPlan<'w>,
}

/// Every tensor of a network, found and checked.
struct Plan<'w> {
    embedding: Lent<'w>,
    layers: Vec<LayerPlan<'w>>,
    final_norm: Lent<'w>,
    /// `None`: the embedding serves.
    output: Option<Matrix<'w>>,
}

/// Builds the network that `config` describes from `weights`.
///
/// Completes `config` where a GGUF file leaves things to its tensors: the vocabulary's size, RoPE's
/// divisors.
pub(crate) fn build(
    config: &mut Config,
    weights: Weights,
    team: &Team,
    options: &LoadOptions,
) -> Result<Decoder, ModelError> {
    for file in weights.files() {
        file.will_read_all();
    }
    let mut inventory = Inventory::new(&weights, config.stored_quantization);
    let plan = Plan::new(config, &mut inventory)?;
    let ropes = [Some(&config.rope), config.local_rope.as_ref()];
    let ropes = ropes.into_iter().flatten();
    let ropes = ropes.map(|rope| Rope::new(rope, config.rotary_dim, config.max_model_len));
    let ropes: Vec<Rope> = ropes
        .collect::<Result<_, _>>()
        .map_err(|fault| inventory.fault(&fault.field.clone(), fault.reason))?;
    // What GGUF's converter adds itself.
    let stored_less_1 = config.architecture.traits().gemma && inventory.naming() != Naming::Gguf;
    let norm_offset = if stored_less_1 { 1.0 } else { 0.0 };
    let packer = Packer {
        inventory: &inventory,
        weights: &weights,
        team,
        options,
        norm_offset,
        lost: Cell::default(),
    };
    // The largest matrix first: while a matrix is packed its pages are in memory too.
    let output = plan.output.clone().unwrap_or(Matrix::Plain(plan.embedding));
    let output = packer.output(&output)?;
    let layers = plan.layers.iter().enumerate();
    let layers = layers.map(|(number, layer)| packer.layer(layer, config, number));
    let layers: Vec<Layer> = layers.collect::<Result<_, _>>()?;
    let final_norm = packer.norm(&plan.final_norm);
    match (options.quantization, packer.lost.get().relative()) {
        (None, _) | (Some(Quantization::Auto), None) => {}
        (Some(to), Some(error)) => {
            tracing::info!("quantised to {to:?}: relative error of the weights {error:.4} (RMS)");
        }
        (Some(to), None) => {
            tracing::warn!("nothing is quantised to {to:?}: no weights have more bits");
        }
    }
    let embedding = &plan.embedding;
    let (number, start, format) = (embedding.file, embedding.start, embedding.format);
    let row_bytes = embedding.bytes.len() / config.vocab_size;
    Ok(Decoder {
        hidden_size: config.hidden_size,
        num_heads: config.num_heads,
        head_dim: config.head_dim,
        rms_norm_eps: config.rms_norm_eps,
        embedding_multiplier: config.embedding_multiplier,
        residual_multiplier: config.residual_multiplier,
        attention_multiplier: config.attention_multiplier,
        logits_scaling: config.logits_scaling,
        attn_logit_softcapping: config.attn_logit_softcapping,
        final_logit_softcapping: config.final_logit_softcapping,
        activation: config.activation,
        ropes,
        embedding: Embedding { file: weights.into_file(number), start, row_bytes, format },
        layers,
        final_norm,
        output,
    })
}

impl<'w> Plan<'w> {
    fn new(config: &mut Config, inventory: &mut Inventory<'w>) -> Result<Self, ModelError> {
        if config.vocab_size == 0 {
            config.vocab_size = inventory.embedding_rows().unwrap_or(0);
        }
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = inventory.weight(Part::Embedding, 0, &[vocab, hidden])?;
        if vocab == 0 {
            return Err(inventory.fault(&embedding.info.name, "has no rows"));
        }
        let name = &embedding.info.name;
        config.check_vocab(name).map_err(|fault| inventory.fault(name, fault.reason))?;
        // A layer that isn't there is noticed here, before the next one is looked for.
        let layers: Result<_, _> =
            (0..config.num_layers).map(|layer| LayerPlan::new(config, layer, inventory)).collect();
        let layers = layers?;
        let final_norm = inventory.weight(Part::FinalNorm, 0, &[hidden])?;
        let output = match config.tied {
            Some(true) => None,
            Some(false) => Some(Matrix::required(inventory, Part::Output, 0, [vocab, hidden])?),
            None => Matrix::find(inventory, Part::Output, 0, [vocab, hidden])?,
        };
        if inventory.naming() == Naming::Gguf {
            read_rope_factors(config, inventory)?;
        }
        inventory.refuse_others(config)?;
        Ok(Self { embedding, layers, final_norm, output })
    }
}

/// GGUF keeps the divisors of frequencies as tensors: Llama 3's rule as one, LongRoPE's lists as two.
fn read_rope_factors(config: &mut Config, inventory: &mut Inventory<'_>) -> Result<(), ModelError> {
    let len = config.rotary_dim / 2;
    if let Scaling::LongRope { short_factors, long_factors, .. } = &mut config.rope.scaling {
        for (name, list) in [
            ("rope_factors_short.weight", short_factors),
            ("rope_factors_long.weight", long_factors),
        ] {
            let factors = inventory.rope_factors(name, len)?;
            *list = factors.ok_or_else(|| inventory.fault(name, "is missing"))?.decode();
        }
    }
    let Some(factors) = inventory.rope_factors("rope_freqs.weight", len)? else { return Ok(()) };
    if config.rope.scaling != Scaling::None {
        return Err(inventory.fault(&factors.info.name, "is not supported beside rope.scaling"));
    }
    config.rope.scaling = Scaling::Factors(factors.decode());
    Ok(())
}

impl<'w> LayerPlan<'w> {
    fn new(
        config: &Config,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let (heads, kv_heads) =
            (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let interleaved = (inventory.naming() == Naming::Gguf
            && config.architecture.traits().interleaved_in_gguf)
            .then_some(config.head_dim);
        let mut linear = |part, shape, bias, interleaved| {
            LinearPlan::new(inventory, part, layer, shape, bias, interleaved)
        };
        let fused = config.architecture.traits().fused;
        let [query, key, value] = if fused {
            let all =
                linear(Part::QueryKeyValue, [heads + 2 * kv_heads, hidden], Bias::Absent, None)?;
            let (keys, values) = (heads + kv_heads, heads + 2 * kv_heads);
            [0..heads, heads..keys, keys..values].map(|rows| all.slice(rows))
        } else {
            [
                linear(Part::Query, [heads, hidden], config.qkv_bias, interleaved)?,
                linear(Part::Key, [kv_heads, hidden], config.qkv_bias, interleaved)?,
                linear(Part::Value, [kv_heads, hidden], config.qkv_bias, None)?,
            ]
        };
        let attention_output = linear(Part::AttentionOutput, [hidden, heads], config.o_bias, None)?;
        let traits = config.architecture.traits();
        let sinks = traits.sinks.then(|| {
            let kind = if inventory.naming() == Naming::Gguf { "weight" } else { "sinks" };
            inventory.vector(Part::Sinks, layer, kind, &[config.num_heads])
        });
        let feed_forward = match config.experts {
            Some(of) if traits.names == TensorNames::GptOss => {
                FeedForwardPlan::biased_experts(config, of, layer, inventory)?
            }
            Some(of) => FeedForwardPlan::experts(config, of, layer, inventory)?,
            None => FeedForwardPlan::Gated(Box::new(GatedPlan::new(config, layer, inventory)?)),
        };
        let query_key_norms = match config.qk_norm {
            QkNorm::None => None,
            QkNorm::Heads => Some((config.head_dim, config.head_dim)),
            QkNorm::Row => Some((heads, kv_heads)),
        };
        let query_key_norms = query_key_norms.map(|(query, key)| {
            let query = inventory.weight(Part::QueryNorm, layer, &[query])?;
            Ok((query, inventory.weight(Part::KeyNorm, layer, &[key])?))
        });
        let mut norm = |there: bool, part| -> Result<_, ModelError> {
            there.then(|| inventory.weight(part, layer, &[hidden])).transpose()
        };
        let (before, after) = (config.norms != Norms::After, config.norms != Norms::Before);
        let feed_forward_norm = match config.norms {
            Norms::Both => Part::PreFeedForwardNorm,
            Norms::Before if traits.names == TensorNames::GptOss => Part::PostAttentionNorm,
            Norms::Before | Norms::After => Part::FeedForwardNorm,
        };
        Ok(Self {
            attention_norm: norm(before, Part::AttentionNorm)?,
            query,
            key,
            value,
            query_key_norms: query_key_norms.transpose()?,
            attention_output,
            sinks: sinks.transpose()?,
            post_attention_norm: norm(after, Part::PostAttentionNorm)?,
            feed_forward_norm: norm(before, feed_forward_norm)?,
            feed_forward,
            post_feed_forward_norm: norm(after, Part::PostFeedForwardNorm)?,
        })
    }
}

impl<'w> GatedPlan<'w> {
    fn new(
        config: &Config,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Self, ModelError> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let mut linear =
            |part, shape, bias| LinearPlan::new(inventory, part, layer, shape, bias, None);
        let [gate, up] = if config.architecture.traits().fused {
            let both = linear(Part::GateUp, [2 * wide, hidden], Bias::Absent)?;
            [0..wide, wide..2 * wide].map(|rows| both.slice(rows))
        } else {
            [
                linear(Part::Gate, [wide, hidden], config.mlp_bias)?,
                linear(Part::Up, [wide, hidden], config.mlp_bias)?,
            ]
        };
        let down = linear(Part::Down, [hidden, wide], config.mlp_bias)?;
        Ok(Self { gate, up, down })
    }
}

impl<'w> GatedPlan<'w> {
    /// All of a layer, gates and ups in alternate rows.
    fn fused_experts(
        config: &Config,
        of: ExpertsConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Vec<Self>, ModelError> {
        let (hidden, wide, all) = (config.hidden_size, config.intermediate_size, of.num_experts);
        let both = Fused::find(inventory, layer, "gate_up_proj", [all, 2 * wide, hidden])?;
        let down = Fused::find(inventory, layer, "down_proj", [all, hidden, wide])?;
        let mut bias = |name, len| inventory.vector(Part::FusedExperts, layer, name, &[all, len]);
        let both_bias = bias("gate_up_proj_bias", 2 * wide)?;
        let down_bias = bias("down_proj_bias", hidden)?;
        let linear = |fused, expert, rows: Rows, cols, bias: Lent<'w>| {
            let all_rows = rows.count * rows.step;
            let matrix = StridedMatrix { fused, expert, rows, all_rows, cols };
            let lent = bias.slice(expert..expert + 1);
            let bias = BiasPlan { lent, first: rows.first, step: rows.step };
            LinearPlan { weight: Matrix::Strided(matrix), bias: Some(bias), interleaved: None }
        };
        let every = |first, step, count| Rows { first, step, count };
        let expert = |expert| Self {
            gate: linear(both, expert, every(0, 2, wide), hidden, both_bias),
            up: linear(both, expert, every(1, 2, wide), hidden, both_bias),
            down: linear(down, expert, every(0, 1, hidden), wide, down_bias),
        };
        Ok((0..all).map(expert).collect())
    }

    /// All of a layer in GGUF: gates, ups and downs each one tensor.
    fn stacked_experts(
        config: &Config,
        of: ExpertsConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Vec<Self>, ModelError> {
        let (hidden, wide, all) = (config.hidden_size, config.intermediate_size, of.num_experts);
        let mut find = |part, rows: usize, cols| {
            let weight = inventory.weight(part, layer, &[all, rows, cols])?;
            Ok((weight, inventory.vector(part, layer, "bias", &[all, rows])?))
        };
        let gate = find(Part::ExpertGate(0), wide, hidden)?;
        let up = find(Part::ExpertUp(0), wide, hidden)?;
        let down = find(Part::ExpertDown(0), hidden, wide)?;
        let linear = |(weight, bias): (Lent<'w>, Lent<'w>), expert: usize, rows: usize| {
            let weight = Matrix::Plain(weight.slice(expert * rows..(expert + 1) * rows));
            let bias = Some(BiasPlan::whole(bias.slice(expert..expert + 1)));
            LinearPlan { weight, bias, interleaved: None }
        };
        let expert = |expert| Self {
            gate: linear(gate, expert, wide),
            up: linear(up, expert, wide),
            down: linear(down, expert, hidden),
        };
        Ok((0..all).map(expert).collect())
    }
}

impl<'w> FeedForwardPlan<'w> {
    /// A layer's router and experts. GGUF has all experts of a layer in one tensor.
    fn experts(
        config: &Config,
        of: ExpertsConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Self, ModelError> {
        let (hidden, wide, all) = (config.hidden_size, config.intermediate_size, of.num_experts);
        let mixtral = config.architecture.traits().names == TensorNames::Mixtral;
        let router = if mixtral { Part::MixtralRouter } else { Part::Router };
        let [gate, up, down]: [fn(usize) -> Part; 3] = if mixtral {
            [Part::MixtralGate, Part::MixtralUp, Part::MixtralDown]
        } else {
            [Part::ExpertGate, Part::ExpertUp, Part::ExpertDown]
        };
        let router = LinearPlan::new(inventory, router, layer, [all, hidden], Bias::Absent, None)?;
        let mut linear = |part: fn(usize) -> Part, expert: usize, [rows, cols]: [usize; 2]| {
            let weight = match inventory.naming() {
                Naming::HuggingFace => {
                    Matrix::required(inventory, part(expert), layer, [rows, cols])?
                }
                Naming::Gguf => {
                    let all = inventory.weight(part(expert), layer, &[all, rows, cols])?;
                    Matrix::Plain(all.slice(expert * rows..(expert + 1) * rows))
                }
            };
            Ok(LinearPlan { weight, bias: None, interleaved: None })
        };
        let experts = (0..all).map(|expert| {
            Ok(GatedPlan {
                gate: linear(gate, expert, [wide, hidden])?,
                up: linear(up, expert, [wide, hidden])?,
                down: linear(down, expert, [hidden, wide])?,
            })
        });
        let experts = experts.collect::<Result<_, ModelError>>()?;
        Ok(Self::Experts { router: Box::new(router), experts, of })
    }

    /// gpt-oss's.
    fn biased_experts(
        config: &Config,
        of: ExpertsConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Self, ModelError> {
        let shape = [of.num_experts, config.hidden_size];
        let router =
            LinearPlan::new(inventory, Part::BiasedRouter, layer, shape, Bias::Present, None)?;
        let experts = match inventory.naming() {
            Naming::HuggingFace => GatedPlan::fused_experts(config, of, layer, inventory)?,
            Naming::Gguf => GatedPlan::stacked_experts(config, of, layer, inventory)?,
        };
        Ok(Self::Experts { router: Box::new(router), experts, of })
    }
}

impl<'w> LinearPlan<'w> {
    fn new(
        inventory: &mut Inventory<'w>,
        part: Part,
        layer: usize,
        shape: [usize; 2],
        bias: Bias,
        interleaved: Option<usize>,
    ) -> Result<Self, ModelError> {
        let weight = Matrix::required(inventory, part, layer, shape)?;
        let bias = match bias {
            // One that is there all the same is found by `refuse_others`.
            Bias::Absent => {
                pass_over_zeros(inventory, part, layer, shape[0])?;
                None
            }
            Bias::IfInFile => inventory.bias_if_there(part, layer, shape[0])?,
            Bias::Present => match inventory.bias_if_there(part, layer, shape[0])? {
                Some(bias) => Some(bias),
                None => return Err(inventory.missing(part, layer, "bias")),
            },
        };
        Ok(Self { weight, bias: bias.map(BiasPlan::whole), interleaved })
    }

    /// Rows `rows` of a layer without bias.
    fn slice(&self, rows: Range<usize>) -> Self {
        Self { weight: self.weight.slice(rows), bias: None, interleaved: None }
    }
}

/// AutoGPTQ gives every layer a bias, of zeros where there is none.
fn pass_over_zeros(
    inventory: &mut Inventory<'_>,
    part: Part,
    layer: usize,
    len: usize,
) -> Result<(), ModelError> {
    let gptq = matches!(
        inventory.stored_quantization(),
        Some(StoredQuantization::Codes { layout: CodeLayout::Gptq { .. }, .. })
    );
    let bias = if gptq { inventory.bias_if_there(part, layer, len)? } else { None };
    match bias {
        Some(bias) if bias.decode().iter().any(|value| *value != 0.0) => {
            Err(inventory.fault(&bias.info.name, "is a bias that this architecture does not have"))
        }
        _ => Ok(()),
    }
}

/// Where row `row` of a projection lies in a file that interleaves the halves of its heads.
///
/// GGUF files of llama have queries and keys permuted for rotation of neighbouring pairs: within a head
/// of `dim` rows, row `2 j + p` there is row `p dim / 2 + j` of the original, which rotates halves.
fn source_row(row: usize, dim: usize) -> usize {
    let (head, within) = (row / dim, row % dim);
    let half = dim / 2;
    head * dim + 2 * (within % half) + within / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_are_found_again() {
        let (heads, dim) = (3, 8);
        // What the converter does: [heads, 2, dim / 2] becomes [heads, dim / 2, 2].
        let mut file = vec![0; heads * dim];
        for (row, head) in (0..heads).flat_map(|head| (0..dim).map(move |i| (head * dim + i, head)))
        {
            let (half, j) = ((row % dim) / (dim / 2), row % (dim / 2));
            file[head * dim + 2 * j + half] = row;
        }
        for row in 0..heads * dim {
            assert_eq!(file[source_row(row, dim)], row);
        }
    }
}
