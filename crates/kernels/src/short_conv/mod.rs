//! A causal convolution over a few positions, each channel by itself, and SiLU after it: what queries,
//! keys and values go through before the delta rule (Mamba: Gu & Dao 2023; Yang et al. 2024).
//!
//! A channel sums over the taps, the oldest input first; what lies before a step's rows is kept in the
//! sequence's slot.

#[cfg(test)]
mod reference;

use crate::{
    delta_rule::{RecurrentStates, SlotRows, check_rows},
    exp::exp,
    isa::{Isa, Kernel, LANES, Simd},
    team::{SharedSlice, Team},
};

/// Most taps.
pub const MAX_TAPS: usize = 8;

/// Values a task should have at least: below, waking a thread costs more than it saves.
const TASK_VALUES: usize = 16 * 1024;

/// `out[row] = silu(Σ_tap weight[tap] · x[row + tap - (taps - 1)])` for the sequences' rows, `[rows,
/// channels]`; and their last inputs go to their slots. `weight`: `[taps, channels]`. Rows that no
/// sequence has are left as they are.
///
/// # Panics
/// When the shapes disagree, or there are no taps or more than [`MAX_TAPS`]; when the sequences' rows
/// overlap or are not in ascending order, or two have one slot; when there is no such slot or layer.
#[allow(clippy::too_many_arguments)] // each is an operand; a struct would only rename them
pub fn short_conv(
    isa: Isa,
    team: &Team,
    weight: &[f32],
    states: &mut RecurrentStates,
    layer: usize,
    sequences: &[SlotRows],
    x: &[f32],
    out: &mut [f32],
) {
    let (channels, taps) = (states.shape().channels, states.shape().history + 1);
    assert_eq!(weight.len(), taps * channels);
    assert!(taps <= MAX_TAPS, "{taps} taps");
    assert_eq!(x.len(), out.len());
    let end = check_rows(sequences);
    assert!(end * channels <= x.len(), "x is shorter than {end} rows");
    let Some(start) = sequences.first().map(|sequence| sequence.first_row) else { return };
    let of = |sequence: &SlotRows| {
        let rows = sequence.first_row..sequence.first_row + sequence.num_rows;
        &x[rows.start * channels..rows.end * channels]
    };
    let out = SharedSlice::new(out);
    let run = (TASK_VALUES / channels.max(1)).max(1);
    let states_before = &*states;
    // Tasks are runs of the step's rows, of one sequence or of several.
    team.run((end - start).div_ceil(run), &|task, _| {
        let first = start + task * run;
        let rows = first..end.min(first + run);
        let passed = |of: &SlotRows| of.first_row + of.num_rows <= rows.start;
        let sequences = &sequences[sequences.partition_point(passed)..];
        for sequence in sequences.iter().take_while(|of| of.first_row < rows.end) {
            let first = rows.start.max(sequence.first_row);
            let end = rows.end.min(sequence.first_row + sequence.num_rows);
            let history = states_before.history(sequence.slot, layer);
            let rows = Rows { weight, taps, channels, history, x: of(sequence) };
            // SAFETY: each run of rows is one task, and sequences' rows do not overlap.
            let out = unsafe { out.range(first * channels..end * channels) };
            isa.dispatch(Run { rows, first: first - sequence.first_row, out });
        }
    });
    states.for_each_history(team, layer, sequences, &|sequence, history| {
        remember(history, of(sequence));
    });
}

/// Moves `x` into `history`, behind what it holds.
fn remember(history: &mut [f32], x: &[f32]) {
    let kept = history.len().saturating_sub(x.len());
    let len = history.len();
    history.copy_within(len - kept.., 0);
    history[kept..].copy_from_slice(&x[x.len() - (len - kept)..]);
}

/// One sequence's rows.
#[derive(Clone, Copy)]
struct Rows<'a> {
    weight: &'a [f32], // [taps, channels]
    taps: usize,
    channels: usize,
    history: &'a [f32], // [taps - 1, channels]
    x: &'a [f32],       // [rows, channels]
}

impl<'a> Rows<'a> {
    /// The input of a row's tap.
    #[inline(always)]
    fn input(&self, row: usize, tap: usize) -> &'a [f32] {
        let place = row + tap;
        let (from, row) = match place.checked_sub(self.taps - 1) {
            Some(row) => (self.x, row),
            None => (self.history, place),
        };
        &from[row * self.channels..][..self.channels]
    }
}

/// Some of them, from row `first` on.
struct Run<'a> {
    rows: Rows<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { weight, taps, channels, .. } = self.rows;
        for (row, out) in self.out.chunks_exact_mut(channels).enumerate() {
            let mut operands: [(&[f32], &[f32]); MAX_TAPS] = [(&[], &[]); MAX_TAPS];
            for (tap, operand) in operands[..taps].iter_mut().enumerate() {
                let weight = &weight[tap * channels..][..channels];
                *operand = (weight, self.rows.input(self.first + row, tap));
            }
            let operands = &operands[..taps];
            let (vectors, rest) = out.as_chunks_mut::<LANES>();
            let whole = vectors.len() * LANES;
            for (vector, out) in vectors.iter_mut().enumerate() {
                let mut sum = s.splat(0.0);
                for (weight, x) in operands {
                    let weight = s.load(&weight.as_chunks::<LANES>().0[vector]);
                    let x = s.load(&x.as_chunks::<LANES>().0[vector]);
                    sum = s.mul_add(weight, x, sum);
                }
                s.store(silu(s, sum), out);
            }
            let mut sum = s.splat(0.0);
            for (weight, x) in operands {
                let (mut own_weight, mut own_x) = ([0.0; LANES], [0.0; LANES]);
                own_weight[..rest.len()].copy_from_slice(&weight[whole..]);
                own_x[..rest.len()].copy_from_slice(&x[whole..]);
                sum = s.mul_add(s.load(&own_weight), s.load(&own_x), sum);
            }
            let mut lanes = [0.0; LANES];
            s.store(silu(s, sum), &mut lanes);
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
    }
}

