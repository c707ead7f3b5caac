//! Softmax of rows (attention has one of its own, over paged scores).
//!
//! The sum runs lane by lane, and the lanes are added as a fixed tree: the order depends on the row's
//! length only.

#[cfg(test)]
mod reference;

use crate::{
    exp::exp,
    isa::{Isa, Kernel, LANES, Simd},
};

/// `x[r] = exp(x[r] - max) / Σ exp(x[r] - max)` for each row of `width` values.
///
/// # Panics
/// When `width` is 0, or `x` is not whole rows.
pub fn softmax(isa: Isa, x: &mut [f32], width: usize) {
    assert!(width > 0 && x.len().is_multiple_of(width));
    for row in x.chunks_exact_mut(width) {
        isa.dispatch(Softmax { row });
    }
}

struct Softmax<'a> {
    row: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (vectors, rest) = self.row.as_chunks_mut::<LANES>();
        // Past the end: exp gives 0 there.
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let mut max = s.load(&last);
        for lanes in vectors.iter() {
            max = s.max(max, s.load(lanes));
        }
        let max = s.splat(s.max_lanes(max));
        let e = exp(s, s.sub(s.load(&last), max));
        s.store(e, &mut last);
        let mut sum = e;
        for lanes in vectors.iter_mut() {
            let e = exp(s, s.sub(s.load(lanes), max));
            s.store(e, lanes);
            sum = s.add(sum, e);
        }
        let sum = s.splat(s.sum_lanes(sum));
        for lanes in vectors.iter_mut() {
            s.store(s.div(s.load(lanes), sum), lanes);
        }
        s.store(s.div(s.load(&last), sum), &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_agrees_with_the_reference_and_with_each_other() {
        for width in [1, 2, 8, 15, 16, 17, 60, 128, 1000] {
            let x: Vec<f32> =
                (0..3 * width).map(|i| (i as f32 * 0.7391).sin() * 20.0 - 5.0).collect();
            let want: Vec<f64> = x.chunks_exact(width).flat_map(reference::softmax).collect();
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut out = x.clone();
                softmax(isa, &mut out, width);
                for (out, want) in out.iter().zip(&want) {
                    // `x - max` alone is rounded by 2e-6 where it is 40.
                    assert!((f64::from(*out) - want).abs() <= 4e-6 * want);
                }
                assert_eq!(first.get_or_insert_with(|| out.clone()), &out, "{:?}", isa.level());
                for row in 0..3 {
                    let mut alone = x[row * width..][..width].to_vec();
                    softmax(isa, &mut alone, width);
                    assert_eq!(alone, out[row * width..][..width]);
                }
            }
        }
    }

    #[test]
    fn no_rows_is_no_work() {
        softmax(Isa::detect(), &mut [], 4);
    }
}
