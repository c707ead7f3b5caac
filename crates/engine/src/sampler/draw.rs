//! The random draw: a pure function of (seed, choice, position).
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy
//! as 1, 2, 3", SC 2011): it has a key and a counter instead of a state, so that there is nothing
//! to advance, and a draw can't depend on the draws before it.

use super::Candidate;

/// Multipliers and key increments of Philox4x32, from the paper.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Uniform in `[0, 1)`, with 53 random bits.
pub(super) fn uniform(seed: u64, choice: u32, position: u64) -> f64 {
    let [position_low, position_high] = halves(position);
    let words = philox([position_low, position_high, choice, 0], halves(seed));
    let bits = (u64::from(words[0]) << 32 | u64::from(words[1])) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// The candidate at `uniform` of the sum of all weights, in the order given; at least one.
pub(super) fn weighted(candidates: &[Candidate], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let target = uniform * total;
    let mut reached = 0.0;
    let mut last = 0;
    for candidate in candidates {
        reached += f64::from(candidate.weight);
        last = candidate.id;
        if target < reached {
            break;
        }
    }
    last
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [low0, high0] = halves(u64::from(MULTIPLIERS[0]) * u64::from(counter[0]));
        let [low1, high1] = halves(u64::from(MULTIPLIERS[1]) * u64::from(counter[2]));
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Low half first.
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the authors' own implementation.
    #[test]
    fn philox_gives_the_known_answers() {
        let zero = philox([0; 4], [0; 2]);
        assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let pi = philox(counter, [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn draws_differ_by_seed_choice_and_position() {
        let draw = uniform(1, 2, 3);
        assert_eq!(draw, uniform(1, 2, 3));
        assert_ne!(draw, uniform(2, 2, 3));
        assert_ne!(draw, uniform(1, 3, 3));
        assert_ne!(draw, uniform(1, 2, 4));
        assert_ne!(draw, uniform(1 + (1 << 32), 2, 3));
        assert_ne!(draw, uniform(1, 2, 3 + (1 << 32)));
    }

    #[test]
    fn the_ends_of_the_range_draw_the_first_and_the_last() {
        let candidate = |id, weight| Candidate { id, logit: 0.0, weight };
        let candidates = [candidate(4, 0.5), candidate(7, 1.0), candidate(9, 0.5)];
        assert_eq!(weighted(&candidates, 0.0), 4);
        assert_eq!(weighted(&candidates, 0.2499), 4);
        assert_eq!(weighted(&candidates, 0.25), 7);
        assert_eq!(weighted(&candidates, 0.75), 9);
        assert_eq!(weighted(&candidates, 1.0), 9);
    }

    /// Pearson's chi-squared over 16 bins. The keys are fixed, so it can't fail by chance.
    #[test]
    fn draws_are_uniform() {
        const DRAWS: u64 = 16_000;
        for (seed, step) in [(0, 1), (u64::MAX, 1), (42, 16)] {
            let mut bins = [0f64; 16];
            for i in 0..DRAWS {
                bins[(uniform(seed, (i % 7) as u32, i / 7 * step) * 16.0) as usize] += 1.0;
            }
            let expected = DRAWS as f64 / 16.0;
            let chi2: f64 = bins.iter().map(|n| (n - expected).powi(2) / expected).sum();
            // 99.9% of chi-squared with 15 degrees of freedom.
            assert!(chi2 < 37.7, "seed {seed}: {chi2} {bins:?}");
        }
    }
}