/// `x / (1 + exp(-x))`.
#[inline(always)]
fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x))))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::delta_rule::StateShape;

    fn numbers(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 0.7391).sin() * 3.0).collect()
    }

    /// Rows in slot 1, layer 1, in steps of `chunk`.
    fn run(
        isa: Isa,
        threads: usize,
        taps: usize,
        weight: &[f32],
        x: &[f32],
        chunk: usize,
    ) -> Vec<f32> {
        let channels = weight.len() / taps;
        let shape =
            StateShape { history: taps - 1, channels, value_heads: 1, key_dim: 1, value_dim: 1 };
        let mut states = RecurrentStates::new(2, 2, shape);
        let team = Team::new(NonZeroUsize::new(threads).unwrap());
        let (rows, mut out) = (x.len() / channels, vec![0.0; x.len()]);
        for first_row in (0..rows).step_by(chunk) {
            let rows = [SlotRows { first_row, num_rows: chunk.min(rows - first_row), slot: 1 }];
            short_conv(isa, &team, weight, &mut states, 1, &rows, x, &mut out);
        }
        assert!(states.history(0, 1).iter().chain(states.history(1, 0)).all(|&x| x == 0.0));
        out
    }

    #[test]
    fn every_level_agrees_with_the_reference_and_with_itself_however_the_rows_are_cut() {
        for (taps, channels, rows) in
            [(1, 5, 3), (2, 16, 7), (4, 40, 11), (4, 9000, 5), (8, 17, 20)]
        {
            let (weight, x) = (numbers(taps * channels, 1.0), numbers(rows * channels, 2.0));
            let want = reference::short_conv(&weight, taps, &x);
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                for (threads, chunk) in [(1, rows), (1, 1), (2, 2), (2, rows), (1, 5)] {
                    let out = run(isa, threads, taps, &weight, &x, chunk);
                    for (out, want) in out.iter().zip(&want) {
                        assert!((f64::from(*out) - want).abs() < 1e-5 * want.abs().max(1.0));
                    }
                    let first = first.get_or_insert_with(|| out.clone());
                    assert_eq!(first, &out, "{:?}, by {chunk}", isa.level());
                }
            }
        }
    }

    #[test]
    fn sequences_beside_each_other_are_as_alone() {
        let (taps, channels) = (4, 20);
        let (weight, x) = (numbers(taps * channels, 1.0), numbers(9 * channels, 2.0));
        let shape = StateShape { history: 3, channels, value_heads: 1, key_dim: 1, value_dim: 1 };
        let team = Team::new(NonZeroUsize::new(2).unwrap());
        let mut states = RecurrentStates::new(1, 2, shape);
        let mut out = vec![0.0; x.len()];
        let rows = [
            SlotRows { first_row: 0, num_rows: 2, slot: 1 },
            SlotRows { first_row: 2, num_rows: 7, slot: 0 },
        ];
        short_conv(Isa::detect(), &team, &weight, &mut states, 0, &rows, &x, &mut out);
        let (a, b) = x.split_at(2 * channels);
        states.copy_history(&team, 0, 1, 0);
        assert_eq!(states.history(1, 0), &x[6 * channels..]);
        assert_eq!(out[..a.len()], run(Isa::detect(), 1, taps, &weight, a, 9)[..]);
        assert_eq!(out[a.len()..], run(Isa::detect(), 1, taps, &weight, b, 9)[..]);
    }

    /// A step of many sequences, some without a row in it: tasks hold rows of several.
    #[test]
    fn many_sequences_share_tasks() {
        let (taps, channels) = (4, 5000);
        let lens = [0, 1, 1, 7, 1, 0, 12, 1, 1, 1, 2];
        let rows: usize = lens.iter().sum();
        let (weight, x) = (numbers(taps * channels, 1.0), numbers(rows * channels, 2.0));
        let shape = StateShape { history: 3, channels, value_heads: 1, key_dim: 1, value_dim: 1 };
        let mut first_row = 0;
        let sequences = lens.iter().enumerate().map(|(slot, &num_rows)| {
            first_row += num_rows;
            SlotRows { first_row: first_row - num_rows, num_rows, slot }
        });
        let sequences: Vec<_> = sequences.collect();
        for threads in [1, 3] {
            let team = Team::new(NonZeroUsize::new(threads).unwrap());
            let mut states = RecurrentStates::new(1, lens.len(), shape);
            let mut out = vec![0.0; x.len()];
            short_conv(Isa::detect(), &team, &weight, &mut states, 0, &sequences, &x, &mut out);
            for of in &sequences {
                let own = of.first_row * channels..(of.first_row + of.num_rows) * channels;
                let x = &x[own.clone()];
                if !x.is_empty() {
                    assert_eq!(out[own], run(Isa::detect(), 1, taps, &weight, x, 20)[..]);
                }
                let kept = x.len().min(3 * channels);
                let history = states.history(of.slot, 0);
                assert_eq!(history[history.len() - kept..], x[x.len() - kept..]);
                assert!(history[..history.len() - kept].iter().all(|&x| x == 0.0));
            }
        }
    }
}
