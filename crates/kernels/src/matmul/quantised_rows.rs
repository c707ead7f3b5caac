//! Rows of x as signed bytes with a scale for each 32 k, and their product with coded weights in
//! integers: four to eight times the multiplications of an f32 vector, and no unpacking to floats.
//! (llama.cpp's Q8_1 is such a row; Jacob et al. 2018 the idea.)
//!
//! `y = Σ over groups of (Σ (code - zero) · q) · (scale · x_scale) + min · (x_scale · Σ q)`, where
//! formats have a code for 0 or a minimum, or neither: the inner sums are exact, the outer one is a
//! chain in order of k; so the bits are the same for every number of rows, tile, thread and
//! instruction set, as with rows in f32. They are other bits than those, by the rounding of x: half a
//! step of 1/127 of the largest of its 32 neighbours.

#![expect(
    clippy::needless_range_loop,
    reason = "several arrays go by one index; iterators' closures may miss the instruction set"
)]

mod amx;

use std::{cell::RefCell, ops::Range};

use super::{
    Call, Weights,
    panel::{Code, CodePanel, CodePanels, Panel, Panels},
    run_all, store,
    tiles::Tiles,
};
use crate::{
    buffer::Buffer,
    isa::{Amx, Isa, Kernel, LANES, Level, Simd, TILE_ROWS},
    team::{SharedSlice, Team},
};

/// k that share a scale.
const GROUP: usize = 32;
/// Rows that a task multiplies with its panels one after the other: their codes stay in L2.
const TASK_ROWS: usize = 96;
/// With AMX, bytes of a block of as many rows, which stays in its L2 (2 MiB) beside a task's weights, the
/// next one's, and outputs. (Tests' blocks are small, so that they have several.)
const BLOCK_BYTES: usize = if cfg!(test) { 1 << 14 } else { 9 << 17 };
/// Rows of such a block, at most.
const MOST_ROWS: usize = 512;
/// Bytes of a task's weights, as bytes.
const TASK_BYTES: usize = 1 << 18;
/// Panels of a task, at most.
const MOST_PANELS: usize = 8;
/// Tasks per thread, where the shape allows it.
const TASKS_PER_THREAD: usize = 8;
/// Rows from which on quantising them is worth a parallel region.
const ROWS_IN_PARALLEL: usize = 8;

/// Rows from which on AMX's tiles are the faster way: up to 16, VNNI was by a twentieth to a tenth (Emerald
/// Rapids, November 2026).
const FEWEST_AMX_ROWS: usize = 24;

/// The most rows of a tile, which pass over a panel together: beside their sums, the group's bytes
/// fill the registers.
fn tile_rows(isa: Isa) -> usize {
    match isa.level() {
        Level::Avx2 | Level::Portable => 6,
        Level::Neon | Level::NeonDotprod => 4, // six would spill: a row takes a tenth more instructions
        _ => 8,
    }
}

/// Tiles of rows from which on unpacking a panel's small codes to bytes pays. On AVX2 they would not
/// stay in registers from one row to the next (three tiles took a twentieth less time without it: Zen 3,
/// November 2026); AVX-512 has registers enough.
fn fewest_tiles_to_unpack_for(isa: Isa) -> usize {
    match isa.level() {
        Level::Avx2 => 4,
        _ => usize::MAX,
    }
}

/// How rows lie in memory: in tiles, each in its place.
#[derive(Clone, Copy)]
struct Layout {
    tiles: Tiles,
    /// For AMX: every tile has 16 places, some of them without a row.
    amx: Option<Amx>,
}

impl Layout {
    fn of(isa: Isa, m: usize) -> Self {
        match isa.amx().filter(|_| m >= FEWEST_AMX_ROWS) {
            Some(amx) => Self { tiles: Tiles::new(m, TILE_ROWS), amx: Some(amx) },
            None => Self { tiles: Tiles::new(m, tile_rows(isa)), amx: None },
        }
    }

    /// Places in all.
    fn places(&self, m: usize) -> usize {
        self.amx.map_or(m, |_| self.tiles.count * TILE_ROWS)
    }

