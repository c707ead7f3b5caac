//! Activations and caps as the papers write them, in f64: the tests' oracle.

pub(super) fn silu(x: f32) -> f64 {
    let x = f64::from(x);
    x / (1.0 + (-x).exp())
}

pub(super) fn gelu_tanh(x: f32) -> f64 {
    let x = f64::from(x);
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

pub(super) fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(x)).exp())
}

pub(super) fn soft_cap(x: f32, cap: f64) -> f64 {
    cap * (f64::from(x) / cap).tanh()
}

pub(super) fn clamped_swiglu(gate: f32, up: f32) -> f64 {
    let (gate, up) = (f64::from(gate).min(7.0), f64::from(up).clamp(-7.0, 7.0));
    gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0)
}
