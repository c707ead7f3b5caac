//! A few query rows against one KV head: scores, softmax, values. What comes next is asked for, as
//! blocks lie where they may and in pages of their own: without that, a sequence's single row waits for
//! memory, and eight rows at position 4,096 took half as long again (Zen 3, November 2026).

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

/// Positions whose values are summed at once, whole blocks: vectors of a row's values that lie beside
/// those in use are still in the cache when their turn comes.
const CHUNK: usize = 4 * BLOCK_TOKENS;
/// Bytes of a line of memory.
const LINE: usize = 64;

/// `R` rows; `B` blocks of keys and `D` vectors of values at once.
///
/// Rows are in order of what they see: neither end of `seen` goes back from one row to the next.
pub(super) struct Tile<'a, E, const R: usize, const B: usize, const D: usize> {
    pub(super) q: &'a [[f32; R]], // [head_dim]
    pub(super) kv: HeadBlocks<'a, E>,
    /// Blocks from the one that the first row sees first to the one that the last row sees last.
    pub(super) table: &'a [u32],
    /// The position that `table` starts at.
    pub(super) first: usize,
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
    /// Each row's score beside those of the positions.
    pub(super) sinks: [Option<f32>; R],
    /// The positions each row sees, its own the last.
    pub(super) seen: [Range<usize>; R],
    pub(super) scores: &'a mut [[f32; LANES]], // [R, table.len()]
    pub(super) out: &'a mut [[f32; LANES]],    // [R, kv.vectors()]
}

impl<E: Element, const R: usize, const B: usize, const D: usize> Kernel for Tile<'_, E, R, B, D> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        if R * B >= S::REGISTERS || R * D >= S::REGISTERS {
            unreachable!("`run_on` does not ask for {R} rows by {B} and {D} here");
        }
        let width = self.table.len();
        for b in (0..width).step_by(B) {
            self.score(s, b);
        }
        let mut inverse = [0.0; R];
        for r in 0..R {
            let seen = self.seen[r].start - self.first..self.seen[r].end - self.first;
            let scores = &mut self.scores[r * width..(r + 1) * width];
            if let Some(cap) = self.soft_cap {
                for lanes in scores.iter_mut() {
                    s.store(soft_cap(s, s.load(lanes), cap), lanes);
                }
            }
            inverse[r] = softmax(s, scores, seen, self.sinks[r]);
            if E::SCALED {
                for (lanes, block) in scores.iter_mut().zip(self.table) {
                    let [_, of_values] = self.kv.scales(*block);
                    s.store(s.mul(s.load(lanes), s.load(of_values)), lanes);
                }
            }
        }
        self.out.fill([0.0; LANES]);
        let end = self.seen[R - 1].end;
        for start in (self.first..end).step_by(CHUNK) {
            for d in (0..self.kv.vectors()).step_by(D) {
                self.sum_values(s, d, start..end.min(start + CHUNK));
            }
        }
        let vectors = self.kv.vectors();
        for r in 0..R {
            for out in &mut self.out[r * vectors..(r + 1) * vectors] {
                s.store(s.mul(s.load(out), s.splat(inverse[r])), out);
            }
        }
    }
}

