//! The products of bytes in AMX's tiles: of 16 rows, 16 features and a group's k at once. The sums come
//! back to the vector registers after every group, to be scaled there. On Emerald Rapids a group takes 35
//! cycles in the tiles, of which 15 to store the sums, and 26 or 36 (with minima) in the vectors; the two
//! overlap hardly (70 to 85 cycles in all).

use super::{BYTES, GROUP, Task, TileRows};
use crate::{
    isa::{Amx, ByteTiles, Kernel, LANES, Simd, TILE_ROWS},
    matmul::{
        panel::{Code, CodePanel, Panel, Panels},
        store,
    },
};

/// Sums on their way from the tiles to the vectors, by group. A load of what was stored shortly before
/// waits until that is in the cache: so the tiles are some groups ahead.
const RING: usize = 8;

/// What a task's passes write to, one after the other.
#[repr(align(64))]
struct Space {
    ring: [[[i32; LANES]; TILE_ROWS]; RING],
    /// Outputs that y has no place for.
    spare: [[f32; LANES]; TILE_ROWS],
}

/// What a pass over a panel asks for of the next one.
struct Ahead<'a, C: Code> {
    /// The next panel, of which the first pass asks for the scales.
    panel: Option<CodePanel<'a, C>>,
    /// The pass's part of the next panel's codes.
    lines: &'a [[u32; LANES]],
}

impl<C: Code> Task<'_, C> {
    /// [`Task::run`] with tiles.
    pub(super) fn run_on(&self, amx: Amx) {
        // SAFETY: nothing below comes here again, or runs anybody else's code.
        let tiles = unsafe { amx.byte_tiles(self.panels.group / 4) };
        let mut space =
            Space { ring: [[[0; LANES]; TILE_ROWS]; RING], spare: [[0.0; LANES]; TILE_ROWS] };
        BYTES.with_borrow_mut(|bytes| {
            let words = self.panels.words(self.indices.clone());
            let codes = C::bytes(self.call.isa, words, self.panels.zero(), bytes);
            let codes = codes.chunks_exact(self.call.w.cols / 4);
            // A row's outputs lie on a page that other rows have no part of: so all panels in turn.
            for (pass, tile) in self.tiles.clone().enumerate() {
                for (index, codes) in self.indices.clone().zip(codes.clone()) {
                    let ahead = self.ahead(index, pass);
                    self.multiply(&tiles, &mut space, (index, codes), tile, ahead);
                }
            }
        });
    }

    /// What pass `pass` over panel `index` asks for of the one that the next task has in its place.
    fn ahead(&self, index: usize, pass: usize) -> Ahead<'_, C> {
        let next = index + self.indices.len();
        if next >= self.call.w.panels() {
            return Ahead { panel: None, lines: &[] };
        }
        let (lines, passes) = (self.panels.words(next..next + 1), self.tiles.len());
        let (start, end) = (pass * lines.len() / passes, (pass + 1) * lines.len() / passes);
        let panel = (pass == 0).then(|| self.panels.panel(next));
        Ahead { panel, lines: &lines[start..end] }
    }

    /// One tile of rows times one panel.
    fn multiply(
        &self,
        tiles: &ByteTiles,
        space: &mut Space,
        (index, codes): (usize, &[[u32; LANES]]),
        tile: usize,
        ahead: Ahead<'_, C>,
    ) {
        let (first, count) = self.layout.tiles.of(tile);
        let rows = self.rows.tile(self.layout.place(tile));
        let (y, width) = (&self.call.y, self.call.w.rows);
        let is_whole = (index + 1) * LANES <= width;
        let spare = space.spare.each_mut().map(|lanes| &raw mut *lanes);
        let outputs = std::array::from_fn(|m| match is_whole && m < count {
            true => y.place((first + m) * width + index * LANES).cast(),
            false => spare[m],
        });
        let panel = self.panels.panel(index);
        let zeros = panel.has_zeros() && self.panels.zero() == 0;
        let ring = &mut space.ring;
        self.call.isa.dispatch(Product { tiles, panel, codes, zeros, rows, outputs, ring, ahead });
        if !is_whole {
            for (m, lanes) in space.spare.iter().take(count).enumerate() {
                // SAFETY: a panel and a block of rows are one task's, and no two tasks share both.
                store(lanes, unsafe { self.call.output(first + m, index) });
            }
        }
    }
}

