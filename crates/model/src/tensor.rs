//! One tensor of a file: how its weights are stored, its shape, and which bytes are its own.
//!
//! Both file formats are read into this, so nothing past them knows which one a model came from.

use std::{fmt, ops::Range};

use wharf_kernels::quant::Format;

use crate::error::Malformed;

/// What a tensor's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// Weights in a format that kernels know.
    Weights(Format),
    /// 8-bit floats with four bits of exponent, which mean something with their scales only.
    F8E4M3,
    /// Blocks of 4-bit floats, and exponents.
    U8,
    /// Codes of quantised weights.
    I8,
    /// Words of such codes, and numbers of groups.
    I32,
    /// Shapes.
    I64,
}

impl Dtype {
    /// Bytes of a row; `None` if it can't be stored so.
    fn row_bytes(self, cols: usize) -> Option<usize> {
        match self {
            Self::Weights(format) => format.row_bytes(cols),
            Self::F8E4M3 | Self::U8 | Self::I8 => Some(cols),
            Self::I32 => cols.checked_mul(4),
            Self::I64 => cols.checked_mul(8),
        }
    }
}

impl From<Format> for Dtype {
    fn from(format: Format) -> Self {
        Self::Weights(format)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weights(format) => write!(f, "{format:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// A tensor of a file; `bytes` has been checked to lie in the file and to fit the shape exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The file's name for it.
    pub name: String,
    /// How a row is stored.
    pub dtype: Dtype,
    /// Outermost dimension first: `[rows, cols]` of a matrix.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the beginning of the file.
    pub bytes: Range<usize>,
}

/// Bytes of a tensor of `shape`.
pub(crate) fn byte_len(name: &str, dtype: Dtype, shape: &[usize]) -> Result<usize, Malformed> {
    let (cols, outer) = match shape.split_last() {
        Some((cols, outer)) => (*cols, outer),
        None => (1, &[][..]),
    };
    let row = dtype.row_bytes(cols).ok_or_else(|| {
        Malformed::new(name, format!("a row of {cols} weights can't be stored as {dtype}"))
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
