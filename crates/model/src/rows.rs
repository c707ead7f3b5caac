//! Row-wise operators over the thread team: a chunk of prefill has hundreds of rows, and an operator
//! that ran on one thread would leave the others waiting. A step of few rows is not worth waking them.
//!
//! Rows are independent, so how they are dealt out does not change a bit of the result.

use wharf_kernels::{
    activation::{self, Activation},
    norm, resize_in_huge_pages, rope, softmax,
};

use crate::decoder::Compute;

/// Values a task should have at least: below, waking a thread costs more than it saves.
const TASK_VALUES: usize = 16 * 1024;

/// The same of angles, each of which takes a sine and a cosine: tens of nanoseconds.
const TASK_ANGLES: usize = 1024;

/// `out[r] = rms_norm(x[r]) * weight`, `[rows, weight.len()]`.
pub(crate) fn rms_norm(compute: Compute<'_>, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    in_tasks(compute, weight.len(), out, |first, out| {
        let x = &x[first * weight.len()..][..out.len()];
        norm::rms_norm(compute.isa, x, weight, eps, out);
    });
}

/// As [`rms_norm`], in place.
pub(crate) fn rms_norm_in_place(compute: Compute<'_>, x: &mut [f32], weight: &[f32], eps: f32) {
    in_tasks(compute, weight.len(), x, |_, x| {
        norm::rms_norm_in_place(compute.isa, x, weight, eps);
    });
}

/// `gate = activation(gate) * up`, `[rows, width]`.
pub(crate) fn gate_mul(
    compute: Compute<'_>,
    of: Activation,
    width: usize,
    gate: &mut [f32],
    up: &[f32],
) {
    in_tasks(compute, width, gate, |first, gate| {
        activation::gate_mul(compute.isa, of, gate, &up[first * width..][..gate.len()]);
    });
}

/// `x *= sigmoid(gate)`, `[rows, width]`.
pub(crate) fn sigmoid_mul(compute: Compute<'_>, width: usize, x: &mut [f32], gate: &[f32]) {
    in_tasks(compute, width, x, |first, x| {
        activation::sigmoid_mul(compute.isa, x, &gate[first * width..][..x.len()]);
    });
}

/// `x[r] = softmax(x[r])`, `[rows, width]`.
pub(crate) fn softmax(compute: Compute<'_>, width: usize, x: &mut [f32]) {
    in_tasks(compute, width, x, |_, x| softmax::softmax(compute.isa, x, width));
}

/// `x = cap * tanh(x / cap)`, `[rows, width]`.
pub(crate) fn soft_cap(compute: Compute<'_>, width: usize, x: &mut [f32], cap: f32) {
    in_tasks(compute, width, x, |_, x| activation::soft_cap_all(compute.isa, x, cap));
}

/// `x += y * factor`, `[rows, width]`.
pub(crate) fn add_scaled(
    compute: Compute<'_>,
    width: usize,
    x: &mut [f32],
    y: &[f32],
    factor: f32,
) {
    in_tasks(compute, width, x, |first, x| {
        activation::add_scaled(compute.isa, x, &y[first * width..][..x.len()], factor);
    });
}

/// `x[r] += bias`, `[rows, bias.len()]`.
pub(crate) fn add_bias(compute: Compute<'_>, x: &mut [f32], bias: &[f32]) {
    in_tasks(compute, bias.len(), x, |_, x| {
        for row in x.chunks_exact_mut(bias.len()) {
            activation::add_scaled(compute.isa, row, bias, 1.0);
        }
    });
}

/// `x`, `[rows, order.len()]`, with each row's values in this order.
pub(crate) fn gathered(compute: Compute<'_>, x: &[f32], order: &[u32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    in_tasks(compute, order.len(), &mut out, |first, out| {
        let x = x[first * order.len()..].chunks_exact(order.len());
        for (out, x) in out.chunks_exact_mut(order.len()).zip(x) {
            for (out, &from) in out.iter_mut().zip(order) {
                *out = x[from as usize];
            }
        }
    });
    out
}

/// One of a step's rows, and what it is multiplied by as it is added.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct WeightedRow {
    pub(crate) row: usize,
    pub(crate) weight: f32,
}

/// `out[i] = x[rows[i]]`, `[rows.len(), width]`.
pub(crate) fn gather(
    compute: Compute<'_>,
    width: usize,
    x: &[f32],
    rows: &[WeightedRow],
    out: &mut [f32],
) {
    in_tasks(compute, width, out, |first, out| {
        for (out, from) in out.chunks_exact_mut(width).zip(&rows[first..]) {
            out.copy_from_slice(&x[from.row * width..][..width]);
        }
    });
}

