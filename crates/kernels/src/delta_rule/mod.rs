//! The gated delta rule (Gated DeltaNet: Yang, Kautz & Hatamizadeh 2024): linear attention whose
//! state, a matrix per head, forgets by a factor and takes in what it does not know yet.
//!
//! - `states.rs`: the memory of the states.
//! - `reference.rs`: the definition, in f64, the tests' oracle.
//!
//! Token after token, in prefill as in decode: `S ← decay · S`, `S ← S + k ⊗ (v - kᵀS) · beta`,
//! `out = qᵀS`. Of the paper's two forms only this one gives a token the same bits however its prompt
//! was cut. A lane holds one of a value's dimensions and sums over the key's in order; threads share
//! out heads, and blocks of columns stay in the nearest cache while the rows go by.
//!
//! Must not: compute several tokens at once (the chunked form), whose sums depend on the cut.

#[cfg(test)]
mod reference;
mod states;
#[cfg(test)]
mod tests;

use crate::{
    isa::{Isa, Kernel, LANES, Simd},
    team::{SharedSlice, Team},
};

pub use states::{RecurrentStates, SlotRows, StateShape};

/// Vectors of columns that go through the rows together: 64 columns of 128 keys are 32 KiB, and their
/// sums, independent of each other, hide the latency of an addition.
const COLUMNS: usize = 4;

/// Which key head a value head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadOrder {
    /// The value heads of a key head follow one another.
    Grouped,
    /// The first value head of each key head, then the second of each (as GGUF has them).
    Tiled,
}

/// Numbers that do not change from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaShape {
    /// Heads of queries and of keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of the former.
    pub value_heads: usize,
    /// Dimensions of a query and of a key.
    pub key_dim: usize,
    /// Dimensions of a value.
    pub value_dim: usize,
    /// Which key head a value head reads.
    pub order: HeadOrder,
}

impl DeltaShape {
    /// Values of a row of queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }

    fn key_head(&self, value_head: usize) -> usize {
        match self.order {
            HeadOrder::Grouped => value_head / (self.value_heads / self.key_heads),
            HeadOrder::Tiled => value_head % self.key_heads,
        }
    }
}

/// What the rows of a step bring.
#[derive(Debug, Clone, Copy)]
pub struct DeltaInputs<'a> {
    /// Queries, keys and values, `[rows, channels]`: `[key_heads, key_dim]` twice, then
    /// `[value_heads, value_dim]`.
    pub qkv: &'a [f32],
    /// What the states are multiplied by first, `[rows, value_heads]`.
    pub decay: &'a [f32],
    /// How much of what is new they take in, `[rows, value_heads]`.
    pub beta: &'a [f32],
}

/// Takes the sequences' rows into their states, one after the other. `out[row, head, :]`, `[rows,
/// value_heads, value_dim]`, is what the state then gives the row's query. Rows that no sequence has
/// are left as they are.
///
/// # Panics
/// When the shapes disagree; when the sequences' rows overlap or are not in ascending order, or two
/// have one slot; when there is no such slot or layer.
#[allow(clippy::too_many_arguments)] // each is an operand; a struct would only rename them
pub fn delta_rule(
    isa: Isa,
    team: &Team,
    shape: DeltaShape,
    states: &mut RecurrentStates,
    layer: usize,
    sequences: &[SlotRows],
    inputs: DeltaInputs<'_>,
    out: &mut [f32],
) {
    let DeltaShape { key_heads, value_heads, key_dim, value_dim, .. } = shape;
    let of = states.shape();
    assert_eq!((of.value_heads, of.key_dim, of.value_dim), (value_heads, key_dim, value_dim));
    assert!(key_heads > 0 && value_heads.is_multiple_of(key_heads));
    let rows = check_rows(sequences);
    assert!(rows * shape.channels() <= inputs.qkv.len(), "qkv is shorter than {rows} rows");
    assert!(rows * value_heads <= inputs.decay.len().min(inputs.beta.len()));
    assert!(rows * value_heads * value_dim <= out.len(), "out is shorter than {rows} rows");
    let out = SharedSlice::new(out);
    states.for_each_head(team, layer, sequences, &|sequence, head, state| {
        let vectors = of.vectors();
        let (rows, out) = (Rows { shape, head, inputs, sequence }, &out);
        for first in (0..vectors).step_by(COLUMNS) {
            match vectors - first {
                1 => isa.dispatch(Columns::<1> { rows, first, state, vectors, out }),
                2 => isa.dispatch(Columns::<2> { rows, first, state, vectors, out }),
                3 => isa.dispatch(Columns::<3> { rows, first, state, vectors, out }),
                _ => isa.dispatch(Columns::<COLUMNS> { rows, first, state, vectors, out }),
            }
        }
    });
}

