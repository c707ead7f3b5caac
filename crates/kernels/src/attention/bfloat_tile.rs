//! Query rows against one KV head in AMX's tiles, where keys and values are bfloat16: up to two tiles of
//! rows at once, so that each block of keys and of values is loaded once for 32 rows.
//!
//! Queries, times the scale, and the softmax's weights, from 0 to 1, are rounded to bfloat16, as
//! FlashAttention does (Dao et al. 2022); scores, their softmax and all sums are f32. A tile's products go
//! over all blocks that any of its rows sees: a score that a row does not see becomes -∞ and its weight 0,
//! which adds nothing to its sum. So a row's bits do not depend on the tile's other rows.

#![expect(
    clippy::needless_range_loop,
    reason = "several arrays go by one index; iterators' closures may miss the instruction set"
)]

use std::ops::Range;

use super::{
    Call, TileTask,
    cache::BLOCK_TOKENS,
    pair_cache::{PairBlocks, STEP},
};
use crate::{
    bfloat::pairs,
    exp::{exp, soft_cap},
    isa::{Amx, BfloatPass, Kernel, LANES, PagedPairs, PairOfSums, Simd, TILE_ROWS},
    matmul::Tiles,
};

/// Query rows of a task: two tiles.
pub(super) const MOST_ROWS: usize = 2 * TILE_ROWS;
/// Rows up to which the loads take longer than the arithmetic: what comes next is asked for.
const FEW_ROWS: usize = 8;
/// Blocks of values that are summed at once where rows are few: all of their dimensions, before those of the
/// next, which are asked for meanwhile.
const CHUNK: usize = 4;

/// Reused from task to task by a worker.
#[derive(Default)]
pub(super) struct PairScratch {
    queries: Vec<[u32; LANES]>, // [tile][head_dim / 32][places]: two dimensions each
    scores: Vec<PairOfSums>,    // [blocks / 2][tile]
    weights: Vec<[u16; LANES]>, // [tile][blocks][places]: bfloat16
    sums: Vec<PairOfSums>,      // [head_dim / 32][tile]
    /// Values of which some are replaced by 0, and the numbers of their blocks.
    masked: Vec<[u32; LANES]>, // [blocks][16 / 2][vectors]
    table: Vec<u32>,
}

impl Call<'_> {
    /// A task's rows. Where a value is not finite, and some row does not see it, tokens are done one at a
    /// time, and without what they do not see: infinity times 0 is not 0.
    pub(super) fn run_pairs(&self, amx: Amx, task: &TileTask, scratch: &mut PairScratch) {
        let kv = self.cache.pair_blocks(self.layer, task.kv_head);
        let last = task.tokens * task.heads - 1;
        let (first, last) = (self.seen(task, 0), self.seen(task, last));
        let blocks = first.start / BLOCK_TOKENS..last.end.div_ceil(BLOCK_TOKENS);
        let table = &self.seqs[task.sequence].block_table[blocks.clone()];
        let all_see = last.start.div_ceil(BLOCK_TOKENS)..first.end / BLOCK_TOKENS;
        let finite = blocks.clone().zip(table).all(|(block, index)| {
            all_see.contains(&block) || self.isa.dispatch(AllFinite(kv.values(*index)))
        });
        let layout = kv.layout;
        let values = PagedPairs {
            lines: &kv.lines[layout.keys..],
            block_len: layout.block_len(),
            stride: layout.vectors,
            table,
        };
        let tile = Tile { call: self, task, kv, first_block: blocks.start, table };
        if finite {
            tile.run(amx, values, scratch);
        } else if task.tokens == 1 {
            let mut masked = std::mem::take(&mut scratch.masked);
            let mut numbers = std::mem::take(&mut scratch.table);
            tile.mask(first, &mut masked);
            numbers.clear();
            numbers.extend(0..table.len() as u32);
            let block_len = BLOCK_TOKENS / 2 * layout.vectors;
            let values = PagedPairs { lines: &masked, block_len, table: &numbers, ..values };
            tile.run(amx, values, scratch);
            (scratch.masked, scratch.table) = (masked, numbers);
        } else {
            for token in task.first_token..task.first_token + task.tokens {
                self.run_pairs(amx, &TileTask { first_token: token, tokens: 1, ..*task }, scratch);
            }
        }
    }
}

/// A task and what it reads.
struct Tile<'a> {
    call: &'a Call<'a>,
    task: &'a TileTask,
    kv: PairBlocks<'a>,
    /// That `table` begins with.
    first_block: usize,
    /// Blocks from the first that the first row sees to the last that the last row sees.
    table: &'a [u32],
}

