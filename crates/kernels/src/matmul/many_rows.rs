//! Many rows (prefill, large batches): panels are unpacked to a tile in the L1 cache, which tiles of
//! rows then pass over (Goto & van de Geijn 2008, with the roles of A and B turned).
//!
//! x is first copied to `[tile][k][rows of the tile]`, so that the inner loop reads it from one
//! pointer, in order.

#![expect(
    clippy::needless_range_loop,
    reason = "several arrays go by one index; iterators' closures may miss the instruction set"
)]

use std::cell::RefCell;

use super::{
    Call,
    panel::{Panel, Panels},
    store,
    tiles::Tiles,
};
use crate::{
    isa::{Isa, Kernel, LANES, Simd},
    team::SharedSlice,
};

/// The most k of a tile. Two panels of it (64 KiB) stream from L2, at two loads in twelve cycles;
/// the rows of x beside them (24 KiB) stay in L1. 256 and 128 were slower by 8% and 14%
/// (Zen 5, November 2026): the sums go through y once more per tile.
const TILE_K: usize = 512;
/// What a tile's k is a multiple of: whole groups of every format.
const K_UNIT: usize = 32;
/// The most panels of a tile on any level.
const MOST_PANELS: usize = 2;
/// Rows per task: enough to pay for unpacking the panels (a percent or two), few enough that their
/// part of x stays in L2.
const TASK_ROWS: usize = 128;
/// Sets of panels per task, at most.
const MOST_SETS: usize = 8;
/// Tasks per thread, where the shape allows it.
const TASKS_PER_THREAD: usize = 4;

/// The most rows of a tile, and its panels: the accumulators fill the registers but for the weights
/// and one value of x.
fn tile(isa: Isa) -> (usize, usize) {
    match isa.registers() {
        8 => (6, 1),  // 12 of 16 registers of AVX2, 24 of 32 of NEON
        _ => (12, 2), // 24 of 32
    }
}

thread_local! {
    /// x as tiles, kept from call to call by the thread that calls.
    static TILES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn run<P: Panels>(call: &Call<'_>, panels: &P) {
    TILES.with_borrow_mut(|buffer| {
        let tiles = Tiles::new(call.m, tile(call.isa).0);
        let size = call.m * call.w.cols;
        if buffer.len() < size {
            buffer.resize(size, 0.0);
        }
        tile_x(call, tiles, &mut buffer[..size]);
        multiply(call, panels, tiles, &buffer[..size]);
    });
}

/// Copies x `[m, cols]` to `[tile][cols][rows of the tile]`.
fn tile_x(call: &Call<'_>, tiles: Tiles, to: &mut [f32]) {
    let cols = call.w.cols;
    let to = SharedSlice::new(to);
    call.team.run(tiles.count, &|tile, _| {
        let (first, rows) = tiles.of(tile);
        // SAFETY: each tile is one task's, and tiles do not overlap.
        let to = unsafe { to.range(first * cols..(first + rows) * cols) };
        for (row, x) in call.x[first * cols..].chunks_exact(cols).take(rows).enumerate() {
            for (to, &x) in to[row..].iter_mut().step_by(rows).zip(x) {
                *to = x;
            }
        }
    });
}

fn multiply<P: Panels>(call: &Call<'_>, panels: &P, all: Tiles, x: &[f32]) {
    let at_once = tile(call.isa).1;
    let sets = call.w.panels().div_ceil(at_once);
    let wanted = call.team.threads() * TASKS_PER_THREAD;
    let blocks = call.m.div_ceil(TASK_ROWS).max(wanted.div_ceil(sets)).min(all.count);
    // As even as can be: the last tile costs as many trips through y as the others.
    let tile_k = call.w.cols.div_ceil(call.w.cols.div_ceil(TILE_K)).next_multiple_of(K_UNIT);
    // Several sets to a task, so that a part of x in L2 serves them all.
    let per_task = (sets * blocks / wanted).clamp(1, MOST_SETS);
    let tasks_per_block = sets.div_ceil(per_task);
    call.team.run(blocks * tasks_per_block, &|task, _| {
        let (block, first) = (task / tasks_per_block, task % tasks_per_block * per_task);
        let tiles = block * all.count / blocks..(block + 1) * all.count / blocks;
        let mut unpacked = Tile([[[0.0; LANES]; TILE_K]; MOST_PANELS]);
        for k in (0..call.w.cols).step_by(tile_k) {
            let len = tile_k.min(call.w.cols - k);
            for set in first..sets.min(first + per_task) {
                let set = set * at_once..call.w.panels().min((set + 1) * at_once);
                for (to, panel) in unpacked.0.iter_mut().zip(set.clone()) {
                    call.isa.dispatch(Unpack { panel: panels.panel(panel), k, to: &mut to[..len] });
                }
                for tile in tiles.clone() {
                    let (first, rows) = all.of(tile);
                    let x = &x[first * call.w.cols + k * rows..][..len * rows];
                    let block = Block { call, x, first, k, first_panel: set.start };
                    block.run(rows, set.len(), &unpacked);
                }
            }
        }
    });
}

/// Unpacked weights, `[panel][k][feature]`.
#[repr(align(64))]
struct Tile([[[f32; LANES]; TILE_K]; MOST_PANELS]);

/// Unpacks `to.len()` k of a panel from `k`, a multiple of [`K_UNIT`].
struct Unpack<'a, P> {
    panel: P,
    k: usize,
    to: &'a mut [[f32; LANES]],
}

