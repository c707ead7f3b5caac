//! Rotary position embedding: the frequencies of each scaling type, and the cosines of a step's rows.
//!
//! The formulas are those of transformers' `modeling_rope_utils.py`, in the same order and in f32 where
//! it computes in f32: at position 8,000 a last-bit difference in an angle is a visible one in a logit.
//!
//! *Dynamic NTK* is plain RoPE up to the model's trained length, and past it recomputes every frequency
//! from the length of the sequence so far, while the keys in the cache keep the old ones: the result
//! depends on how a prompt was cut into chunks, which row independence forbids. (vLLM scales always, by
//! the longest length allowed, and so differs from transformers at every length.) We keep to the part
//! where all agree: a dynamic model is served up to its trained length, exactly, and no further.
//!
//! *LongRoPE* has two lists of divisors: for sequences up to the length of pre-training, and for longer
//! ones. transformers takes the one that fits the sequence so far, with the same trouble. We do as vLLM:
//! the longest sequence that the model is loaded for decides, for all of them.

use std::f64::consts::PI;

use crate::error::Malformed;

/// How the frequencies are derived from `theta`.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// As in the original paper.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// How much longer the context becomes.
        factor: f64,
    },
    /// Dynamic NTK; see the head of this file.
    DynamicNtk,
    /// Llama 3.1's: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are scaled.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of pre-training, tokens.
        original_context: f64,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// How much longer the context becomes.
        factor: f64,
        /// Context of pre-training, tokens.
        original_context: f64,
        /// Multiplier of cosines and sines.
        attention_factor: f64,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided by `factor`.
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole dimensions.
        truncate: bool,
    },
    /// LongRoPE (Ding et al. 2024); see the head of this file.
    LongRope {
        /// Divisors of the frequencies up to `original_context`, `[rotary_dim / 2]`.
        short_factors: Vec<f32>,
        /// Those past it, `[rotary_dim / 2]`.
        long_factors: Vec<f32>,
        /// Context of pre-training, tokens.
        original_context: f64,
        /// Multiplier of cosines and sines, with either list.
        attention_factor: f64,
    },
    /// One divisor per frequency, from the file (GGUF's `rope_freqs.weight`): `[rotary_dim / 2]`.
    Factors(Vec<f32>),
}

/// A model's rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// What is done to them.
    pub scaling: Scaling,
}

/// YaRN's default `attention_factor` for a context `scale` times longer.
pub(crate) fn yarn_mscale(scale: f64, mscale: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * mscale * scale.ln() + 1.0 }
}

/// Frequencies ready for use.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    /// `[rotary_dim / 2]`, radians per position.
    inv_freq: Vec<f32>,
    /// Multiplier of cosines and sines.
    attention_factor: f32,
}

impl Rope {
    /// The frequencies of `config` for heads of which `dim` values are rotated, and sequences of up to
    /// `max_model_len` tokens.
    pub(crate) fn new(
        config: &RopeConfig,
        dim: usize,
        max_model_len: usize,
    ) -> Result<Self, Malformed> {
        let theta = config.theta;
        // [dim / 2]: theta^(2i / dim)
        let powers: Vec<f32> = (0..dim / 2)
            .map(|i| theta.powf(f64::from(2.0 * i as f32 / dim as f32)) as f32)
            .collect();
        let plain = || powers.iter().map(|power| 1.0 / power);
        let mut attention_factor = 1.0;
        let inv_freq: Vec<f32> = match &config.scaling {
            Scaling::None | Scaling::DynamicNtk => plain().collect(),
            Scaling::Linear { factor } => plain().map(|freq| freq / *factor as f32).collect(),
            Scaling::Factors(factors) => plain().zip(factors).map(|(freq, by)| freq / by).collect(),
            Scaling::Llama3 { .. } => plain().map(|freq| llama3(freq, &config.scaling)).collect(),
            Scaling::LongRope {
                short_factors,
                long_factors,
                original_context,
                attention_factor: factor,
            } => {
                attention_factor = *factor as f32;
                let long = max_model_len as f64 > *original_context;
                let factors = if long { long_factors } else { short_factors };
                powers.iter().zip(factors).map(|(power, by)| 1.0 / (by * power)).collect()
            }
            Scaling::Yarn { attention_factor: factor, .. } => {
                attention_factor = *factor as f32;
                yarn(&powers, theta, dim, &config.scaling)
            }
        };
        let rope = Self { inv_freq, attention_factor };
        rope.check(dim)?;
        Ok(rope)
    }

    fn check(&self, dim: usize) -> Result<(), Malformed> {
        let finite = self.inv_freq.iter().all(|freq| freq.is_finite());
        if self.inv_freq.len() != dim / 2 || !finite || !self.attention_factor.is_finite() {
            return Err(Malformed::new(
                "rope",
                "the parameters don't give finite frequencies for every dimension",
            ));
        }
        Ok(())
    }

    /// Half of what is rotated of a head: the values of a row in `cos` and `sin`.
    pub(crate) fn half_dim(&self) -> usize {
        self.inv_freq.len()
    }