impl Tile<'_> {
    fn run(&self, amx: Amx, values: PagedPairs<'_>, scratch: &mut PairScratch) {
        let tiles = Tiles::new(self.task.tokens * self.task.heads, TILE_ROWS);
        let places = tiles.of(0).1;
        let blocks = self.table.len();
        self.round_queries(tiles, places, &mut scratch.queries);
        let pairs = blocks.div_ceil(2) * tiles.count;
        if scratch.scores.len() < pairs {
            scratch.scores.resize(pairs, PairOfSums::default());
        }
        let scores = &mut scratch.scores[..pairs];
        self.score(amx, tiles, places, &scratch.queries, scores);
        if scratch.weights.len() < tiles.count * blocks * places {
            scratch.weights.resize(tiles.count * blocks * places, [0; LANES]);
        }
        let mut inverse = [[0.0; TILE_ROWS]; 2];
        for tile in 0..tiles.count {
            let weights = &mut scratch.weights[tile * blocks * places..][..blocks * places];
            self.soften(tiles, tile, scores, weights, &mut inverse[tile]);
        }
        let weights = &scratch.weights[..tiles.count * blocks * places];
        scratch.sums.clear();
        scratch.sums.resize(self.kv.layout.vectors / 2 * tiles.count, PairOfSums::default());
        self.sum(amx, tiles, places, weights, values, &mut scratch.sums);
        self.store(tiles, &scratch.sums, &inverse);
    }

    fn round_queries(&self, tiles: Tiles, places: usize, out: &mut Vec<[u32; LANES]>) {
        let Call { q, shape, isa, .. } = self.call;
        let head_dim = self.call.cache.shape().head_dim;
        let per_tile = head_dim.div_ceil(STEP) * places;
        out.resize(tiles.count * per_tile, [0; LANES]);
        for tile in 0..tiles.count {
            let (first, rows) = tiles.of(tile);
            for place in 0..rows {
                let q = &q[self.call.place(self.task, first + place)..][..head_dim];
                let out = &mut out[tile * per_tile + place..];
                isa.dispatch(RoundQuery { q, scale: shape.scale, places, out });
            }
        }
    }

    /// `scores`: `[blocks / 2][tile]`.
    fn score(
        &self,
        amx: Amx,
        tiles: Tiles,
        places: usize,
        queries: &[[u32; LANES]],
        scores: &mut [PairOfSums],
    ) {
        // SAFETY: nothing below comes here again, or runs anybody else's code.
        let amx = unsafe { amx.bfloat_tiles(places) };
        let (one, two) = queries.split_at(queries.len() / tiles.count);
        let few = tiles.count * places <= FEW_ROWS;
        let table = self.table;
        for (at, scores) in scores.chunks_exact_mut(tiles.count).enumerate() {
            // Past the last block the last one is computed again, and not looked at.
            let blocks = [2 * at, (2 * at + 1).min(table.len() - 1)].map(|block| table[block]);
            let keys = blocks.map(|block| self.kv.keys(block));
            if few {
                for block in table.iter().skip(2 * at + 2).take(2) {
                    self.call.isa.dispatch(Prefetch(self.kv.keys(*block)));
                }
            }
            let pass = pass_to(scores);
            match tiles.count {
                // SAFETY: the outputs are `scores`, of which each tile has one, with a line for each row.
                1 => unsafe { amx.multiply_one(one, keys, pass) },
                // SAFETY: as above.
                _ => unsafe { amx.multiply_two([one, two], keys, pass) },
            }
        }
    }

    /// The softmax of a tile's rows.
    fn soften(
        &self,
        tiles: Tiles,
        tile: usize,
        scores: &mut [PairOfSums],
        weights: &mut [[u16; LANES]],
        inverse: &mut [f32; TILE_ROWS],
    ) {
        let (_, rows) = tiles.of(tile);
        let (fours, ones) = inverse[..rows].as_chunks_mut::<4>();
        let mut place = 0;
        for inverse in fours {
            *inverse = self.soften_rows::<4>(tiles, tile, place, scores, weights);
            place += 4;
        }
        for inverse in ones {
            [*inverse] = self.soften_rows::<1>(tiles, tile, place, scores, weights);
            place += 1;
        }
    }

    fn soften_rows<const R: usize>(
        &self,
        tiles: Tiles,
        tile: usize,
        place: usize,
        scores: &mut [PairOfSums],
        weights: &mut [[u16; LANES]],
    ) -> [f32; R] {
        let shape = self.call.shape;
        let row = tiles.of(tile).0 + place;
        let first = self.first_block * BLOCK_TOKENS;
        self.call.isa.dispatch(Softmax::<R> {
            blocks: self.table.len(),
            tiles: tiles.count,
            tile,
            place,
            places: tiles.of(0).1,
            soft_cap: shape.soft_cap,
            sinks: std::array::from_fn(|r| {
                let head = self.task.first_head + (row + r) % self.task.heads;
                shape.sinks.map(|sinks| sinks[head])
            }),
            seen: std::array::from_fn(|r| {
                let seen = self.call.seen(self.task, row + r);
                seen.start - first..seen.end - first
            }),
            scores,
            weights,
        })
    }

    /// Adds the values, times their weights, to `sums`, `[head_dim / 32][tile]`.
    fn sum(
        &self,
        amx: Amx,
        tiles: Tiles,
        places: usize,
        weights: &[[u16; LANES]],
        values: PagedPairs<'_>,
        sums: &mut [PairOfSums],
    ) {
        // SAFETY: as in `score`.
        let amx = unsafe { amx.weighted_tiles(places) };
        let few = tiles.count * places <= FEW_ROWS;
        let (one, two) = weights.split_at(weights.len() / tiles.count);
        let chunk = if few { CHUNK } else { values.table.len() };
        for (at, table) in values.table.chunks(chunk).enumerate() {
            if few {
                for block in self.table.iter().skip((at + 1) * CHUNK).take(CHUNK) {
                    self.call.isa.dispatch(Prefetch(self.kv.values(*block)));
                }
            }
            let values = PagedPairs { table, ..values };
            let rows = at * chunk * places..(at * chunk + table.len()) * places;
            for (at, sums) in sums.chunks_exact_mut(tiles.count).enumerate() {
                match sums.as_mut_array::<2>() {
                    Some(sums) => {
                        let weights = [&one[rows.clone()], &two[rows.clone()]];
                        amx.sum_two(weights, values, 2 * at, sums);
                    }
                    None => amx.sum_one(&one[rows.clone()], values, 2 * at, &mut sums[0]),
                }
            }
        }
    }

    /// Puts the sums, `[head_dim / 32][tile]`, times the rows' `inverse`, in their places.
    fn store(&self, tiles: Tiles, sums: &[PairOfSums], inverse: &[[f32; TILE_ROWS]; 2]) {
        let head_dim = self.call.cache.shape().head_dim;
        for tile in 0..tiles.count {
            let (first, rows) = tiles.of(tile);
            for row in 0..rows {
                let at = self.call.place(self.task, first + row);
                // SAFETY: this head of this row is in one task only: sequences' rows do not overlap,
                // and `plan` puts each (row, head) of a sequence in one tile.
                let out = unsafe { self.call.out.range(at..at + head_dim) };
                for (vector, out) in out.chunks_mut(LANES).enumerate() {
                    let sums = &sums[vector / 2 * tiles.count + tile][vector % 2][row];
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = sum * inverse[tile][row] + 0.0; // no -0, which zeros may turn to 0
                    }
                }
            }
        }
    }

    /// All values, with 0 for those outside of `seen`.
    fn mask(&self, seen: Range<usize>, out: &mut Vec<[u32; LANES]>) {
        out.clear();
        for block in self.table {
            out.extend_from_slice(self.kv.values(*block));
        }
        let first = self.first_block * BLOCK_TOKENS;
        for (at, pair) in out.chunks_exact_mut(self.kv.layout.vectors).enumerate() {
            let positions = [first + 2 * at, first + 2 * at + 1];
            let [low, high] = positions.map(|position| seen.contains(&position));
            let kept = (u32::from(low) * 0xffff) | (u32::from(high) * 0xffff_0000);
            pair.as_flattened_mut().iter_mut().for_each(|word| *word &= kept);
        }
    }
}

