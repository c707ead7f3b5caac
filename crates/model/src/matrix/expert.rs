//! Experts as gpt-oss has them in Hugging Face files: all of a layer in one tensor, in MXFP4, or
//! transposed in plain numbers.

use std::ops::Range;

use wharf_kernels::quant::{Format, dequantize};

use crate::{
    error::ModelError,
    tensor::Dtype,
    weights::{Inventory, Lent, Part, Raw},
};

/// Weights of a block of MXFP4.
const BLOCK: usize = 32;

/// The experts' matrices `[experts, rows, cols]` of one kind.
#[derive(Clone, Copy)]
pub(crate) enum Fused<'w> {
    /// `blocks`: `[experts, rows, cols / 32, 16]`, `scales`: `[experts, rows, cols / 32]`
    Mxfp4 { blocks: Raw<'w>, scales: Raw<'w> },
    /// `[experts, cols, rows]`
    Transposed(Lent<'w>),
}

/// One expert's.
#[derive(Clone, Copy)]
pub(crate) struct ExpertMatrix<'w> {
    pub(crate) fused: Fused<'w>,
    pub(crate) expert: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl<'w> Fused<'w> {
    /// `name`: "gate_up_proj" or "down_proj".
    pub(crate) fn find(
        inventory: &mut Inventory<'w>,
        layer: usize,
        name: &str,
        [experts, rows, cols]: [usize; 3],
    ) -> Result<Self, ModelError> {
        let part = Part::FusedExperts;
        if let Some(raw) = inventory.raw(part, layer, name) {
            let raw = inventory.check_raw(raw, raw.info.dtype, &[experts, cols, rows])?;
            let lent = inventory.weights_of(raw)?;
            if lent.format.block_len() != 1 {
                return Err(inventory.fault(&raw.info.name, "must be of plain numbers"));
            }
            return Ok(Self::Transposed(lent));
        }
        let blocks = cols / BLOCK;
        let mut find = |kind: &str, shape: &[usize]| {
            let kind = format!("{name}_{kind}");
            match inventory.raw(part, layer, &kind) {
                Some(raw) => inventory.check_raw(raw, Dtype::U8, shape),
                None => Err(inventory.missing(part, layer, &kind)),
            }
        };
        let whole = find("blocks", &[experts, rows, blocks, BLOCK / 2])?;
        let scales = find("scales", &[experts, rows, blocks])?;
        if !cols.is_multiple_of(BLOCK) {
            let reason = format!("{cols} columns are no whole number of blocks of {BLOCK}");
            return Err(inventory.fault(&whole.info.name, reason));
        }
        Ok(Self::Mxfp4 { blocks: whole, scales })
    }
}

impl<'w> ExpertMatrix<'w> {
    pub(crate) fn name(&self) -> &str {
        match self.fused {
            Fused::Mxfp4 { blocks, .. } => &blocks.info.name,
            Fused::Transposed(lent) => &lent.info.name,
        }
    }

    /// How rows are stored.
    pub(crate) fn format(&self) -> Format {
        match self.fused {
            Fused::Mxfp4 { .. } => Format::Mxfp4,
            Fused::Transposed(lent) => lent.format,
        }
    }

    /// The file, and where in it the expert's bytes lie (but for the scales of MXFP4).
    pub(crate) fn expert_bytes(&self) -> (usize, Range<usize>) {
        let (file, start, size) = match self.fused {
            Fused::Mxfp4 { blocks, .. } => {
                (blocks.file, blocks.info.bytes.start, self.rows * self.cols / 2)
            }
            Fused::Transposed(lent) => {
                let size = self.rows * self.cols * lent.format.block_bytes();
                (lent.file, lent.start, size)
            }
        };
        (file, start + self.expert * size..start + (self.expert + 1) * size)
    }

    /// What writes row `row` in [`Self::format`].
    pub(crate) fn reader(&self) -> impl Fn(usize, &mut [u8]) + Sync + use<'w> {
        let Self { fused, expert, rows, cols } = *self;
        move |row, out| match fused {
            Fused::Mxfp4 { blocks, scales } => {
                let per_row = cols / BLOCK;
                let first = (expert * rows + row) * per_row;
                let blocks = &blocks.bytes.as_chunks().0[first..first + per_row];
                let scales = &scales.bytes[first..first + per_row];
                let out = out.as_chunks_mut::<17>().0.iter_mut();
                for ((out, block), scale) in out.zip(blocks).zip(scales) {
                    *out = ggml_block(*scale, block);
                }
            }
            Fused::Transposed(lent) => {
                let size = lent.format.block_bytes();
                for (column, out) in out.chunks_exact_mut(size).enumerate() {
                    let at = ((expert * cols + column) * rows + row) * size;
                    out.copy_from_slice(&lent.bytes[at..at + size]);
                }
            }
        }
    }

    /// What writes row `row` as floats.
    pub(crate) fn floats(&self) -> impl Fn(usize, &mut [f32]) + Sync + use<'w> {
        let (read, format) = (self.reader(), self.format());
        let row_bytes = format.row_bytes(self.cols).unwrap_or(0);
        move |row, out| {
            let mut bytes = vec![0; row_bytes];
            read(row, &mut bytes);
            dequantize(format, &bytes, out);
        }
    }
}

/// A block whose bytes hold neighbours, the first in the lower half, as one whose bytes hold weights 16
/// apart.
fn ggml_block(scale: u8, block: &[u8; BLOCK / 2]) -> [u8; 1 + BLOCK / 2] {
    let nibble = |i: usize| block[i / 2] >> (4 * (i % 2)) & 15;
    let mut out = [scale; 1 + BLOCK / 2];
    for (i, out) in out[1..].iter_mut().enumerate() {
        *out = nibble(i) | nibble(i + BLOCK / 2) << 4;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_of_neighbours_are_laid_apart() {
        let mut block = [0; 16];
        for (i, byte) in block.iter_mut().enumerate() {
            *byte = (2 * i % 16 + 16 * ((2 * i + 1) % 16)) as u8;
        }
        let mut weights = [0.0; 32];
        dequantize(Format::Mxfp4, &ggml_block(128, &block), &mut weights);
        let all = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];
        for (i, weight) in weights.into_iter().enumerate() {
            let magnitude = all[i % 8];
            assert_eq!(weight, if i % 16 < 8 { magnitude } else { -magnitude }, "{i}");
        }
    }
}
