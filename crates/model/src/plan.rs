//! From a model's tensors to its network, in two steps: first every tensor is found and its shape
//! checked, then they are packed. A file with parts missing is refused before anything is allocated.

mod mixer;
mod packer;

use std::{cell::Cell, rc::Rc};

use wharf_kernels::{quant::Quantization, team::Team};

use mixer::MixerPlan;
use packer::Packer;

use crate::{
    config::{Bias, CodeLayout, Config, ExpertsConfig, Norms, StoredQuantization, TensorNames},
    decoder::{Decoder, Layer},
    embedding::Embedding,
    error::ModelError,
    matrix::{ExpertMatrix, Fused, Matrix},
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
    /// Which of their rows it is, in this order; `None`: all, as they come. (Shared by the experts of a
    /// layer, of which there may be hundreds.)
    rows: Option<Rc<[usize]>>,
}

struct LayerPlan<'w> {
    attention_norm: Option<Lent<'w>>,
    mixer: MixerPlan<'w>,
    post_attention_norm: Option<Lent<'w>>,
    feed_forward_norm: Option<Lent<'w>>,
    feed_forward: FeedForwardPlan<'w>,
    post_feed_forward_norm: Option<Lent<'w>>,
}

enum FeedForwardPlan<'w> {
    Gated(Box<GatedPlan<'w>>),
    Experts(Box<ExpertsPlan<'w>>),
}

struct GatedPlan<'w> {
    gate: LinearPlan<'w>,
    up: LinearPlan<'w>,
    down: LinearPlan<'w>,
}

struct ExpertsPlan<'w> {
    router: LinearPlan<'w>,
    experts: Vec<GatedPlan<'w>>,
    shared: Option<SharedExpertPlan<'w>>,
    of: ExpertsConfig,
}

