//! Rotary position embedding (Su et al. 2021), the half-split ("NeoX") pairing.
//!
//! Two products and a sum per value, of rows that are in the cache anyway: plain Rust, which the
//! compiler vectorises, and the same bits everywhere.

/// Rotates each head of `x` (`[heads, head_dim]`) in place: pairs `(i, i + d/2)` where
/// `d = 2 * cos.len()` may be less than `head_dim` (partial rotary). `cos`/`sin`: `[d/2]`, of this
/// row's position.
///
/// # Panics
/// When `cos` and `sin` differ in length, `d` is more than `head_dim`, or `x` is not whole heads.
pub fn rotate(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    assert_eq!(half, sin.len());
    assert!(head_dim > 0 && 2 * half <= head_dim && x.len().is_multiple_of(head_dim));
    for head in x.chunks_exact_mut(head_dim) {
        let (first, second) = head[..2 * half].split_at_mut(half);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_each_pair_and_leaves_the_rest() {
        let angles = [0.3f32, 1.1];
        let (cos, sin) = (angles.map(f32::cos), angles.map(f32::sin));
        let mut x: Vec<f32> = (1..=12).map(|i| i as f32).collect(); // [2 heads, 6], 4 of them rotary
        let before = x.clone();
        rotate(&mut x, 6, &cos, &sin);
        for head in 0..2 {
            for i in 0..2 {
                let (a, b) = (before[head * 6 + i], before[head * 6 + i + 2]);
                assert_eq!(x[head * 6 + i], a * cos[i] - b * sin[i]);
                assert_eq!(x[head * 6 + i + 2], b * cos[i] + a * sin[i]);
            }
            assert_eq!(x[head * 6 + 4..head * 6 + 6], before[head * 6 + 4..head * 6 + 6]);
        }
    }

    #[test]
    #[should_panic]
    fn refuses_more_rotary_dimensions_than_the_head_has() {
        rotate(&mut [0.0; 4], 4, &[1.0; 3], &[0.0; 3]);
    }
}
