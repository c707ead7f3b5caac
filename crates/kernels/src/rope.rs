//! Rotary position embedding (Su et al. 2021), the half-split ("NeoX") pairing.
//!
//! Two products and a sum per value, of rows that are in the cache anyway: plain Rust, which the
//! compiler vectorises, and the same bits everywhere.

/// Rotates each head of `x` (`[heads, head_dim]`) in place: pairs `(i, i + cos.len())`; what of a head
/// lies past these pairs stays (partial rotation).
/// `cos`/`sin`: `[rotary_dim/2]`, of this row's position.
///
/// # Panics
/// When `cos` is empty or has more than half a head's values, `cos` and `sin` differ in length, or `x`
/// is not whole heads.
pub fn rotate(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    assert_eq!(half, sin.len());
    assert!(half > 0 && 2 * half <= head_dim && x.len().is_multiple_of(head_dim));
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
    fn rotates_each_pair() {
        let angles = [0.3f32, 1.1];
        let (cos, sin) = (angles.map(f32::cos), angles.map(f32::sin));
        for head_dim in [4, 7] {
            let mut x: Vec<f32> = (1..=2 * head_dim).map(|i| i as f32).collect(); // [2, head_dim]
            let before = x.clone();
            rotate(&mut x, head_dim, &cos, &sin);
            for (x, before) in x.chunks(head_dim).zip(before.chunks(head_dim)) {
                for i in 0..2 {
                    let (a, b) = (before[i], before[i + 2]);
                    assert_eq!(x[i], a * cos[i] - b * sin[i]);
                    assert_eq!(x[i + 2], b * cos[i] + a * sin[i]);
                }
                assert_eq!(x[4..], before[4..]);
            }
        }
    }

    #[test]
    #[should_panic]
    fn refuses_a_row_that_is_not_whole_heads() {
        rotate(&mut [0.0; 6], 4, &[1.0; 2], &[0.0; 2]);
    }
}
