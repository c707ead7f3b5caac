//! The bytes of a matrix, as a stream: made in pieces on all threads, written in order, so that a
//! model of any size takes a few megabytes of memory.

use std::{
    io::{self, Write},
    thread,
};

use super::{format::Format, normal::Normal};
use crate::bench::shape::Shape;

/// As models are initialised.
const DEVIATION: f32 = 0.02;
/// Weights that a thread makes at a time; whole blocks of every format.
const PIECE: usize = 1 << 19;

/// What to make.
pub(super) struct Recipe<'a> {
    pub(super) shape: &'a Shape,
    pub(super) format: Format,
    pub(super) seed: u64,
    pub(super) threads: usize,
}

/// Writes the `weights` weights called `stream`, the same ones in every format.
pub(super) fn write_matrix(
    recipe: &Recipe<'_>,
    stream: &str,
    weights: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let normal = Normal::new(recipe.seed, stream, DEVIATION);
    let mut pieces: Vec<Piece> = (0..recipe.threads.max(1)).map(|_| Piece::default()).collect();
    for first in (0..weights).step_by(PIECE * pieces.len()) {
        thread::scope(|scope| {
            for (number, piece) in pieces.iter_mut().enumerate() {
                let first = (first + number * PIECE).min(weights);
                let len = PIECE.min(weights - first);
                scope.spawn(move || piece.make(normal, first, len, recipe.format));
            }
        });
        pieces.iter().try_for_each(|piece| out.write_all(&piece.bytes))?;
    }
    Ok(())
}

/// The buffers of one thread.
#[derive(Default)]
struct Piece {
    weights: Vec<f32>,
    bytes: Vec<u8>,
}

impl Piece {
    fn make(&mut self, normal: Normal, first: usize, len: usize, format: Format) {
        self.weights.resize(len, 0.0);
        normal.fill(first, &mut self.weights);
        self.bytes.clear();
        format.encode(&self.weights, &mut self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::shape::TINY;

    #[test]
    fn any_number_of_threads_writes_the_same() {
        let weights = 3 * PIECE + 32;
        let written = |threads| {
            let mut out = Vec::new();
            let recipe = Recipe { shape: &TINY, format: Format::Q4_0, seed: 3, threads };
            write_matrix(&recipe, "w", weights, &mut out).unwrap();
            out
        };
        let alone = written(1);
        assert_eq!(alone.len(), Format::Q4_0.bytes(weights));
        assert!(alone == written(2) && alone == written(3));
    }
}
