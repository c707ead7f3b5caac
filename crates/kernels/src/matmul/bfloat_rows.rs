//! Rows of x as bfloat16 times weights in bfloat16, in AMX's tiles: sixteen times the multiplications
//! of an f32 vector. Two tiles of rows by two panels at once, over all k: the sums stay in tiles, and
//! each loaded tile serves two products. (Kalamkar et al. 2019 on what bfloat16 costs; vLLM rounds
//! alike.)
//!
//! The order of additions is the hardware's (see [`BfloatTiles::multiply_two`]): the same for every
//! number of rows, but not that of the other levels, which multiply such weights with x in f32.

use std::{cell::RefCell, ops::Range, ptr};

use super::{
    Call, Weights,
    panel::{PairPanels, Panels},
    run_all, store,
    tiles::Tiles,
};
use crate::{
    bfloat::pairs,
    buffer::Buffer,
    isa::{Amx, BfloatPass, BfloatTiles, Isa, Kernel, LANES, Simd, Sums, TILE_ROWS},
    team::{SharedSlice, Team},
};

/// k of a step of the tiles.
pub(super) const STEP: usize = 32;
/// Numbers of a tile of sums.
const TILE_LEN: usize = TILE_ROWS * LANES;
/// Bytes of a block of rows, which stays in L2 (2 MiB on every CPU with AMX) beside a task's weights, the
/// next one's, and outputs. (Tests' blocks are small, so that they have several.)
const BLOCK_BYTES: usize = if cfg!(test) { 1 << 14 } else { 9 << 17 };
/// Rows of a block, at most: reading weights takes half the time of multiplying them then.
const MOST_ROWS: usize = 512;
/// Bytes of a task's weights.
const TASK_BYTES: usize = 1 << 18;
/// Where k is so long that few whole rows would fit, bytes of a block's part along k.
const CUT_BYTES: usize = if cfg!(test) { 1 << 15 } else { 1 << 19 };
/// Pairs of panels of a task then, at most: their sums, 512 KiB, stay in L2, too.
const MOST_PAIRS_OF_CUT: usize = 8;
/// Tasks per thread, where the shape allows it.
const TASKS_PER_THREAD: usize = 8;

thread_local! {
    /// Kept from call to call by the thread that calls.
    static ROWS: RefCell<Buffer<[u32; LANES]>> = RefCell::new(Buffer::zeroed(0));
    /// Sums on their way from one part of k to the next; kept for its memory.
    static SUMS: RefCell<Buffer<Sums>> = RefCell::new(Buffer::zeroed(0));
}

/// The rows, in tiles of as many places.
#[derive(Clone, Copy)]
struct Rows<'a> {
    tiles: Tiles,
    /// Of a tile: one more than it has rows in some.
    places: usize,
    /// Of k.
    steps: usize,
    words: &'a [[u32; LANES]], // [tile][k / 32][place]: two k each
}

impl<'a> Rows<'a> {
    /// Rounds `x`, `[m, cols]`, into `space`; `cols` is a multiple of [`STEP`].
    fn round(
        isa: Isa,
        team: &Team,
        x: &[f32],
        cols: usize,
        space: &'a mut Buffer<[u32; LANES]>,
    ) -> Self {
        let tiles = Tiles::new(x.len() / cols, TILE_ROWS);
        let (places, steps) = (tiles.of(0).1, cols / STEP);
        let per_tile = places * steps;
        space.reserve(tiles.count * per_tile);
        let words = SharedSlice::new(space);
        let tile = |tile: usize| {
            let (first, rows) = tiles.of(tile);
            // SAFETY: each tile is one task's, and tiles do not overlap.
            let out = unsafe { words.range(tile * per_tile..(tile + 1) * per_tile) };
            for (place, x) in x[first * cols..(first + rows) * cols].chunks_exact(cols).enumerate()
            {
                let out = &mut out[place..];
                isa.dispatch(Round { x: x.as_chunks().0, places, out });
            }
        };
        match tiles.count {
            1 => tile(0),
            count => team.run(count, &|index, _| tile(index)),
        }
        Self { tiles, places, steps, words: space }
    }

    fn tile(&self, tile: usize, steps: Range<usize>) -> &'a [[u32; LANES]] {
        let words = &self.words[tile * self.places * self.steps..];
        &words[self.places * steps.start..self.places * steps.end]
    }
}

