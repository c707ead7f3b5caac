//! Rotary position embedding (Su et al. 2021), the half-split ("NeoX") pairing.
//!
//! Two products and a sum per value, of rows that are in the cache anyway: plain Rust, which the
//! compiler vectorises, and the same bits everywhere.

/// Rotates each head of `x` (`[heads, head_dim]`) in place: pairs `(i, i + head_dim/2)`.
/// `cos`/`sin`: `[head_dim/2]`, of this row's position.
///
/// # Panics
/// When `cos` is empty, `cos` and `sin` differ in length, or `x` is not whole heads.
pub fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    assert_eq!(half, sin.len());
    assert!(half > 0 && x.len().is_multiple_of(2 * half));
    for head in x.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_each_pair() {
        let angles = [0.3f32, 1.1];
        let (cos, sin) = (angles.map(f32::cos), angles.map(f32::sin));
        let mut x: Vec<f32> = (1..=8).map(|i| i as f32).collect(); // [2 heads, 4]
        let before = x.clone();
        rotate(&mut x, &cos, &sin);
        for head in 0..2 {
            for i in 0..2 {
                let (a, b) = (before[head * 4 + i], before[head * 4 + i + 2]);
                assert_eq!(x[head * 4 + i], a * cos[i] - b * sin[i]);
                assert_eq!(x[head * 4 + i + 2], b * cos[i] + a * sin[i]);
            }
        }
    }

    #[test]
    #[should_panic]
    fn refuses_a_row_that_is_not_whole_heads() {
        rotate(&mut [0.0; 6], &[1.0; 2], &[0.0; 2]);
    }
}
