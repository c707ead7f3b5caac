//! The feed-forward layer: one gated layer (Shazeer 2020), or a mixture of them, of which each token
//! goes through a few (Shazeer et al. 2017).
//!
//! The rows of a step are dealt out to the experts they chose, and each expert takes all of its rows at
//! once; one that no row chose is not read. A row's sum is over its own experts, in the order of their
//! numbers, so that it does not depend on what the other rows chose.

use std::ops::Range;

use wharf_kernels::activation::{self, Activation};

use crate::{
    decoder::Compute,
    linear::{Linear, forward_all},
    rows::{self, WeightedRow, sized},
};

/// Probabilities that a task should rank at least, as [`rows::in_tasks`] has it: each takes some
/// nanoseconds.
const TASK_PROBABILITIES: usize = 4 * 1024;

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
    /// The experts of each row, the most probable first, `[rows, num_experts_per_tok]`.
    choices: Vec<Choice>,
    /// The rows of each expert in ascending order, of one expert after the other.
    by_expert: Vec<WeightedRow>,
    /// Where those of each expert end, `[experts]`.
    ends: Vec<usize>,
    /// The shared expert's gate, `[rows, 1]`.
    shared_gate: Vec<f32>,
    /// The rows of one expert, `[its rows, hidden_size]`, and what it makes of them.
    own_x: Vec<f32>,
    own_out: Vec<f32>,
}

/// That a row goes through an expert.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Choice {
    expert: usize,
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
        scratch.deal_out(self.experts.len(), self.num_experts_per_tok);
        let FeedForwardScratch {
            gate, up, out, by_expert, ends, own_x, own_out, shared_gate, ..
        } = scratch;
        let hidden = x.len() / rows;
        let out = sized(out, x.len());
        rows::in_tasks(compute, hidden, out, |_, out| out.fill(0.0));
        for (expert, range) in self.experts.iter().zip(ranges(ends)) {
            let own = &by_expert[range];
            if own.is_empty() {
                continue;
            }
            let own_x = sized(own_x, own.len() * hidden);
            rows::gather(compute, hidden, x, own, own_x);
            let own_out = sized(own_out, own_x.len());
            expert.forward(compute, activation, own_x, own.len(), (gate, up), own_out);
            rows::scatter_add(compute, hidden, own_out, own, out);
        }
        let Some(SharedExpert { expert, gate: shared }) = &self.shared else { return };
        let own_out = sized(own_out, x.len());
        expert.forward(compute, activation, x, rows, (gate, up), own_out);
        let weights = sized(shared_gate, rows);
        shared.forward(compute, x, rows, weights);
        rows::in_tasks(compute, hidden, out, |first, out| {
            let own_out = own_out[first * hidden..].chunks_exact(hidden);
            let rows = out.chunks_exact_mut(hidden).zip(own_out);
            for ((out, own_out), weight) in rows.zip(&weights[first..]) {
                activation::add_scaled(compute.isa, out, own_out, 1.0 / (1.0 + (-*weight).exp()));
            }
        });
    }

    /// `scratch.choices` = the experts of each row.
    fn choose(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        rows: usize,
        scratch: &mut FeedForwardScratch,
    ) {
        let FeedForwardScratch { probabilities, choices, .. } = scratch;
        let (all, chosen) = (self.experts.len(), self.num_experts_per_tok);
        let probabilities = sized(probabilities, rows * all);
        self.router.forward(compute, x, rows, probabilities);
        rows::softmax(compute, all, probabilities);
        choices.resize(rows * chosen, Choice::default());
        let worthwhile = probabilities.len() / TASK_PROBABILITIES;
        rows::run_tasks(compute, chosen, worthwhile, choices, |first, choices| {
            let probabilities = probabilities[first * all..].chunks_exact(all);
            for (choices, probabilities) in choices.chunks_exact_mut(chosen).zip(probabilities) {
                rank(probabilities, choices);
                let sum: f32 = choices.iter().map(|choice| choice.weight).sum();
                let divisor = if self.norm_topk_prob { sum } else { 1.0 };
                choices.iter_mut().for_each(|choice| choice.weight /= divisor);
            }
        });
    }
}

impl FeedForwardScratch {
    /// `by_expert` and `ends` from `choices`, of which each row has so many.
    fn deal_out(&mut self, experts: usize, per_row: usize) {
        let Self { choices, by_expert, ends, .. } = self;
        ends.clear();
        ends.resize(experts, 0);
        for choice in &*choices {
            ends[choice.expert] += 1;
        }
        // From how many each has to where its own begin; they end where they have been put.
        let mut next = 0;
        for end in &mut *ends {
            next += std::mem::replace(end, next);
        }
        by_expert.resize(choices.len(), WeightedRow::default());
        for (row, choices) in choices.chunks_exact(per_row).enumerate() {
            for &Choice { expert, weight } in choices {
                by_expert[ends[expert]] = WeightedRow { row, weight };
                ends[expert] += 1;
            }
        }
    }
}

/// From where each range ends, the ranges one after the other.
fn ranges(ends: &[usize]) -> impl Iterator<Item = Range<usize>> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(ends).map(|(start, &end)| start..end)
}

/// `choices` = as many of the most probable experts, with their probabilities, the most probable first;
/// of equal ones the first.
fn rank(probabilities: &[f32], choices: &mut [Choice]) {
    let wanted = choices.len();
    for (expert, &weight) in probabilities.iter().enumerate() {
        let (known, worst) = (expert.min(wanted), expert.min(wanted - 1));
        let place = choices[..known].partition_point(|of| of.weight.total_cmp(&weight).is_ge());
        if place < wanted {
            choices[place..=worst].rotate_right(1);
            choices[place] = Choice { expert, weight };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_experts_are_found_in_order() {
        let all: Vec<f32> = (0..40).map(|i| (i * 17 % 23) as f32 / 100.0).collect();
        for wanted in [1, 2, 8, 39, 40] {
            let mut sorted: Vec<usize> = (0..all.len()).collect();
            sorted.sort_by(|&a, &b| all[b].total_cmp(&all[a])); // stable
            let mut choices = vec![Choice { expert: 7, weight: 9.0 }; wanted];
            rank(&all, &mut choices);
            let want =
                sorted[..wanted].iter().map(|&expert| Choice { expert, weight: all[expert] });
            assert_eq!(choices, want.collect::<Vec<_>>());
        }
    }

    #[test]
    fn each_expert_has_its_rows_in_order() {
        let choice = |expert| Choice { expert, weight: expert as f32 };
        let mut scratch = FeedForwardScratch {
            choices: [3, 0, 0, 1, 3, 0].map(choice).to_vec(), // [3 rows, 2]
            ..FeedForwardScratch::default()
        };
        for _ in 0..2 {
            scratch.deal_out(5, 2);
            let of: Vec<Vec<usize>> = ranges(&scratch.ends)
                .map(|range| scratch.by_expert[range].iter().map(|of| of.row).collect())
                .collect();
            assert_eq!(of, [vec![0, 1, 2], vec![1], vec![], vec![0, 2], vec![]]);
            assert!(scratch.by_expert[3..].iter().all(|of| of.weight > 0.0));
        }
    }
}
