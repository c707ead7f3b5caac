//! Log-probabilities of one position, from the raw logits.

use crate::TokenLogprob;

/// The log-softmax of `logits` at `id`, and the `k` best.
///
/// `logits`: `[vocab_size]`, finite. Passes over the vocabulary twice, so only for rows that ask.
pub(super) fn at(logits: &[f32], id: u32, k: usize) -> TokenLogprob {
    let norm = log_sum_exp(logits);
    let logprob = |logit: f32| (f64::from(logit) - norm) as f32;
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(k.min(logits.len()) + 1);
    for (id, &logit) in (0u32..).zip(logits) {
        if top.len() == k && top.last().is_none_or(|last| logit <= last.1) {
            continue;
        }
        // Ids ascend, so behind its equals.
        top.insert(top.partition_point(|better| better.1 >= logit), (id, logit));
        top.truncate(k);
    }
    for entry in &mut top {
        entry.1 = logprob(entry.1);
    }
    TokenLogprob { logprob: logprob(logits[id as usize]), top }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - best).exp())).sum();
    f64::from(best) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_k_best_come_best_first_and_equals_by_id() {
        let found = at(&[1.0, 3.0, 2.0, 3.0, 0.0], 2, 3);
        let norm = (1f64.exp() + 2.0 * 3f64.exp() + 2f64.exp() + 1.0).ln();
        let expected = [(1, 3.0 - norm), (3, 3.0 - norm), (2, 2.0 - norm)];
        for (found, expected) in found.top.iter().zip(expected) {
            assert_eq!(found.0, expected.0);
            assert!((f64::from(found.1) - expected.1).abs() < 1e-6);
        }
        assert_eq!(found.top.len(), 3);
        assert_eq!(found.logprob, found.top[2].1);
    }

    #[test]
    fn none_or_more_than_there_are() {
        assert_eq!(at(&[1.0, 2.0], 0, 0).top, []);
        assert_eq!(at(&[1.0, 2.0], 0, 20).top.len(), 2);
        assert_eq!(at(&[1e30, -1e30], 1, 1).logprob, -2e30);
    }

    proptest::proptest! {
        #[test]
        fn as_the_naive_oracle(
            logits in proptest::collection::vec(-4i8..4, 1..60), k in 0usize..25, at_id in 0usize..60,
        ) {
            // Small integers, so that there are many equals.
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let id = (at_id % logits.len()) as u32;
            let found = at(&logits, id, k);
            let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(k);
            let ids = |top: &[(u32, f32)]| top.iter().map(|t| t.0).collect::<Vec<_>>();
            assert_eq!(ids(&found.top), ids(&all));
            for (f, a) in found.top.iter().zip(&all) {
                assert!((f64::from(f.1) - (f64::from(a.1) - sum.ln())).abs() < 1e-5);
            }
            let own = f64::from(logits[id as usize]) - sum.ln();
            assert!((f64::from(found.logprob) - own).abs() < 1e-5);
        }
    }
}
