//! The gated delta rule as the paper writes it, in f64: the tests' oracle.

use super::DeltaShape;

/// One head over the rows of one sequence. `state`, `[key_dim, value_dim]`, becomes that after the
/// last row. Returns `[rows, value_dim]`.
pub(super) fn delta_rule(
    shape: DeltaShape,
    head: usize,
    qkv: &[f32],
    decay: &[f32],
    beta: &[f32],
    state: &mut [f64],
) -> Vec<f64> {
    let DeltaShape { value_heads, key_dim, value_dim, .. } = shape;
    let key_head = shape.key_head(head);
    let mut out = Vec::new();
    for (row, qkv) in qkv.chunks_exact(shape.channels()).enumerate() {
        let keys = shape.key_heads * key_dim;
        let q = &qkv[key_head * key_dim..][..key_dim];
        let k = &qkv[keys + key_head * key_dim..][..key_dim];
        let v = &qkv[2 * keys + head * value_dim..][..value_dim];
        let (decay, beta) = (decay[row * value_heads + head], beta[row * value_heads + head]);
        state.iter_mut().for_each(|s| *s *= f64::from(decay));
        for j in 0..value_dim {
            let known: f64 = (0..key_dim).map(|i| state[i * value_dim + j] * f64::from(k[i])).sum();
            let delta = (f64::from(v[j]) - known) * f64::from(beta);
            for i in 0..key_dim {
                state[i * value_dim + j] += f64::from(k[i]) * delta;
            }
            out.push((0..key_dim).map(|i| state[i * value_dim + j] * f64::from(q[i])).sum());
        }
    }
    out
}
