//! What AMX's tiles are given, where there are some and where there are none.

use super::{LANES, TILE_ROWS};

/// A tile of rows' sums in two tiles of AMX.
pub(crate) type PairOfSums = [[[f32; LANES]; TILE_ROWS]; 2];

/// The sums of two tiles of rows and two panels on their way, `[tile][panel][row]`.
pub(crate) type Sums = [PairOfSums; 2];

/// A pass of two tiles of rows, or one, over some steps of k of two panels.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    expect(dead_code, reason = "nobody reads all of it there")
)]
pub(crate) struct BfloatPass {
    /// Sums of the steps before, on a line's start; or null.
    pub(crate) sums: *const Sums,
    /// Where each tile's first row has its sums of the first panel.
    pub(crate) outputs: [*mut f32; 2],
    /// From a row's sums to the next one's, in numbers.
    pub(crate) row: usize,
    /// From the first panel's sums to the second's, in numbers.
    pub(crate) panel: usize,
    /// Whether memory is asked for the rows of the outputs, which then lie one after the other.
    pub(crate) fetches: bool,
    /// Of the weights that are multiplied next the lines of which this pass asks for the first.
    pub(crate) ahead: [*const [u32; LANES]; 2],
    /// Lines of each per step.
    pub(crate) per_step: usize,
}

/// Values in the blocks of a paged cache, as sums of values read them.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    expect(dead_code, reason = "nobody reads all of it there")
)]
pub(crate) struct PagedPairs<'a> {
    /// Blocks of `block_len` lines, of which the first 8 · `stride` are the values: `[8][stride]`, a word
    /// for two positions.
    pub(crate) lines: &'a [[u32; LANES]],
    pub(crate) block_len: usize,
    pub(crate) stride: usize,
    /// The blocks' numbers, in order of position.
    pub(crate) table: &'a [u32],
}
