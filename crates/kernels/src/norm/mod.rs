//! RMS normalisation (Zhang & Sennrich 2019).
//!
//! The sum of squares runs in four vectors of 16 lanes, added as a fixed tree at the end: the order
//! depends on the row's length only.

#[cfg(test)]
mod reference;

use crate::isa::{Isa, Kernel, LANES, Simd};

/// Independent sums, enough to hide the latency of an addition.
const CHAINS: usize = 4;

/// `out[r, d] = x[r, d] / sqrt(mean(x[r]²) + eps) * weight[d]` for each row of `weight.len()`
/// values.
///
/// # Panics
/// When `out` and `x` differ in length, or `x` is not whole rows.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    if x.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(weight.len()), "x is not whole rows of the weight's length");
    let rows = x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len()));
    for (x, out) in rows {
        let scale = isa.dispatch(InverseRms { x, eps });
        isa.dispatch(Scale { x, scale, weight, out });
    }
}

/// As [`rms_norm`], in place (norms of queries and keys, and those after a layer).
///
/// # Panics
/// When `x` is not whole rows.
pub fn rms_norm_in_place(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    if x.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(weight.len()), "x is not whole rows of the weight's length");
    for x in x.chunks_exact_mut(weight.len()) {
        let scale = isa.dispatch(InverseRms { x, eps });
        isa.dispatch(ScaleInPlace { x, scale, weight });
    }
}

/// `1 / sqrt(mean(x²) + eps)`.
struct InverseRms<'a> {
    x: &'a [f32],
    eps: f32,
}

impl Kernel for InverseRms<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); CHAINS];
        let (vectors, rest) = self.x.as_chunks::<LANES>();
        let (blocks, tail) = vectors.as_chunks::<CHAINS>();
        for block in blocks {
            for i in 0..CHAINS {
                let x = s.load(&block[i]);
                sums[i] = s.mul_add(x, x, sums[i]);
            }
        }
        for (i, lanes) in tail.iter().enumerate() {
            let x = s.load(lanes);
            sums[i] = s.mul_add(x, x, sums[i]);
        }
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let x = s.load(&last);
        sums[CHAINS - 1] = s.mul_add(x, x, sums[CHAINS - 1]);
        let total = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
        let mean = s.sum_lanes(total) / self.x.len() as f32;
        1.0 / (mean + self.eps).sqrt()
    }
}

struct Scale<'a> {
    x: &'a [f32],
    scale: f32,
    weight: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // One product after the other, nothing to fuse: the compiler's own vectors do.
        for ((out, x), weight) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = x * self.scale * weight;
        }
    }
}

struct ScaleInPlace<'a> {
    x: &'a mut [f32],
    scale: f32,
    weight: &'a [f32],
}

impl Kernel for ScaleInPlace<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (x, weight) in self.x.iter_mut().zip(self.weight) {
            *x = *x * self.scale * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 0.7391).sin() * 3.0).collect()
    }

    #[test]
    fn every_level_agrees_with_the_reference_and_with_each_other() {
        for dim in [1, 2, 15, 16, 17, 43, 64, 172, 576, 1000] {
            let (x, weight) = (numbers(3 * dim, 1.0), numbers(dim, 2.0));
            let want = reference::rms_norm(&x, &weight, 1e-5);
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut out = vec![0.0; x.len()];
                rms_norm(isa, &x, &weight, 1e-5, &mut out);
                for (out, want) in out.iter().zip(&want) {
                    assert!((f64::from(*out) - want).abs() < 1e-5 * want.abs().max(1.0));
                }
                let mut in_place = x.clone();
                rms_norm_in_place(isa, &mut in_place, &weight, 1e-5);
                assert_eq!(in_place, out);
                assert_eq!(first.get_or_insert_with(|| out.clone()), &out, "{:?}", isa.level());
                for row in 0..3 {
                    let mut alone = vec![0.0; dim];
                    rms_norm(isa, &x[row * dim..][..dim], &weight, 1e-5, &mut alone);
                    assert_eq!(alone, out[row * dim..][..dim]);
                }
            }
        }
    }

    #[test]
    fn no_rows_is_no_work() {
        rms_norm(Isa::detect(), &[], &[1.0], 1e-5, &mut []);
        rms_norm_in_place(Isa::detect(), &mut [], &[], 1e-5);
    }
}
