//! y = x · Wᵀ over packed weights.
//!
//! Weights are repacked once into panels of 16 output features, so that a vector lane is an output
//! feature (`panel.rs`, `pack.rs`). Each output is then one chain of fused multiply-adds over k from
//! 0 up, `acc = x[k] · w[k] + acc`, whatever the number of rows, the tile, the thread or the
//! instruction set: row independence, and equal bits everywhere, by construction. A quantised
//! weight is `code · scale + min`, one more fused multiply-add. Where x is rounded the chain is
//! another, again the same for every number of rows; in bfloat16 it is AMX's own.
//!
//! - `few_rows.rs`, up to 12 or 24 rows, and 128 of plain numbers on AVX2: unpacks in registers,
//!   streams the weights once. Bound by memory.
//! - `many_rows.rs`: unpacks panels to a tile in the L1 cache that many rows share. Bound by FMAs.
//! - `quantised_rows.rs`: where the matrix asks for it ([`Activations::Rounded`]), x is rounded to
//!   bytes and the products are of integers.
//! - `bfloat_rows.rs`: where the matrix asks for it and there is AMX, x is rounded to bfloat16.
//! - `reference.rs`: three loops, the tests' oracle.
//!
//! Must not: split k between chains or threads.

mod bfloat_rows;
mod few_rows;
mod many_rows;
mod pack;
mod pack_codes;
mod panel;
mod quantised_rows;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod tiles;
#[cfg(test)]
pub(crate) use tests::Bits;
pub(crate) use tiles::Tiles;

use std::sync::Mutex;

use crate::{
    isa::{Amx, Isa, LANES},
    quant::{Format, QuantizationError},
    team::{SharedSlice, Team},
};
pub use pack_codes::{CodeBits, CodedRow, CodedShape, ReadRows};
use panel::Weights;

/// In what numbers the rows of x meet the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// As they are; the weights are unpacked.
    #[default]
    F32,
    /// Rounded, and several times faster. Where weights are coded: to signed bytes with a scale for
    /// each 32, as llama.cpp does. Where they are bfloat16 and the CPU has AMX: to bfloat16, as vLLM
    /// does. Elsewhere nothing is rounded.
    Rounded,
}

/// Matrices that one `x` meets at once, at most.
const MOST_CALLS: usize = 8;

/// The algorithms, by what becomes of x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Floats,
    Bytes,
    Bfloats(Amx),
}

/// A weight matrix `[rows = output features, cols = input features]`, repacked once for the kernels.
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
    weights: Weights,
    activations: Activations,
    quantization_error: QuantizationError,
}

/// Why a matrix could not be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a {rows}x{cols} matrix in {format:?} needs {}, got {got} bytes",
    need.map_or("whole blocks and a size that fits".to_owned(), |n| format!("{n} bytes"))
)]
pub struct PackError {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// How the source is stored.
    pub format: Format,
    /// Bytes such a matrix has; `None` where `cols` is no whole number of blocks, or it overflows.
    pub need: Option<usize>,
    /// Bytes given.
    pub got: usize,
}

impl PackedMatrix {
    /// Packs `src`, `rows` rows of `cols` weights in `format`, one row after the other.
    /// `row_of` gives, for each packed row, the source row it is taken from (identity: `|r| r`).
    ///
    /// The memory taken is about the source's (the 5- and 6-bit formats grow to 8 bits), rounded up
    /// to 16 rows.
    ///
    /// # Errors
    /// When `src` does not have exactly the bytes of such a matrix.
    ///
    /// # Panics
    /// When `row_of` gives a row past the last.
    pub fn pack(
        team: &Team,
        format: Format,
        rows: usize,
        cols: usize,
        src: &[u8],
        row_of: &(dyn Fn(usize) -> usize + Sync),
    ) -> Result<Self, PackError> {
        Self::pack_into(format, team, format, rows, cols, src, row_of)
    }

