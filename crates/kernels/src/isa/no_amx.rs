//! Where there is no AMX: types without a value, so that the code for it need not be left out.

use super::{LANES, TILE_ROWS};

#[derive(Clone, Copy)]
pub(crate) enum Amx {}

impl Amx {
    pub(crate) fn detect() -> Option<Self> {
        None
    }

    /// # Safety
    /// Cannot be called.
    pub(crate) unsafe fn byte_tiles(self, _: usize) -> ByteTiles {
        match self {}
    }
}

pub(crate) enum ByteTiles {}

impl ByteTiles {
    pub(crate) fn multiply(
        &self,
        _: bool,
        _: &[[u32; 8]; TILE_ROWS],
        _: usize,
        _: &[[u32; LANES]],
        _: &mut [[i32; LANES]; TILE_ROWS],
    ) {
        match *self {}
    }
}
