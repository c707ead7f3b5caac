//! Rows cut into tiles as even as can be: a tile of one row costs nearly what a full one does.

/// The first `longer` tiles have one row more than the others.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    pub(crate) count: usize,
    short: usize,
    longer: usize,
}

impl Tiles {
    /// `m` rows in tiles of `most` at most.
    pub(crate) fn new(m: usize, most: usize) -> Self {
        let count = m.div_ceil(most).max(1);
        Self { count, short: m / count, longer: m % count }
    }

    /// First row and number of rows of `tile`.
    pub(crate) fn of(&self, tile: usize) -> (usize, usize) {
        (tile * self.short + tile.min(self.longer), self.short + usize::from(tile < self.longer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_tile_and_tiles_differ_by_one() {
        for (m, most) in [(1, 6), (6, 6), (7, 6), (13, 6), (100, 12), (5, 8)] {
            let tiles = Tiles::new(m, most);
            let mut next = 0;
            for tile in 0..tiles.count {
                let (first, rows) = tiles.of(tile);
                assert_eq!(first, next);
                assert!(rows <= most && rows.abs_diff(tiles.of(0).1) <= 1);
                next = first + rows;
            }
            assert_eq!(next, m);
        }
    }
}
