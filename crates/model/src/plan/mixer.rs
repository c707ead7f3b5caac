//! How a layer mixes tokens, attention or a gated delta net: its tensors, and packing them.

use std::rc::Rc;

use wharf_kernels::delta_rule::DeltaShape;

use super::{LinearPlan, Packer};
use crate::{
    config::{Bias, Config, LinearAttentionConfig, QkNorm},
    decoder::{Attention, Mixer},
    delta_net::{DeltaNet, query_key_weights},
    error::ModelError,
    weights::{Inventory, Lent, Naming, Part},
};

pub(super) enum MixerPlan<'w> {
    Attention(Box<AttentionPlan<'w>>),
    DeltaNet(Box<DeltaNetPlan<'w>>),
}

pub(super) struct AttentionPlan<'w> {
    query: LinearPlan<'w>,
    key: LinearPlan<'w>,
    value: LinearPlan<'w>,
    query_key_norms: Option<(Lent<'w>, Lent<'w>)>,
    gate: Option<LinearPlan<'w>>,
    output: LinearPlan<'w>,
    sinks: Option<Lent<'w>>,
}

pub(super) struct DeltaNetPlan<'w> {
    qkv: LinearPlan<'w>,
    gate: LinearPlan<'w>,
    alpha: LinearPlan<'w>,
    beta: LinearPlan<'w>,
    conv: Lent<'w>,
    alpha_bias: Lent<'w>,
    /// In Hugging Face's files the logarithm of the rate, without its sign.
    rate: Lent<'w>,
    norm: Lent<'w>,
    output: LinearPlan<'w>,
}

