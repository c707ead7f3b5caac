//! A few query rows against a chunk of one KV head's positions: scores, softmax, values, as
//! FlashAttention does (Dao et al. 2022). What comes next is asked for, as blocks lie where they may
//! and in pages of their own: without that, a sequence's single row waits for memory, and eight rows
//! at position 4,096 took half as long again (Zen 3, November 2026).

#![expect(
    clippy::needless_range_loop,
    reason = "several arrays go by one index; iterators' closures may miss the instruction set"
)]

use std::ops::Range;

use super::cache::{BLOCK_TOKENS, Element, HeadBlocks};
use crate::{
    exp::{exp, soft_cap},
    isa::{Kernel, LANES, Simd},
};

/// Blocks of a chunk. Chunks start at multiples of their positions, wherever a row's own begin: a row's
/// running maximum is corrected where its position says, and at no other place.
pub(super) const CHUNK_BLOCKS: usize = 16;
/// Positions of a chunk.
pub(super) const CHUNK: usize = CHUNK_BLOCKS * BLOCK_TOKENS;
/// Blocks whose values are summed at once: vectors of a position's values that lie beside those in use
/// are still in the cache when their turn comes.
const BLOCKS_SUMMED: usize = 4;
/// Bytes of a line of memory.
const LINE: usize = 64;

/// A row's scores at a chunk's positions, later their weights.
pub(super) type Scores = [[f32; LANES]; CHUNK_BLOCKS];

/// What a row's softmax has come to: `sum` and the row's weighted values are parts of `exp(max)`.
#[derive(Clone, Copy)]
pub(super) struct Running {
    max: f32,
    sum: [f32; LANES],
}

impl Running {
    /// Of no position, and of a sink's score if there is one. Not -∞, which scores may be: less -∞ they
    /// would be NaN.
    pub(super) fn new(sink: Option<f32>) -> Self {
        Self { max: sink.map_or(f32::MIN, |sink| sink.max(f32::MIN)), sum: [0.0; LANES] }
    }
}

/// `R` rows; `B` blocks of keys and `D` vectors of values at once.
///
/// Rows are in order of what they see: neither end of `seen` goes back from one row to the next.
pub(super) struct Tile<'a, E, const R: usize, const B: usize, const D: usize> {
    pub(super) q: &'a [[f32; R]], // [head_dim]
    pub(super) kv: HeadBlocks<'a, E>,
    /// Blocks from the chunk's first, to the last that comes after it and is seen.
    pub(super) table: &'a [u32],
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
    /// The chunk's positions that each row sees, counted from its first. May be none.
    pub(super) seen: [Range<usize>; R],
    pub(super) scores: &'a mut [Scores; R],
    pub(super) running: &'a mut [Running; R],
    /// Values times weights so far.
    pub(super) out: &'a mut [[f32; LANES]], // [R, kv.vectors()]
}

impl<E: Element, const R: usize, const B: usize, const D: usize> Kernel for Tile<'_, E, R, B, D> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        if R * B >= S::REGISTERS || R * D >= S::REGISTERS {
            unreachable!("`tile_of_size` does not ask for {R} rows by {B} and {D} here");
        }
        let (start, end) = (self.seen[0].start, self.seen[R - 1].end);
        let blocks = start / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS);
        for b in blocks.clone().step_by(B) {
            self.score(s, b, &blocks);
        }
        for r in 0..R {
            if !self.seen[r].is_empty() {
                self.soften(s, r);
            }
        }
        for b in blocks.clone().step_by(BLOCKS_SUMMED) {
            let positions = b * BLOCK_TOKENS..(b + BLOCKS_SUMMED).min(blocks.end) * BLOCK_TOKENS;
            for d in (0..self.kv.vectors()).step_by(D) {
                self.sum_values(s, d, positions.clone());
            }
        }
    }
}

