//! y = x · Wᵀ over packed weights.
use crate::{isa::Isa, quant::Format, team::Team};

/// A weight matrix `[rows = output features, cols = input features]`, repacked once for the kernels.
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
}

/// Why a matrix could not be packed.
#[derive(Debug, thiserror::Error)]
#[error("a {rows}x{cols} matrix in {format:?} needs {need:?} bytes, got {got}")]
#[allow(missing_docs)]
pub struct PackError {
    pub rows: usize,
    pub cols: usize,
    pub format: Format,
    pub need: Option<usize>,
    pub got: usize,
}

impl PackedMatrix {
    /// Packs `src`, `rows` rows of `cols` weights in `format`, one row after the other.
    /// `row_of` gives, for each packed row, the source row it is taken from (identity: `|r| r`).
    pub fn pack(
        team: &Team,
        format: Format,
        rows: usize,
        cols: usize,
        src: &[u8],
        row_of: &(dyn Fn(usize) -> usize + Sync),
    ) -> Result<Self, PackError> {
        let _ = (team, format, src, row_of);
        Ok(Self { rows, cols })
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
        todo!()
    }
}

/// `y[m, w.rows] = x[m, w.cols] · Wᵀ`.
///
/// # Panics
/// When the slices' lengths disagree with the shapes.
pub fn matmul(isa: Isa, team: &Team, x: &[f32], m: usize, w: &PackedMatrix, y: &mut [f32]) {
    let _ = (isa, team, x, m, w, y);
    todo!()
}
