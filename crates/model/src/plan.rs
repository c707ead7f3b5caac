//! From a model's tensors to its network, in two steps: first every tensor is found and its shape
//! checked, then they are packed. A file with parts missing is refused before anything is allocated.

use std::{cell::Cell, ops::Range};

use wharf_kernels::{
    matmul::{CodeBits, CodedRow, PackedMatrix},
    quant::{Format, Quantization, QuantizationError},
    team::Team,
};

use crate::{
    config::{Bias, CodeLayout, Config, ExpertsConfig, Norms, QkNorm, StoredQuantization},
    decoder::{Decoder, Embedding, Layer},
    error::ModelError,
    feed_forward::{Experts, FeedForward, Gated},
    linear::Linear,
    matrix::{CodesMatrix, Matrix},
    model::LoadOptions,
    rope::{Rope, Scaling},
    weights::{Inventory, Lent, Naming, Part, Weights},
};

/// A linear layer's tensors.
struct LinearPlan<'w> {
    /// `[out, in]`
    weight: Matrix<'w>,
    /// `[out]`
    bias: Option<Lent<'w>>,
    /// Rows of a head, if its rows are interleaved (see [`source_row`]).
    interleaved: Option<usize>,
}

struct LayerPlan<'w> {
    attention_norm: Option<Lent<'w>>,
    query: LinearPlan<'w>,
    key: LinearPlan<'w>,
    value: LinearPlan<'w>,
    query_key_norms: Option<(Lent<'w>, Lent<'w>)>,
    attention_output: LinearPlan<'w>,
    post_attention_norm: Option<Lent<'w>>,
    feed_forward_norm: Option<Lent<'w>>,
    feed_forward: FeedForwardPlan<'w>,
    post_feed_forward_norm: Option<Lent<'w>>,
}

