//! The feed-forward layer: one gated layer (Shazeer 2020), or a mixture of them, of which each token
//! goes through a few (Shazeer et al. 2017).
//!
//! The rows of a step are dealt out to the experts they chose, and each expert takes all of its rows at
//! once; one that no row chose is not read. A row's sum is over its own experts, in the order of their
//! numbers, so that it does not depend on what the other rows chose.

use wharf_kernels::activation::{self, Activation};

use crate::{
    decoder::Compute,
    linear::{Linear, forward_all},
    rows::{self, sized},
};

/// One layer's.
pub(crate) enum FeedForward {
    /// All tokens go through it.
    Gated(Box<Gated>),
    /// Each token goes through some.
    Experts(Box<Experts>),
}

/// down(activation(gate(x)) * up(x)).
pub(crate) struct Gated {
    /// `[intermediate_size, hidden_size]`
    pub(crate) gate: Linear,
    /// `[intermediate_size, hidden_size]`
    pub(crate) up: Linear,
    /// `[hidden_size, intermediate_size]`
    pub(crate) down: Linear,
}

/// A mixture of experts.
pub(crate) struct Experts {
    /// `[experts, hidden_size]`
    pub(crate) router: Linear,
    pub(crate) experts: Vec<Gated>,
    /// How many a token goes through.
    pub(crate) num_experts_per_tok: usize,
    /// Whether their probabilities are divided by their sum.
    pub(crate) norm_topk_prob: bool,
    pub(crate) shared: Option<SharedExpert>,
}

/// One more, which all tokens go through, times a sigmoid (Qwen2-MoE).
pub(crate) struct SharedExpert {
    pub(crate) expert: Gated,
    /// `[1, hidden_size]`
    pub(crate) gate: Linear,
}

/// Memory of a step, kept from one to the next.
#[derive(Default)]
pub(crate) struct FeedForwardScratch {
    /// `[rows, intermediate_size]`
    gate: Vec<f32>,
    /// `[rows, intermediate_size]`
    up: Vec<f32>,
    /// What the layer gives, `[rows, hidden_size]`.
    out: Vec<f32>,
    /// The router's, `[rows, experts]`.
    probabilities: Vec<f32>,
    /// The experts of one row, the most probable first.
    ranking: Vec<usize>,
    choices: Vec<Choice>,
    /// The shared expert's gate, `[rows, 1]`.
    shared_gate: Vec<f32>,
    /// The rows of one expert, `[its rows, hidden_size]`, and what it makes of them.
    own_x: Vec<f32>,
    own_out: Vec<f32>,
}

/// That a row goes through an expert.
struct Choice {
    expert: usize,
    row: usize,
    weight: f32,
}

impl FeedForward {
    /// The layer's output for `x`, both `[rows, hidden_size]`.
    pub(crate) fn forward<'s>(
        &self,
        compute: Compute<'_>,
        activation: Activation,
        x: &[f32],
        rows: usize,
        scratch: &'s mut FeedForwardScratch,
    ) -> &'s mut [f32] {
        let FeedForwardScratch { gate, up, out, .. } = scratch;
        match self {
            Self::Gated(layer) => {
                layer.forward(compute, activation, x, rows, (gate, up), sized(out, x.len()));
            }
            Self::Experts(experts) => experts.forward(compute, activation, x, rows, scratch),
        }
        &mut scratch.out[..x.len()]
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Gated(layer) => layer.bytes(),
            Self::Experts(of) => {
                let shared = of.shared.iter().map(|of| of.expert.bytes() + of.gate.bytes());
                let experts = of.experts.iter().map(Gated::bytes).chain(shared);
                of.router.bytes() + experts.sum::<usize>()
            }
        }
    }
}

impl Gated {
    fn forward(
        &self,
        compute: Compute<'_>,
        activation: Activation,
        x: &[f32],
        rows: usize,
        (gate, up): (&mut Vec<f32>, &mut Vec<f32>),
        out: &mut [f32],
    ) {
        let width = self.gate.weight.rows();
        let (gate, up) = (sized(gate, rows * width), sized(up, rows * width));
        forward_all(compute, x, rows, [(&self.gate, &mut *gate), (&self.up, &mut *up)]);
        rows::gate_mul(compute, activation, width, gate, up);
        self.down.forward(compute, gate, rows, out);
    }

    fn bytes(&self) -> usize {
        self.gate.bytes() + self.up.bytes() + self.down.bytes()
    }
}

impl Experts {
    /// `scratch.out[row]` = Σ weight · expert(x[row]) over the row's experts, and the shared one's.
    fn forward(
        &self,
        compute: Compute<'_>,
        activation: Activation,
        x: &[f32],
        rows: usize,
        scratch: &mut FeedForwardScratch,
    ) {
        self.choose(compute, x, rows, scratch);
        let FeedForwardScratch { gate, up, out, choices, own_x, own_out, shared_gate, .. } =
            scratch;
        let hidden = x.len() / rows;
        let out = sized(out, x.len());
        out.fill(0.0);
        for own in choices.chunk_by(|a, b| a.expert == b.expert) {
            let own_x = sized(own_x, own.len() * hidden);
            for (choice, own_x) in own.iter().zip(own_x.chunks_exact_mut(hidden)) {
                own_x.copy_from_slice(&x[choice.row * hidden..][..hidden]);
            }
            let own_out = sized(own_out, own_x.len());
            let expert = &self.experts[own[0].expert];
            expert.forward(compute, activation, own_x, own.len(), (gate, up), own_out);
            for (choice, own_out) in own.iter().zip(own_out.chunks_exact(hidden)) {
                let out = &mut out[choice.row * hidden..][..hidden];
                activation::add_scaled(compute.isa, out, own_out, choice.weight);
            }
        }
        let Some(SharedExpert { expert, gate: shared }) = &self.shared else { return };
        let own_out = sized(own_out, x.len());
        expert.forward(compute, activation, x, rows, (gate, up), own_out);
        let weights = sized(shared_gate, rows);
        shared.forward(compute, x, rows, weights);
        let rows = out.chunks_exact_mut(hidden).zip(own_out.chunks_exact(hidden));
        for ((out, own_out), weight) in rows.zip(weights) {
            activation::add_scaled(compute.isa, out, own_out, 1.0 / (1.0 + (-*weight).exp()));
        }
    }

    /// `scratch.choices` = the experts of each row, in the order of experts and then of rows.
    fn choose(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        rows: usize,
        scratch: &mut FeedForwardScratch,
    ) {
        let FeedForwardScratch { probabilities, ranking, choices, .. } = scratch;
        let probabilities = sized(probabilities, rows * self.experts.len());
        self.router.forward(compute, x, rows, probabilities);
        rows::softmax(compute, self.experts.len(), probabilities);
        choices.clear();
        for (row, probabilities) in probabilities.chunks_exact(self.experts.len()).enumerate() {
            ranking.clear();
            ranking.extend(0..self.experts.len());
            // Of equal ones the first.
            ranking.sort_unstable_by(|&a, &b| {
                probabilities[b].total_cmp(&probabilities[a]).then(a.cmp(&b))
            });
            let chosen = &ranking[..self.num_experts_per_tok];
            let sum: f32 = chosen.iter().map(|&expert| probabilities[expert]).sum();
            let divisor = if self.norm_topk_prob { sum } else { 1.0 };
            choices.extend(chosen.iter().map(|&expert| Choice {
                expert,
                row,
                weight: probabilities[expert] / divisor,
            }));
        }
        choices.sort_unstable_by_key(|choice| (choice.expert, choice.row));
    }
}