/// The products of each tile of rows, put into its own of `scores`.
fn pass_to(scores: &mut [PairOfSums]) -> BfloatPass {
    let second = scores.len() - 1;
    let first = scores.as_mut_ptr();
    BfloatPass {
        sums: std::ptr::null(),
        outputs: [first.cast(), first.wrapping_add(second).cast()],
        row: LANES,
        panel: TILE_ROWS * LANES,
        fetches: false,
        ahead: [std::ptr::null(); 2],
        per_step: 0,
    }
}

/// Whether all numbers of `words` are finite.
struct AllFinite<'a>(&'a [[u32; LANES]]);

impl Kernel for AllFinite<'_> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let zero = s.splat(0.0);
        let mut faults = [zero; 2]; // 0, or NaN
        for line in 0..self.0.len() {
            let mut words = s.load_words(&self.0[line]);
            for half in 0..2 {
                faults[half] = s.mul_add(s.next_bf16(&mut words), zero, faults[half]);
            }
        }
        !s.sum_lanes(s.add(faults[0], faults[1])).is_nan()
    }
}

/// Asks for `lines`.
struct Prefetch<'a>(&'a [[u32; LANES]]);

impl Kernel for Prefetch<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in 0..self.0.len() {
            s.prefetch(&raw const self.0[i]);
        }
    }
}

