//! Attention as it is defined, in f64, over keys and values in order of position.

use super::AttentionShape;

/// One row's output for one head, of that number. `q`: `[head_dim]`; `k`, `v`: `[positions seen or not][head_dim]`.
/// `round` is what becomes of the softmax's weights before they meet values.
pub(super) fn attend(
    shape: AttentionShape<'_>,
    head: usize,
    position: usize,
    q: &[f32],
    k: &[Vec<f32>],
    v: &[Vec<f32>],
    round: impl Fn(f64) -> f64,
) -> Vec<f64> {
    let first = shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let seen = first..=position;
    let dot =
        |k: &[f32]| -> f64 { q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum() };
    let score = |k: &Vec<f32>| {
        let score = dot(k) * f64::from(shape.scale);
        shape.soft_cap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh())
    };
    let scores: Vec<f64> = k[seen.clone()].iter().map(score).collect();
    let sink = shape.sinks.map_or(f64::NEG_INFINITY, |sinks| f64::from(sinks[head]));
    let max = scores.iter().copied().fold(sink, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total = weights.iter().sum::<f64>() + (sink - max).exp();
    let mut out = vec![0.0; q.len()];
    for (weight, v) in weights.iter().zip(&v[seen]) {
        for (out, &v) in out.iter_mut().zip(v) {
            *out += round(*weight) / total * f64::from(v);
        }
    }
    out
}
