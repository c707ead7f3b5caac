//! Gated activations and the residual sum: elementwise, so every order is the same order.

#[cfg(test)]
mod reference;

use crate::{
    exp::exp,
    isa::{Isa, Kernel, LANES, Simd},
};

/// `gate[i] = silu(gate[i]) * up[i]` (SwiGLU, Shazeer 2020), `silu(x) = x / (1 + exp(-x))`.
///
/// # Panics
/// When the lengths differ.
pub fn silu_mul(isa: Isa, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    isa.dispatch(SiluMul { gate, up });
}

/// `x[i] += y[i] * factor`, rounded twice: with a factor of 1 it is the plain sum.
///
/// # Panics
/// When the lengths differ.
pub fn add_scaled(isa: Isa, x: &mut [f32], y: &[f32], factor: f32) {
    assert_eq!(x.len(), y.len());
    isa.dispatch(AddScaled { x, y, factor });
}

struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, gate_rest) = self.gate.as_chunks_mut::<LANES>();
        let (ups, up_rest) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            silu_mul_lanes(s, gate, up);
        }
        let (mut gate, mut up) = ([0.0; LANES], [0.0; LANES]);
        gate[..gate_rest.len()].copy_from_slice(gate_rest);
        up[..up_rest.len()].copy_from_slice(up_rest);
        silu_mul_lanes(s, &mut gate, &up);
        gate_rest.copy_from_slice(&gate[..gate_rest.len()]);
    }
}

#[inline(always)]
fn silu_mul_lanes<S: Simd>(s: S, gate: &mut [f32; LANES], up: &[f32; LANES]) {
    let x = s.load(gate);
    let e = exp(s, s.sub(s.splat(0.0), x));
    let silu = s.div(x, s.add(s.splat(1.0), e));
    s.store(s.mul(silu, s.load(up)), gate);
}

struct AddScaled<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
    factor: f32,
}

impl Kernel for AddScaled<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (x, y) in self.x.iter_mut().zip(self.y) {
            *x += y * self.factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_agrees_with_the_reference_and_with_each_other() {
        for len in [0, 1, 15, 16, 17, 100, 1537] {
            let gate: Vec<f32> = (0..len).map(|i| (i as f32 * 0.377).sin() * 20.0).collect();
            let up: Vec<f32> = (0..len).map(|i| (i as f32 * 0.911).cos() * 3.0).collect();
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut out = gate.clone();
                silu_mul(isa, &mut out, &up);
                for i in 0..len {
                    let want = reference::silu_mul(gate[i], up[i]);
                    assert!((f64::from(out[i]) - want).abs() <= 1e-6 * want.abs() + 1e-30);
                }
                assert_eq!(first.get_or_insert_with(|| out.clone()), &out, "{:?}", isa.level());

                let mut sum = gate.clone();
                add_scaled(isa, &mut sum, &up, 1.0);
                assert!((0..len).all(|i| sum[i] == gate[i] + up[i]));
                let mut sum = gate.clone();
                add_scaled(isa, &mut sum, &up, 0.22);
                assert!((0..len).all(|i| sum[i] == gate[i] + up[i] * 0.22));
            }
        }
    }

    #[test]
    fn extremes_stay_what_they_should_be() {
        for isa in Isa::available() {
            let mut gate = [-1e30, -200.0, 0.0, 200.0, f32::NAN];
            silu_mul(isa, &mut gate, &[1.0; 5]);
            assert!(
                gate[1].abs() < 1e-30 && gate[2] == 0.0 && gate[3] == 200.0 && gate[4].is_nan()
            );
        }
    }
}
