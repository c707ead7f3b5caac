//! Rotary position embedding (Su et al. 2021), the half-split ("NeoX") pairing.
/// Rotates each head of `x` (`[heads, head_dim]`) in place: pairs `(i, i + d/2)` where `d = 2 * cos.len()`
/// may be less than `head_dim` (partial rotary). `cos`/`sin`: `[d/2]`, of this row's position.
pub fn rotate(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let _ = (x, head_dim, cos, sin);
    todo!()
}