    /// First place and number of places of `tile`.
    fn place(&self, tile: usize) -> (usize, usize) {
        match self.amx {
            Some(_) => (tile * TILE_ROWS, TILE_ROWS),
            None => self.tiles.of(tile),
        }
    }
}

thread_local! {
    /// Kept from call to call by the thread that calls.
    static ROWS: RefCell<Rows> = RefCell::new(Rows::new());
    /// A panel's codes as bytes, `[cols / 4][16]`; kept for its memory.
    static BYTES: RefCell<Buffer<[u32; LANES]>> = RefCell::new(Buffer::zeroed(0));
}

/// Quantised rows, in tiles: what a pass over a panel reads of its rows lies in one piece, in order.
struct Rows {
    groups: usize,
    codes: Buffer<[u32; 8]>, // [tile][group][place]: of each eight k, the even ones, then the odd ones
    halves: Vec<[i32; 2]>,   // [tile][group][place]: Σ code of 16 k each
    totals: Vec<f32>,        // [tile][group][place]: Σ code
    scales: Vec<f32>,        // [tile][group][place]
    sums: Vec<f32>,          // [tile][group][place]: scale · Σ code
}

impl Rows {
    fn new() -> Self {
        Self {
            groups: 0,
            codes: Buffer::zeroed(0),
            halves: Vec::new(),
            totals: Vec::new(),
            scales: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// Quantises `x`, `[m, cols]`; `cols` is a multiple of [`GROUP`].
    fn quantise(&mut self, isa: Isa, team: &Team, x: &[f32], cols: usize) {
        let (m, groups) = (x.len() / cols, cols / GROUP);
        let layout = Layout::of(isa, m);
        self.groups = groups;
        let size = layout.places(m) * groups;
        if self.codes.len() < size {
            self.codes.reserve(size);
            self.halves.resize(size, [0; 2]);
            self.totals.resize(size, 0.0);
            self.scales.resize(size, 0.0);
            self.sums.resize(size, 0.0);
        }
        let codes = SharedSlice::new(&mut self.codes);
        let halves = SharedSlice::new(&mut self.halves);
        let totals = SharedSlice::new(&mut self.totals);
        let scales = SharedSlice::new(&mut self.scales);
        let sums = SharedSlice::new(&mut self.sums);
        let tile = |tile: usize| {
            let (start, places) = layout.place(tile);
            let range = start * groups..(start + places) * groups;
            // SAFETY: each tile is one task's, and tiles do not overlap; so for the next four.
            let codes = unsafe { codes.range(range.clone()) };
            // SAFETY: as above.
            let halves = unsafe { halves.range(range.clone()) };
            // SAFETY: as above.
            let totals = unsafe { totals.range(range.clone()) };
            // SAFETY: as above.
            let scales = unsafe { scales.range(range.clone()) };
            // SAFETY: as above.
            let sums = unsafe { sums.range(range) };
            let (first, rows) = layout.tiles.of(tile);
            for (place, x) in x[first * cols..(first + rows) * cols].chunks_exact(cols).enumerate()
            {
                isa.dispatch(Quantise { x, place, places, codes, halves, totals, scales, sums });
            }
        };
        match m < ROWS_IN_PARALLEL {
            true => (0..layout.tiles.count).for_each(tile),
            false => team.run(layout.tiles.count, &|index, _| tile(index)),
        }
    }

    /// What is held of the places from `start`.
    fn tile(&self, (start, places): (usize, usize)) -> TileRows<'_> {
        let range = start * self.groups..(start + places) * self.groups;
        TileRows {
            codes: &self.codes[range.clone()],
            halves: &self.halves[range.clone()],
            totals: &self.totals[range.clone()],
            scales: &self.scales[range.clone()],
            sums: &self.sums[range],
        }
    }
}

/// The rows of a tile.
#[derive(Clone, Copy)]
struct TileRows<'a> {
    codes: &'a [[u32; 8]],  // [groups][places]
    halves: &'a [[i32; 2]], // [groups][places]
    totals: &'a [f32],      // [groups][places]
    scales: &'a [f32],      // [groups][places]
    sums: &'a [f32],        // [groups][places]
}