enum FeedForwardPlan<'w> {
    Gated(GatedPlan<'w>),
    Experts { router: LinearPlan<'w>, experts: Vec<GatedPlan<'w>>, of: ExpertsConfig },
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
        let feed_forward = match config.experts {
            Some(of) => FeedForwardPlan::experts(config, of, layer, inventory)?,
            None => FeedForwardPlan::Gated(GatedPlan::new(config, layer, inventory)?),
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
            Norms::Before | Norms::After => Part::FeedForwardNorm,
        };
        Ok(Self {
            attention_norm: norm(before, Part::AttentionNorm)?,
            query,
            key,
            value,
            query_key_norms: query_key_norms.transpose()?,
            attention_output,
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

impl<'w> FeedForwardPlan<'w> {
    /// A layer's router and experts. GGUF has all experts of a layer in one tensor.
    fn experts(
        config: &Config,
        of: ExpertsConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Self, ModelError> {
        let (hidden, wide, all) = (config.hidden_size, config.intermediate_size, of.num_experts);
        let mixtral = config.architecture.traits().experts.is_some_and(|of| of.mixtral_names);
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
        Ok(Self::Experts { router, experts, of })
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
        Ok(Self { weight, bias, interleaved })
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

struct Packer<'a, 'w> {
    inventory: &'a Inventory<'w>,
    weights: &'a Weights,
    team: &'a Team,
    options: &'a LoadOptions,
    /// What the weights of norms are stored less.
    norm_offset: f32,
    /// By quantising.
    lost: Cell<QuantizationError>,
}

impl Packer<'_, '_> {
    fn layer(
        &self,
        plan: &LayerPlan<'_>,
        config: &Config,
        number: usize,
    ) -> Result<Layer, ModelError> {
        let window = config.windows[number];
        let local = window.is_some() && config.local_rope.is_some();
        let norm = |lent: Option<Lent<'_>>| lent.map(|lent| self.norm(&lent));
        Ok(Layer {
            attention_norm: norm(plan.attention_norm),
            query: self.linear(&plan.query)?,
            key: self.linear(&plan.key)?,
            value: self.linear(&plan.value)?,
            query_key_norms: plan
                .query_key_norms
                .map(|(query_norm, key_norm)| (self.norm(&query_norm), self.norm(&key_norm))),
            attention_output: self.linear(&plan.attention_output)?,
            post_attention_norm: norm(plan.post_attention_norm),
            rope: (!config.nope_layers[number]).then_some(usize::from(local)),
            window,
            feed_forward_norm: norm(plan.feed_forward_norm),
            feed_forward: self.feed_forward(&plan.feed_forward)?,
            post_feed_forward_norm: norm(plan.post_feed_forward_norm),
        })
    }

    fn feed_forward(&self, plan: &FeedForwardPlan<'_>) -> Result<FeedForward, ModelError> {
        let gated = |plan: &GatedPlan<'_>| {
            Ok(Gated {
                gate: self.linear(&plan.gate)?,
                up: self.linear(&plan.up)?,
                down: self.linear(&plan.down)?,
            })
        };
        match plan {
            FeedForwardPlan::Gated(plan) => Ok(FeedForward::Gated(Box::new(gated(plan)?))),
            FeedForwardPlan::Experts { router, experts, of } => {
                Ok(FeedForward::Experts(Box::new(Experts {
                    // Small, and it decides what is read.
                    router: self.linear_in(router, None)?,
                    experts: experts.iter().map(gated).collect::<Result<_, ModelError>>()?,
                    num_experts_per_tok: of.num_experts_per_tok,
                    norm_topk_prob: of.norm_topk_prob,
                })))
            }
        }
    }

    fn norm(&self, lent: &Lent<'_>) -> Vec<f32> {
        lent.decode().iter().map(|weight| weight + self.norm_offset).collect()
    }

    fn linear(&self, plan: &LinearPlan<'_>) -> Result<Linear, ModelError> {
        self.linear_in(plan, self.options.quantization)
    }

    fn linear_in(
        &self,
        plan: &LinearPlan<'_>,
        quantization: Option<Quantization>,
    ) -> Result<Linear, ModelError> {
        let weight = self.matrix(&plan.weight, plan.interleaved, quantization)?;
        let bias = plan.bias.map(|lent| {
            let values = lent.decode();
            match plan.interleaved {
                None => values,
                Some(dim) => (0..values.len()).map(|row| values[source_row(row, dim)]).collect(),
            }
        });
        let input_order = match &plan.weight {
            Matrix::Codes(codes) => codes.order.clone(),
            Matrix::Plain(_) | Matrix::Fp8(_) => None,
        };
        Ok(Linear { weight, bias, input_order })
    }

    /// The output matrix. Of 4 bits it would blur the choice among tokens; so llama.cpp, too, gives it
    /// more.
    fn output(&self, matrix: &Matrix<'_>) -> Result<PackedMatrix, ModelError> {
        if let Matrix::Codes(codes) = matrix
            && codes.order.is_some()
        {
            let reason = "columns out of the order of their groups are not supported here";
            return Err(self.inventory.fault(matrix.name(), reason));
        }
        let quantization = match self.options.quantization {
            Some(Quantization::Int4) => Some(Quantization::Int8),
            other => other,
        };
        self.matrix(matrix, None, quantization)
    }

    fn matrix(
        &self,
        matrix: &Matrix<'_>,
        interleaved: Option<usize>,
        quantization: Option<Quantization>,
    ) -> Result<PackedMatrix, ModelError> {
        let packed = match matrix {
            Matrix::Plain(lent) => {
                let packed = self.plain(lent, interleaved, quantization)?;
                // If it is the embedding too: rows are read in again as tokens need them.
                self.release(lent.file, lent.start, lent.bytes.len());
                packed
            }
            Matrix::Fp8(fp8) => {
                let into = quantization.map_or(Format::F32, Quantization::format_of_floats);
                let into = self.fitting(into, Format::F32, fp8.cols, matrix.name());
                let (rows, cols) = (fp8.rows.len(), fp8.cols);
                let packed = PackedMatrix::pack_floats(into, self.team, rows, cols, &fp8.reader());
                let first = fp8.bytes.info.bytes.start + fp8.rows.start * cols;
                self.release(fp8.bytes.file, first, rows * cols);
                packed
            }
            Matrix::Codes(codes) => {
                let packed = self.codes(codes, quantization);
                let info = codes.codes.info;
                self.release(codes.codes.file, info.bytes.start, info.bytes.len());
                packed
            }
        };
        let mut lost = self.lost.get();
        lost.add(packed.quantization_error());
        self.lost.set(lost);
        Ok(packed.with_activations(self.options.activations))
    }

    fn plain(
        &self,
        lent: &Lent<'_>,
        interleaved: Option<usize>,
        quantization: Option<Quantization>,
    ) -> Result<PackedMatrix, ModelError> {
        let row_of = move |row: usize| match interleaved {
            None => row,
            Some(dim) => source_row(row, dim),
        };
        let (format, cols, name) = (lent.format, lent.cols(), &lent.info.name);
        let wanted = quantization.map_or(format, |to| to.format(format));
        let into = self.fitting(wanted, format, cols, name);
        PackedMatrix::pack_into(into, self.team, format, lent.rows, cols, lent.bytes, &row_of)
            .map_err(|error| self.inventory.fault(name, error.to_string()))
    }

    /// Codes stay what they are, unless they have more bits than is asked for.
    fn codes(&self, codes: &CodesMatrix<'_>, quantization: Option<Quantization>) -> PackedMatrix {
        let (shape, read) = (&codes.shape, codes.reader());
        if shape.bits == CodeBits::Four || quantization != Some(Quantization::Int4) {
            return PackedMatrix::pack_codes(self.team, shape, &read);
        }
        let floats = |row: usize, out: &mut [f32]| {
            let mut coded = [CodedRow::of(shape)];
            read(row..row + 1, &mut coded);
            coded[0].weights(shape, out);
        };
        let (rows, cols) = (shape.rows, shape.cols);
        PackedMatrix::pack_floats(Format::Q4_1, self.team, rows, cols, &floats)
    }

    /// `wanted`, if rows of `cols` fit it, or else the format that they have.
    fn fitting(&self, wanted: Format, format: Format, cols: usize, name: &str) -> Format {
        if wanted.row_bytes(cols).is_some() {
            return wanted;
        }
        tracing::warn!("{name} is not quantised: {cols} columns are no whole number of groups");
        format
    }

    /// The tensor's pages are not needed any more.
    fn release(&self, file: usize, start: usize, len: usize) {
        self.weights.files()[file].release(start..start + len);
    }
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
