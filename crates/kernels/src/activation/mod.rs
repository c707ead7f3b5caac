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
    /// gpt-oss's: `min(gate, 7) · sigmoid(1.702 · min(gate, 7)) · (clamp(up, -7, 7) + 1)`.
    ClampedSwiglu,
}

/// Kinds of [`GateMul`].
const SILU: u8 = 0;
const GELU: u8 = 1;
const CLAMPED: u8 = 2;

/// `gate[i] = activation(gate[i]) * up[i]` (SwiGLU, GEGLU; Shazeer 2020).
///
/// # Panics
/// When the lengths differ.
pub fn gate_mul(isa: Isa, activation: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    match activation {
        Activation::Silu => isa.dispatch(GateMul::<SILU> { gate, up }),
        Activation::GeluTanh => isa.dispatch(GateMul::<GELU> { gate, up }),
        Activation::ClampedSwiglu => isa.dispatch(GateMul::<CLAMPED> { gate, up }),
    }
}

/// `x[i] *= sigmoid(gate[i])`, with `sigmoid(t) = 1 / (1 + exp(-t))`.
///
/// # Panics
/// When the lengths differ.
pub fn sigmoid_mul(isa: Isa, x: &mut [f32], gate: &[f32]) {
    assert_eq!(x.len(), gate.len());
    isa.dispatch(SigmoidMul { x, gate });
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

struct GateMul<'a, const KIND: u8> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl<const KIND: u8> Kernel for GateMul<'_, KIND> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, gate_rest) = self.gate.as_chunks_mut::<LANES>();
        let (ups, up_rest) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            gate_mul_lanes::<S, KIND>(s, gate, up);
        }
        let (mut gate, mut up) = ([0.0; LANES], [0.0; LANES]);
        gate[..gate_rest.len()].copy_from_slice(gate_rest);
        up[..up_rest.len()].copy_from_slice(up_rest);
        gate_mul_lanes::<S, KIND>(s, &mut gate, &up);
        gate_rest.copy_from_slice(&gate[..gate_rest.len()]);
    }
}

/// All activations are `x / (1 + exp(-t))`: SiLU with `t = x`; GELU, as
/// `(1 + tanh(t / 2)) / 2 = 1 / (1 + exp(-t))`, with twice the argument of its tangent; gpt-oss's with
/// `t = 1.702 x`, of an x that is clamped first.
#[inline(always)]
fn gate_mul_lanes<S: Simd, const KIND: u8>(s: S, gate: &mut [f32; LANES], up: &[f32; LANES]) {
    /// 2 √(2/π), and 0.044715 times that.
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_814;
    const ALPHA: f32 = 1.702;
    const LIMIT: f32 = 7.0;
    let (mut x, mut up) = (s.load(gate), s.load(up));
    if KIND == CLAMPED {
        // The operands in this order: a NaN stays one.
        x = s.min(s.splat(LIMIT), x);
        up = s.max(s.splat(-LIMIT), s.min(s.splat(LIMIT), up));
        up = s.add(up, s.splat(1.0));
    }
    let t = match KIND {
        GELU => s.mul(x, s.mul_add(s.mul(x, x), s.splat(CUBIC), s.splat(LINEAR))),
        CLAMPED => s.mul(x, s.splat(ALPHA)),
        _ => x,
    };
    let e = exp(s, s.sub(s.splat(0.0), t));
    let activated = s.div(x, s.add(s.splat(1.0), e));
    s.store(s.mul(activated, up), gate);
}

struct SigmoidMul<'a> {
    x: &'a mut [f32],
    gate: &'a [f32],
}

impl Kernel for SigmoidMul<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (xs, x_rest) = self.x.as_chunks_mut::<LANES>();
        let (gates, gate_rest) = self.gate.as_chunks::<LANES>();
        for (x, gate) in xs.iter_mut().zip(gates) {
            sigmoid_mul_lanes(s, x, gate);
        }
        let (mut x, mut gate) = ([0.0; LANES], [0.0; LANES]);
        x[..x_rest.len()].copy_from_slice(x_rest);
        gate[..gate_rest.len()].copy_from_slice(gate_rest);
        sigmoid_mul_lanes(s, &mut x, &gate);
        x_rest.copy_from_slice(&x[..x_rest.len()]);
    }
}

#[inline(always)]
fn sigmoid_mul_lanes<S: Simd>(s: S, x: &mut [f32; LANES], gate: &[f32; LANES]) {
    let e = exp(s, s.sub(s.splat(0.0), s.load(gate)));
    s.store(s.div(s.load(x), s.add(s.splat(1.0), e)), x);
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
            let mut first: Option<[Vec<f32>; 5]> = None;
            for isa in Isa::available() {
                let (mut silu, mut gelu, mut capped) = (gate.clone(), gate.clone(), gate.clone());
                gate_mul(isa, Activation::Silu, &mut silu, &up);
                gate_mul(isa, Activation::GeluTanh, &mut gelu, &up);
                soft_cap_all(isa, &mut capped, 5.0);
                let mut clamped = gate.clone();
                // Some of them past the clamps.
                let wide: Vec<f32> = up.iter().map(|up| up * 4.0).collect();
                gate_mul(isa, Activation::ClampedSwiglu, &mut clamped, &wide);
                let mut gated = up.clone();
                sigmoid_mul(isa, &mut gated, &gate);
                for i in 0..len {
                    let want = reference::silu(gate[i]) * f64::from(up[i]);
                    assert!((f64::from(silu[i]) - want).abs() <= 1e-6 * want.abs() + 1e-30);
                    let want = reference::gelu_tanh(gate[i]) * f64::from(up[i]);
                    assert!((f64::from(gelu[i]) - want).abs() <= 1e-5 * want.abs() + 1e-13);
                    let want = reference::clamped_swiglu(gate[i], wide[i]);
                    assert!((f64::from(clamped[i]) - want).abs() <= 1e-5 * want.abs() + 1e-30);
                    let want = reference::soft_cap(gate[i], 5.0);
                    assert!((f64::from(capped[i]) - want).abs() <= 2e-6);
                    let want = reference::sigmoid(gate[i]) * f64::from(up[i]);
                    assert!((f64::from(gated[i]) - want).abs() <= 1e-6 * want.abs() + 1e-30);
                }
                let all = [silu, gelu, capped, clamped, gated];
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
            let mut gate = [-200.0, 0.0, 1e30, f32::NAN, 1.0];
            gate_mul(isa, Activation::ClampedSwiglu, &mut gate, &[1.0, 1.0, 1e30, 1.0, f32::NAN]);
            assert!(gate[0].abs() < 1e-30 && gate[1] == 0.0 && (gate[2] - 56.0).abs() < 1e-3);
            assert!(gate[3].is_nan() && gate[4].is_nan());
        }
    }
}