/// Rounds a row to bfloat16, to nearest even.
struct Round<'a> {
    x: &'a [[f32; STEP]], // [k / 32]
    places: usize,
    out: &'a mut [[u32; LANES]], // [k / 32][places], from the row's
}

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (step, x) in self.x.iter().enumerate() {
            self.out[step * self.places] = pairs(x);
        }
    }
}

/// How a call is cut into tasks: blocks of pairs of tiles, and within each the pairs of panels.
#[derive(Clone, Copy)]
struct Cut {
    /// Pairs of tiles of rows.
    row_pairs: usize,
    blocks: usize,
    pairs: usize,
    per_task: usize,
    tasks_per_block: usize,
    /// Of k, at once.
    steps: usize,
}

impl Cut {
    fn of(call: &Call<'_>, tiles: Tiles) -> Self {
        let (threads, steps) = (call.team.threads(), call.w.cols / STEP);
        let row_pairs = tiles.count.div_ceil(2);
        let pairs = call.w.panels().div_ceil(2);
        // Rows that fit, and features of a task: memory is read for each of either.
        let rows = call.m.clamp(2 * TILE_ROWS, MOST_ROWS);
        let fit = BLOCK_BYTES / (call.w.cols * size_of::<u16>());
        let fit = fit.clamp(2 * TILE_ROWS, rows);
        let most = (pairs / threads).clamp(1, MOST_PAIRS_OF_CUT);
        let features = 2 * LANES * most;
        let is_cut = 3 * fit * (rows + features) < 2 * rows * features;
        // Threads may share rows or features, whichever is less to read for all of them.
        let shared = (threads * call.m / call.w.rows).isqrt();
        let blocks = call.m.div_ceil(if is_cut { rows } else { fit }).max(shared).min(row_pairs);
        let (per_task, steps) = if is_cut {
            let at_once = CUT_BYTES / (rows * STEP * size_of::<u16>());
            (most, steps.div_ceil(steps.div_ceil(at_once)))
        } else {
            let fit = TASK_BYTES / (2 * LANES * call.w.cols * size_of::<u16>());
            ((pairs * blocks / (threads * TASKS_PER_THREAD)).min(fit).max(1), steps)
        };
        let tasks_per_block = pairs.div_ceil(per_task);
        Self { row_pairs, blocks, pairs, per_task, tasks_per_block, steps }
    }

    fn tasks(&self) -> usize {
        self.blocks * self.tasks_per_block
    }
}

/// `y = x · Wᵀ` for all of `calls`, which have one x, and `cols` that are a multiple of [`STEP`].
pub(super) fn run(amx: Amx, calls: &[Call<'_>]) {
    let Some(Call { isa, team, x, w, .. }) = calls.first() else { return };
    ROWS.with_borrow_mut(|space| {
        let rows = Rows::round(*isa, team, x, w.cols, space);
        let tasks = |call: &Call<'_>| match call.w.rows {
            0 => 0,
            _ => Cut::of(call, rows.tiles).tasks(),
        };
        run_all(calls, tasks, |call, task| run_task(amx, call, rows, task));
    });
}

fn run_task(amx: Amx, call: &Call<'_>, rows: Rows<'_>, task: usize) {
    let cut = Cut::of(call, rows.tiles);
    let Weights::Bf16(panels) = &call.w.weights else {
        unreachable!("`PackedMatrix::way` has looked")
    };
    let (block, first) = (task / cut.tasks_per_block, task % cut.tasks_per_block * cut.per_task);
    let start = |block: usize| rows.tiles.count.min(2 * (block * cut.row_pairs / cut.blocks));
    let task = Task {
        call,
        panels,
        rows,
        tiles: start(block)..start(block + 1),
        pairs: first..cut.pairs.min(first + cut.per_task),
        steps: cut.steps,
    };
    // SAFETY: nothing below comes here again, or runs anybody else's code.
    let amx = unsafe { amx.bfloat_tiles(rows.places) };
    SUMS.with_borrow_mut(|sums| task.run(&amx, sums));
}

/// Some tiles of rows times some pairs of panels.
struct Task<'a> {
    call: &'a Call<'a>,
    panels: &'a PairPanels,
    rows: Rows<'a>,
    tiles: Range<usize>,
    pairs: Range<usize>,
    /// Of k, at once.
    steps: usize,
}