/// `out[rows[i]] += y[i] * weight[i]`, `[_, width]`; `rows` in ascending order.
pub(crate) fn scatter_add(
    compute: Compute<'_>,
    width: usize,
    y: &[f32],
    rows: &[WeightedRow],
    out: &mut [f32],
) {
    debug_assert!(rows.is_sorted_by_key(|to| to.row));
    // A task has some of `out`'s rows, and finds those of `rows` that are among them.
    run_tasks(compute, width, y.len() / TASK_VALUES, out, |first, out| {
        let end = first + out.len() / width;
        let from = rows.partition_point(|to| to.row < first);
        for (to, y) in rows[from..].iter().zip(y[from * width..].chunks_exact(width)) {
            if to.row >= end {
                break;
            }
            let out = &mut out[(to.row - first) * width..][..width];
            activation::add_scaled(compute.isa, out, y, to.weight);
        }
    });
}

/// Writes `out`, `[rows, width]`, of angles: `write(row, out)`.
pub(crate) fn angles(
    compute: Compute<'_>,
    width: usize,
    out: &mut [f32],
    write: impl Fn(usize, &mut [f32]) + Sync,
) {
    run_tasks(compute, width, out.len() / TASK_ANGLES, out, |first, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            write(first + row, out);
        }
    });
}

/// What every head of a row is rotated by.
#[derive(Clone, Copy)]
pub(crate) struct Rotations<'a> {
    pub(crate) head_dim: usize,
    pub(crate) half_dim: usize,
    /// Cosines and sines, `[rows, 2, half_dim]`.
    pub(crate) angles: &'a [f32],
}

/// Rotates every head of `x`, `[rows, width = heads * head_dim]`, by its row's position.
pub(crate) fn rotate(compute: Compute<'_>, width: usize, x: &mut [f32], by: Rotations<'_>) {
    in_tasks(compute, width, x, |first, x| {
        let angles = by.angles.chunks_exact(2 * by.half_dim).skip(first);
        for (row, angles) in x.chunks_exact_mut(width).zip(angles) {
            let (cos, sin) = angles.split_at(by.half_dim);
            rope::rotate(row, by.head_dim, cos, sin);
        }
    });
}

/// The first `len` values of a buffer that grows when it must and never shrinks.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        resize_in_huge_pages(buffer, len);
    }
    &mut buffer[..len]
}

/// Calls `operator(first_row, rows)` on runs of whole rows that make up `x`, `[rows, width]`.
pub(crate) fn in_tasks(
    compute: Compute<'_>,
    width: usize,
    x: &mut [f32],
    operator: impl Fn(usize, &mut [f32]) + Sync,
) {
    run_tasks(compute, width, x.len() / TASK_VALUES, x, operator);
}

/// As [`in_tasks`], of at most as many tasks as are `worthwhile`.
pub(crate) fn run_tasks<T: Send>(
    compute: Compute<'_>,
    width: usize,
    worthwhile: usize,
    x: &mut [T],
    operator: impl Fn(usize, &mut [T]) + Sync,
) {
    let rows = x.len() / width;
    // More tasks than threads, so that one that begins late does not hold up the others.
    let tasks = worthwhile.min(4 * compute.team.threads());
    if tasks < 2 || compute.team.threads() < 2 {
        return operator(0, x);
    }
    let run = rows.div_ceil(tasks);
    compute.team.run_chunks(x, run * width, &|index, rows, _| operator(index * run, rows));
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use wharf_kernels::{isa::Isa, team::Team};

    use super::*;

    /// As by one row after the other, with few rows and with enough for tasks.
    #[test]
    fn rows_are_gathered_and_added_where_they_belong() {
        for (threads, width, of) in [(1, 8, 10), (3, 8, 10), (3, 300, 1000)] {
            let team = Team::new(NonZeroUsize::new(threads).unwrap());
            let compute = Compute { isa: Isa::detect(), team: &team };
            let x: Vec<f32> = (0..of * width).map(|i| (i as f32 * 0.37).sin()).collect();
            for rows in [vec![], vec![of - 1], (0..of).collect(), (0..of).step_by(7).collect()] {
                let weight = |row: usize| 0.5 + row as f32 / 7.0;
                let rows = rows.into_iter().map(|row| WeightedRow { row, weight: weight(row) });
                let rows: Vec<_> = rows.collect();
                let mut own = vec![0.0; rows.len() * width];
                gather(compute, width, &x, &rows, &mut own);
                let mut out = vec![1.0; x.len()];
                scatter_add(compute, width, &own, &rows, &mut out);
                let mut want = vec![1.0; x.len()];
                for WeightedRow { row, weight } in rows {
                    let range = row * width..(row + 1) * width;
                    let want = &mut want[range.clone()];
                    activation::add_scaled(compute.isa, want, &x[range], weight);
                }
                assert_eq!(out, want);
            }
        }
    }
}