impl<E: Element, const R: usize, const B: usize, const D: usize> Tile<'_, E, R, B, D> {
    /// Scores of all rows at the positions of `B` blocks from `b`. Those a row does not see, and
    /// those past the end, come out as whatever the cache holds there; `softmax` passes over them.
    #[inline(always)]
    fn score<S: Simd>(&mut self, s: S, b: usize) {
        let width = self.table.len();
        let mut keys = [self.kv.keys(self.table[b]); B];
        for n in 1..B {
            // Past the last block the last one is computed again, and not stored.
            keys[n] = self.kv.keys(self.table[(b + n).min(width - 1)]);
        }
        for keys in &mut keys {
            *keys = &keys[..self.q.len()];
        }
        // After the last keys the values' turn comes.
        let mut next = [keys[0]; B];
        for n in 0..B {
            next[n] = match self.table.get(b + B + n) {
                Some(block) => self.kv.keys(*block),
                None => self.kv.values(self.table[n.min(width - 1)]),
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
            if b + n < width {
                let mut scale = s.splat(self.scale);
                if E::SCALED {
                    let [of_keys, _] = self.kv.scales(self.table[b + n]);
                    scale = s.mul(scale, s.load(of_keys));
                }
                for r in 0..R {
                    s.store(s.mul(acc[r][n], scale), &mut self.scores[r * width + b + n]);
                }
            }
        }
    }

    /// Adds the weighted sums of vectors `d .. d + D` of the values at the positions of `chunk`, for all
    /// rows. The positions that all rows see are one loop; those at either end that some do not are each
    /// row's own, so that a value a row does not see has no part in its sum, not even times zero.
    #[inline(always)]
    fn sum_values<S: Simd>(&mut self, s: S, d: usize, chunk: Range<usize>) {
        let vectors = self.kv.vectors();
        let within = |at: usize| at.clamp(chunk.start, chunk.end);
        let start = within(self.seen[R - 1].start);
        let end = within(self.seen[0].end).max(start);
        let mut acc = [[s.splat(0.0); D]; R];
        for r in 0..R {
            for n in 0..D {
                acc[r][n] = s.load(&self.out[r * vectors + (d + n).min(vectors - 1)]);
            }
        }
        if start > chunk.start {
            for r in 0..R {
                let seen = within(self.seen[r].start)..within(self.seen[r].end).min(start);
                acc[r] = self.add_values(s, d, [r], seen, [acc[r]])[0];
            }
        }
        let mut all = [0; R];
        for r in 0..R {
            all[r] = r;
        }
        acc = self.add_values(s, d, all, start..end.min(self.seen[0].end), acc);
        if end < chunk.end {
            for r in 0..R {
                let seen = within(self.seen[r].start).max(end)..within(self.seen[r].end);
                acc[r] = self.add_values(s, d, [r], seen, [acc[r]])[0];
            }
        }
        for r in 0..R {
            for n in 0..D {
                if d + n < vectors {
                    s.store(acc[r][n], &mut self.out[r * vectors + d + n]);
                }
            }
        }
    }

    /// `acc[i] += score[rows[i], p] * v[p]` for `p` in `positions`, in order.
    #[inline(always)]
    fn add_values<S: Simd, const N: usize>(
        &self,
        s: S,
        d: usize,
        rows: [usize; N],
        positions: Range<usize>,
        mut acc: [[S::V; D]; N],
    ) -> [[S::V; D]; N] {
        let (width, vectors) = (self.table.len(), self.kv.vectors());
        let mut p = positions.start;
        while p < positions.end {
            let block = (p - self.first) / BLOCK_TOKENS;
            let slot = p % BLOCK_TOKENS;
            let slots = (positions.end - p).min(BLOCK_TOKENS - slot);
            let values = self.kv.values(self.table[block]);
            let next = self.kv.values(self.table[(block + CHUNK / BLOCK_TOKENS).min(width - 1)]);
            let mut weights = [&self.scores[rows[0] * width + block]; N];
            for i in 1..N {
                weights[i] = &self.scores[rows[i] * width + block];
            }
            for slot in slot..slot + slots {
                let value = &values[slot * vectors..][..vectors];
                for n in (0..D).step_by(LINE / size_of::<[E; LANES]>()) {
                    s.prefetch(next.as_ptr().wrapping_add(slot * vectors + d + n));
                }
                let mut v = [s.splat(0.0); D];
                for n in 0..D {
                    v[n] = E::load(s, &value[(d + n).min(vectors - 1)]);
                }
                for i in 0..N {
                    let weight = s.splat(weights[i][slot]);
                    for n in 0..D {
                        acc[i][n] = s.mul_add(weight, v[n], acc[i][n]);
                    }
                }
            }
            p += slots;
        }
        acc
    }
}

/// Turns a row's scores into `exp(score - max)` and gives 1 / their sum. `seen` counts from the
/// row's first lane. The sum runs over blocks in order, lane by lane, from the first block seen; the
/// sink comes last.
#[inline(always)]
fn softmax<S: Simd>(
    s: S,
    scores: &mut [[f32; LANES]],
    seen: Range<usize>,
    sink: Option<f32>,
) -> f32 {
    let (first, last) = (seen.start / LANES, (seen.end - 1) / LANES);
    let scores = &mut scores[first..=last];
    scores[0][..seen.start % LANES].fill(f32::NEG_INFINITY);
    scores[last - first][(seen.end - 1) % LANES + 1..].fill(f32::NEG_INFINITY);
    let mut max = s.splat(f32::NEG_INFINITY);
    for lanes in scores.iter() {
        max = s.max(max, s.load(lanes));
    }
    let mut largest = s.max_lanes(max);
    if let Some(sink) = sink
        && sink > largest
    {
        largest = sink;
    }
    let max = s.splat(largest);
    let mut sum = s.splat(0.0);
    for lanes in scores.iter_mut() {
        let e = exp(s, s.sub(s.load(lanes), max));
        s.store(e, lanes);
        sum = s.add(sum, e);
    }
    let mut total = s.sum_lanes(sum);
    if let Some(sink) = sink {
        let mut lanes = [0.0; LANES];
        s.store(exp(s, s.splat(sink - largest)), &mut lanes);
        total += lanes[0];
    }
    1.0 / total
}
