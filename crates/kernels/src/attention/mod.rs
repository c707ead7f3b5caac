//! Causal attention over a paged KV cache (vLLM's PagedAttention, Kwon et al. 2023).
//!
//! - `cache.rs`: the blocks and their layout, and writing to them.
//! - `tile.rs`: the arithmetic of a few query rows against a chunk of one KV head's positions.
//! - `pair_cache.rs`, `bfloat_tile.rs`: blocks, and more rows against them, in bfloat16 on AMX.
//! - `reference.rs`: the definition, in f64, the tests' oracle.
//!
//! A row's scores are sums over the head's dimensions in order, its softmax and its output sums over
//! positions in order, from lane `position % 16`: nothing depends on the other rows of the call, on
//! where the blocks lie, or on how the prompt was cut. So the softmax's running maximum is corrected
//! only where a chunk of positions ends, and chunks are counted from position 0 (`tile.rs`); on AMX
//! all scores come first, then the values.
//!
//! Must not: split one row's positions between threads or partial sums.

mod bfloat_tile;
mod cache;
mod pair_cache;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod tile;

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use crate::{
    isa::{Isa, LANES},
    team::{SharedSlice, Team},
};

use bfloat_tile::PairScratch;
pub use cache::{BLOCK_TOKENS, KvCache, KvFormat, KvShape};
use cache::{Element, HeadBlocks};
use tile::{CHUNK, CHUNK_BLOCKS, Finish, Running, Scores, Tile};

/// One sequence's rows in a step. Rows `first_row .. first_row + num_rows` of the step are its tokens
/// at positions `start .. start + num_rows`; `block_table[p / 16]` holds position `p`.
#[derive(Debug, Clone, Copy)]
pub struct SequenceRows<'a> {
    /// Its first row in the step.
    pub first_row: usize,
    /// How many rows.
    pub num_rows: usize,
    /// The first row's position in the sequence.
    pub start: usize,
    /// Block numbers, at least up to the last row's position.
    pub block_table: &'a [u32],
}

/// Numbers that do not change from step to step.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape<'a> {
    /// Query heads, a multiple of the cache's KV heads.
    pub num_heads: usize,
    /// What scores are multiplied by, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Scaled scores are held between `-soft_cap` and it, softly: `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// A token sees itself and the `window - 1` before it; at least 1.
    pub window: Option<usize>,
    /// A score for each head, `[num_heads]`, that takes its part of the softmax and gives no value
    /// (attention sinks; Xiao et al. 2023, and gpt-oss, where they are learnt).
    pub sinks: Option<&'a [f32]>,
}

/// Per-worker scratch of [`attention`], reused from step to step.
#[derive(Default)]
pub struct AttentionScratch {
    tasks: Vec<TileTask>,
    workers: Vec<Mutex<WorkerScratch>>,
}

#[derive(Default)]
struct WorkerScratch {
    q: Vec<f32>,            // [tiles][head_dim, rows of the tile]
    scores: Vec<Scores>,    // [rows of a tile]
    running: Vec<Running>,  // [rows]
    out: Vec<[f32; LANES]>, // [rows, head_dim / 16 rounded up]
    pairs: PairScratch,
}

/// Query rows that share the loads of one KV head: some tokens, and some heads of its group.
#[derive(Clone, Copy)]
struct TileTask {
    sequence: usize,
    first_token: usize,
    tokens: usize,
    kv_head: usize,
    first_head: usize,
    heads: usize,
}

/// Query rows per tile: as many as the registers take.
fn most_rows(isa: Isa, format: KvFormat) -> usize {
    match (format, isa.registers()) {
        (KvFormat::Bf16, _) => bfloat_tile::MOST_ROWS,
        (_, 8) => 6, // all but two
        _ => 8,      // 8 rows × 2 blocks of accumulators, of 32
    }
}

/// Tiles of a task at most: past this a chunk's keys and values are read often enough.
const MOST_TILES: usize = 8;
/// Tasks that even out those that begin late.
const TASKS_PER_THREAD: usize = 8;