impl Task<'_> {
    fn run(&self, amx: &BfloatTiles, sums: &mut Buffer<Sums>) {
        let passes = self.tiles.len().div_ceil(2);
        // If k is not cut only a pass's sums are kept, for what y has no place for.
        let kept = if self.steps < self.rows.steps { passes * self.pairs.len() } else { 1 };
        sums.reserve(kept);
        for step in (0..self.rows.steps).step_by(self.steps) {
            let steps = step..self.rows.steps.min(step + self.steps);
            // A row's outputs lie on a page that other rows have no part of: so all pairs in turn.
            for (pass, tile) in self.tiles.clone().step_by(2).enumerate() {
                for (n, pair) in self.pairs.clone().enumerate() {
                    let sums = &mut sums[(pass * self.pairs.len() + n) % kept];
                    self.multiply(amx, 2 * pair, (pass, tile), steps.clone(), sums);
                }
            }
        }
    }

    /// Two panels, of which the second may not be there, and two tiles, likewise, over some steps of k.
    fn multiply(
        &self,
        amx: &BfloatTiles,
        panel: usize,
        (pass, tile): (usize, usize),
        steps: Range<usize>,
        sums: &mut Sums,
    ) {
        let tiles = [tile, (tile + 1).min(self.tiles.end - 1)];
        let is_one = tiles[0] == tiles[1];
        let places = tiles.map(|tile| self.rows.tiles.of(tile));
        let is_last = steps.end == self.rows.steps;
        // Straight to y, unless a tile or a panel has places that y lacks.
        let width = self.call.w.rows;
        let straight = is_last
            && (panel + 2) * LANES <= width
            && places.iter().all(|(_, rows)| *rows == self.rows.places);
        let (outputs, row, to_second) = match straight {
            true => {
                let y = |(row, _)| self.call.y.place(row * width + panel * LANES);
                (places.map(y), width, LANES)
            }
            false => (sums.each_mut().map(|tile| tile.as_mut_ptr().cast()), LANES, TILE_LEN),
        };
        let (ahead, per_step) = self.ahead(panel, pass, &steps);
        let operands = BfloatPass {
            sums: if steps.start > 0 { &raw const *sums } else { ptr::null() },
            outputs,
            row,
            panel: to_second,
            fetches: straight,
            ahead,
            per_step,
        };
        let x = tiles.map(|tile| self.rows.tile(tile, steps.clone()));
        let weights = self.weights([panel, panel + 1], &steps);
        // SAFETY: a pair of panels and a block of rows are one task's, and no two tasks share both;
        // `sums` is this thread's.
        unsafe {
            match is_one {
                true => amx.multiply_one(x[0], weights, operands),
                false => amx.multiply_two(x, weights, operands),
            }
        }
        if is_last && !straight {
            self.store(panel, &places[..2 - usize::from(is_one)], sums);
        }
    }

    /// The words of two panels and some steps. Past the last panel the last one is computed again, and not
    /// stored.
    fn weights(&self, panels: [usize; 2], steps: &Range<usize>) -> [&[[u32; LANES]]; 2] {
        let last = self.call.w.panels() - 1;
        let panels = panels.map(|panel| self.panels.panel(last.min(panel)).words);
        panels.map(|words| &words[16 * steps.start..16 * steps.end])
    }

    /// What pass `pass` over a pair of panels asks for: its part of the next steps of k, or of what the
    /// next task has in this pair's place. The first lines, and how many of each per step.
    fn ahead(
        &self,
        panel: usize,
        pass: usize,
        steps: &Range<usize>,
    ) -> ([*const [u32; LANES]; 2], usize) {
        let (panel, next) = match steps.end < self.rows.steps {
            true => (panel, steps.end..self.rows.steps.min(steps.end + self.steps)),
            false => (panel + 2 * self.pairs.len(), 0..self.rows.steps.min(self.steps)),
        };
        if panel >= self.call.w.panels() {
            return ([ptr::null(); 2], 0);
        }
        let per_step = 16usize.div_ceil(self.tiles.len().div_ceil(2));
        let skip = pass * per_step * steps.len();
        (
            self.weights([panel, panel + 1], &next).map(|words| words.as_ptr().wrapping_add(skip)),
            per_step,
        )
    }

    fn store(&self, panel: usize, places: &[(usize, usize)], sums: &Sums) {
        let panels = panel..self.call.w.panels().min(panel + 2);
        for ((first, count), sums) in places.iter().zip(sums) {
            for (panel, sums) in panels.clone().zip(sums) {
                for (row, lanes) in sums.iter().take(*count).enumerate() {
                    // SAFETY: as in `multiply`.
                    store(lanes, unsafe { self.call.output(first + row, panel) });
                }
            }
        }
    }
}
