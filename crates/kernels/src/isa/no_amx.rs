//! Where there is no AMX: types of which no value is made, so that the code for it need not be left out.

use super::{BfloatPass, LANES, PagedPairs, PairOfSums, TILE_ROWS};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amx(());

impl Amx {
    pub(crate) fn detect() -> Option<Self> {
        None
    }

    /// # Safety
    /// Cannot be called.
    pub(crate) unsafe fn byte_tiles(self, _: usize) -> ByteTiles {
        unreachable!("`detect` gives none")
    }

    /// # Safety
    /// Cannot be called.
    pub(crate) unsafe fn bfloat_tiles(self, _: usize) -> BfloatTiles {
        unreachable!("`detect` gives none")
    }
}

pub(crate) struct BfloatTiles(());

impl BfloatTiles {
    /// # Safety
    /// Cannot be called.
    pub(crate) unsafe fn multiply_two(
        &self,
        _: [&[[u32; LANES]]; 2],
        _: [&[[u32; LANES]]; 2],
        _: BfloatPass,
    ) {
        unreachable!("there is no `Amx` to make one")
    }

    /// # Safety
    /// Cannot be called.
    pub(crate) unsafe fn multiply_one(
        &self,
        _: &[[u32; LANES]],
        _: [&[[u32; LANES]]; 2],
        _: BfloatPass,
    ) {
        unreachable!("there is no `Amx` to make one")
    }
}

pub(crate) struct ByteTiles(());

impl ByteTiles {
    pub(crate) fn multiply(
        &self,
        _: bool,
        _: &[[u32; 8]; TILE_ROWS],
        _: usize,
        _: &[[u32; LANES]],
        _: &mut [[i32; LANES]; TILE_ROWS],
    ) {
        unreachable!("there is no `Amx` to make one")
    }
}

pub(crate) struct WeightedTiles(());

impl Amx {
    /// # Safety
    /// Cannot be called.
    pub(crate) unsafe fn weighted_tiles(self, _: usize) -> WeightedTiles {
        unreachable!("`detect` gives none")
    }
}

impl WeightedTiles {
    pub(crate) fn sum_two(
        &self,
        _: [&[[u16; LANES]]; 2],
        _: PagedPairs<'_>,
        _: usize,
        _: &mut [PairOfSums; 2],
    ) {
        unreachable!("there is no `Amx` to make one")
    }

    pub(crate) fn sum_one(
        &self,
        _: &[[u16; LANES]],
        _: PagedPairs<'_>,
        _: usize,
        _: &mut PairOfSums,
    ) {
        unreachable!("there is no `Amx` to make one")
    }
}
