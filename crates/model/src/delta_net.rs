//! A gated delta net (Yang, Kautz & Hatamizadeh 2024), as Qwen3-Next and Qwen3.5 have it: linear
//! attention in the place of attention, with a state per sequence instead of keys and values.
//!
//! Queries, keys and values go through a convolution over a few tokens; queries and keys are made as
//! long as 1; the state forgets, learns and answers (`kernels::delta_rule`); what comes out is
//! normalised and gated. A state may be copied in the middle of a step's rows, where a block of tokens
//! ends, for another sequence with the same beginning to go on from.

use wharf_kernels::{
    activation::Activation,
    delta_rule::{DeltaInputs, DeltaShape, RecurrentStates, SlotRows, StateShape, delta_rule},
    norm,
    short_conv::short_conv,
    team::Team,
};

use crate::{
    batch::Batch,
    decoder::Compute,
    linear::{Linear, forward_all},
    rows::{self, sized},
};

/// Added to the sum of squares of a query or a key: fla's kernels, and transformers after them, take
/// this whatever the model's norms do.
const L2_EPS: f32 = 1e-6;

/// Past this `ln(1 + exp(x))` is x, as in PyTorch's softplus.
const SOFTPLUS_LINEAR: f32 = 20.0;

/// One layer's.
pub(crate) struct DeltaNet {
    pub(crate) shape: DeltaShape,
    /// Which layer of the states is its.
    pub(crate) state_layer: usize,
    /// `[channels, hidden_size]`
    pub(crate) qkv: Linear,
    /// `[value_heads * value_dim, hidden_size]`
    pub(crate) gate: Linear,
    /// How much a state forgets, `[value_heads, hidden_size]`.
    pub(crate) alpha: Linear,
    /// How much it learns, `[value_heads, hidden_size]`.
    pub(crate) beta: Linear,
    /// `[taps, channels]`
    pub(crate) conv: Vec<f32>,
    /// Added to alpha, `[value_heads]`.
    pub(crate) alpha_bias: Vec<f32>,
    /// What softplus(alpha) is multiplied by, below 0, `[value_heads]`.
    pub(crate) rate: Vec<f32>,
    /// Of queries and of keys, `[key_dim]`; see [`DeltaNet::normalise`].
    pub(crate) query_weight: Vec<f32>,
    pub(crate) key_weight: Vec<f32>,
    /// `[value_dim]`
    pub(crate) norm: Vec<f32>,
    /// `[hidden_size, value_heads * value_dim]`
    pub(crate) output: Linear,
}

/// Memory of a step, kept from one to the next.
#[derive(Default)]
pub(crate) struct DeltaNetScratch {
    /// `[rows, channels]`, before the convolution and after.
    projected: Vec<f32>,
    qkv: Vec<f32>,
    /// `[rows, value_heads * value_dim]`
    gate: Vec<f32>,
    attended: Vec<f32>,
    /// `[rows, value_heads]`
    decay: Vec<f32>,
    beta: Vec<f32>,
}

/// What a step does with states: rows up to where a state is copied, the copies, and the rows after.
pub(crate) struct StateRows {
    /// (from, to): before all else.
    restores: Vec<(usize, usize)>,
    /// Slots that begin as zeros.
    fresh: Vec<usize>,
    before: Vec<SlotRows>,
    /// (from, to)
    saves: Vec<(usize, usize)>,
    after: Vec<SlotRows>,
}

impl StateRows {
    /// Those of a checked batch; of a model without states none.
    pub(crate) fn of(batch: &Batch) -> Self {
        let mut rows = Self {
            restores: Vec::new(),
            fresh: Vec::new(),
            before: Vec::new(),
            saves: Vec::new(),
            after: Vec::new(),
        };
        for sequence in &batch.sequences {
            let Some(state) = sequence.state else { continue };
            let slot = state.slot as usize;
            match state.restore {
                Some(from) => rows.restores.push((from as usize, slot)),
                None if sequence.start == 0 => rows.fresh.push(slot),
                None => {}
            }
            let (first_row, num_rows) = (sequence.first_row, sequence.num_rows);
            let before = state.save.map_or(num_rows, |save| save.after_rows);
            rows.before.push(SlotRows { first_row, num_rows: before, slot });
            if let Some(save) = state.save {
                rows.saves.push((slot, save.slot as usize));
            }
            if before < num_rows {
                let (first_row, num_rows) = (first_row + before, num_rows - before);
                rows.after.push(SlotRows { first_row, num_rows, slot });
            }
        }
        rows
    }

