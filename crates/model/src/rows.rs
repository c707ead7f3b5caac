//! Row-wise operators over the thread team: a chunk of prefill has hundreds of rows, and an operator
//! that ran on one thread would leave the others waiting. A step of few rows is not worth waking them.
//!
//! Rows are independent, so how they are dealt out does not change a bit of the result.

use wharf_kernels::{
    activation::{self, Activation},
    norm, rope, softmax,
};

use crate::decoder::Compute;

/// Values a task should have at least: below, waking a thread costs more than it saves.
const TASK_VALUES: usize = 16 * 1024;

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

/// What every head of a row is rotated by.
#[derive(Clone, Copy)]
pub(crate) struct Rotations<'a> {
    pub(crate) head_dim: usize,
    /// Width of a row of `cos` and `sin`.
    pub(crate) half_dim: usize,
    /// `[rows, half_dim]`
    pub(crate) cos: &'a [f32],
    /// `[rows, half_dim]`
    pub(crate) sin: &'a [f32],
}

/// Rotates every head of `x`, `[rows, width = heads * head_dim]`, by its row's position.
pub(crate) fn rotate(compute: Compute<'_>, width: usize, x: &mut [f32], by: Rotations<'_>) {
    in_tasks(compute, width, x, |first, x| {
        let cos = by.cos.chunks_exact(by.half_dim);
        let rotations = cos.zip(by.sin.chunks_exact(by.half_dim)).skip(first);
        for (row, (cos, sin)) in x.chunks_exact_mut(width).zip(rotations) {
            rope::rotate(row, by.head_dim, cos, sin);
        }
    });
}

/// The first `len` values of a buffer that grows when it must and never shrinks.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
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
    let rows = x.len() / width;
    // More tasks than threads, so that one that begins late does not hold up the others.
    let tasks = (x.len() / TASK_VALUES).min(4 * compute.team.threads());
    if tasks < 2 || compute.team.threads() < 2 {
        return operator(0, x);
    }
    let run = rows.div_ceil(tasks);
    compute.team.run_chunks(x, run * width, &|index, rows, _| operator(index * run, rows));
}
