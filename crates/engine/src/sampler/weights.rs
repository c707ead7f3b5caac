//! What the tokens of a whole vocabulary weigh, and the draw from all of them.
//!
//! A row at temperature 1 weighs every token of the vocabulary, so this is loops that the compiler
//! turns into vector code: additions, multiplications and selections, no call, no branch, and no
//! fused multiply-add, which only some machines have. So the same bits everywhere.

/// Tokens this far below the best one, after temperature, weigh nothing: e⁻⁸⁷ is 2e-38.
pub(super) const LOWEST: f32 = -87.0;

/// Tokens whose weights are summed together, so that a draw walks over sums before it walks over
/// tokens.
const CHUNK: usize = 128;

/// Sums of a chunk that are independent of each other, so that the adder is never waited for.
const LANES: usize = 16;

/// How a logit becomes a weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) best_logit: f32,
    pub(super) temperature: f32,
    pub(super) min_p: f32,
}

impl Scale {
    /// `exp((logit - best_logit) / temperature)`, the token's probability but for a factor; 0 where
    /// it is less than `min_p` or past [`LOWEST`]. The best one's weight is 1.
    #[inline]
    pub(super) fn weight(&self, logit: f32) -> f32 {
        let weight = exp((logit - self.best_logit) / self.temperature);
        if weight >= self.min_p { weight } else { 0.0 }
    }
}

/// The weights of one row.
#[derive(Debug, Default)]
pub(super) struct Weights {
    // [vocab_size]
    pub(super) values: Vec<f32>,
    // [vocab_size / CHUNK, rounded up]
    sums: Vec<f64>,
}

impl Weights {
    /// Weighs `logits`, `[vocab_size]`.
    pub(super) fn fill(&mut self, logits: &[f32], scale: Scale) {
        self.values.resize(logits.len(), 0.0);
        for (weight, &logit) in self.values.iter_mut().zip(logits) {
            *weight = scale.weight(logit);
        }
        self.sums.clear();
        self.sums.extend(self.values.chunks(CHUNK).map(sum));
    }

    /// The sum of all weights.
    pub(super) fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// The token at `uniform` of the sum of all weights, in order of id. Never one of weight 0.
    pub(super) fn draw(&self, uniform: f64) -> u32 {
        let target = uniform * self.total();
        let (mut reached, mut before, mut chunk) = (0.0, 0.0, 0);
        for (number, sum) in self.sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            (before, chunk) = (reached, number);
            reached += sum;
            if target < reached {
                break;
            }
        }
        let first = chunk * CHUNK;
        let weights = &self.values[first..self.values.len().min(first + CHUNK)];
        let (mut reached, mut last) = (before, first);
        for (id, &weight) in (first..).zip(weights).filter(|(_, weight)| **weight > 0.0) {
            reached += f64::from(weight);
            last = id;
            if target < reached {
                break;
            }
        }
        // Rounding may leave the target past the chunk's last token: then it is that one.
        last as u32
    }
}

/// The sum of a chunk: lane by lane, and then the lanes in order.
fn sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (whole, rest) = weights.as_chunks::<LANES>();
    for weights in whole {
        for (lane, &weight) in lanes.iter_mut().zip(weights) {
            *lane += f64::from(weight);
        }
    }
    for (lane, &weight) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(weight);
    }
    lanes.iter().sum()
}

/// `exp(x)` of an `x` that is not above 0, to 3 units in the last place; 0 under [`LOWEST`].
///
/// `2^n · exp(r)` with `n = round(x / ln 2)` and `|r| ≤ ln 2 / 2`, by the Taylor series to degree 7,
/// whose remainder is less than half a unit.
#[inline]
fn exp(x: f32) -> f32 {
    /// 1.5·2²³: added and taken away, it rounds to a whole number, which its low bits then hold.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 to 15 bits, so that its product with `n` is exact, and the rest of it.
    const LN2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
    const TAYLOR: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let inside = x.max(LOWEST);
    let biased = inside * std::f32::consts::LOG2_E + ROUND;
    let n = biased - ROUND;
    let r = (inside - n * LN2[0]) - n * LN2[1];
    let mut series = 1.0 / 5040.0;
    for term in TAYLOR {
        series = series * r + term;
    }
    // `biased`'s bits are ROUND's plus n, and a float's exponent is 127 more than it says.
    let exponent = biased.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let exp = series * f32::from_bits(exponent << 23);
    if x >= LOWEST { exp } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_librarys_and_ends() {
        let mut worst = 0.0f64;
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            let ulp = f64::from((exact as f32).next_up() - exact as f32);
            worst = worst.max((f64::from(exp(x)) - exact).abs() / ulp);
        }
        assert!(worst < 3.0, "{worst} units in the last place");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(LOWEST) > 0.0);
        for x in [LOWEST.next_down(), -1e30, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp(x), 0.0);
        }
    }

    #[test]
    fn a_draw_is_the_one_that_a_plain_sum_finds() {
        let scale = Scale { best_logit: 0.0, temperature: 1.0, min_p: 0.0 };
        for len in [1, 15, 127, 128, 129, 1000] {
            let logits: Vec<f32> = (0..len).map(|i| -((i * 37 % 101) as f32)).collect();
            let mut weights = Weights::default();
            weights.fill(&[0.0; 2000], scale);
            weights.fill(&logits, scale);
            let total: f64 = logits.iter().map(|&l| f64::from(scale.weight(l))).sum();
            assert!((weights.total() / total - 1.0).abs() < 1e-12);
            for draw in 0..1000 {
                let uniform = (f64::from(draw) + 0.37) / 1000.0;
                let mut reached = 0.0;
                let plain = logits.iter().position(|&logit| {
                    reached += f64::from(scale.weight(logit));
                    uniform * total < reached
                });
                assert_eq!(Some(weights.draw(uniform) as usize), plain, "{len}, {uniform}");
            }
        }
    }

    #[test]
    fn what_weighs_nothing_is_not_drawn_at_the_ends_of_the_range_either() {
        let mut logits = vec![f32::NEG_INFINITY; 500];
        (logits[200], logits[300]) = (0.0, 0.0);
        let mut weights = Weights::default();
        weights.fill(&logits, Scale { best_logit: 0.0, temperature: 1.0, min_p: 0.0 });
        assert_eq!((weights.draw(0.0), weights.draw(1.0f64.next_down())), (200, 300));
        assert_eq!((weights.draw(0.5f64.next_down()), weights.draw(0.5)), (200, 300));
        assert_eq!(weights.draw(1.0), 300);
    }
}
