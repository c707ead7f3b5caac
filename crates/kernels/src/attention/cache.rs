//! The paged cache of keys and values.
//!
//! `[layer][kv_head][block]`, and a block of one head is its keys, `[head_dim][16 positions]`, then
//! its values, `[16 positions][head_dim]`, the dimensions padded to 16: what a vector holds is
//! contiguous in both passes of attention, without transposing either. Heads are outside of blocks
//! so that each thread writes a slice of its own.

use std::ops::Range;

use super::SequenceRows;
use crate::{
    buffer::{Buffer, Plain},
    isa::{Isa, Kernel, LANES, Simd},
    team::Team,
};

/// Tokens per KV block.
pub const BLOCK_TOKENS: usize = 16;
const _: () = assert!(BLOCK_TOKENS == LANES, "a vector of keys is a block's positions");

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvFormat {
    /// As computed.
    F32,
    /// IEEE half precision: half the memory; values past 65504 become infinite.
    F16,
}

/// Shape of one layer's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Blocks of [`BLOCK_TOKENS`] tokens.
    pub num_blocks: usize,
    /// Heads of keys and values.
    pub num_kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// How each number is stored.
    pub format: KvFormat,
}

impl KvShape {
    /// Vectors of 16 dimensions, the last one padded.
    fn vectors(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    /// Vectors of one head's keys and values in a block. A `head_dim` past all sense gives
    /// `usize::MAX`, which `KvCache::new` then refuses, rather than a small wrapped number.
    fn block_len(&self) -> usize {
        self.head_dim.saturating_add(BLOCK_TOKENS.saturating_mul(self.vectors()))
    }

    /// Vectors of one head in a layer.
    fn head_len(&self) -> usize {
        self.num_blocks * self.block_len()
    }
}

/// The keys and values of all layers: for each layer, `num_blocks` blocks of [`BLOCK_TOKENS`] tokens.
/// Memory is reserved, and touched only as blocks are first written.
pub struct KvCache {
    shape: KvShape,
    layers: usize,
    store: Store, // [layers][kv_heads][blocks][block_len]
}

enum Store {
    F32(Buffer<[f32; LANES]>),
    F16(Buffer<[u16; LANES]>),
}

impl KvCache {
    /// Bytes one block takes over all `layers`. `shape.num_blocks` does not matter.
    pub fn block_bytes(layers: usize, shape: KvShape) -> usize {
        let number = match shape.format {
            KvFormat::F32 => size_of::<f32>(),
            KvFormat::F16 => size_of::<u16>(),
        };
        let vectors = layers.saturating_mul(shape.num_kv_heads).saturating_mul(shape.block_len());
        vectors.saturating_mul(LANES * number)
    }

    /// A cache of `layers` layers.
    ///
    /// # Panics
    /// When its size overflows `usize`; when the system refuses the memory, the process ends: size
    /// it by [`KvCache::block_bytes`] first.
    #[allow(clippy::expect_used)] // documented above, and the sizes come from our own planning
    pub fn new(layers: usize, shape: KvShape) -> Self {
        let len = [shape.num_kv_heads, shape.num_blocks, shape.block_len()]
            .into_iter()
            .try_fold(layers, usize::checked_mul)
            .expect("KV cache size overflows usize");
        let store = match shape.format {
            KvFormat::F32 => Store::F32(Buffer::zeroed(len)),
            KvFormat::F16 => Store::F16(Buffer::zeroed(len)),
        };
        Self { shape, layers, store }
    }

    /// Its shape.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    pub(super) fn format(&self) -> KvFormat {
        self.shape.format
    }

    /// Stores `k` and `v` (`[rows, num_kv_heads, head_dim]`) of one layer at the sequences'
    /// positions.
    ///
    /// # Panics
    /// When the shapes disagree, there is no such layer, or a block table is too short or names a
    /// block that is not there.
    pub fn write(
        &mut self,
        isa: Isa,
        team: &Team,
        layer: usize,
        seqs: &[SequenceRows<'_>],
        k: &[f32],
        v: &[f32],
    ) {
        assert!(layer < self.layers, "layer {layer} of {}", self.layers);
        assert_eq!(k.len(), v.len());
        let shape = self.shape;
        let row_len = shape.num_kv_heads * shape.head_dim;
        for seq in seqs {
            self.check_blocks(seq);
            assert!((seq.first_row + seq.num_rows) * row_len <= k.len(), "k and v are too short");
        }
        let part = layer_range(layer, shape);
        match &mut self.store {
            Store::F32(store) => write(isa, team, shape, seqs, k, v, &mut store[part]),
            Store::F16(store) => write(isa, team, shape, seqs, k, v, &mut store[part]),
        }
    }

    /// # Panics
    /// When `seq`'s table does not cover its positions with blocks of this cache.
    pub(super) fn check_blocks(&self, seq: &SequenceRows<'_>) {
        let needed = (seq.start + seq.num_rows).div_ceil(BLOCK_TOKENS);
        assert!(needed <= seq.block_table.len(), "block table shorter than {needed} blocks");
        let exists = |&block: &u32| (block as usize) < self.shape.num_blocks;
        assert!(seq.block_table[..needed].iter().all(exists), "block table names no block");
    }
}

fn layer_range(layer: usize, shape: KvShape) -> Range<usize> {
    let len = shape.num_kv_heads * shape.head_len();
    layer * len..(layer + 1) * len
}

/// Rows under which the caller alone is quicker than waking the team.
const ROWS_ALONE: usize = 16;

fn write<E: Element>(
    isa: Isa,
    team: &Team,
    shape: KvShape,
    seqs: &[SequenceRows<'_>],
    k: &[f32],
    v: &[f32],
    layer: &mut [[E; LANES]],
) {
    if layer.is_empty() {
        return;
    }
    let write_head = |head: usize, blocks: &mut [[E; LANES]], _: usize| {
        isa.dispatch(WriteHead { shape, seqs, head, k, v, blocks });
    };
    let rows: usize = seqs.iter().map(|seq| seq.num_rows).sum();
    if rows < ROWS_ALONE {
        let heads = layer.chunks_mut(shape.head_len()).enumerate();
        heads.for_each(|(head, blocks)| write_head(head, blocks, 0));
    } else {
        team.run_chunks(layer, shape.head_len(), &write_head);
    }
}

struct WriteHead<'a, E> {
    shape: KvShape,
    seqs: &'a [SequenceRows<'a>],
    head: usize,
    k: &'a [f32],
    v: &'a [f32],
    blocks: &'a mut [[E; LANES]],
}