/// How a sequence's rows are cut into tasks: heads of a group, and tokens.
///
/// All of a group's heads, unless that would leave threads without work, as it does where few sequences
/// decode: two tasks for each at least. Tokens of several tiles, where there are enough of them for all.
fn heads_and_tokens(
    isa: Isa,
    team: &Team,
    group: usize,
    kv: KvShape,
    seqs: &[SequenceRows<'_>],
) -> (usize, usize) {
    let most = most_rows(isa, kv.format);
    let tasks = |heads: usize| -> usize {
        let of_a_group =
            |seq: &SequenceRows<'_>| group.div_ceil(heads) * seq.num_rows.div_ceil(most / heads);
        kv.num_kv_heads * seqs.iter().map(of_a_group).sum::<usize>()
    };
    let mut heads = group.clamp(1, most);
    let tiles = match kv.format {
        KvFormat::Bf16 => 1,
        _ => (tasks(heads) / (TASKS_PER_THREAD * team.threads())).clamp(1, MOST_TILES),
    };
    if tiles > 1 {
        heads = group.min(most * tiles);
        return (heads, most * tiles / heads);
    }
    while heads > 1 && team.threads() > 1 && tasks(heads) < 2 * team.threads() {
        heads = heads.div_ceil(2);
    }
    (heads, most / heads)
}

/// `out[row, head, :] = softmax(cap(q · Kᵀ * scale)) · V` for every row of every sequence, causal, over
/// the positions the cache holds (the rows' own keys and values must have been written before).
/// `q`, `out`: `[rows, num_heads, head_dim]`; head `h` reads KV head
/// `h / (num_heads / num_kv_heads)`. Rows that no sequence has are left as they are.
///
/// # Panics
/// When the shapes disagree; when the sequences' rows overlap or are not in ascending order; when a
/// block table is too short or names a block the cache does not have; when the cache's format is not
/// available on `isa`.
#[allow(clippy::too_many_arguments)] // each is an operand; a struct would only rename them
pub fn attention(
    isa: Isa,
    team: &Team,
    shape: AttentionShape<'_>,
    cache: &KvCache,
    layer: usize,
    seqs: &[SequenceRows<'_>],
    q: &[f32],
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let kv = cache.shape();
    let row_len = shape.num_heads * kv.head_dim;
    assert!(kv.num_kv_heads > 0 && shape.num_heads.is_multiple_of(kv.num_kv_heads));
    assert!(shape.window != Some(0), "a window of no tokens");
    assert!(shape.sinks.is_none_or(|sinks| sinks.len() == shape.num_heads), "sinks of other heads");
    assert_eq!(q.len(), out.len());
    let rows = seqs.iter().fold(0, |end, seq| {
        assert!(seq.first_row >= end, "sequences' rows overlap or are out of order");
        cache.check_blocks(seq);
        seq.first_row + seq.num_rows
    });
    assert!(rows * row_len <= q.len(), "q is shorter than {rows} rows of {row_len}");
    scratch.plan(isa, team, shape, kv, seqs);
    let call = Call { isa, shape, cache, layer, seqs, q, out: SharedSlice::new(out) };
    let AttentionScratch { tasks, workers } = scratch;
    team.run(tasks.len(), &|task, worker| {
        // Uncontended: a worker number is in one task at a time.
        let mut own = workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
        call.run(&tasks[task], &mut own);
    });
}

impl AttentionScratch {
    /// Cuts the step into tasks. Of each sequence the last tokens first, as they see the most, and
    /// all of a KV head's tasks one after the other, as they read the same blocks.
    fn plan(
        &mut self,
        isa: Isa,
        team: &Team,
        shape: AttentionShape<'_>,
        kv: KvShape,
        seqs: &[SequenceRows<'_>],
    ) {
        self.workers.resize_with(self.workers.len().max(team.threads()), Mutex::default);
        self.tasks.clear();
        let group = shape.num_heads / kv.num_kv_heads;
        let (heads_at_once, tokens_at_once) = heads_and_tokens(isa, team, group, kv, seqs);
        for (sequence, seq) in seqs.iter().enumerate() {
            for kv_head in 0..kv.num_kv_heads {
                for head in (0..group).step_by(heads_at_once) {
                    for token in (0..seq.num_rows).step_by(tokens_at_once).rev() {
                        self.tasks.push(TileTask {
                            sequence,
                            first_token: token,
                            tokens: tokens_at_once.min(seq.num_rows - token),
                            kv_head,
                            first_head: kv_head * group + head,
                            heads: heads_at_once.min(group - head),
                        });
                    }
                }
            }
        }
    }
}

/// The operands of one call. `out` is written by tasks that each own some heads of some rows.
struct Call<'a> {
    isa: Isa,
    shape: AttentionShape<'a>,
    cache: &'a KvCache,
    layer: usize,
    seqs: &'a [SequenceRows<'a>],
    q: &'a [f32],              // [rows, num_heads, head_dim]
    out: SharedSlice<'a, f32>, // as q
}

impl Call<'_> {
    fn run(&self, task: &TileTask, scratch: &mut WorkerScratch) {
        match self.cache.format() {
            KvFormat::F32 => self.run_on::<f32>(task, scratch),
            KvFormat::F16 => self.run_on::<u16>(task, scratch),
            KvFormat::Int8 => self.run_on::<i8>(task, scratch),
            KvFormat::Bf16 => match self.isa.amx() {
                Some(amx) => self.run_pairs(amx, task, &mut scratch.pairs),
                None => panic!("bfloat16 keys and values need AMX: see KvFormat::is_available"),
            },
        }
    }

    /// Where row `r` of the task lies in q and out.
    fn place(&self, task: &TileTask, r: usize) -> usize {
        let (token, head) = (task.first_token + r / task.heads, r % task.heads);
        let row = self.seqs[task.sequence].first_row + token;
        (row * self.shape.num_heads + task.first_head + head) * self.cache.shape().head_dim
    }

    /// The positions that row `r` of the task sees.
    fn seen(&self, task: &TileTask, r: usize) -> Range<usize> {
        let end = self.seqs[task.sequence].start + task.first_token + r / task.heads + 1;
        self.shape.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Chunk by chunk, so that all of the task's rows meet its keys and values while they are near; the
    /// first tile's turn brings them.
    fn run_on<E: Element>(&self, task: &TileTask, scratch: &mut WorkerScratch) {
        let rows = task.tokens * task.heads;
        let most = most_rows(self.isa, self.cache.format());
        self.prepare(task, most, scratch);
        let (first, last) = (self.seen(task, 0), self.seen(task, rows - 1));
        for chunk in first.start / CHUNK..last.end.div_ceil(CHUNK) {
            for tile in (0..rows).step_by(most) {
                self.tile_of_size::<E>(task, chunk, tile..rows.min(tile + most), scratch);
            }
        }
        let vectors = self.cache.shape().head_dim.div_ceil(LANES);
        for row in 0..rows {
            let head_dim = self.cache.shape().head_dim;
            let place = self.place(task, row);
            // SAFETY: this head of this row is in one task only: sequences' rows do not overlap,
            // and `plan` puts each (row, head) of a sequence in one task.
            let out = unsafe { self.out.range(place..place + head_dim) };
            self.isa.dispatch(Finish {
                running: &scratch.running[row],
                sink: self.sink(task, row),
                sum: &scratch.out[row * vectors..][..vectors],
                out,
            });
        }
    }

    fn sink(&self, task: &TileTask, r: usize) -> Option<f32> {
        self.shape.sinks.map(|sinks| sinks[task.first_head + r % task.heads])
    }

    /// Queries by dimension, tile by tile; no sums yet.
    fn prepare(&self, task: &TileTask, most: usize, scratch: &mut WorkerScratch) {
        let rows = task.tokens * task.heads;
        let head_dim = self.cache.shape().head_dim;
        scratch.q.resize(rows * head_dim, 0.0);
        for tile in (0..rows).step_by(most) {
            let tile_rows = most.min(rows - tile);
            for r in 0..tile_rows {
                let from = &self.q[self.place(task, tile + r)..][..head_dim];
                let to = scratch.q[tile * head_dim + r..].iter_mut().step_by(tile_rows);
                for (to, &q) in to.zip(from) {
                    *to = q;
                }
            }
        }
        scratch.scores.resize(most, [[0.0; LANES]; CHUNK_BLOCKS]);
        scratch.running.clear();
        scratch.running.extend((0..rows).map(|row| Running::new(self.sink(task, row))));
        scratch.out.clear();
        scratch.out.resize(rows * head_dim.div_ceil(LANES), [0.0; LANES]);
    }

    /// The arms are the sizes that [`most_rows`] allows; then blocks and vectors of the head's
    /// dimensions at once, such that rows × either fills the accumulators and hides their latency.
    fn tile_of_size<E: Element>(
        &self,
        task: &TileTask,
        chunk: usize,
        rows: Range<usize>,
        scratch: &mut WorkerScratch,
    ) {
        let wide = self.isa.registers() > 8;
        match (rows.len(), wide) {
            (1, true) => self.tile::<E, 1, 4, 4>(task, chunk, rows, scratch),
            (2, true) => self.tile::<E, 2, 4, 4>(task, chunk, rows, scratch),
            (3, true) => self.tile::<E, 3, 4, 4>(task, chunk, rows, scratch),
            (4, true) => self.tile::<E, 4, 2, 4>(task, chunk, rows, scratch),
            (5, true) => self.tile::<E, 5, 2, 4>(task, chunk, rows, scratch),
            (6, true) => self.tile::<E, 6, 2, 4>(task, chunk, rows, scratch),
            (7, true) => self.tile::<E, 7, 2, 2>(task, chunk, rows, scratch),
            (8, true) => self.tile::<E, 8, 2, 2>(task, chunk, rows, scratch),
            (1, false) => self.tile::<E, 1, 4, 4>(task, chunk, rows, scratch),
            (2, false) => self.tile::<E, 2, 2, 2>(task, chunk, rows, scratch),
            (3, false) => self.tile::<E, 3, 1, 1>(task, chunk, rows, scratch),
            (4, false) => self.tile::<E, 4, 1, 1>(task, chunk, rows, scratch),
            (5, false) => self.tile::<E, 5, 1, 1>(task, chunk, rows, scratch),
            (6, false) => self.tile::<E, 6, 1, 1>(task, chunk, rows, scratch),
            (rows, _) => unreachable!("a tile of {rows} rows"),
        }
    }

    fn tile<E: Element, const R: usize, const B: usize, const D: usize>(
        &self,
        task: &TileTask,
        chunk: usize,
        rows: Range<usize>,
        scratch: &mut WorkerScratch,
    ) {
        let seq = &self.seqs[task.sequence];
        let head_dim = self.cache.shape().head_dim;
        let vectors = head_dim.div_ceil(LANES);
        let within = |at: usize| at.saturating_sub(chunk * CHUNK).min(CHUNK);
        let seen: [_; R] = std::array::from_fn(|r| {
            let seen = self.seen(task, rows.start + r);
            within(seen.start)..within(seen.end)
        });
        if seen[R - 1].end == 0 || seen[0].start == CHUNK {
            return; // other tiles' rows see something of it
        }
        let end = self.seen(task, rows.end - 1).end.div_ceil(BLOCK_TOKENS);
        self.isa.dispatch(Tile::<E, R, B, D> {
            q: scratch.q[rows.start * head_dim..][..R * head_dim].as_chunks().0,
            kv: HeadBlocks::of(self.cache, self.layer, task.kv_head),
            table: &seq.block_table[chunk * CHUNK_BLOCKS..end],
            scale: self.shape.scale,
            soft_cap: self.shape.soft_cap,
            seen,
            scores: &mut scratch.scores.as_chunks_mut().0[0],
            running: &mut scratch.running[rows.start..].as_chunks_mut().0[0],
            out: &mut scratch.out[rows.start * vectors..][..R * vectors],
        });
    }
}
