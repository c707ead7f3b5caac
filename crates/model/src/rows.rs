//! Row-wise operators over the thread team: a chunk of prefill has hundreds of rows, and an operator
//! that ran on one thread would leave the others waiting. A step of few rows is not worth waking them.
//!
//! Rows are independent, so how they are dealt out does not change a bit of the result.

use std::sync::{Mutex, PoisonError};

use wharf_kernels::{activation, norm};

use crate::decoder::Compute;

/// Values a task should have at least: below, waking a thread costs more than it saves.
const TASK_VALUES: usize = 16 * 1024;

/// `out[r] = rms_norm(x[r]) * weight`, `[rows, weight.len()]`.
pub(crate) fn rms_norm(compute: Compute<'_>, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    in_tasks(compute, weight.len(), out, x, |x, out| {
        norm::rms_norm(compute.isa, x, weight, eps, out);
    });
}

/// `gate = silu(gate) * up`, `[rows, width]`.
pub(crate) fn silu_mul(compute: Compute<'_>, rows: usize, gate: &mut [f32], up: &[f32]) {
    let width = gate.len() / rows;
    in_tasks(compute, width, gate, up, |up, gate| activation::silu_mul(compute.isa, gate, up));
}

/// Calls `operator(x, out)` on equal runs of whole rows (`[rows, width]` both).
fn in_tasks(
    compute: Compute<'_>,
    width: usize,
    out: &mut [f32],
    x: &[f32],
    operator: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    let rows = out.len() / width;
    let tasks = (out.len() / TASK_VALUES).min(2 * compute.team.threads()).min(rows);
    if tasks < 2 || compute.team.threads() < 2 {
        return operator(x, out);
    }
    let run = rows.div_ceil(tasks) * width;
    // Each part is locked once, by the one task that has its index.
    let parts: Vec<_> = x.chunks(run).zip(out.chunks_mut(run)).map(Mutex::new).collect();
    compute.team.run(parts.len(), &|index, _| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let (x, out) = &mut *part;
        operator(x, out);
    });
}