impl<E: Element> Kernel for WriteHead<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (head_dim, vectors) = (self.shape.head_dim, self.shape.vectors());
        for seq in self.seqs {
            for row in 0..seq.num_rows {
                let at = ((seq.first_row + row) * self.shape.num_kv_heads + self.head) * head_dim;
                let position = seq.start + row;
                let (block, slot) = (position / BLOCK_TOKENS, position % BLOCK_TOKENS);
                let block = seq.block_table[block] as usize * self.shape.block_len();
                let (keys, values) =
                    self.blocks[block..][..self.shape.block_len()].split_at_mut(head_dim);
                let values = &mut values[slot * vectors..][..vectors];
                let pairs = self.k[at..][..head_dim]
                    .chunks(LANES)
                    .zip(self.v[at..][..head_dim].chunks(LANES));
                for ((k, v), (keys, value)) in
                    pairs.zip(keys.chunks_mut(LANES).zip(values.iter_mut()))
                {
                    *value = narrow(s, v);
                    for (to, k) in keys.iter_mut().zip(narrow(s, k)) {
                        to[slot] = k;
                    }
                }
            }
        }
    }
}

/// Up to 16 numbers as they are stored, padded with zeros.
#[inline(always)]
fn narrow<S: Simd, E: Element>(s: S, from: &[f32]) -> [E; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..from.len()].copy_from_slice(from);
    let mut out = [E::ZERO; LANES];
    E::store(s, s.load(&lanes), &mut out);
    out
}

/// How a number of the cache is stored: f32, or the bits of an f16.
pub(super) trait Element: Plain {
    const ZERO: Self;
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V;
    fn store<S: Simd>(s: S, v: S::V, to: &mut [Self; LANES]);
    /// All of the cache's numbers.
    fn of(cache: &KvCache) -> &[[Self; LANES]];
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load(from)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [Self; LANES]) {
        s.store(v, to);
    }
    fn of(cache: &KvCache) -> &[[Self; LANES]] {
        match &cache.store {
            Store::F32(store) => store,
            Store::F16(_) => unreachable!("chosen by the cache's format"),
        }
    }
}

impl Element for u16 {
    const ZERO: Self = 0;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_f16(from)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [Self; LANES]) {
        s.store_f16(v, to);
    }
    fn of(cache: &KvCache) -> &[[Self; LANES]] {
        match &cache.store {
            Store::F16(store) => store,
            Store::F32(_) => unreachable!("chosen by the cache's format"),
        }
    }
}

/// The blocks of one KV head of one layer.
#[derive(Clone, Copy)]
pub(super) struct HeadBlocks<'a, E> {
    data: &'a [[E; LANES]],
    head_dim: usize,
    vectors: usize,
}

impl<'a, E: Element> HeadBlocks<'a, E> {
    pub(super) fn of(cache: &'a KvCache, layer: usize, kv_head: usize) -> Self {
        let shape = cache.shape;
        let head = layer_range(layer, shape).start + kv_head * shape.head_len();
        Self {
            data: &E::of(cache)[head..][..shape.head_len()],
            head_dim: shape.head_dim,
            vectors: shape.vectors(),
        }
    }

    /// Vectors per value row.
    #[inline(always)]
    pub(super) fn vectors(&self) -> usize {
        self.vectors
    }

    #[inline(always)]
    fn block(&self, block: u32) -> (&'a [[E; LANES]], &'a [[E; LANES]]) {
        let len = self.head_dim + BLOCK_TOKENS * self.vectors;
        self.data[block as usize * len..][..len].split_at(self.head_dim)
    }

    /// `[head_dim][16 positions]`.
    #[inline(always)]
    pub(super) fn keys(&self, block: u32) -> &'a [[E; LANES]] {
        self.block(block).0
    }

    /// `[16 positions][vectors]`, vectors of 16 dimensions.
    #[inline(always)]
    pub(super) fn values(&self, block: u32) -> &'a [[E; LANES]] {
        self.block(block).1
    }
}
