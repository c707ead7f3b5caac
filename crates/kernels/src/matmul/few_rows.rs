//! Few rows (decoding): the weights stream through registers, shared by all rows of a pass. More
//! rows than a pass takes go over the same panels again, which are in the cache by then.

#![expect(
    clippy::needless_range_loop,
    reason = "several arrays go by one index; iterators' closures may miss the instruction set"
)]

use super::{
    Call, Weights,
    panel::{Panel, Panels},
    store,
};
use crate::isa::{Isa, Kernel, LANES, Level, Simd};

/// The most rows of a pass.
fn pass_rows(isa: Isa) -> usize {
    match isa.registers() {
        8 => 4, // half of them for accumulators, the rest to unpack
        _ => 8, // 8 rows × 2 panels of accumulators, of 32
    }
}

/// Passes over a panel up to which unpacking it each time is cheaper than by way of a tile. Numbers
/// are unpacked at next to no cost, and a tile of them does nothing but leave L1 again where that is
/// small: up to 128 rows this way took half to nine tenths of the time (Zen 3, November 2026).
fn most_passes(isa: Isa, weights: &Weights) -> usize {
    match (isa.level(), weights) {
        (Level::Avx2, Weights::F32(_) | Weights::F16(_) | Weights::Bf16(_)) => 32,
        _ => 3,
    }
}

/// Whether this is the way to multiply `call`'s rows.
pub(super) fn takes(call: &Call<'_>) -> bool {
    call.m <= pass_rows(call.isa) * most_passes(call.isa, &call.w.weights)
}

/// Panels done at once: each is an independent chain of multiply-adds, to hide their latency.
fn at_once(isa: Isa, rows: usize) -> usize {
    match (isa.registers(), rows) {
        (8, 1) => 2,
        (8, _) => 1,
        (_, ..=3) => 4,
        _ => 2,
    }
}

/// Tasks per thread: enough that a thread that is late can be helped out.
const TASKS_PER_THREAD: usize = 8;

/// How a call is cut into tasks.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    passes: usize,
    at_once: usize,
    /// Sets of `at_once` panels.
    sets: usize,
    per_task: usize,
}

impl Cut {
    pub(super) fn of(call: &Call<'_>) -> Self {
        let passes = call.m.div_ceil(pass_rows(call.isa));
        let at_once = at_once(call.isa, call.m.div_ceil(passes));
        let sets = call.w.panels().div_ceil(at_once);
        let per_task = (sets / (call.team.threads() * TASKS_PER_THREAD)).max(1);
        Self { passes, at_once, sets, per_task }
    }

    pub(super) fn tasks(&self) -> usize {
        self.sets.div_ceil(self.per_task)
    }
}

/// Runs one of the cut's tasks.
pub(super) fn run<P: Panels>(call: &Call<'_>, panels: &P, cut: Cut, task: usize) {
    for set in task * cut.per_task..cut.sets.min((task + 1) * cut.per_task) {
        for pass in 0..cut.passes {
            let (first, end) = (pass * call.m / cut.passes, (pass + 1) * call.m / cut.passes);
            run_pass(call, panels, first, end - first, cut.at_once, set);
        }
    }
}

/// `rows` rows from `first` times the panels of `set`. The arms are the pairs that `pass_rows` and
/// `at_once` give, and those with a row less, as passes are not all alike.
fn run_pass<P: Panels>(
    call: &Call<'_>,
    panels: &P,
    first: usize,
    rows: usize,
    at_once: usize,
    set: usize,
) {
    match (rows, at_once) {
        (1, 4) => block::<P, 1, 4>(call, panels, first, set),
        (2, 4) => block::<P, 2, 4>(call, panels, first, set),
        (3, 4) => block::<P, 3, 4>(call, panels, first, set),
        (1, 2) => block::<P, 1, 2>(call, panels, first, set),
        (4, 2) => block::<P, 4, 2>(call, panels, first, set),
        (5, 2) => block::<P, 5, 2>(call, panels, first, set),
        (6, 2) => block::<P, 6, 2>(call, panels, first, set),
        (7, 2) => block::<P, 7, 2>(call, panels, first, set),
        (8, 2) => block::<P, 8, 2>(call, panels, first, set),
        (1, 1) => block::<P, 1, 1>(call, panels, first, set),
        (2, 1) => block::<P, 2, 1>(call, panels, first, set),
        (3, 1) => block::<P, 3, 1>(call, panels, first, set),
        (4, 1) => block::<P, 4, 1>(call, panels, first, set),
        (rows, _) => unreachable!("a pass of {rows} rows by {at_once} panels"),
    }
}

/// `M` rows times the `N` panels of `set`.
fn block<P: Panels, const M: usize, const N: usize>(
    call: &Call<'_>,
    panels: &P,
    first_row: usize,
    set: usize,
) {
    let cols = call.w.cols;
    let first = set * N;
    let last = call.w.panels() - 1;
    // Past the last panel the last one is computed again, and not stored.
    let product = Product {
        x: std::array::from_fn::<_, M, _>(|row| &call.x[(first_row + row) * cols..][..cols]),
        panels: std::array::from_fn::<_, N, _>(|i| panels.panel(last.min(first + i))),
    };
    let out = call.isa.dispatch(product);
    for (row, out) in out.iter().enumerate() {
        for (i, lanes) in out.iter().enumerate().take(last + 1 - first) {
            // SAFETY: a set of panels is one task's, and no two sets share a panel.
            let y = unsafe { call.output(first_row + row, first + i) };
            store(lanes, y);
        }
    }
}

struct Product<'a, P: Panel, const M: usize, const N: usize> {
    x: [&'a [f32]; M], // [cols] each
    panels: [P; N],
}

impl<P: Panel, const M: usize, const N: usize> Kernel for Product<'_, P, M, N> {
    type Output = [[[f32; LANES]; N]; M];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        if M * N >= S::REGISTERS {
            unreachable!("`pass_rows` and `at_once` do not ask for {M} by {N} here");
        }
        let mut acc = [[s.splat(0.0); N]; M];
        let group = self.panels[0].group_len();
        let steps = group / P::STEP;
        for g in 0..self.x[0].len() / group {
            let mut params = [self.panels[0].params(s, g); N];
            for n in 1..N {
                params[n] = self.panels[n].params(s, g);
            }
            let mut x = self.x;
            for x in &mut x {
                *x = &x[g * group..(g + 1) * group];
            }
            for i in 0..steps {
                let mut raw = [self.panels[0].raw(s, g * steps + i); N];
                for n in 1..N {
                    raw[n] = self.panels[n].raw(s, g * steps + i);
                }
                // A single row does so little between its loads that the CPU sees them coming.
                if M > 1 {
                    for n in 0..N {
                        self.panels[n].prefetch(s, g * steps + i);
                    }
                }
                for j in 0..P::STEP {
                    let mut w = [s.splat(0.0); N];
                    for n in 0..N {
                        w[n] = P::next(s, &params[n], &mut raw[n]);
                    }
                    for m in 0..M {
                        let x = s.splat(x[m][i * P::STEP + j]);
                        for n in 0..N {
                            acc[m][n] = s.mul_add(x, w[n], acc[m][n]);
                        }
                    }
                }
            }
        }
        let mut out = [[[0.0; LANES]; N]; M];
        for m in 0..M {
            for n in 0..N {
                s.store(acc[m][n], &mut out[m][n]);
            }
        }
        out
    }
}