impl<'w> MixerPlan<'w> {
    pub(super) fn new(
        config: &Config,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Self, ModelError> {
        let linear = config.linear_attention.as_ref().filter(|linear| linear.layers[layer]);
        Ok(match linear {
            Some(of) => Self::DeltaNet(Box::new(DeltaNetPlan::new(config, of, layer, inventory)?)),
            None => Self::Attention(Box::new(AttentionPlan::new(config, layer, inventory)?)),
        })
    }
}

impl<'w> AttentionPlan<'w> {
    fn new(
        config: &Config,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Self, ModelError> {
        let (hidden, dim) = (config.hidden_size, config.head_dim);
        let (heads, kv_heads) = (config.num_heads * dim, config.num_kv_heads * dim);
        let interleaved =
            inventory.naming() == Naming::Gguf && config.architecture.traits().interleaved_in_gguf;
        let order = |rows: usize| {
            interleaved.then(|| (0..rows).map(|row| source_row(row, dim)).collect::<Rc<[_]>>())
        };
        let mut linear =
            |part, shape, bias, rows| LinearPlan::new(inventory, part, layer, shape, bias, rows);
        let traits = config.architecture.traits();
        let mut gate = None;
        let [query, key, value] = if traits.fused {
            let all =
                linear(Part::QueryKeyValue, [heads + 2 * kv_heads, hidden], Bias::Absent, None)?;
            let (keys, values) = (heads + kv_heads, heads + 2 * kv_heads);
            [0..heads, heads..keys, keys..values].map(|rows| all.choose(rows))
        } else {
            let query = if traits.hybrid.is_some() {
                // A head's rows of queries, then its rows of the gate.
                let both = linear(Part::Query, [2 * heads, hidden], config.qkv_bias, None)?;
                let half = |first: usize| {
                    (0..heads).map(move |row| 2 * dim * (row / dim) + first + row % dim)
                };
                gate = Some(both.choose(half(dim)));
                both.choose(half(0))
            } else {
                linear(Part::Query, [heads, hidden], config.qkv_bias, order(heads))?
            };
            let key = linear(Part::Key, [kv_heads, hidden], config.qkv_bias, order(kv_heads))?;
            let value = linear(Part::Value, [kv_heads, hidden], config.qkv_bias, None)?;
            [query, key, value]
        };
        let output = linear(Part::AttentionOutput, [hidden, heads], config.o_bias, None)?;
        let query_key_norms = match config.qk_norm {
            QkNorm::None => None,
            QkNorm::Heads => Some((config.head_dim, config.head_dim)),
            QkNorm::Row => Some((heads, kv_heads)),
        };
        let query_key_norms = query_key_norms.map(|(query, key)| {
            let query = inventory.weight(Part::QueryNorm, layer, &[query])?;
            Ok((query, inventory.weight(Part::KeyNorm, layer, &[key])?))
        });
        let query_key_norms = query_key_norms.transpose()?;
        let sinks = traits.sinks.then(|| {
            let kind = if inventory.naming() == Naming::Gguf { "weight" } else { "sinks" };
            inventory.tensor(Part::Sinks, layer, kind, &[config.num_heads])
        });
        let sinks = sinks.transpose()?;
        Ok(Self { query, key, value, query_key_norms, gate, output, sinks })
    }
}

impl<'w> DeltaNetPlan<'w> {
    fn new(
        config: &Config,
        of: &LinearAttentionConfig,
        layer: usize,
        inventory: &mut Inventory<'w>,
    ) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let (channels, values) = (of.channels(), of.value_heads * of.value_dim);
        let in_one = inventory.naming() == Naming::HuggingFace;
        let conv = match inventory.naming() {
            Naming::HuggingFace => &[channels, 1, of.taps][..],
            Naming::Gguf => &[channels, of.taps],
        };
        let conv = inventory.weight(Part::LinearConv, layer, conv)?;
        let [alpha_bias, rate] = match inventory.naming() {
            Naming::HuggingFace => ["dt_bias", "A_log"],
            Naming::Gguf => ["bias", ""],
        };
        let heads = [of.value_heads];
        let alpha_bias = inventory.tensor(Part::LinearAlphaBias, layer, alpha_bias, &heads)?;
        let rate = inventory.tensor(Part::LinearRate, layer, rate, &heads)?;
        let norm = inventory.weight(Part::LinearNorm, layer, &[of.value_dim])?;
        let mut linear =
            |part, shape| LinearPlan::new(inventory, part, layer, shape, Bias::Absent, None);
        let fused = config.architecture.traits().hybrid.is_some_and(|hybrid| hybrid.fused);
        let (qkv, gate) = if fused && in_one {
            let all = linear(Part::LinearFused, [channels + values, hidden])?;
            let FusedRows { qkv, gate, .. } = FusedRows::of(of);
            (all.choose(qkv), all.choose(gate))
        } else {
            let qkv = linear(Part::LinearQueryKeyValue, [channels, hidden])?;
            (qkv, linear(Part::LinearGate, [values, hidden])?)
        };
        let (alpha, beta) = if fused {
            let both = linear(Part::LinearBetaAlpha, [2 * of.value_heads, hidden])?;
            let FusedRows { alpha, beta, .. } = FusedRows::of(of);
            (both.choose(alpha), both.choose(beta))
        } else {
            let alpha = linear(Part::LinearAlpha, [of.value_heads, hidden])?;
            (alpha, linear(Part::LinearBeta, [of.value_heads, hidden])?)
        };
        let output = linear(Part::LinearOutput, [hidden, values])?;
        Ok(Self { qkv, gate, alpha, beta, conv, alpha_bias, rate, norm, output })
    }
}

/// Which rows are whose where projections are fused by key heads: a key head's query, key, values and
/// their gates; and the betas and alphas of its values.
struct FusedRows {
    qkv: Vec<usize>,
    gate: Vec<usize>,
    alpha: Vec<usize>,
    beta: Vec<usize>,
}

impl FusedRows {
    fn of(of: &LinearAttentionConfig) -> Self {
        let group = of.value_heads / of.key_heads;
        let (keys, values) = (of.key_dim, group * of.value_dim);
        let each = |first: usize, len: usize, of_a_head: usize| {
            (0..of.key_heads).flat_map(move |head| {
                let start = head * of_a_head + first;
                start..start + len
            })
        };
        let all = 2 * (keys + values);
        let qk = each(0, keys, all).chain(each(keys, keys, all));
        Self {
            qkv: qk.chain(each(2 * keys, values, all)).collect(),
            gate: each(2 * keys + values, values, all).collect(),
            beta: each(0, group, 2 * group).collect(),
            alpha: each(group, group, 2 * group).collect(),
        }
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

impl Packer<'_, '_> {
    pub(super) fn mixer(
        &self,
        plan: &MixerPlan<'_>,
        config: &Config,
        number: usize,
    ) -> Result<Mixer, ModelError> {
        Ok(match plan {
            MixerPlan::Attention(plan) => {
                Mixer::Attention(Box::new(self.attention(plan, config, number)?))
            }
            MixerPlan::DeltaNet(plan) => {
                Mixer::DeltaNet(Box::new(self.delta_net(plan, config, number)?))
            }
        })
    }

    fn attention(
        &self,
        plan: &AttentionPlan<'_>,
        config: &Config,
        number: usize,
    ) -> Result<Attention, ModelError> {
        let window = config.windows[number];
        let local = window.is_some() && config.local_rope.is_some();
        Ok(Attention {
            query: self.linear(&plan.query)?,
            key: self.linear(&plan.key)?,
            value: self.linear(&plan.value)?,
            query_key_norms: plan
                .query_key_norms
                .map(|(query_norm, key_norm)| (self.norm(&query_norm), self.norm(&key_norm))),
            gate: plan.gate.as_ref().map(|gate| self.linear(gate)).transpose()?,
            output: self.linear(&plan.output)?,
            sinks: plan.sinks.map(|sinks| sinks.decode()),
            rope: (!config.nope_layers[number]).then_some(usize::from(local)),
            window,
            cache_layer: number - linear_layers_before(config, number),
        })
    }

    fn delta_net(
        &self,
        plan: &DeltaNetPlan<'_>,
        config: &Config,
        number: usize,
    ) -> Result<DeltaNet, ModelError> {
        let Some(of) = &config.linear_attention else { unreachable!("its plan was made of it") };
        let (query_weight, key_weight) = query_key_weights(of.key_dim);
        let mut rate = plan.rate.decode();
        if self.inventory.naming() == Naming::HuggingFace {
            rate.iter_mut().for_each(|rate| *rate = -rate.exp());
        }
        Ok(DeltaNet {
            shape: DeltaShape {
                key_heads: of.key_heads,
                value_heads: of.value_heads,
                key_dim: of.key_dim,
                value_dim: of.value_dim,
                order: of.order,
            },
            state_layer: linear_layers_before(config, number),
            qkv: self.linear(&plan.qkv)?,
            gate: self.linear(&plan.gate)?,
            // Small, and they decide what is remembered.
            alpha: self.linear_in(&plan.alpha, None)?,
            beta: self.linear_in(&plan.beta, None)?,
            conv: transposed(&plan.conv.decode(), of.taps),
            alpha_bias: plan.alpha_bias.decode(),
            rate,
            query_weight,
            key_weight,
            // This one is not stored less 1.
            norm: plan.norm.decode(),
            output: self.linear(&plan.output)?,
        })
    }
}

/// Layers of linear attention before this one: they have no layer of the KV cache, and the others none
/// of the states.
fn linear_layers_before(config: &Config, number: usize) -> usize {
    let linear = config.linear_attention.iter().flat_map(|linear| &linear.layers[..number]);
    linear.filter(|linear| **linear).count()
}

/// `[taps, channels]` of `[channels, taps]`.
fn transposed(conv: &[f32], taps: usize) -> Vec<f32> {
    (0..taps).flat_map(|tap| conv.iter().skip(tap).step_by(taps)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_kernels::delta_rule::HeadOrder;

    #[test]
    fn rows_fused_by_key_heads_are_told_apart() {
        let of = LinearAttentionConfig {
            key_heads: 2,
            value_heads: 4,
            key_dim: 2,
            value_dim: 1,
            taps: 1,
            order: HeadOrder::Grouped,
            layers: Vec::new(),
        };
        // By key head: query 2, key 2, values 2, gates 2; then betas 2, alphas 2.
        let FusedRows { qkv, gate, alpha, beta } = FusedRows::of(&of);
        assert_eq!(qkv, [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13]);
        assert_eq!(gate, [6, 7, 14, 15]);
        assert_eq!((beta, alpha), (vec![0, 1, 4, 5], vec![2, 3, 6, 7]));
    }

    #[test]
    fn taps_are_turned_to_rows() {
        assert_eq!(transposed(&[0.0, 0.1, 1.0, 1.1, 2.0, 2.1], 2), [0.0, 1.0, 2.0, 0.1, 1.1, 2.1]);
    }

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