    /// [`PackedMatrix::pack`] of the matrix quantised to `into`, which is of `cols` that are a whole
    /// number of its blocks, and one of those that [`Quantization::format`](crate::quant::Quantization::format) gives for `format`.
    ///
    /// # Errors
    /// As [`PackedMatrix::pack`].
    ///
    /// # Panics
    /// As [`PackedMatrix::pack`], and when weights cannot be quantised to `into`.
    pub fn pack_into(
        into: Format,
        team: &Team,
        format: Format,
        rows: usize,
        cols: usize,
        src: &[u8],
        row_of: &(dyn Fn(usize) -> usize + Sync),
    ) -> Result<Self, PackError> {
        assert!(into == format || into.row_bytes(cols).is_some(), "{cols} columns in {into:?}");
        let row_bytes = format.row_bytes(cols);
        let need = row_bytes.and_then(|bytes| bytes.checked_mul(rows));
        // With no columns the rows cost nothing in `src`, and still a vector each in `y`.
        match row_bytes {
            Some(row_bytes) if need == Some(src.len()) => {
                let origin = pack::Origin::Bytes { format, src, row_bytes, row_of };
                Ok(Self::pack_source(team, rows, cols, into, origin))
            }
            _ => Err(PackError { rows, cols, format, need, got: src.len() }),
        }
    }

    /// Packs rows that `read` writes, `[cols]` each: as they are (`into` F32), or quantised to Q8_0 or
    /// Q4_1, of which `cols` must be a whole number of blocks.
    ///
    /// # Panics
    /// For other formats, and where `cols` does not fit.
    pub fn pack_floats(
        into: Format,
        team: &Team,
        rows: usize,
        cols: usize,
        read: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Self {
        assert!(into.row_bytes(cols).is_some(), "{cols} columns in {into:?}");
        Self::pack_source(team, rows, cols, into, pack::Origin::Floats(read))
    }

    fn pack_source(
        team: &Team,
        rows: usize,
        cols: usize,
        into: Format,
        origin: pack::Origin<'_>,
    ) -> Self {
        let source = pack::Source { rows, cols, origin, into, error: Mutex::default() };
        Self {
            rows,
            cols,
            weights: source.pack(team),
            activations: Activations::F32,
            quantization_error: source.error.into_inner().unwrap_or_default(),
        }
    }

    /// The same matrix, which `activations` meet from now on.
    #[must_use]
    pub fn with_activations(self, activations: Activations) -> Self {
        Self { activations, ..self }
    }

    fn way(&self, isa: Isa) -> Way {
        match (&self.weights, self.activations) {
            (_, Activations::F32) => Way::Floats,
            (Weights::Int4(_) | Weights::Int8(_) | Weights::Fp4(_), Activations::Rounded) => {
                Way::Bytes
            }
            (Weights::Bf16(_), Activations::Rounded)
                if self.cols.is_multiple_of(bfloat_rows::STEP) =>
            {
                isa.amx().map_or(Way::Floats, Way::Bfloats)
            }
            (_, Activations::Rounded) => Way::Floats,
        }
    }

    /// What quantising on the way lost; of no weights where nothing was quantised.
    pub fn quantization_error(&self) -> QuantizationError {
        self.quantization_error
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Panels of 16 rows, the last one padded.
    fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }
}

/// `y[m, w.rows] = x[m, w.cols] · Wᵀ`.
///
/// # Panics
/// When the slices' lengths disagree with the shapes.
pub fn matmul(isa: Isa, team: &Team, x: &[f32], m: usize, w: &PackedMatrix, y: &mut [f32]) {
    matmul_all(isa, team, x, m, [(w, y)]);
}

/// [`matmul`] of one `x` and several matrices, `(w, y)` each. Of few rows it is one parallel region
/// instead of one per matrix: beside a small matrix, starting a region is not nothing.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_all<const N: usize>(
    isa: Isa,
    team: &Team,
    x: &[f32],
    m: usize,
    outputs: [(&PackedMatrix, &mut [f32]); N],
) {
    const { assert!(N <= MOST_CALLS) };
    let calls = outputs.map(|(w, y)| {
        assert_eq!(Some(x.len()), m.checked_mul(w.cols), "x is not [{m}, {}]", w.cols);
        assert_eq!(Some(y.len()), m.checked_mul(w.rows), "y is not [{m}, {}]", w.rows);
        if w.cols == 0 {
            y.fill(0.0);
        }
        Call { isa, team, x, m, w, y: SharedSlice::new(y) }
    });
    if x.is_empty() {
        return;
    }
    // Runs of calls of one kind; there is one as a rule.
    let kind = |call: &Call<'_>| (call.w.way(isa), few_rows::takes(call));
    for calls in calls.chunk_by(|a, b| kind(a) == kind(b)) {
        match kind(&calls[0]) {
            (Way::Bytes, _) => quantised_rows::run(calls),
            (Way::Bfloats(amx), _) => bfloat_rows::run(amx, calls),
            (Way::Floats, true) => {
                let cut = few_rows::Cut::of;
                run_all(
                    calls,
                    |call| cut(call).tasks(),
                    |call, task| call.run_few(cut(call), task),
                );
            }
            (Way::Floats, false) => calls.iter().for_each(Call::run_many),
        }
    }
}