/// Quantises a row. A row with a number that is not finite becomes NaN, as its products would.
struct Quantise<'a> {
    x: &'a [f32], // [groups · GROUP]
    /// Which of the tile's `places` it takes.
    place: usize,
    places: usize,
    codes: &'a mut [[u32; 8]],  // [groups][places]
    halves: &'a mut [[i32; 2]], // [groups][places]
    totals: &'a mut [f32],      // [groups][places]
    scales: &'a mut [f32],      // [groups][places]
    sums: &'a mut [f32],        // [groups][places]
}

impl Kernel for Quantise<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Of numbers as large as 1.5 · 2²³ only the whole ones are there: adding it rounds.
        let magic = s.splat(12_582_912.0);
        let zero = s.splat(0.0);
        let mut faults = zero; // 0, or NaN
        let x = self.x.as_chunks::<GROUP>().0;
        for g in 0..x.len() {
            let at = g * self.places + self.place;
            let halves = x[g].as_chunks::<LANES>().0;
            let (a, b) = (s.load(&halves[0]), s.load(&halves[1]));
            faults = s.mul_add(a, zero, s.mul_add(b, zero, faults));
            let largest = s.max(s.max(a, s.sub(zero, a)), s.max(b, s.sub(zero, b)));
            let largest = s.max_lanes(largest);
            let mut per_unit = 127.0 / largest;
            let mut scale = largest / 127.0;
            // Zeros, and numbers so small that they are none in this company.
            if per_unit.is_infinite() {
                (per_unit, scale) = (0.0, 0.0);
            }
            let per_unit = s.splat(per_unit);
            let a = s.sub(s.mul_add(a, per_unit, magic), magic);
            let b = s.sub(s.mul_add(b, per_unit, magic), magic);
            let codes = self.codes[at].as_chunks_mut::<4>().0;
            s.store_bytes(a, &mut codes[0]);
            s.store_bytes(b, &mut codes[1]);
            let halves = [s.sum_lanes(a) as i32, s.sum_lanes(b) as i32]; // exact
            let total = (halves[0] + halves[1]) as f32;
            self.halves[at] = halves;
            self.totals[at] = total;
            self.scales[at] = scale;
            self.sums[at] = scale * total;
        }
        if s.sum_lanes(faults).is_nan() {
            for g in 0..x.len() {
                self.scales[g * self.places + self.place] = f32::NAN;
                self.sums[g * self.places + self.place] = f32::NAN;
            }
        }
    }
}

/// How a call is cut into tasks: blocks of rows, and within each the panels.
#[derive(Clone, Copy)]
struct Cut {
    layout: Layout,
    blocks: usize,
    per_task: usize,
    tasks_per_block: usize,
}

impl Cut {
    fn of(call: &Call<'_>) -> Self {
        let layout = Layout::of(call.isa, call.m);
        let blocks = match layout.amx {
            Some(_) => {
                // Bytes, and scales and sums of groups.
                let fit = BLOCK_BYTES / (call.w.cols + call.w.cols / 4);
                let blocks = call.m.div_ceil(fit.clamp(TILE_ROWS, MOST_ROWS));
                // Threads may share rows or features, whichever is less to read for all of them.
                blocks.max((call.team.threads() * call.m / call.w.rows.max(1)).isqrt())
            }
            None => call.m.div_ceil(TASK_ROWS),
        };
        let blocks = blocks.min(layout.tiles.count);
        let wanted = call.team.threads() * TASKS_PER_THREAD;
        let fit = TASK_BYTES.div_ceil(LANES * call.w.cols).min(MOST_PANELS);
        let per_task = (call.w.panels() * blocks / wanted).clamp(1, fit);
        Self { layout, blocks, per_task, tasks_per_block: call.w.panels().div_ceil(per_task) }
    }

    fn tasks(&self) -> usize {
        self.blocks * self.tasks_per_block
    }
}