/// Rounds a query, times `scale`.
struct RoundQuery<'a> {
    q: &'a [f32], // [head_dim]
    scale: f32,
    places: usize,
    out: &'a mut [[u32; LANES]], // [head_dim / 32][places], from the query's
}

impl Kernel for RoundQuery<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (step, q) in self.q.chunks(STEP).enumerate() {
            let mut scaled = [0.0; STEP];
            for (scaled, q) in scaled.iter_mut().zip(q) {
                *scaled = q * self.scale;
            }
            self.out[step * self.places] = pairs(&scaled);
        }
    }
}

/// Turns `R` rows' scores into weights, `exp(score - max)`, and gives 1 / their sums.
struct Softmax<'a, const R: usize> {
    blocks: usize,
    /// Tiles that `scores` has, which of them, and which of its places is the first row's.
    tiles: usize,
    tile: usize,
    place: usize,
    /// Of a tile of weights.
    places: usize,
    soft_cap: Option<f32>,
    /// Each row's score beside those of the positions.
    sinks: [Option<f32>; R],
    /// The positions each row sees, from those of the first block.
    seen: [Range<usize>; R],
    scores: &'a mut [PairOfSums],    // [blocks / 2][tiles]
    weights: &'a mut [[u16; LANES]], // [blocks][places]
}

impl<const R: usize> Softmax<'_, R> {
    /// The scores of the rows at `block`'s positions.
    #[inline(always)]
    fn at(&mut self, block: usize) -> &mut [[f32; LANES]; R] {
        let rows = &mut self.scores[block / 2 * self.tiles + self.tile][block % 2];
        &mut rows[self.place..].as_chunks_mut::<R>().0[0]
    }

    /// Positions that a row does not see count for nothing.
    #[inline(always)]
    fn hide(&mut self) {
        for r in 0..R {
            let Range { start, end } = self.seen[r];
            for block in 0..start.div_ceil(BLOCK_TOKENS) {
                let hidden = BLOCK_TOKENS.min(start - block * BLOCK_TOKENS);
                self.at(block)[r][..hidden].fill(f32::NEG_INFINITY);
            }
            for block in end / BLOCK_TOKENS..self.blocks {
                let shown = end.saturating_sub(block * BLOCK_TOKENS);
                self.at(block)[r][shown..].fill(f32::NEG_INFINITY);
            }
        }
    }
}

impl<const R: usize> Kernel for Softmax<'_, R> {
    type Output = [f32; R];

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) -> [f32; R] {
        if let Some(cap) = self.soft_cap {
            for block in 0..self.blocks {
                let scores = self.at(block);
                for r in 0..R {
                    s.store(soft_cap(s, s.load(&scores[r]), cap), &mut scores[r]);
                }
            }
        }
        self.hide();
        let mut max = [s.splat(f32::NEG_INFINITY); R];
        for block in 0..self.blocks {
            let scores = self.at(block);
            for r in 0..R {
                max[r] = s.max(max[r], s.load(&scores[r]));
            }
        }
        let mut largest = [0.0; R];
        for r in 0..R {
            largest[r] = s.max_lanes(max[r]);
            if let Some(sink) = self.sinks[r]
                && sink > largest[r]
            {
                largest[r] = sink;
            }
            max[r] = s.splat(largest[r]);
        }
        let mut sum = [s.splat(0.0); R];
        for block in 0..self.blocks {
            let scores = self.at(block);
            let mut lanes = [[0.0; LANES]; R];
            for r in 0..R {
                let e = exp(s, s.sub(s.load(&scores[r]), max[r]));
                s.store(e, &mut lanes[r]);
                sum[r] = s.add(sum[r], e);
            }
            let at = block * self.places + self.place;
            for r in 0..R {
                // To the nearest, and up from the middle, which is rare: weights are not negative.
                for i in 0..LANES {
                    self.weights[at + r][i] =
                        (lanes[r][i].to_bits().wrapping_add(0x8000) >> 16) as u16;
                }
            }
        }
        let mut inverse = [0.0; R];
        for r in 0..R {
            let mut total = s.sum_lanes(sum[r]);
            if let Some(sink) = self.sinks[r] {
                let mut lanes = [0.0; LANES];
                s.store(exp(s, s.splat(sink - largest[r])), &mut lanes);
                total += lanes[0];
            }
            inverse[r] = 1.0 / total;
        }
        inverse
    }
}