/// All tasks of all of `calls` in one region. A thread's share is some of every matrix: the panels that it
/// packed.
fn run_all(
    calls: &[Call<'_>],
    tasks: impl Fn(&Call<'_>) -> usize,
    run: impl Fn(&Call<'_>, usize) + Sync,
) {
    let Some(Call { team, .. }) = calls.first() else { return };
    let mut parts = [0; MOST_CALLS];
    for (part, call) in parts.iter_mut().zip(calls) {
        *part = tasks(call);
    }
    team.run_parts(&parts[..calls.len()], &|call, task, _| run(&calls[call], task));
}

/// The operands of one call. `y` is written by tasks that each own some columns of some rows.
struct Call<'a> {
    isa: Isa,
    team: &'a Team,
    x: &'a [f32], // [m, cols]
    m: usize,
    w: &'a PackedMatrix,
    y: SharedSlice<'a, f32>, // [m, rows]
}

impl Call<'_> {
    fn run_few(&self, cut: few_rows::Cut, task: usize) {
        match &self.w.weights {
            Weights::F32(panels) => few_rows::run(self, panels, cut, task),
            Weights::F16(panels) => few_rows::run(self, panels, cut, task),
            Weights::Bf16(panels) => few_rows::run(self, panels, cut, task),
            Weights::Int4(panels) => few_rows::run(self, panels, cut, task),
            Weights::Int8(panels) => few_rows::run(self, panels, cut, task),
            Weights::Fp4(panels) => few_rows::run(self, panels, cut, task),
        }
    }

    fn run_many(&self) {
        if self.w.rows == 0 {
            return;
        }
        match &self.w.weights {
            Weights::F32(panels) => many_rows::run(self, panels),
            Weights::F16(panels) => many_rows::run(self, panels),
            Weights::Bf16(panels) => many_rows::run(self, panels),
            Weights::Int4(panels) => many_rows::run(self, panels),
            Weights::Int8(panels) => many_rows::run(self, panels),
            Weights::Fp4(panels) => many_rows::run(self, panels),
        }
    }

    /// The outputs of `row` that `panel` computes: 16, or fewer in the last panel.
    ///
    /// # Safety
    /// The caller's task alone has this row of this panel.
    #[allow(clippy::mut_from_ref)] // see `SharedSlice::range`
    unsafe fn output(&self, row: usize, panel: usize) -> &mut [f32] {
        let (start, end) = (panel * LANES, self.w.rows.min((panel + 1) * LANES));
        // SAFETY: by this function's contract.
        unsafe { self.y.range(row * self.w.rows + start..row * self.w.rows + end) }
    }
}

/// Puts a panel's outputs in y, which has fewer than 16 places for the last panel.
#[inline]
fn store(lanes: &[f32; LANES], y: &mut [f32]) {
    match y.as_mut_array() {
        Some(y) => *y = *lanes, // of known size: no call
        None => y.copy_from_slice(&lanes[..y.len()]),
    }
}
