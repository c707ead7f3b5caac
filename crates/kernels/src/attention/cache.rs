//! The paged cache of keys and values.
//!
//! `[layer][kv_head][block]`, and a block of one head is its keys, `[head_dim][16 positions]`, then
//! its values, `[16 positions][head_dim]`, the dimensions padded to 16: what a vector holds is
//! contiguous in both passes of attention, without transposing either. Heads are outside of blocks
//! so that each thread writes a slice of its own. Where numbers are bytes, each position of a head has
//! a scale for its key and one for its value, beside the blocks: they are factors of the position's
//! score and of its weight, so that no product needs them.

use std::ops::Range;

use super::{
    SequenceRows,
    pair_cache::{PairBlocks, PairLayout, WritePairs},
};
use crate::{
    buffer::{Buffer, Plain},
    isa::{Isa, Kernel, LANES, Simd},
    team::{SharedSlice, Team},
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
    /// Signed bytes, times a scale for each position and head: a quarter of the memory. Rounded to
    /// half a step of 1/127 of the largest of the head's dimensions.
    Int8,
    /// bfloat16, which meets queries and weights in bfloat16 too, in AMX's tiles (`bfloat_tile.rs`):
    /// only where the CPU has them.
    Bf16,
}

impl KvFormat {
    /// Whether there are kernels for it on `isa`.
    pub fn is_available(self, isa: Isa) -> bool {
        self != Self::Bf16 || isa.amx().is_some()
    }
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

    /// Vectors of one head's keys and values in a block, of words of two numbers in [`KvFormat::Bf16`]. A `head_dim` past all sense gives
    /// `usize::MAX`, which `KvCache::new` then refuses, rather than a small wrapped number.
    fn block_len(&self) -> usize {
        if self.format == KvFormat::Bf16 {
            return PairLayout::of(self.head_dim).block_len();
        }
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
    store: Store,
}

/// `[layers][kv_heads][blocks][block_len]`, and scales `[layers][kv_heads][blocks]`.
enum Store {
    F32(Buffer<[f32; LANES]>),
    F16(Buffer<[u16; LANES]>),
    Int8(Buffer<[i8; LANES]>, Buffer<Scales>),
    Bf16(Buffer<[u32; LANES]>),
}

/// What a block's bytes are multiplied by: `[keys, values][16 positions]`.
pub(super) type Scales = [[f32; LANES]; 2];

impl KvCache {
    /// Bytes one block takes over all `layers`. `shape.num_blocks` does not matter.
    pub fn block_bytes(layers: usize, shape: KvShape) -> usize {
        let (number, scales) = match shape.format {
            KvFormat::F32 => (size_of::<f32>(), 0),
            KvFormat::F16 => (size_of::<u16>(), 0),
            KvFormat::Int8 => (size_of::<i8>(), size_of::<Scales>()),
            KvFormat::Bf16 => (size_of::<u32>(), 0),
        };
        let head = shape.block_len().saturating_mul(LANES * number).saturating_add(scales);
        layers.saturating_mul(shape.num_kv_heads).saturating_mul(head)
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
            KvFormat::Int8 => {
                let blocks = layers * shape.num_kv_heads * shape.num_blocks; // no more than `len`
                Store::Int8(Buffer::zeroed(len), Buffer::zeroed(blocks))
            }
            KvFormat::Bf16 => Store::Bf16(Buffer::zeroed(len)),
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
        let rows = NewRows { shape, seqs, k, v };
        match &mut self.store {
            Store::F32(store) => rows.write(isa, team, &mut store[part], &mut []),
            Store::F16(store) => rows.write(isa, team, &mut store[part], &mut []),
            Store::Int8(store, scales) => {
                let blocks = shape.num_kv_heads * shape.num_blocks;
                let scales = &mut scales[layer * blocks..(layer + 1) * blocks];
                rows.write(isa, team, &mut store[part], scales);
            }
            Store::Bf16(store) => rows.write_pairs(isa, team, &mut store[part]),
        }
    }