/// `y = x · Wᵀ` for all of `calls`, which have one x.
pub(super) fn run(calls: &[Call<'_>]) {
    let Some(Call { isa, team, x, w, .. }) = calls.first() else { return };
    ROWS.with_borrow_mut(|rows| {
        rows.quantise(*isa, team, x, w.cols);
        let rows = &*rows;
        run_all(
            calls,
            |call| Cut::of(call).tasks(),
            |call, task| match &call.w.weights {
                Weights::Int4(panels) => run_task(call, panels, rows, task),
                Weights::Int8(panels) => run_task(call, panels, rows, task),
                Weights::Fp4(panels) => run_task(call, panels, rows, task),
                _ => unreachable!("`PackedMatrix::way` has looked"),
            },
        );
    });
}

fn run_task<C: Code>(call: &Call<'_>, panels: &CodePanels<C>, rows: &Rows, task: usize) {
    let cut = Cut::of(call);
    let (block, first) = (task / cut.tasks_per_block, task % cut.tasks_per_block * cut.per_task);
    let (all, blocks) = (cut.layout.tiles.count, cut.blocks);
    let tiles = block * all / blocks..(block + 1) * all / blocks;
    let indices = first..call.w.panels().min(first + cut.per_task);
    let task = Task { call, panels, rows, layout: cut.layout, tiles, indices };
    match cut.layout.amx {
        Some(amx) => task.run_on(amx),
        None => task.run(),
    }
}

/// Some tiles of rows times some panels.
struct Task<'a, C: Code> {
    call: &'a Call<'a>,
    panels: &'a CodePanels<C>,
    rows: &'a Rows,
    layout: Layout,
    tiles: Range<usize>,
    /// Of the panels.
    indices: Range<usize>,
}

impl<C: Code> Task<'_, C> {
    fn run(&self) {
        if self.tiles.len() == 1 {
            // The codes are read once, in the order in which they lie.
            return self.pass(self.tiles.start, self.indices.clone(), None);
        }
        let unpacks = C::SMALL && self.tiles.len() >= fewest_tiles_to_unpack_for(self.call.isa);
        BYTES.with_borrow_mut(|bytes| {
            for index in self.indices.clone() {
                let panel = self.panels.panel(index);
                let unpacked = unpacks.then(|| panel.bytes(self.call.isa, bytes));
                for tile in self.tiles.clone() {
                    self.pass(tile, index..index + 1, unpacked);
                }
            }
        });
    }

    /// One tile of rows times the panels `indices`. `unpacked`: see [`Pass`].
    fn pass(&self, tile: usize, indices: Range<usize>, unpacked: Option<&[[u32; LANES]]>) {
        let (first, count) = self.layout.tiles.of(tile);
        let rows = self.rows.tile(self.layout.place(tile));
        let is_first = tile == self.tiles.start;
        let (call, panels) = (self.call, self.panels);
        Pass { call, panels, first, indices, unpacked, rows, is_first }.run(count);
    }
}

/// A tile of rows times some panels.
struct Pass<'a, C: Code> {
    call: &'a Call<'a>,
    panels: &'a CodePanels<C>,
    /// The tile's first row.
    first: usize,
    /// Of the panels: one, if `unpacked`.
    indices: Range<usize>,
    /// The panel's codes as bytes, `[cols / 4][16]`.
    unpacked: Option<&'a [[u32; LANES]]>,
    rows: TileRows<'a>,
    /// Whether it is the panel's first tile.
    is_first: bool,
}

