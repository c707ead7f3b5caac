//! Gated activations, soft caps and the residual sum: elementwise, so every order is the same order.

#[cfg(test)]
mod reference;

use crate::{
    exp::{exp, soft_cap},
    isa::{Isa, Kernel, LANES, Simd},
};

/// What a gate is put through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `silu(x) = x / (1 + exp(-x))`.
    Silu,
    /// GELU by its tanh approximation (Hendrycks & Gimpel 2016),
    /// `x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    GeluTanh,
}

/// `gate[i] = activation(gate[i]) * up[i]` (SwiGLU, GEGLU; Shazeer 2020).
///
/// # Panics
/// When the lengths differ.
pub fn gate_mul(isa: Isa, activation: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    match activation {
        Activation::Silu => isa.dispatch(GateMul::<false> { gate, up }),
        Activation::GeluTanh => isa.dispatch(GateMul::<true> { gate, up }),
    }
}

/// `x[i] = cap · tanh(x[i] / cap)`.
pub fn soft_cap_all(isa: Isa, x: &mut [f32], cap: f32) {
    isa.dispatch(SoftCap { x, cap });
}

/// `x[i] += y[i] * factor`, rounded twice: with a factor of 1 it is the plain sum.
///
/// # Panics
/// When the lengths differ.
pub fn add_scaled(isa: Isa, x: &mut [f32], y: &[f32], factor: f32) {
    assert_eq!(x.len(), y.len());
    isa.dispatch(AddScaled { x, y, factor });
}

struct GateMul<'a, const GELU: bool> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl<const GELU: bool> Kernel for GateMul<'_, GELU> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, gate_rest) = self.gate.as_chunks_mut::<LANES>();
        let (ups, up_rest) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            gate_mul_lanes::<S, GELU>(s, gate, up);
        }
        let (mut gate, mut up) = ([0.0; LANES], [0.0; LANES]);
        gate[..gate_rest.len()].copy_from_slice(gate_rest);
        up[..up_rest.len()].copy_from_slice(up_rest);
        gate_mul_lanes::<S, GELU>(s, &mut gate, &up);
        gate_rest.copy_from_slice(&gate[..gate_rest.len()]);
    }
}

/// Both activations are `x / (1 + exp(-t))`: SiLU with `t = x`, and GELU, as
/// `(1 + tanh(t / 2)) / 2 = 1 / (1 + exp(-t))`, with twice the argument of its tangent.
#[inline(always)]
fn gate_mul_lanes<S: Simd, const GELU: bool>(s: S, gate: &mut [f32; LANES], up: &[f32; LANES]) {
    /// 2 √(2/π), and 0.044715 times that.
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_814;
    let x = s.load(gate);
    let t =
        if GELU { s.mul(x, s.mul_add(s.mul(x, x), s.splat(CUBIC), s.splat(LINEAR))) } else { x };
    let e = exp(s, s.sub(s.splat(0.0), t));
    let activated = s.div(x, s.add(s.splat(1.0), e));
    s.store(s.mul(activated, s.load(up)), gate);
}

struct SoftCap<'a> {
    x: &'a mut [f32],
    cap: f32,
}

impl Kernel for SoftCap<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (chunks, rest) = self.x.as_chunks_mut::<LANES>();
        for lanes in chunks {
            let x = s.load(lanes);
            s.store(soft_cap(s, x, self.cap), lanes);
        }
        let mut lanes = [0.0; LANES];
        lanes[..rest.len()].copy_from_slice(rest);
        let x = s.load(&lanes);
        s.store(soft_cap(s, x, self.cap), &mut lanes);
        rest.copy_from_slice(&lanes[..rest.len()]);
    }
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
            let mut first: Option<[Vec<f32>; 3]> = None;
            for isa in Isa::available() {
                let (mut silu, mut gelu, mut capped) = (gate.clone(), gate.clone(), gate.clone());
                gate_mul(isa, Activation::Silu, &mut silu, &up);
                gate_mul(isa, Activation::GeluTanh, &mut gelu, &up);
                soft_cap_all(isa, &mut capped, 5.0);
                for i in 0..len {
                    let want = reference::silu(gate[i]) * f64::from(up[i]);
                    assert!((f64::from(silu[i]) - want).abs() <= 1e-6 * want.abs() + 1e-30);
                    let want = reference::gelu_tanh(gate[i]) * f64::from(up[i]);
                    assert!((f64::from(gelu[i]) - want).abs() <= 1e-5 * want.abs() + 1e-13);
                    let want = reference::soft_cap(gate[i], 5.0);
                    assert!((f64::from(capped[i]) - want).abs() <= 2e-6);
                }
                let all = [silu, gelu, capped];
                assert_eq!(first.get_or_insert_with(|| all.clone()), &all, "{:?}", isa.level());

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
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let mut gate = [-1e30, -200.0, 0.0, 200.0, f32::NAN];
                gate_mul(isa, activation, &mut gate, &[1.0; 5]);
                assert!(gate[1].abs() < 1e-30 && gate[2] == 0.0 && gate[3] == 200.0);
                assert!(gate[4].is_nan());
            }
        }
    }
}
