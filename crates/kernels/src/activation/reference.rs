//! SwiGLU's gate as the paper writes it, in f64: the tests' oracle.

pub(super) fn silu_mul(gate: f32, up: f32) -> f64 {
    let gate = f64::from(gate);
    gate / (1.0 + (-gate).exp()) * f64::from(up)
}
