//! One tensor of a file: how its weights are stored, its shape, and which bytes are its own.
//!
//! Both file formats are read into this, so nothing past them knows which one a model came from.

use std::ops::Range;

use wharf_kernels::quant::Format;

use crate::error::Malformed;

/// A tensor of a file; `bytes` has been checked to lie in the file and to fit the shape exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The file's name for it.
    pub name: String,
    /// How a row is stored.
    pub format: Format,
    /// Outermost dimension first: `[rows, cols]` of a matrix.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the beginning of the file.
    pub bytes: Range<usize>,
}

/// Bytes of a tensor of `shape` in `format`.
pub(crate) fn byte_len(name: &str, format: Format, shape: &[usize]) -> Result<usize, Malformed> {
    let (cols, outer) = match shape.split_last() {
        Some((cols, outer)) => (*cols, outer),
        None => (1, &[][..]),
    };
    let row = format.row_bytes(cols).ok_or_else(|| {
        Malformed::new(name, format!("a row of {cols} weights can't be stored as {format:?}"))
    })?;
    outer
        .iter()
        .try_fold(row, |bytes, &dim| bytes.checked_mul(dim))
        .ok_or_else(|| Malformed::new(name, format!("the shape {shape:?} is too large")))
}

/// Checks that no two tensors share a byte.
pub(crate) fn check_disjoint(tensors: &[TensorInfo]) -> Result<(), Malformed> {
    let mut by_start: Vec<&TensorInfo> =
        tensors.iter().filter(|tensor| !tensor.bytes.is_empty()).collect();
    by_start.sort_unstable_by_key(|tensor| tensor.bytes.start);
    for pair in by_start.windows(2) {
        if pair[1].bytes.start < pair[0].bytes.end {
            return Err(Malformed::new(
                &pair[1].name,
                format!("its bytes overlap those of {}", pair[0].name),
            ));
        }
    }
    Ok(())
}