impl<P: Panel> Kernel for Unpack<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let group = self.panel.group_len().min(K_UNIT);
        for (g, to) in self.to.chunks_mut(group).enumerate() {
            let at = self.k + g * group;
            let params = self.panel.params(s, at / group);
            for (i, to) in to.chunks_exact_mut(P::STEP).enumerate() {
                let mut raw = self.panel.raw(s, at / P::STEP + i);
                for to in to {
                    s.store(P::next(s, &params, &mut raw), to);
                }
            }
        }
    }
}

/// One tile of rows times one tile of weights, added to y.
struct Block<'a> {
    call: &'a Call<'a>,
    x: &'a [f32], // [k of the tile, rows of the tile]
    first: usize,
    k: usize,
    first_panel: usize,
}

impl Block<'_> {
    fn run(&self, rows: usize, panels: usize, w: &Tile) {
        match panels {
            1 => self.run_panels::<1>(rows, w),
            _ => self.run_panels::<2>(rows, w),
        }
    }

    fn run_panels<const N: usize>(&self, rows: usize, w: &Tile) {
        match rows {
            1 => self.multiply::<1, N>(w),
            2 => self.multiply::<2, N>(w),
            3 => self.multiply::<3, N>(w),
            4 => self.multiply::<4, N>(w),
            5 => self.multiply::<5, N>(w),
            6 => self.multiply::<6, N>(w),
            7 => self.multiply::<7, N>(w),
            8 => self.multiply::<8, N>(w),
            9 => self.multiply::<9, N>(w),
            10 => self.multiply::<10, N>(w),
            11 => self.multiply::<11, N>(w),
            12 => self.multiply::<12, N>(w),
            _ => unreachable!("a tile has at most 12 rows"),
        }
    }

    /// y holds the sums so far between the tiles of k: the chain goes on from there.
    fn multiply<const M: usize, const N: usize>(&self, w: &Tile) {
        let mut acc = [[[0.0; LANES]; N]; M];
        if self.k > 0 {
            self.each(&mut acc, |acc, y| match y.as_array() {
                Some(y) => *acc = *y, // of known size: no call
                None => acc[..y.len()].copy_from_slice(y),
            });
        }
        let x = self.x.as_chunks::<M>().0;
        let w = std::array::from_fn::<_, N, _>(|n| &w.0[n][..x.len()]);
        let fresh = self.k == 0;
        self.call.isa.dispatch(MultiplyAdd { x, w, fresh, acc: &mut acc });
        self.each(&mut acc, |acc, y| store(acc, y));
    }

    /// Calls `f` for each row and panel with the accumulator and its place in y.
    #[inline]
    fn each<const M: usize, const N: usize>(
        &self,
        acc: &mut [[[f32; LANES]; N]; M],
        f: impl Fn(&mut [f32; LANES], &mut [f32]),
    ) {
        for (row, acc) in acc.iter_mut().enumerate() {
            for (n, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the task has these rows of these panels to itself: each pair of a block
                // of rows and a set of panels is one task.
                f(acc, unsafe { self.call.output(self.first + row, self.first_panel + n) });
            }
        }
    }
}

struct MultiplyAdd<'a, const M: usize, const N: usize> {
    x: &'a [[f32; M]],          // [k]
    w: [&'a [[f32; LANES]]; N], // [k] each
    /// The sums start here, and what `acc` holds does not count.
    fresh: bool,
    acc: &'a mut [[[f32; LANES]; N]; M],
}

impl<const M: usize, const N: usize> Kernel for MultiplyAdd<'_, M, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if M * N >= S::REGISTERS {
            unreachable!("`tile` does not ask for {M} by {N} here");
        }
        let mut acc = [[s.splat(0.0); N]; M];
        if !self.fresh {
            for m in 0..M {
                for n in 0..N {
                    acc[m][n] = s.load(&self.acc[m][n]);
                }
            }
        }
        let mut w = self.w;
        for n in 0..N {
            w[n] = &w[n][..self.x.len()];
        }
        for (k, x) in self.x.iter().enumerate() {
            let mut vectors = [s.load(&w[0][k]); N];
            for n in 1..N {
                vectors[n] = s.load(&w[n][k]);
            }
            for m in 0..M {
                let x = s.splat(x[m]);
                for n in 0..N {
                    acc[m][n] = s.mul_add(x, vectors[n], acc[m][n]);
                }
            }
        }
        for m in 0..M {
            for n in 0..N {
                s.store(acc[m][n], &mut self.acc[m][n]);
            }
        }
    }
}