    /// Brings the sequences' slots to what they are before their rows.
    pub(crate) fn begin(&self, team: &Team, states: &mut RecurrentStates) {
        for &(from, to) in &self.restores {
            states.copy(team, from, to);
        }
        for &slot in &self.fresh {
            states.clear(team, slot);
        }
    }
}

impl DeltaNet {
    /// Shape of its state.
    pub(crate) fn state_shape(&self) -> StateShape {
        let DeltaShape { value_heads, key_dim, value_dim, .. } = self.shape;
        let channels = self.shape.channels();
        let history = self.conv.len() / channels - 1;
        StateShape { history, channels, value_heads, key_dim, value_dim }
    }

    /// Bytes held by its matrices.
    pub(crate) fn bytes(&self) -> usize {
        let linears = [&self.qkv, &self.gate, &self.alpha, &self.beta, &self.output];
        linears.into_iter().map(Linear::bytes).sum::<usize>() + size_of_val(&self.conv[..])
    }

    /// Everything that a row says by itself: what comes of `x`, `[rows, hidden_size]`, stays in
    /// `scratch`.
    pub(crate) fn project(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        rows: usize,
        scratch: &mut DeltaNetScratch,
    ) {
        let DeltaShape { value_heads, value_dim, .. } = self.shape;
        let projected = sized(&mut scratch.projected, rows * self.shape.channels());
        let gate = sized(&mut scratch.gate, rows * value_heads * value_dim);
        let decay = sized(&mut scratch.decay, rows * value_heads);
        let beta = sized(&mut scratch.beta, rows * value_heads);
        let projections = [
            (&self.qkv, &mut *projected),
            (&self.gate, &mut *gate),
            (&self.alpha, &mut *decay),
            (&self.beta, &mut *beta),
        ];
        forward_all(compute, x, rows, projections);
        rows::in_tasks(compute, value_heads, decay, |_, alpha| {
            for alpha in alpha.chunks_exact_mut(value_heads) {
                for ((alpha, bias), rate) in alpha.iter_mut().zip(&self.alpha_bias).zip(&self.rate)
                {
                    *alpha = (rate * softplus(*alpha + bias)).exp();
                }
            }
        });
        rows::in_tasks(compute, value_heads, beta, |_, beta| {
            beta.iter_mut().for_each(|beta| *beta = 1.0 / (1.0 + (-*beta).exp()));
        });
    }

    /// `out`, `[rows, hidden_size]`, from what `project` left, and the sequences' states.
    #[allow(clippy::too_many_arguments)] // each is an operand; a struct would only rename them
    pub(crate) fn forward(
        &self,
        compute: Compute<'_>,
        of: &StateRows,
        rows: usize,
        states: &mut RecurrentStates,
        eps: f32,
        scratch: &mut DeltaNetScratch,
        out: &mut [f32],
    ) {
        let DeltaShape { value_heads, value_dim, .. } = self.shape;
        let (channels, width) = (self.shape.channels(), value_heads * value_dim);
        let projected = &scratch.projected[..rows * channels];
        let qkv = sized(&mut scratch.qkv, rows * channels);
        let attended = sized(&mut scratch.attended, rows * width);
        let Compute { isa, team } = compute;
        let layer = self.state_layer;

        short_conv(isa, team, &self.conv, states, layer, &of.before, projected, qkv);
        for &(from, to) in &of.saves {
            states.copy_history(team, from, to, layer);
        }
        short_conv(isa, team, &self.conv, states, layer, &of.after, projected, qkv);
        self.normalise(compute, qkv);
        let inputs = DeltaInputs { qkv, decay: &scratch.decay, beta: &scratch.beta };
        delta_rule(isa, team, self.shape, states, layer, &of.before, inputs, attended);
        for &(from, to) in &of.saves {
            states.copy_heads(team, from, to, layer);
        }
        delta_rule(isa, team, self.shape, states, layer, &of.after, inputs, attended);

        rows::rms_norm_in_place(compute, attended, &self.norm, eps);
        let gate = &mut scratch.gate[..rows * width];
        rows::gate_mul(compute, Activation::Silu, width, gate, attended);
        self.output.forward(compute, gate, rows, out);
    }

