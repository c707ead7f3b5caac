//! Causal attention over a paged KV cache (vLLM's PagedAttention, Kwon et al. 2023).
use crate::{isa::Isa, team::Team};

/// Tokens per KV block.
pub const BLOCK_TOKENS: usize = 16;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KvFormat {
    F32,
    F16,
}

/// Shape of one layer's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct KvShape {
    pub num_blocks: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub format: KvFormat,
}

/// The keys and values of all layers: for each layer, `num_blocks` blocks of [`BLOCK_TOKENS`] tokens.
/// Memory is reserved, and touched only as blocks are first written.
pub struct KvCache {
    shape: KvShape,
}

/// One sequence's rows in a step. Rows `first_row .. first_row + num_rows` of the step are its tokens
/// at positions `start .. start + num_rows`; `block_table[p / 16]` holds position `p`.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct SequenceRows<'a> {
    pub first_row: usize,
    pub num_rows: usize,
    pub start: usize,
    pub block_table: &'a [u32],
}

/// Numbers that do not change from step to step.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct AttentionShape {
    pub num_heads: usize,
    pub scale: f32,
    /// A token sees itself and the `window - 1` before it.
    pub window: Option<usize>,
}

impl KvCache {
    /// Bytes one block takes over all `layers`.
    pub fn block_bytes(layers: usize, shape: KvShape) -> usize {
        let _ = (layers, shape);
        todo!()
    }
    /// A cache of `layers` layers.
    pub fn new(layers: usize, shape: KvShape) -> Self {
        let _ = layers;
        Self { shape }
    }
    /// Its shape.
    pub fn shape(&self) -> KvShape {
        self.shape
    }
    /// Stores `k` and `v` (`[rows, num_kv_heads, head_dim]`) of one layer at the sequences' positions.
    pub fn write(
        &mut self,
        isa: Isa,
        team: &Team,
        layer: usize,
        seqs: &[SequenceRows<'_>],
        k: &[f32],
        v: &[f32],
    ) {
        let _ = (isa, team, layer, seqs, k, v);
        todo!()
    }
}

/// Per-worker scratch of [`attention`], reused from step to step.
#[derive(Default)]
pub struct AttentionScratch {}

/// `out[row, head, :] = softmax(q · Kᵀ * scale) · V` for every row of every sequence, causal, over the
/// positions the cache holds (the rows' own keys and values must have been written before).
/// `q`, `out`: `[rows, num_heads, head_dim]`; head `h` reads KV head `h / (num_heads / num_kv_heads)`.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    isa: Isa,
    team: &Team,
    shape: AttentionShape,
    cache: &KvCache,
    layer: usize,
    seqs: &[SequenceRows<'_>],
    q: &[f32],
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let _ = (isa, team, shape, cache, layer, seqs, q, scratch, out);
    todo!()
}