    /// The blocks of one KV head of a layer in [`KvFormat::Bf16`].
    pub(super) fn pair_blocks(&self, layer: usize, kv_head: usize) -> PairBlocks<'_> {
        let Store::Bf16(store) = &self.store else { unreachable!("chosen by the cache's format") };
        let head = layer_range(layer, self.shape).start + kv_head * self.shape.head_len();
        PairBlocks {
            lines: &store[head..][..self.shape.head_len()],
            layout: PairLayout::of(self.shape.head_dim),
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

/// Keys and values to be written, `[rows, num_kv_heads, head_dim]`.
#[derive(Clone, Copy)]
pub(super) struct NewRows<'a> {
    pub(super) shape: KvShape,
    pub(super) seqs: &'a [SequenceRows<'a>],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
}

impl NewRows<'_> {
    /// Writes them to a layer: its blocks, and their scales if numbers are scaled.
    fn write<E: Element>(
        self,
        isa: Isa,
        team: &Team,
        layer: &mut [[E; LANES]],
        scales: &mut [Scales],
    ) {
        if layer.is_empty() {
            return;
        }
        let (head_len, head_scales) =
            (self.shape.head_len(), scales.len() / self.shape.num_kv_heads);
        let layer = SharedSlice::new(layer);
        let scales = SharedSlice::new(scales);
        let write_head = |head: usize| {
            // SAFETY: each head is one task's, and heads do not overlap; so for the scales.
            let blocks = unsafe { layer.range(head * head_len..(head + 1) * head_len) };
            // SAFETY: as above.
            let scales = unsafe { scales.range(head * head_scales..(head + 1) * head_scales) };
            isa.dispatch(WriteHead { rows: self, head, blocks, scales });
        };
        self.each_head(team, &write_head);
    }

    /// [`NewRows::write`] of pairs.
    fn write_pairs(self, isa: Isa, team: &Team, layer: &mut [[u32; LANES]]) {
        if layer.is_empty() {
            return;
        }
        let head_len = self.shape.head_len();
        let layer = SharedSlice::new(layer);
        self.each_head(team, &|head| {
            // SAFETY: each head is one task's, and heads do not overlap.
            let blocks = unsafe { layer.range(head * head_len..(head + 1) * head_len) };
            isa.dispatch(WritePairs { rows: self, head, blocks });
        });
    }

    fn each_head(&self, team: &Team, write: &(dyn Fn(usize) + Sync)) {
        let rows: usize = self.seqs.iter().map(|seq| seq.num_rows).sum();
        if rows < ROWS_ALONE {
            (0..self.shape.num_kv_heads).for_each(write);
        } else {
            team.run(self.shape.num_kv_heads, &|head, _| write(head));
        }
    }
}

struct WriteHead<'a, E> {
    rows: NewRows<'a>,
    head: usize,
    blocks: &'a mut [[E; LANES]], // [num_blocks][block_len]
    scales: &'a mut [Scales],     // [num_blocks], if numbers are scaled
}

impl<E: Element> Kernel for WriteHead<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let NewRows { shape, seqs, k, v } = self.rows;
        let (head_dim, vectors) = (shape.head_dim, shape.vectors());
        for seq in seqs {
            for row in 0..seq.num_rows {
                let at = ((seq.first_row + row) * shape.num_kv_heads + self.head) * head_dim;
                let position = seq.start + row;
                let (index, slot) = (position / BLOCK_TOKENS, position % BLOCK_TOKENS);
                let index = seq.block_table[index] as usize;
                let (keys, values) = self.blocks[index * shape.block_len()..][..shape.block_len()]
                    .split_at_mut(head_dim);
                let values = &mut values[slot * vectors..][..vectors];
                let (k, v) = (&k[at..][..head_dim], &v[at..][..head_dim]);
                let mut per_unit = [1.0; 2];
                if E::SCALED {
                    for (i, numbers) in [k, v].into_iter().enumerate() {
                        let scale;
                        (per_unit[i], scale) = scale_of(s, numbers);
                        self.scales[index][i][slot] = scale;
                    }
                }
                let pairs = k.chunks(LANES).zip(v.chunks(LANES));
                for ((k, v), (keys, value)) in
                    pairs.zip(keys.chunks_mut(LANES).zip(values.iter_mut()))
                {
                    *value = narrow(s, v, per_unit[1]);
                    for (to, k) in keys.iter_mut().zip(narrow(s, k, per_unit[0])) {
                        to[slot] = k;
                    }
                }
            }
        }
    }
}