    /// Writes the cosines of `position` and then its sines to `out`, `[2, rotary_dim / 2]`.
    pub(crate) fn write_row(&self, position: usize, out: &mut [f32]) {
        let (cos, sin) = out.split_at_mut(self.half_dim());
        for ((freq, cos), sin) in self.inv_freq.iter().zip(cos).zip(sin) {
            let (s, c) = (position as f32 * freq).sin_cos();
            (*cos, *sin) = (c * self.attention_factor, s * self.attention_factor);
        }
    }
}

fn llama3(freq: f32, scaling: &Scaling) -> f32 {
    let Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = scaling
    else {
        return freq;
    };
    let (factor, low, high) = (*factor as f32, *low_freq_factor as f32, *high_freq_factor as f32);
    let context = *original_context as f32;
    let wavelength = 2.0 * PI as f32 / freq;
    if wavelength > context / low {
        freq / factor
    } else if wavelength < context / high {
        freq
    } else {
        let smooth = (context / wavelength - low) / (high - low);
        (1.0 - smooth) * freq / factor + smooth * freq
    }
}

fn yarn(powers: &[f32], theta: f64, head_dim: usize, scaling: &Scaling) -> Vec<f32> {
    let Scaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } = scaling
    else {
        return Vec::new();
    };
    let dim = head_dim as f64;
    // The dimension that turns `rotations` times over the original context.
    let dimension_of = |rotations: f64| {
        dim * (original_context / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (dimension_of(*beta_fast), dimension_of(*beta_slow));
    if *truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    let ramp = |i: usize| ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
    powers
        .iter()
        .enumerate()
        .map(|(i, power)| {
            let keep = 1.0 - ramp(i);
            (1.0 / (*factor as f32 * power)) * (1.0 - keep) + (1.0 / power) * keep
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(scaling: Scaling) -> Vec<f32> {
        Rope::new(&RopeConfig { theta: 10_000.0, scaling }, 8, 64).unwrap().inv_freq
    }

    #[test]
    fn plain_frequencies_are_powers_of_theta() {
        for (got, want) in frequencies(Scaling::None).iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((got - want).abs() < 1e-8, "{got} {want}");
        }
        assert_eq!(frequencies(Scaling::DynamicNtk), frequencies(Scaling::None));
    }

    #[test]
    fn linear_and_listed_factors_divide() {
        let plain = frequencies(Scaling::None);
        let halves: Vec<f32> = plain.iter().map(|freq| freq / 2.0).collect();
        assert_eq!(frequencies(Scaling::Linear { factor: 2.0 }), halves);
        assert_eq!(frequencies(Scaling::Factors(vec![2.0; 4])), halves);
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let plain = frequencies(Scaling::None);
        let scaled = frequencies(Scaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 1024.0,
        });
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[3], plain[3] / 8.0);
        assert!(scaled[2] < plain[2] && scaled[2] > plain[2] / 8.0);
    }

    #[test]
    fn yarn_keeps_high_frequencies_and_divides_low_ones() {
        let plain = frequencies(Scaling::None);
        let scaled = frequencies(Scaling::Yarn {
            factor: 4.0,
            original_context: 64.0,
            attention_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        });
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[3], plain[3] / 4.0);
        assert_eq!(yarn_mscale(1.0, 1.0), 1.0);
    }

    #[test]
    fn longrope_goes_by_the_longest_sequence() {
        let scaling = |original_context| Scaling::LongRope {
            short_factors: vec![2.0; 4],
            long_factors: vec![4.0; 4],
            original_context,
            attention_factor: 1.5,
        };
        let plain = frequencies(Scaling::None);
        let divided = |by: f32| plain.iter().map(|freq| freq / by).collect::<Vec<_>>();
        assert_eq!(frequencies(scaling(64.0)), divided(2.0));
        assert_eq!(frequencies(scaling(63.0)), divided(4.0));
    }

    #[test]
    fn factors_of_the_wrong_number_are_refused() {
        let config = RopeConfig { theta: 10_000.0, scaling: Scaling::Factors(vec![1.0; 3]) };
        assert!(Rope::new(&config, 8, 64).is_err());
        let config = RopeConfig { theta: 10_000.0, scaling: Scaling::Factors(vec![0.0; 4]) };
        assert!(Rope::new(&config, 8, 64).is_err());
    }

    #[test]
    fn a_row_holds_cosines_and_sines_of_its_position() {
        let rope =
            Rope::new(&RopeConfig { theta: 10_000.0, scaling: Scaling::None }, 8, 64).unwrap();
        let mut row = [0.0; 8];
        rope.write_row(3, &mut row);
        for (i, angle) in [3.0, 0.3, 0.03, 0.003f32].into_iter().enumerate() {
            let (cos, sin) = (row[i], row[4 + i]);
            assert!((cos - angle.cos()).abs() < 1e-6 && (sin - angle.sin()).abs() < 1e-6);
        }
    }
}