/// The end of the last one's rows.
pub(crate) fn check_rows(sequences: &[SlotRows]) -> usize {
    sequences.iter().fold(0, |end, sequence| {
        assert!(sequence.first_row >= end, "sequences' rows overlap or are out of order");
        sequence.first_row + sequence.num_rows
    })
}

/// One head of one sequence's rows.
#[derive(Clone, Copy)]
struct Rows<'a> {
    shape: DeltaShape,
    head: usize,
    inputs: DeltaInputs<'a>,
    sequence: &'a SlotRows,
}

impl<'a> Rows<'a> {
    /// Query, key and value of a row.
    #[inline(always)]
    fn qkv(&self, row: usize) -> (&'a [f32], &'a [f32], &'a [f32]) {
        let DeltaShape { key_heads, key_dim, value_dim, .. } = self.shape;
        let channels = self.shape.channels();
        let qkv = &self.inputs.qkv[row * channels..][..channels];
        let key_head = self.shape.key_head(self.head);
        let (keys, start) = (key_heads * key_dim, key_head * key_dim);
        (
            &qkv[start..][..key_dim],
            &qkv[keys + start..][..key_dim],
            &qkv[2 * keys + self.head * value_dim..][..value_dim],
        )
    }
}

/// `N` vectors of columns of one head, through all rows.
struct Columns<'a, const N: usize> {
    rows: Rows<'a>,
    /// The first vector.
    first: usize,
    state: &'a mut [[f32; LANES]], // [key_dim, vectors]
    vectors: usize,
    /// As that of [`delta_rule`]. No one else has this head of these rows.
    out: &'a SharedSlice<'a, f32>,
}

impl<const N: usize> Kernel for Columns<'_, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { shape, head, inputs, sequence } = self.rows;
        for row in sequence.first_row..sequence.first_row + sequence.num_rows {
            let (q, k, v) = self.rows.qkv(row);
            let gate = row * shape.value_heads + head;
            let (decay, beta) = (s.splat(inputs.decay[gate]), s.splat(inputs.beta[gate]));
            // What the state, decayed, gives the key.
            let mut known = [s.splat(0.0); N];
            for (k, state) in k.iter().zip(self.state.chunks_exact(self.vectors)) {
                let k = s.splat(*k);
                for (known, state) in known.iter_mut().zip(&state[self.first..][..N]) {
                    *known = s.mul_add(s.mul(s.load(state), decay), k, *known);
                }
            }
            let from = self.first * LANES;
            let mut delta = known;
            for (n, delta) in delta.iter_mut().enumerate() {
                let v = &v[from + n * LANES..];
                let mut lanes = [0.0; LANES];
                let len = v.len().min(LANES);
                lanes[..len].copy_from_slice(&v[..len]);
                *delta = s.mul(s.sub(s.load(&lanes), *delta), beta);
            }
            let mut sums = [s.splat(0.0); N];
            for ((k, q), state) in k.iter().zip(q).zip(self.state.chunks_exact_mut(self.vectors)) {
                let (k, q) = (s.splat(*k), s.splat(*q));
                let columns = state[self.first..][..N].iter_mut();
                for ((state, delta), sum) in columns.zip(&delta).zip(&mut sums) {
                    let new = s.mul_add(k, *delta, s.mul(s.load(state), decay));
                    s.store(new, state);
                    *sum = s.mul_add(new, q, *sum);
                }
            }
            let start = gate * shape.value_dim;
            // SAFETY: this head of this row is in one task only: sequences' rows do not overlap, and
            // each (sequence, head) is one task, which does its columns one after the other.
            let out = unsafe { self.out.range(start..start + shape.value_dim) };
            let out = &mut out[from..];
            for (n, sum) in sums.into_iter().enumerate() {
                let mut lanes = [0.0; LANES];
                s.store(sum, &mut lanes);
                let out = &mut out[n * LANES..];
                let len = out.len().min(LANES);
                out[..len].copy_from_slice(&lanes[..len]);
            }
        }
    }
}
