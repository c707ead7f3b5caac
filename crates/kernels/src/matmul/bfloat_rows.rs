//! Rows of x as bfloat16 times weights in bfloat16, in AMX's tiles: sixteen times the multiplications
//! of an f32 vector. Two tiles of rows by two panels at once, over all k: the sums stay in tiles, and
//! each loaded tile serves two products. (Kalamkar et al. 2019 on what bfloat16 costs; vLLM rounds
//! alike.)
//!
//! The order of additions is the hardware's (see [`BfloatTiles::multiply_two`]): the same for every
//! number of rows, but not that of the other levels, which multiply such weights with x in f32.

use std::{cell::RefCell, ops::Range};

use super::{
    Call, Weights,
    panel::{PairPanels, Panels},
    run_all, store,
    tiles::Tiles,
};
use crate::{
    bfloat::pair,
    isa::{Amx, BfloatTiles, Isa, Kernel, LANES, PairOfSums, Simd, TILE_ROWS},
    team::{SharedSlice, Team},
};

/// k of a step of the tiles.
pub(super) const STEP: usize = 32;
/// Rows that a task multiplies with its panels one after the other: their bfloat16 stays in L2.
const TASK_ROWS: usize = 128;
/// Pairs of panels of a task, at most.
const MOST_PAIRS: usize = 4;
/// Tasks per thread, where the shape allows it.
const TASKS_PER_THREAD: usize = 8;

thread_local! {
    /// Kept from call to call by the thread that calls.
    static ROWS: RefCell<Vec<[u32; LANES]>> = const { RefCell::new(Vec::new()) };
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
        space: &'a mut Vec<[u32; LANES]>,
    ) -> Self {
        let tiles = Tiles::new(x.len() / cols, TILE_ROWS);
        let (places, steps) = (tiles.of(0).1, cols / STEP);
        let per_tile = places * steps;
        if space.len() < tiles.count * per_tile {
            space.resize(tiles.count * per_tile, [0; LANES]);
        }
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

    fn tile(&self, tile: usize) -> &'a [[u32; LANES]] {
        let per_tile = self.places * self.steps;
        &self.words[tile * per_tile..(tile + 1) * per_tile]
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
            let out = &mut self.out[step * self.places];
            for i in 0..LANES {
                out[i] = pair(x[2 * i], x[2 * i + 1]);
            }
        }
    }
}

/// How a call is cut into tasks: blocks of tiles, and within each the pairs of panels.
#[derive(Clone, Copy)]
struct Cut {
    blocks: usize,
    pairs: usize,
    per_task: usize,
    tasks_per_block: usize,
}

impl Cut {
    fn of(call: &Call<'_>, tiles: Tiles) -> Self {
        let blocks = call.m.div_ceil(TASK_ROWS).min(tiles.count);
        let pairs = call.w.panels().div_ceil(2);
        let wanted = call.team.threads() * TASKS_PER_THREAD;
        let per_task = (pairs * blocks / wanted).clamp(1, MOST_PAIRS);
        Self { blocks, pairs, per_task, tasks_per_block: pairs.div_ceil(per_task) }
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
        let tasks = |call: &Call<'_>| Cut::of(call, rows.tiles).tasks();
        run_all(calls, tasks, |call, task| run_task(amx, call, rows, task));
    });
}

fn run_task(amx: Amx, call: &Call<'_>, rows: Rows<'_>, task: usize) {
    let cut = Cut::of(call, rows.tiles);
    let Weights::Bf16(panels) = &call.w.weights else {
        unreachable!("`PackedMatrix::way` has looked")
    };
    let (block, first) = (task / cut.tasks_per_block, task % cut.tasks_per_block * cut.per_task);
    let all = rows.tiles.count;
    let tiles = block * all / cut.blocks..(block + 1) * all / cut.blocks;
    // SAFETY: nothing below comes here again, or runs anybody else's code.
    let amx = unsafe { amx.bfloat_tiles(rows.places) };
    for pair in first..cut.pairs.min(first + cut.per_task) {
        multiply(&amx, call, panels, rows, tiles.clone(), 2 * pair);
    }
}

/// Some tiles of rows times two panels, of which the second may not be there.
fn multiply(
    amx: &BfloatTiles,
    call: &Call<'_>,
    panels: &PairPanels,
    rows: Rows<'_>,
    tiles: Range<usize>,
    panel: usize,
) {
    // Past the last panel the last one is computed again, and not stored.
    let second = (panel + 1).min(call.w.panels() - 1);
    let weights = [panel, second].map(|index| panels.panel(index).words);
    let mut sums = [PairOfSums::default(); 2];
    for tile in tiles.clone().step_by(2) {
        let count = (tiles.end - tile).min(2);
        match count {
            2 => amx.multiply_two([rows.tile(tile), rows.tile(tile + 1)], weights, &mut sums),
            _ => amx.multiply_one(rows.tile(tile), weights, &mut sums[0]),
        }
        for (tile, sums) in (tile..tile + count).zip(&sums) {
            let (first, count) = rows.tiles.of(tile);
            for (panel, sums) in (panel..=second).zip(sums) {
                for (row, lanes) in sums.iter().take(count).enumerate() {
                    // SAFETY: a pair of panels and a block of rows are one task's, and no two
                    // tasks share both.
                    store(lanes, unsafe { call.output(first + row, panel) });
                }
            }
        }
    }
}