    /// Makes queries as long as `1 / sqrt(key_dim)` and keys as long as 1.
    ///
    /// `x / sqrt(Σx² + eps)` is the norm by the root of the mean square, of `eps / key_dim`, times
    /// `1 / sqrt(key_dim)`.
    fn normalise(&self, compute: Compute<'_>, qkv: &mut [f32]) {
        let DeltaShape { key_heads, key_dim, .. } = self.shape;
        let (keys, eps) = (key_heads * key_dim, L2_EPS / key_dim as f32);
        let channels = self.shape.channels();
        rows::in_tasks(compute, channels, qkv, |_, qkv| {
            for row in qkv.chunks_exact_mut(channels) {
                let (query, rest) = row.split_at_mut(keys);
                norm::rms_norm_in_place(compute.isa, query, &self.query_weight, eps);
                norm::rms_norm_in_place(compute.isa, &mut rest[..keys], &self.key_weight, eps);
            }
        });
    }
}

/// The weights by which norms make queries `1 / sqrt(key_dim)` long, and keys 1.
pub(crate) fn query_key_weights(key_dim: usize) -> (Vec<f32>, Vec<f32>) {
    let root = (key_dim as f32).sqrt();
    (vec![1.0 / key_dim as f32; key_dim], vec![1.0 / root; key_dim])
}

/// `ln(1 + exp(x))`.
fn softplus(x: f32) -> f32 {
    if x > SOFTPLUS_LINEAR { x } else { x.exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchSequence, StateSave, StateSlots};

    #[test]
    fn softplus_is_smooth_where_it_becomes_a_line() {
        assert_eq!(softplus(0.0), std::f32::consts::LN_2);
        assert_eq!(softplus(-200.0), 0.0);
        assert!((softplus(20.0) - softplus(20.001) + 0.001).abs() < 1e-5);
        assert_eq!(softplus(1e30), 1e30);
    }

    #[test]
    fn rows_are_cut_where_a_state_is_saved() {
        let sequence = |first_row, num_rows, start, state| BatchSequence {
            first_row,
            num_rows,
            start,
            block_table: Vec::new(),
            state: Some(state),
        };
        let plain = |slot| StateSlots { slot, restore: None, save: None };
        let save = |after_rows, slot| Some(StateSave { after_rows, slot });
        let rows = StateRows::of(&Batch {
            tokens: Vec::new(),
            sequences: vec![
                sequence(0, 5, 0, StateSlots { save: save(3, 7), ..plain(1) }),
                sequence(5, 1, 9, plain(2)),
                sequence(6, 4, 12, StateSlots { restore: Some(6), save: save(4, 8), ..plain(3) }),
            ],
            logits_rows: Vec::new(),
        });
        let slot = |first_row, num_rows, slot| SlotRows { first_row, num_rows, slot };
        assert_eq!(rows.fresh, [1]);
        assert_eq!(rows.restores, [(6, 3)]);
        assert_eq!(rows.before, [slot(0, 3, 1), slot(5, 1, 2), slot(6, 4, 3)]);
        assert_eq!(rows.saves, [(1, 7), (3, 8)]);
        assert_eq!(rows.after, [slot(3, 2, 1)]);
    }
}