/// The expert that all tokens go through, and its gate.
struct SharedExpertPlan<'w> {
    expert: GatedPlan<'w>,
    gate: LinearPlan<'w>,
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
    let stored_less_1 =
        config.architecture.traits().norms_less_1 && inventory.naming() != Naming::Gguf;
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
        embedding: Embedding::new(weights.into_file(number), start, row_bytes, format),
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
        let traits = config.architecture.traits();
        let mixer = MixerPlan::new(config, layer, inventory)?;
        let feed_forward = match config.experts {
            Some(of) => {
                FeedForwardPlan::Experts(Box::new(ExpertsPlan::new(config, of, layer, inventory)?))
            }
            None => FeedForwardPlan::Gated(Box::new(GatedPlan::new(config, layer, inventory)?)),
        };
        let mut norm = |there: bool, part| -> Result<_, ModelError> {
            there.then(|| inventory.weight(part, layer, &[hidden])).transpose()
        };
        let (before, after) = (config.norms != Norms::After, config.norms != Norms::Before);
        let feed_forward_norm = match config.norms {
            Norms::Both => Part::PreFeedForwardNorm,
            // llama.cpp calls it by what comes before it in these.
            Norms::Before if traits.names == TensorNames::GptOss || traits.hybrid.is_some() => {
                Part::PostAttentionNorm
            }
            Norms::Before | Norms::After => Part::FeedForwardNorm,
        };
        Ok(Self {
            attention_norm: norm(before, Part::AttentionNorm)?,
            mixer,
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
            [0..wide, wide..2 * wide].map(|rows| both.choose(rows))
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

impl<'w> ExpertsPlan<'w> {
    /// A layer's router and experts.
    fn new(
        config: &Config,
        of: ExpertsConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let names = config.architecture.traits().names;
        let (router, bias) = match names {
            TensorNames::Usual => (Part::Router, Bias::Absent),
            TensorNames::Mixtral => (Part::MixtralRouter, Bias::Absent),
            TensorNames::GptOss => (Part::BiasedRouter, Bias::Present),
        };
        let shape = [of.num_experts, hidden];
        let router = LinearPlan::new(inventory, router, layer, shape, bias, None)?;
        let experts = match (names, inventory.naming()) {
            (TensorNames::GptOss, Naming::HuggingFace) => {
                GatedPlan::alternate_experts(config, of, layer, inventory)?
            }
            (TensorNames::GptOss, Naming::Gguf) => {
                GatedPlan::biased_experts(config, of, layer, inventory)?
            }
            _ => match GatedPlan::fused_experts(config, of, layer, inventory)? {
                Some(experts) => experts,
                None => GatedPlan::experts(config, of, layer, inventory)?,
            },
        };
        let shared = of.shared_intermediate_size;
        let shared = shared.map(|wide| SharedExpertPlan::new(layer, hidden, wide, inventory));
        Ok(Self { router, experts, shared: shared.transpose()?, of })
    }
}

impl<'w> GatedPlan<'w> {
    /// All of a layer, each projection by itself. GGUF has those of all experts in one tensor.
    fn experts(
        config: &Config,
        of: ExpertsConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Vec<Self>, ModelError> {
        let (hidden, wide, all) = (config.hidden_size, config.intermediate_size, of.num_experts);
        let mixtral = config.architecture.traits().names == TensorNames::Mixtral;
        let [gate, up, down]: [fn(usize) -> Part; 3] = if mixtral {
            [Part::MixtralGate, Part::MixtralUp, Part::MixtralDown]
        } else {
            [Part::ExpertGate, Part::ExpertUp, Part::ExpertDown]
        };
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
            Ok(LinearPlan { weight, bias: None, rows: None })
        };
        let experts = (0..all).map(|expert| {
            Ok(Self {
                gate: linear(gate, expert, [wide, hidden])?,
                up: linear(up, expert, [wide, hidden])?,
                down: linear(down, expert, [hidden, wide])?,
            })
        });
        experts.collect()
    }

    /// All of a layer in two tensors, as Qwen3.5's files have them: of each expert the gate's rows, and
    /// then the up's. `None`: they have tensors of their own.
    fn fused_experts(
        config: &Config,
        of: ExpertsConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Option<Vec<Self>>, ModelError> {
        let (hidden, wide, all) = (config.hidden_size, config.intermediate_size, of.num_experts);
        let (part, shape) = (Part::FusedExperts, [all, 2 * wide, hidden]);
        let Some(both) = inventory.tensor_if_there(part, layer, "gate_up_proj", &shape)? else {
            return Ok(None);
        };
        let down = inventory.tensor(part, layer, "down_proj", &[all, hidden, wide])?;
        let linear = |of: Lent<'w>, first: usize, rows: usize| {
            let weight = Matrix::Plain(of.slice(first..first + rows));
            LinearPlan { weight, bias: None, rows: None }
        };
        let expert = |expert: usize| Self {
            gate: linear(both, 2 * expert * wide, wide),
            up: linear(both, (2 * expert + 1) * wide, wide),
            down: linear(down, expert * hidden, hidden),
        };
        Ok(Some((0..all).map(expert).collect()))
    }

    /// All of a layer as gpt-oss's files have them, with biases; gates and ups in alternate rows.
    fn alternate_experts(
        config: &Config,
        of: ExpertsConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Vec<Self>, ModelError> {
        let (hidden, wide, all) = (config.hidden_size, config.intermediate_size, of.num_experts);
        let both = Fused::find(inventory, layer, "gate_up_proj", [all, 2 * wide, hidden])?;
        let down = Fused::find(inventory, layer, "down_proj", [all, hidden, wide])?;
        let mut bias = |name, len| inventory.tensor(Part::FusedExperts, layer, name, &[all, len]);
        let both_bias = bias("gate_up_proj_bias", 2 * wide)?;
        let down_bias = bias("down_proj_bias", hidden)?;
        let [gates, ups] =
            [0, 1].map(|first| (0..wide).map(|row| 2 * row + first).collect::<Rc<[usize]>>());
        let linear = |fused, expert, [rows, cols]: [usize; 2], bias: Lent<'w>, chosen| {
            let weight = Matrix::Expert(ExpertMatrix { fused, expert, rows, cols });
            LinearPlan { weight, bias: Some(bias.slice(expert..expert + 1)), rows: chosen }
        };
        let expert = |expert| Self {
            gate: linear(both, expert, [2 * wide, hidden], both_bias, Some(Rc::clone(&gates))),
            up: linear(both, expert, [2 * wide, hidden], both_bias, Some(Rc::clone(&ups))),
            down: linear(down, expert, [hidden, wide], down_bias, None),
        };
        Ok((0..all).map(expert).collect())
    }

    /// All of a layer as gpt-oss's GGUF files have them, with biases: gates, ups and downs each one
    /// tensor.
    fn biased_experts(
        config: &Config,
        of: ExpertsConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Vec<Self>, ModelError> {
        let (hidden, wide, all) = (config.hidden_size, config.intermediate_size, of.num_experts);
        let mut find = |part, rows: usize, cols| {
            let weight = inventory.weight(part, layer, &[all, rows, cols])?;
            Ok((weight, inventory.tensor(part, layer, "bias", &[all, rows])?))
        };
        let gate = find(Part::ExpertGate(0), wide, hidden)?;
        let up = find(Part::ExpertUp(0), wide, hidden)?;
        let down = find(Part::ExpertDown(0), hidden, wide)?;
        let linear = |(weight, bias): (Lent<'w>, Lent<'w>), expert: usize, rows: usize| {
            let weight = Matrix::Plain(weight.slice(expert * rows..(expert + 1) * rows));
            LinearPlan { weight, bias: Some(bias.slice(expert..expert + 1)), rows: None }
        };
        let expert = |expert| Self {
            gate: linear(gate, expert, wide),
            up: linear(up, expert, wide),
            down: linear(down, expert, hidden),
        };
        Ok((0..all).map(expert).collect())
    }
}

impl<'w> SharedExpertPlan<'w> {
    fn new(
        layer: usize,
        hidden: usize,
        wide: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Self, ModelError> {
        let mut linear =
            |part, shape| LinearPlan::new(inventory, part, layer, shape, Bias::Absent, None);
        let expert = GatedPlan {
            gate: linear(Part::SharedGate, [wide, hidden])?,
            up: linear(Part::SharedUp, [wide, hidden])?,
            down: linear(Part::SharedDown, [hidden, wide])?,
        };
        let part = Part::SharedExpertGate;
        let gate = match inventory.naming() {
            Naming::HuggingFace => {
                LinearPlan::new(inventory, part, layer, [1, hidden], Bias::Absent, None)?
            }
            // A vector there.
            Naming::Gguf => {
                let weight = Matrix::Plain(inventory.weight(part, layer, &[hidden])?);
                LinearPlan { weight, bias: None, rows: None }
            }
        };
        Ok(Self { expert, gate })
    }
}

impl<'w> LinearPlan<'w> {
    fn new(
        inventory: &mut Inventory<'w>,
        part: Part,
        layer: usize,
        shape: [usize; 2],
        bias: Bias,
        rows: Option<Rc<[usize]>>,
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
        Ok(Self { weight, bias, rows })
    }

    /// Some rows of a layer of all, in this order.
    fn choose(&self, rows: impl IntoIterator<Item = usize>) -> Self {
        Self {
            weight: self.weight.clone(),
            bias: self.bias,
            rows: Some(rows.into_iter().collect()),
        }
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