/// What `numbers` are multiplied by to become bytes, and what the bytes are, to become them again. NaN
/// where one of them is not finite.
#[inline(always)]
fn scale_of<S: Simd>(s: S, numbers: &[f32]) -> (f32, f32) {
    let zero = s.splat(0.0);
    let (mut largest, mut faults) = (zero, zero);
    for chunk in numbers.chunks(LANES) {
        let chunk = padded(s, chunk);
        largest = s.max(s.max(chunk, s.sub(zero, chunk)), largest);
        faults = s.mul_add(chunk, zero, faults);
    }
    let (largest, faults) = (s.max_lanes(largest), s.sum_lanes(faults));
    let per_unit = 127.0 / largest;
    match per_unit.is_infinite() {
        true => (0.0, faults), // zeros, and what is as good as none
        false => (per_unit, largest / 127.0 + faults),
    }
}

/// Up to 16 numbers, and zeros.
#[inline(always)]
fn padded<S: Simd>(s: S, from: &[f32]) -> S::V {
    let mut lanes = [0.0; LANES];
    lanes[..from.len()].copy_from_slice(from);
    s.load(&lanes)
}

/// Up to 16 numbers times `per_unit` as they are stored, padded with zeros.
#[inline(always)]
fn narrow<S: Simd, E: Element>(s: S, from: &[f32], per_unit: f32) -> [E; LANES] {
    let mut out = [E::ZERO; LANES];
    let numbers = padded(s, from);
    E::store(s, if E::SCALED { s.mul(numbers, s.splat(per_unit)) } else { numbers }, &mut out);
    out
}

/// How a number of the cache is stored: f32, the bits of an f16, or a signed byte.
pub(super) trait Element: Plain {
    const ZERO: Self;
    /// Whether positions have scales.
    const SCALED: bool = false;
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
            _ => unreachable!("chosen by the cache's format"),
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
            _ => unreachable!("chosen by the cache's format"),
        }
    }
}

impl Element for i8 {
    const ZERO: Self = 0;
    const SCALED: bool = true;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; LANES]) -> S::V {
        s.load_i8(from)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, to: &mut [Self; LANES]) {
        // Of numbers as large as 1.5 · 2²³ only the whole ones are there: adding it rounds.
        let magic = s.splat(12_582_912.0);
        let mut lanes = [0.0; LANES];
        s.store(s.sub(s.add(v, magic), magic), &mut lanes);
        for i in 0..LANES {
            to[i] = lanes[i] as i8;
        }
    }
    fn of(cache: &KvCache) -> &[[Self; LANES]] {
        match &cache.store {
            Store::Int8(store, _) => store,
            _ => unreachable!("chosen by the cache's format"),
        }
    }
}

/// The blocks of one KV head of one layer.
#[derive(Clone, Copy)]
pub(super) struct HeadBlocks<'a, E> {
    data: &'a [[E; LANES]],
    /// Of each block, if numbers are scaled.
    scales: &'a [Scales],
    head_dim: usize,
    vectors: usize,
}

impl<'a, E: Element> HeadBlocks<'a, E> {
    pub(super) fn of(cache: &'a KvCache, layer: usize, kv_head: usize) -> Self {
        let shape = cache.shape;
        let head = layer_range(layer, shape).start + kv_head * shape.head_len();
        let scales: &[Scales] = match &cache.store {
            Store::Int8(_, scales) => {
                &scales[(layer * shape.num_kv_heads + kv_head) * shape.num_blocks..]
                    [..shape.num_blocks]
            }
            Store::F32(_) | Store::F16(_) | Store::Bf16(_) => &[],
        };
        Self {
            data: &E::of(cache)[head..][..shape.head_len()],
            scales,
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

    /// What the scores and the weights of a block's positions are multiplied by, if `E::SCALED`.
    #[inline(always)]
    pub(super) fn scales(&self, block: u32) -> &'a Scales {
        &self.scales[block as usize]
    }

    /// `[16 positions][vectors]`, vectors of 16 dimensions.
    #[inline(always)]
    pub(super) fn values(&self, block: u32) -> &'a [[E; LANES]] {
        self.block(block).1
    }
}
