//! The exponential on vectors, for softmax and gates, and the hyperbolic tangent by it, for soft caps.
//!
//! `exp(x) = 2^n · exp(r)`, `n = round(x / ln 2)`, `|r| ≤ ln 2 / 2`; `exp(r)` by its Taylor series
//! to degree 7, whose remainder (5e-9) is under half a unit in the last place. The same operations
//! on every instruction set, so the same bits; a library's `exp` would differ between machines.

use crate::isa::Simd;

/// Past this the result is 0 (and 1.2e-38 · 0.7 just before it).
const LOW: f32 = -88.02;
/// Past this the result stays 2.3e38: no infinity comes out.
const HIGH: f32 = 88.37;
/// 1.5·2²³: added and taken away, it rounds to an integer, which its low bits then hold.
const ROUND: f32 = 12_582_912.0;
/// ln 2 to 15 bits, so that `n · LN2_HIGH` is exact.
const LN2_HIGH: f32 = 0.693_145_75;
/// The rest of ln 2.
const LN2_LOW: f32 = 1.428_606_8e-6;
/// 1/k! for k from 7 down to 0.
const TAYLOR: [f32; 8] =
    [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// `exp(x)` in each lane: within 2 units in the last place of the exact value between -87.3 and
/// 88.3, 0 under -87.7 (-∞ included), NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // The constant first: `max` and `min` give their second operand when one is NaN.
    let x = s.max(s.splat(LOW), s.min(s.splat(HIGH), x));
    let biased = s.mul_add(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(biased, s.splat(ROUND));
    let r = s.mul_add(n, s.splat(-LN2_HIGH), x);
    let r = s.mul_add(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(TAYLOR[0]);
    for &c in &TAYLOR[1..] {
        p = s.mul_add(p, r, s.splat(c));
    }
    s.mul(p, s.pow2_of_biased(biased))
}

/// `tanh(x)` in each lane, `1 - 2 / (exp(2x) + 1)`: within 3e-7 of the exact value, NaN for NaN.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.add(x, x));
    s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))))
}

/// `cap · tanh(x / cap)` in each lane: x, held between -cap and cap softly (Gemma 2).
#[inline(always)]
pub(crate) fn soft_cap<S: Simd>(s: S, x: S::V, cap: f32) -> S::V {
    let cap = s.splat(cap);
    s.mul(cap, tanh(s, s.div(x, cap)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Kernel, LANES};

    struct Exp<'a>(&'a mut [[f32; LANES]]);
    impl Kernel for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for lanes in self.0 {
                let x = s.load(lanes);
                s.store(exp(s, x), lanes);
            }
        }
    }

    fn all(isa: Isa, xs: &[[f32; LANES]]) -> Vec<f32> {
        let mut out = xs.to_vec();
        isa.dispatch(Exp(&mut out));
        out.concat()
    }

    #[test]
    fn close_to_f64_and_equal_on_every_level() {
        let xs: Vec<[f32; LANES]> = (0..20_000)
            .map(|i| std::array::from_fn(|l| -87.3 + (i * LANES + l) as f32 * (175.6 / 320_000.0)))
            .collect();
        let portable = all(Isa::available().next().unwrap(), &xs);
        let mut worst = 0.0f64;
        for (x, y) in xs.as_flattened().iter().zip(&portable) {
            let exact = f64::from(*x).exp();
            let ulp = f64::from((exact as f32).next_up() - exact as f32);
            worst = worst.max((f64::from(*y) - exact).abs() / ulp);
        }
        println!("largest error of exp: {worst:.2} units in the last place");
        assert!(worst < 2.0, "{worst} units in the last place");
        for isa in Isa::available() {
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&all(isa, &xs)), bits(&portable), "{:?}", isa.level());
        }
    }

    struct Tanh<'a>(&'a mut [[f32; LANES]]);
    impl Kernel for Tanh<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for lanes in self.0 {
                let x = s.load(lanes);
                s.store(tanh(s, x), lanes);
            }
        }
    }

    #[test]
    fn tanh_is_close_to_f64_and_equal_on_every_level() {
        let mut xs: Vec<[f32; LANES]> = (0..4000)
            .map(|i| std::array::from_fn(|l| -11.0 + (i * LANES + l) as f32 * (22.0 / 64_000.0)))
            .collect();
        xs[0][..4].copy_from_slice(&[f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30]);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut out = xs.clone();
            isa.dispatch(Tanh(&mut out));
            for (x, y) in xs.as_flattened().iter().zip(out.as_flattened()) {
                let error = (f64::from(*y) - f64::from(*x).tanh()).abs();
                assert!(error < 3e-7, "tanh({x}) is off by {error}");
            }
            assert_eq!(first.get_or_insert_with(|| out.concat()), &out.concat(), "{isa:?}");
            let mut nan = [[f32::NAN; LANES]];
            isa.dispatch(Tanh(&mut nan));
            assert!(nan[0].iter().all(|y| y.is_nan()));
        }
    }

    #[test]
    fn edges() {
        for isa in Isa::available() {
            let mut x = [0.0; LANES];
            x[..7].copy_from_slice(&[
                f32::NEG_INFINITY,
                -1e9,
                -88.0,
                0.0,
                1e9,
                f32::INFINITY,
                f32::NAN,
            ]);
            let y = all(isa, &[x]);
            assert_eq!(&y[..4], &[0.0, 0.0, 0.0, 1.0]);
            assert!(y[4].is_finite() && y[4] > 2e38 && y[4] == y[5]);
            assert!(y[6].is_nan());
        }
    }
}
