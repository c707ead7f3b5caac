//! Experts as gpt-oss has them in Hugging Face files: all of a layer in one tensor, in MXFP4, or
//! transposed in plain numbers.
//!
//! Of a transposed matrix many rows are read at once, column by column: one row after the other would
//! fetch a cache line for each number, and so every line once for each of its numbers.

use std::ops::Range;

use wharf_kernels::{quant::Format, team::Team};

use crate::{
    error::ModelError,
    tensor::Dtype,
    weights::{Inventory, Lent, Part, Raw},
};

/// Weights of a block of MXFP4.
const BLOCK: usize = 32;

/// Rows of a transposed matrix that are read at once: their numbers in a column lie in one piece of two
/// lines, or of four where every second row is wanted.
const ROWS_AT_ONCE: usize = 64;
/// Columns of these rows that are put in order in the nearest cache before they are written.
const COLUMNS_AT_ONCE: usize = 32;

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

    /// `count` rows in [`Self::format`], the first of them row `row_of(0)`.
    pub(crate) fn rows(
        &self,
        team: &Team,
        count: usize,
        row_of: &(dyn Fn(usize) -> usize + Sync),
    ) -> Vec<u8> {
        let row_bytes = self.format().row_bytes(self.cols).unwrap_or(0);
        let mut out = vec![0; count * row_bytes];
        team.run_chunks(&mut out, ROWS_AT_ONCE * row_bytes.max(1), &|chunk, out, _| {
            let row_of = |row: usize| row_of(chunk * ROWS_AT_ONCE + row);
            match self.fused {
                Fused::Mxfp4 { blocks, scales } => {
                    for (row, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                        self.write_blocks(blocks.bytes, scales.bytes, row_of(row), out);
                    }
                }
                Fused::Transposed(lent) => match lent.format.block_bytes() {
                    2 => self.turn::<2>(lent.bytes, &row_of, out),
                    _ => self.turn::<4>(lent.bytes, &row_of, out),
                },
            }
        });
        out
    }

    /// A row of MXFP4.
    fn write_blocks(&self, blocks: &[u8], scales: &[u8], row: usize, out: &mut [u8]) {
        let per_row = self.cols / BLOCK;
        let first = (self.expert * self.rows + row) * per_row;
        let blocks = &blocks.as_chunks().0[first..first + per_row];
        let scales = &scales[first..first + per_row];
        let out = out.as_chunks_mut::<17>().0.iter_mut();
        for ((out, block), scale) in out.zip(blocks).zip(scales) {
            *out = ggml_block(*scale, block);
        }
    }

    /// Up to [`ROWS_AT_ONCE`] rows of a transposed matrix, whose numbers have `N` bytes.
    fn turn<const N: usize>(&self, from: &[u8], row_of: &dyn Fn(usize) -> usize, out: &mut [u8]) {
        let (rows, cols) = (self.rows, self.cols);
        let from = &from.as_chunks::<N>().0[self.expert * cols * rows..][..cols * rows];
        let out = out.as_chunks_mut::<N>().0;
        let count = out.len() / cols;
        let mut sources = [0; ROWS_AT_ONCE];
        for (row, source) in sources[..count].iter_mut().enumerate() {
            *source = row_of(row);
        }
        let mut block = [[[0; N]; COLUMNS_AT_ONCE]; ROWS_AT_ONCE];
        for first in (0..cols).step_by(COLUMNS_AT_ONCE) {
            let len = COLUMNS_AT_ONCE.min(cols - first);
            for column in 0..len {
                let from = &from[(first + column) * rows..][..rows];
                for (block, source) in block.iter_mut().zip(&sources[..count]) {
                    block[column] = from[*source];
                }
            }
            for (out, block) in out.chunks_exact_mut(cols).zip(&block) {
                out[first..first + len].copy_from_slice(&block[..len]);
            }
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
    use std::num::NonZeroUsize;

    use wharf_kernels::quant::dequantize;

    use super::*;
    use crate::tensor::TensorInfo;

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

    #[test]
    fn rows_of_a_transposed_matrix_are_its_columns() {
        let (experts, rows, cols) = (2, 2 * ROWS_AT_ONCE + 6, COLUMNS_AT_ONCE + 9);
        for format in [Format::Bf16, Format::F32] {
            let size = format.block_bytes();
            // Each number says where it is.
            let number =
                |expert, row, col| (((expert * cols + col) * rows + row) as u32).to_le_bytes();
            let all = (0..experts).flat_map(|expert| (0..cols).map(move |col| (expert, col)));
            let bytes: Vec<u8> = all
                .flat_map(|(expert, col)| {
                    (0..rows).flat_map(move |row| number(expert, row, col)[..size].to_vec())
                })
                .collect();
            let info = TensorInfo {
                name: "down_proj".to_owned(),
                dtype: format.into(),
                shape: vec![experts, cols, rows],
                bytes: 0..bytes.len(),
            };
            let lent = Lent {
                info: &info,
                format,
                file: 0,
                start: 0,
                bytes: &bytes,
                rows: experts * cols,
            };
            let matrix = ExpertMatrix { fused: Fused::Transposed(lent), expert: 1, rows, cols };
            let team = Team::new(NonZeroUsize::new(2).unwrap());
            let alternate = |row: usize| 2 * row + 1;
            for (count, row_of) in
                [(rows, &(|row| row) as &(dyn Fn(usize) -> usize + Sync)), (rows / 2, &alternate)]
            {
                let out = matrix.rows(&team, count, row_of);
                assert_eq!(out.len(), count * cols * size);
                for (i, out) in out.chunks(size).enumerate() {
                    assert_eq!(out, &number(1, row_of(i / cols), i % cols)[..size]);
                }
            }
        }
    }
}
