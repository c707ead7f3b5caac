//! Gated activations.
use crate::isa::Isa;
/// `gate[i] = silu(gate[i]) * up[i]` (SwiGLU, Shazeer 2020).
pub fn silu_mul(isa: Isa, gate: &mut [f32], up: &[f32]) {
    let _ = (isa, gate, up);
    todo!()
}
/// `x[i] += y[i]`.
pub fn add(isa: Isa, x: &mut [f32], y: &[f32]) {
    let _ = (isa, x, y);
    todo!()
}