impl<E: Element, const R: usize, const B: usize, const D: usize> Tile<'_, E, R, B, D> {
    /// Scores of all rows at the positions of `B` of `blocks` from `b`. Those a row does not see, and
    /// those past the end, come out as whatever the cache holds there; `soften` passes over them.
    #[inline(always)]
    fn score<S: Simd>(&mut self, s: S, b: usize, blocks: &Range<usize>) {
        let end = blocks.end;
        let mut keys = [self.kv.keys(self.table[b]); B];
        for n in 1..B {
            // Past the last block the last one is computed again, and not stored.
            keys[n] = self.kv.keys(self.table[(b + n).min(end - 1)]);
        }
        for keys in &mut keys {
            *keys = &keys[..self.q.len()];
        }
        // After the last keys the values' turn comes.
        let mut next = [keys[0]; B];
        for n in 0..B {
            next[n] = match b + B + n < end {
                true => self.kv.keys(self.table[b + B + n]),
                false => self.kv.values(self.table[(blocks.start + n).min(end - 1)]),
            };
        }
        let mut acc = [[s.splat(0.0); B]; R];
        for (d, q) in self.q.iter().enumerate() {
            if d.is_multiple_of(LINE / size_of::<[E; LANES]>()) {
                for n in 0..B {
                    s.prefetch(next[n].as_ptr().wrapping_add(d));
                }
            }
            let mut k = [s.splat(0.0); B];
            for n in 0..B {
                k[n] = E::load(s, &keys[n][d]);
            }
            for r in 0..R {
                let q = s.splat(q[r]);
                for n in 0..B {
                    acc[r][n] = s.mul_add(q, k[n], acc[r][n]);
                }
            }
        }
        for n in 0..B {
            if b + n < end {
                let mut scale = s.splat(self.scale);
                if E::SCALED {
                    let [of_keys, _] = self.kv.scales(self.table[b + n]);
                    scale = s.mul(scale, s.load(of_keys));
                }
                for r in 0..R {
                    s.store(s.mul(acc[r][n], scale), &mut self.scores[r][b + n]);
                }
            }
        }
    }

    /// Turns a row's scores into `exp(score - max)`, adds them to its sum, and corrects that and its
    /// values where there is a new maximum. The sum runs over blocks in order, lane by lane.
    #[inline(always)]
    fn soften<S: Simd>(&mut self, s: S, r: usize) {
        let seen = self.seen[r].clone();
        let (first, last) = (seen.start / LANES, (seen.end - 1) / LANES);
        let scores = &mut self.scores[r][first..=last];
        if let Some(cap) = self.soft_cap {
            for lanes in scores.iter_mut() {
                s.store(soft_cap(s, s.load(lanes), cap), lanes);
            }
        }
        scores[0][..seen.start % LANES].fill(f32::NEG_INFINITY);
        scores[last - first][(seen.end - 1) % LANES + 1..].fill(f32::NEG_INFINITY);
        let mut max = s.splat(f32::NEG_INFINITY);
        for lanes in scores.iter() {
            max = s.max(max, s.load(lanes));
        }
        let largest = s.max_lanes(max);
        let running = &mut self.running[r];
        let mut sum = s.load(&running.sum);
        if largest > running.max {
            let correction = exp(s, s.splat(running.max - largest));
            running.max = largest;
            sum = s.mul(sum, correction);
            let vectors = self.kv.vectors();
            for out in &mut self.out[r * vectors..][..vectors] {
                s.store(s.mul(s.load(out), correction), out);
            }
        }
        let max = s.splat(running.max);
        for lanes in scores.iter_mut() {
            let e = exp(s, s.sub(s.load(lanes), max));
            s.store(e, lanes);
            sum = s.add(sum, e);
        }
        s.store(sum, &mut running.sum);
        if E::SCALED {
            for (lanes, block) in scores.iter_mut().zip(&self.table[first..]) {
                let [_, of_values] = self.kv.scales(*block);
                s.store(s.mul(s.load(lanes), s.load(of_values)), lanes);
            }
        }
    }

    /// Adds the weighted sums of vectors `d .. d + D` of the values at `positions`, for all rows. Those
    /// that all rows see are one loop; those at either end that some do not are each row's own, so that a
    /// value a row does not see has no part in its sum, not even times zero.
    #[inline(always)]
    fn sum_values<S: Simd>(&mut self, s: S, d: usize, positions: Range<usize>) {
        let within = |at: usize| at.clamp(positions.start, positions.end);
        let start = within(self.seen[R - 1].start);
        let end = within(self.seen[0].end).max(start);
        if start > positions.start {
            for r in 0..R {
                let seen = within(self.seen[r].start)..within(self.seen[r].end).min(start);
                self.add_values::<S, 1>(s, d, r, seen);
            }
        }
        self.add_values::<S, R>(s, d, 0, start..end.min(self.seen[0].end));
        if end < positions.end {
            for r in 0..R {
                let seen = within(self.seen[r].start).max(end)..within(self.seen[r].end);
                self.add_values::<S, 1>(s, d, r, seen);
            }
        }
    }

    /// `out[r] += weight[r, p] * v[p]` for `p` in `positions`, in order, and `N` rows from `first`.
    #[inline(always)]
    fn add_values<S: Simd, const N: usize>(
        &mut self,
        s: S,
        d: usize,
        first: usize,
        positions: Range<usize>,
    ) {
        let vectors = self.kv.vectors();
        let mut at = [d; D];
        for n in 0..D {
            // Past the last vector the last one is summed again, and not stored.
            at[n] = (d + n).min(vectors - 1);
        }
        let mut acc = [[s.splat(0.0); D]; N];
        for r in 0..N {
            for n in 0..D {
                acc[r][n] = s.load(&self.out[(first + r) * vectors + at[n]]);
            }
        }
        let scores = &self.scores[first..][..N];
        let mut p = positions.start;
        while p < positions.end {
            let block = p / BLOCK_TOKENS;
            let first = p % BLOCK_TOKENS;
            let slots = (positions.end - p).min(BLOCK_TOKENS - first);
            let values = self.kv.values(self.table[block]);
            let next = self.next_values(block);
            for slot in first..first + slots {
                for n in (0..D).step_by(LINE / size_of::<[E; LANES]>()) {
                    s.prefetch(next.as_ptr().wrapping_add(slot * vectors + d + n));
                }
                let mut v = [s.splat(0.0); D];
                for n in 0..D {
                    v[n] = E::load(s, &values[slot * vectors + at[n]]);
                }
                for r in 0..N {
                    let weight = s.splat(scores[r][block][slot]);
                    for n in 0..D {
                        acc[r][n] = s.mul_add(weight, v[n], acc[r][n]);
                    }
                }
            }
            p += slots;
        }
        for r in 0..N {
            for n in 0..D {
                if d + n < vectors {
                    s.store(acc[r][n], &mut self.out[(first + r) * vectors + d + n]);
                }
            }
        }
    }

    /// The values that come some blocks after those of `block`, or keys of the next chunk.
    #[inline(always)]
    fn next_values(&self, block: usize) -> &[[E; LANES]] {
        let next = (block + BLOCKS_SUMMED).min(self.table.len() - 1);
        match next < CHUNK_BLOCKS {
            true => self.kv.values(self.table[next]),
            false => self.kv.keys(self.table[next]),
        }
    }
}

/// Divides rows by their weights' sums.
pub(super) struct Finish<'a> {
    pub(super) running: &'a Running,
    /// The row's score beside those of the positions.
    pub(super) sink: Option<f32>,
    pub(super) sum: &'a [[f32; LANES]], // [vectors]
    pub(super) out: &'a mut [f32],      // [head_dim]
}

impl Kernel for Finish<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut total = s.sum_lanes(s.load(&self.running.sum));
        if let Some(sink) = self.sink {
            let mut lanes = [0.0; LANES];
            s.store(exp(s, s.splat(sink - self.running.max)), &mut lanes);
            total += lanes[0];
        }
        let inverse = 1.0 / total;
        let sum = self.sum.as_flattened();
        for (out, sum) in self.out.iter_mut().zip(sum) {
            *out = sum * inverse;
        }
    }
}
