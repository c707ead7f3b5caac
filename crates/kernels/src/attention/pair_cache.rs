//! Blocks of keys and values in bfloat16, as AMX's tiles take them: words of two numbers that meet in one
//! product. A block of one head is its keys, `[head_dim / 2][16 positions]`, a word for two dimensions;
//! then its values, `[16 / 2][head_dim]`, a word for two positions. The dimensions are padded to 32, with
//! zeros that are never written.

use super::cache::{BLOCK_TOKENS, NewRows};
use crate::{
    bfloat::{pairs, rounded},
    isa::{Kernel, LANES, Simd},
};

/// k of a step of the tiles: what dimensions are padded to.
pub(super) const STEP: usize = 32;

/// Lines of 16 words, of a block of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PairLayout {
    /// Lines of keys, one for two dimensions.
    pub(super) keys: usize,
    /// Lines of a pair of positions' values.
    pub(super) vectors: usize,
}

impl PairLayout {
    pub(super) fn of(head_dim: usize) -> Self {
        let steps = head_dim.div_ceil(STEP);
        Self { keys: steps * STEP / 2, vectors: steps * STEP / LANES }
    }

    /// Lines of keys and values.
    pub(super) fn block_len(self) -> usize {
        self.keys.saturating_add((BLOCK_TOKENS / 2).saturating_mul(self.vectors))
    }
}

/// Writes the rows' keys and values of one head.
pub(super) struct WritePairs<'a> {
    pub(super) rows: NewRows<'a>,
    pub(super) head: usize,
    pub(super) blocks: &'a mut [[u32; LANES]], // [num_blocks][block_len]
}

impl Kernel for WritePairs<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let NewRows { shape, seqs, k, v } = self.rows;
        let head_dim = shape.head_dim;
        let layout = PairLayout::of(head_dim);
        for seq in seqs {
            for row in 0..seq.num_rows {
                let at = ((seq.first_row + row) * shape.num_kv_heads + self.head) * head_dim;
                let (k, v) = (&k[at..][..head_dim], &v[at..][..head_dim]);
                let position = seq.start + row;
                let (index, slot) = (position / BLOCK_TOKENS, position % BLOCK_TOKENS);
                let index = seq.block_table[index] as usize;
                let block = &mut self.blocks[index * layout.block_len()..][..layout.block_len()];
                let (keys, values) = block.split_at_mut(layout.keys);
                for (keys, k) in keys.as_chunks_mut::<LANES>().0.iter_mut().zip(k.chunks(STEP)) {
                    let mut padded = [0.0; STEP];
                    padded[..k.len()].copy_from_slice(k);
                    let words = pairs(&padded);
                    for i in 0..LANES {
                        keys[i][slot] = words[i];
                    }
                }
                let values = &mut values[slot / 2 * layout.vectors..][..layout.vectors];
                let values = &mut values.as_flattened_mut()[..head_dim];
                // The other half is another position's.
                if slot.is_multiple_of(2) {
                    for d in 0..head_dim {
                        values[d] = values[d] & 0xffff_0000 | rounded(v[d]) >> 16;
                    }
                } else {
                    for d in 0..head_dim {
                        values[d] = values[d] & 0xffff | rounded(v[d]) & 0xffff_0000;
                    }
                }
            }
        }
    }
}

/// The blocks of one KV head of one layer.
#[derive(Clone, Copy)]
pub(super) struct PairBlocks<'a> {
    pub(super) lines: &'a [[u32; LANES]],
    pub(super) layout: PairLayout,
}

impl<'a> PairBlocks<'a> {
    /// `[head_dim / 2][16 positions]`.
    pub(super) fn keys(&self, block: u32) -> &'a [[u32; LANES]] {
        &self.lines[block as usize * self.layout.block_len()..][..self.layout.keys]
    }

    /// `[16 / 2][vectors]`.
    pub(super) fn values(&self, block: u32) -> &'a [[u32; LANES]] {
        let first = block as usize * self.layout.block_len() + self.layout.keys;
        &self.lines[first..][..BLOCK_TOKENS / 2 * self.layout.vectors]
    }
}