struct Product<'a, C: Code> {
    tiles: &'a ByteTiles,
    panel: CodePanel<'a, C>,
    codes: &'a [[u32; LANES]], // [cols / 4], bytes
    /// Whether the codes that stand for 0 are still to be taken off.
    zeros: bool,
    rows: TileRows<'a>,
    /// Where the sums are stored: nobody else's meanwhile.
    outputs: [*mut [f32; LANES]; TILE_ROWS],
    ring: &'a mut [[[i32; LANES]; TILE_ROWS]; RING],
    ahead: Ahead<'a, C>,
}

impl<C: Code> Kernel for Product<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if S::REGISTERS < 32 {
            unreachable!("there are no tiles on this level");
        }
        for m in 0..TILE_ROWS {
            s.prefetch_write(self.outputs[m]);
        }
        let mut acc = [s.splat(0.0); TILE_ROWS];
        let x: &[[_; TILE_ROWS]] = self.rows.codes.as_chunks().0;
        let scales: &[[_; TILE_ROWS]] = self.rows.scales.as_chunks().0;
        let totals: &[[_; TILE_ROWS]] = self.rows.totals.as_chunks().0;
        let sums: &[[_; TILE_ROWS]] = self.rows.sums.as_chunks().0;
        // Groups of the panel in one of the rows': one or two.
        let halved = u32::from(self.panel.group_len() < GROUP);
        let words = self.panel.group_len() / 4;
        let count = x.len() << halved;
        let minima = self.panel.has_minima();
        let mut lines = self.ahead.lines.iter();
        let per_group = lines.len().div_ceil(count);
        // What the tiles and the vectors work on.
        let (mut tiled, mut scaled) = (0, 0);
        while scaled < count {
            if tiled < count {
                let (x, first) = (&x[tiled >> halved], tiled * words % 8);
                let codes = &self.codes[tiled * words..];
                let sums = &mut self.ring[tiled % RING];
                self.tiles.multiply(tiled % 2 == 1, x, first, codes, sums);
            }
            tiled += 1;
            if tiled < RING {
                continue;
            }
            let group = scaled >> halved;
            let (totals, scales, sums) = (&totals[group], &scales[group], &sums[group]);
            let scale = self.panel.scale(s, scaled);
            let dots = &self.ring[scaled % RING];
            // Groups of which a row's has several have neither zeros nor minima.
            let offset = match self.zeros {
                true => self.panel.offset(s, scaled),
                false => s.splat(0.0),
            };
            for m in 0..TILE_ROWS {
                let mut dot = s.load_i32(&dots[m]);
                if self.zeros {
                    dot = s.mul_add(offset, s.splat(totals[m]), dot); // exact
                }
                acc[m] = s.mul_add(dot, s.mul(scale, s.splat(scales[m])), acc[m]);
            }
            if minima {
                let min = self.panel.min(s, scaled);
                for m in 0..TILE_ROWS {
                    acc[m] = s.mul_add(min, s.splat(sums[m]), acc[m]);
                }
            }
            for line in lines.by_ref().take(per_group) {
                s.prefetch_far(line);
            }
            if let Some(next) = &self.ahead.panel {
                next.prefetch_params(s, scaled);
            }
            scaled += 1;
        }
        for m in 0..TILE_ROWS {
            // SAFETY: the outputs are places for 16 numbers, in y this task's, or spare ones.
            s.store(acc[m], unsafe { &mut *self.outputs[m] });
        }
    }
}
