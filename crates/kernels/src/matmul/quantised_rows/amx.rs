//! The products of bytes in AMX's tiles: of 16 rows, 16 features and a group's k at once. The sums come
//! back to the vector registers after every group, to be scaled there: that, not the tiles, is what
//! bounds it (about 40 cycles a group by the instructions' throughputs, of which the tiles take 16).

use super::{BYTES, GROUP, Task};
use crate::{
    isa::{Amx, ByteTiles, Kernel, LANES, Simd, TILE_ROWS},
    matmul::{
        panel::{Code, CodePanel, Panel, Panels},
        store,
    },
};

impl<C: Code> Task<'_, C> {
    /// [`Task::run`] with tiles.
    pub(super) fn run_on(&self, amx: Amx) {
        // SAFETY: nothing below comes here again, or runs anybody else's code.
        let tiles = unsafe { amx.byte_tiles(self.panels.group / 4) };
        BYTES.with_borrow_mut(|bytes| {
            for index in self.indices.clone() {
                let panel = self.panels.panel(index);
                let codes = panel.bytes(self.call.isa, bytes);
                for tile in self.tiles.clone() {
                    self.multiply(&tiles, panel, codes, index, tile);
                }
            }
        });
    }

    /// One tile of rows times one panel.
    fn multiply(
        &self,
        tiles: &ByteTiles,
        panel: CodePanel<'_, C>,
        codes: &[[u32; LANES]],
        index: usize,
        tile: usize,
    ) {
        let (first, count) = self.layout.tiles.of(tile);
        let rows = self.rows.tile(self.layout.place(tile));
        let product = Product {
            tiles,
            panel,
            codes,
            x: rows.codes.as_chunks().0,
            scales: rows.scales.as_chunks().0,
            sums: rows.sums.as_chunks().0,
        };
        let out = self.call.isa.dispatch(product);
        for (m, lanes) in out.iter().take(count).enumerate() {
            // SAFETY: a panel and a block of rows are one task's, and no two tasks share both.
            store(lanes, unsafe { self.call.output(first + m, index) });
        }
    }
}

struct Product<'a, C: Code> {
    tiles: &'a ByteTiles,
    panel: CodePanel<'a, C>,
    codes: &'a [[u32; LANES]],      // [cols / 4], bytes
    x: &'a [[[u32; 8]; TILE_ROWS]], // [groups]
    scales: &'a [[f32; TILE_ROWS]], // [groups]
    sums: &'a [[f32; TILE_ROWS]],   // [groups]
}

impl<C: Code> Product<'_, C> {
    /// Starts the sums of the panel's group `index`.
    #[inline(always)]
    fn start(&self, index: usize, sums: &mut [[[i32; LANES]; TILE_ROWS]; 2]) {
        let words = self.panel.group_len() / 4;
        let (x, first) = (&self.x[index * words / 8], index * words % 8);
        let odd = index % 2;
        self.tiles.multiply(odd == 1, x, first, &self.codes[index * words..], &mut sums[odd]);
    }
}

impl<C: Code> Kernel for Product<'_, C> {
    type Output = [[f32; LANES]; TILE_ROWS];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let mut acc = [s.splat(0.0); TILE_ROWS];
        let parts = GROUP / self.panel.group_len();
        let count = self.x.len() * parts;
        let minima = self.panel.has_minima();
        // The tiles work on one group while the vectors scale the one before.
        let mut dots = [[[0; LANES]; TILE_ROWS]; 2];
        self.start(0, &mut dots);
        for index in 0..count {
            if index + 1 < count {
                self.start(index + 1, &mut dots);
            }
            let (scales, sums) = (&self.scales[index / parts], &self.sums[index / parts]);
            let dots = &dots[index % 2];
            let (scale, min) = self.panel.params(s, index);
            for m in 0..TILE_ROWS {
                let factor = s.mul(scale, s.splat(scales[m]));
                acc[m] = s.mul_add(s.load_i32(&dots[m]), factor, acc[m]);
            }
            // Groups of which a row's has several have no minima.
            if minima {
                for m in 0..TILE_ROWS {
                    acc[m] = s.mul_add(min, s.splat(sums[m]), acc[m]);
                }
            }
        }
        let mut out = [[0.0; LANES]; TILE_ROWS];
        for m in 0..TILE_ROWS {
            s.store(acc[m], &mut out[m]);
        }
        out
    }
}