impl<C: Code> Pass<'_, C> {
    fn run(self, rows: usize) {
        match rows {
            1 => self.multiply::<1>(),
            2 => self.multiply::<2>(),
            3 => self.multiply::<3>(),
            4 => self.multiply::<4>(),
            5 => self.multiply::<5>(),
            6 => self.multiply::<6>(),
            7 => self.multiply::<7>(),
            8 => self.multiply::<8>(),
            rows => unreachable!("a tile of {rows} rows"),
        }
    }

    fn multiply<const M: usize>(self) {
        match self.unpacked {
            Some(bytes) => self.multiply_by::<M, true>(bytes),
            None => self.multiply_by::<M, false>(&[]),
        }
    }

    fn multiply_by<const M: usize, const UNPACKED: bool>(self, bytes: &[[u32; LANES]]) {
        self.call.isa.dispatch(Product::<C, M, UNPACKED> {
            call: self.call,
            panels: self.panels,
            first: self.first,
            indices: self.indices,
            bytes,
            fetches: UNPACKED && self.is_first,
            codes: self.rows.codes.as_chunks().0,
            halves: self.rows.halves.as_chunks().0,
            totals: self.rows.totals.as_chunks().0,
            scales: self.rows.scales.as_chunks().0,
            sums: self.rows.sums.as_chunks().0,
        });
    }
}

struct Product<'a, C: Code, const M: usize, const UNPACKED: bool> {
    call: &'a Call<'a>,
    panels: &'a CodePanels<C>,
    /// The first row.
    first: usize,
    /// Of the panels, no other task's with these rows: one, if `UNPACKED`.
    indices: Range<usize>,
    /// The panel's codes as bytes, `[cols / 4][16]`, if `UNPACKED`.
    bytes: &'a [[u32; LANES]],
    /// Whether to ask for the next panel meanwhile: unpacking it would do nothing but wait for memory.
    fetches: bool,
    codes: &'a [[[u32; 8]; M]],  // [groups]
    halves: &'a [[[i32; 2]; M]], // [groups]
    totals: &'a [[f32; M]],      // [groups]
    scales: &'a [[f32; M]],      // [groups]
    sums: &'a [[f32; M]],        // [groups]
}

impl<C: Code, const M: usize, const UNPACKED: bool> Product<'_, C, M, UNPACKED> {
    /// The rows times a panel.
    #[inline(always)]
    fn multiply<S: Simd>(&self, s: S, panel: CodePanel<'_, C>) -> [S::V; M] {
        let mut acc = [s.splat(0.0); M];
        // Groups of the panel in one of the rows'.
        let parts = GROUP / panel.group_len();
        let (zeros, minima) = (panel.has_zeros(), panel.has_minima());
        for g in 0..self.codes.len() {
            let (totals, scales, sums) = (&self.totals[g], &self.scales[g], &self.sums[g]);
            if self.fetches {
                panel.prefetch_next(s, g);
            }
            for part in 0..parts {
                let (codes, halves) = (&self.codes[g], &self.halves[g]);
                let group = g * parts + part;
                let mut dots = match UNPACKED {
                    true => panel.dot_small_bytes(s, self.bytes, g, codes, halves),
                    false => panel.dot(s, group, codes, halves),
                };
                // Groups of which a row's has several have neither zeros nor minima.
                if zeros {
                    let offset = panel.offset(s, group);
                    for m in 0..M {
                        dots[m] = s.mul_add(offset, s.splat(totals[m]), dots[m]); // exact
                    }
                }
                let scale = panel.scale(s, group);
                for m in 0..M {
                    acc[m] = s.mul_add(dots[m], s.mul(scale, s.splat(scales[m])), acc[m]);
                }
                if minima {
                    let min = panel.min(s, group);
                    for m in 0..M {
                        acc[m] = s.mul_add(min, s.splat(sums[m]), acc[m]);
                    }
                }
            }
        }
        acc
    }
}

impl<C: Code, const M: usize, const UNPACKED: bool> Kernel for Product<'_, C, M, UNPACKED> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (y, width) = (&self.call.y, self.call.w.rows);
        for index in self.indices.clone() {
            for m in 0..M {
                s.prefetch(y.place((self.first + m) * width + index * LANES));
            }
            let acc = self.multiply(s, self.panels.panel(index));
            for m in 0..M {
                let mut lanes = [0.0; LANES];
                s.store(acc[m], &mut lanes);
                // SAFETY: a panel and a block of rows are one task's, and no two tasks share both.
                store(&lanes, unsafe { self.call.output(self.first + m, index) });
            }
        }
    }
}
