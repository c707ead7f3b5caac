//! Weights in F8_E4M3, times a scale for each block of rows and columns, for each row, or for all.

use wharf_kernels::quant::e4m3_to_f32;

use super::Stem;
use crate::{
    error::ModelError,
    weights::{Inventory, Lent, Raw},
};

/// Such a matrix.
#[derive(Clone)]
pub(crate) struct Fp8Matrix<'w> {
    /// `[rows, cols]`
    pub(crate) bytes: Raw<'w>,
    /// `[rows / block rows, cols / block columns]`, rounded up
    scales: Lent<'w>,
    block: [usize; 2],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl<'w> Fp8Matrix<'w> {
    pub(super) fn new(
        inventory: &mut Inventory<'w>,
        stem: &Stem,
        bytes: Raw<'w>,
        block: Option<[usize; 2]>,
    ) -> Result<Self, ModelError> {
        let [rows, cols] = stem.shape;
        let bytes = inventory.check_raw(bytes, bytes.info.dtype, &stem.shape)?;
        // "inv": of the division that made the bytes. It multiplies them all the same.
        let inverse = inventory.raw(stem.part, stem.layer, "weight_scale_inv");
        let scales = inverse.or_else(|| inventory.raw(stem.part, stem.layer, "weight_scale"));
        let Some(scales) = scales else {
            return Err(inventory.missing(stem.part, stem.layer, "weight_scale_inv"));
        };
        let scales = inventory.weights_of(scales)?;
        stem.pass_over(inventory, &["input_scale", "input_scale_ub", "activation_scale"]);
        let shape = &scales.info.shape[..];
        let block = match block {
            Some([r, c]) if *shape == [rows.div_ceil(r), cols.div_ceil(c)] => [r, c],
            Some([r, c]) => {
                let want = [rows.div_ceil(r), cols.div_ceil(c)];
                let reason =
                    format!("has shape {shape:?} where blocks of {r}x{c} make it {want:?}");
                return Err(inventory.fault(&scales.info.name, reason));
            }
            None if matches!(shape, [] | [1] | [1, 1]) => [rows.max(1), cols.max(1)],
            None if *shape == [rows] || *shape == [rows, 1] => [1, cols.max(1)],
            None => {
                let reason = format!("has shape {shape:?}: neither one scale nor one for each row");
                return Err(inventory.fault(&scales.info.name, reason));
            }
        };
        Ok(Self { bytes, scales, block, rows, cols })
    }

    pub(crate) fn name(&self) -> &str {
        &self.bytes.info.name
    }

    /// What writes row `row` as floats, `[cols]`: exact products, rounded to f32.
    pub(crate) fn reader(&self) -> impl Fn(usize, &mut [f32]) + Sync + use<'w> {
        let (bytes, cols) = (self.bytes.bytes, self.cols);
        let ([block_rows, block_cols], scales) = (self.block, self.scales.decode());
        let per_row = cols.div_ceil(block_cols);
        let table: [f32; 256] = std::array::from_fn(|byte| e4m3_to_f32(byte as u8));
        move |row, out| {
            let scales = &scales[row / block_rows * per_row..][..per_row];
            let bytes = bytes[row * cols..][..cols].chunks(block_cols);
            for ((out, bytes), scale) in out.chunks_mut(block_cols).zip(bytes).zip(scales) {
                for (out, &byte) in out.iter_mut().zip(bytes) {
                    *out = table[usize::from(byte)] * scale;
                }
            }
        }
    }
}
