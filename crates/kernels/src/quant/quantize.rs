//! Quantising: floats to blocks of Q8_0 and Q4_1.
//!
//! Scales and minima are rounded to f16 first, codes are chosen for what they are then. Q4_1's come
//! from the block's range and are refined by least squares, which takes a tenth off the error.

use half::f16;

use super::Format;

/// Weights of a block.
const BLOCK: usize = 32;
/// Rounds of least squares; more change next to nothing.
const ROUNDS: usize = 3;

/// To what weights of more bits are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// What no kernel multiplies in its own bits: FP8, which becomes Q8_0. All else stays as it is.
    Auto,
    /// 8 bits and a scale for each 32 weights: Q8_0.
    Int8,
    /// 4 bits, a scale and a minimum for each 32 weights: Q4_1.
    Int4,
}

impl Quantization {
    /// The format that a matrix in `from` takes; `from` itself if that has no more bits.
    pub fn format(self, from: Format) -> Format {
        match (self, from) {
            (Self::Auto, _) => from,
            (_, Format::F32 | Format::F16 | Format::Bf16) => self.format_of_floats(),
            (Self::Int8, _) => from,
            (Self::Int4, Format::Q4_0 | Format::Q4_1 | Format::Q4K | Format::Mxfp4) => from,
            (Self::Int4, _) => Format::Q4_1,
        }
    }

    /// The format that weights of FP8 take.
    pub fn format_of_floats(self) -> Format {
        match self {
            Self::Auto | Self::Int8 => Format::Q8_0,
            Self::Int4 => Format::Q4_1,
        }
    }
}

/// What quantising lost, in sums over weights.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QuantizationError {
    /// Σ (quantised weight - weight)².
    pub squared_error: f64,
    /// Σ weight².
    pub squared_weights: f64,
}

impl QuantizationError {
    /// Adds `other`'s weights.
    pub fn add(&mut self, other: Self) {
        self.squared_error += other.squared_error;
        self.squared_weights += other.squared_weights;
    }

    /// Root mean square of the errors by that of the weights; `None` of no weights.
    pub fn relative(self) -> Option<f64> {
        (self.squared_weights > 0.0).then(|| (self.squared_error / self.squared_weights).sqrt())
    }

    pub(crate) fn of(weights: &[f32], quantised: &[f32]) -> Self {
        let squares = |sum: f64, x: f32| sum + f64::from(x * x);
        Self {
            squared_error: weights.iter().zip(quantised).map(|(w, q)| w - q).fold(0.0, squares),
            squared_weights: weights.iter().copied().fold(0.0, squares),
        }
    }
}

/// Quantises `weights`, whole blocks of them, to `format`, which is Q8_0 or Q4_1, into `out`.
///
/// # Panics
/// For other formats, and when the lengths disagree.
pub fn quantize(format: Format, weights: &[f32], out: &mut [u8]) {
    assert_eq!(format.row_bytes(weights.len()), Some(out.len()), "{format:?}");
    let blocks = weights.as_chunks::<BLOCK>().0.iter();
    for (weights, out) in blocks.zip(out.chunks_exact_mut(format.block_bytes())) {
        match format {
            Format::Q8_0 => q8_0(weights, out),
            Format::Q4_1 => q4_1(weights, out),
            _ => unreachable!("nothing is quantised to {format:?}"),
        }
    }
}

fn q8_0(weights: &[f32; BLOCK], out: &mut [u8]) {
    let largest = weights.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let per_unit = inverse(scale.to_f32());
    out[..2].copy_from_slice(&scale.to_le_bytes());
    for (out, weight) in out[2..].iter_mut().zip(weights) {
        // A scale rounded down would have the largest at 127.06.
        *out = ((weight * per_unit).round_ties_even().clamp(-127.0, 127.0) as i8).cast_unsigned();
    }
}

/// `weight ≈ code · scale + min`, in f16 both.
#[derive(Clone, Copy)]
struct Line {
    scale: f16,
    min: f16,
}

impl Line {
    fn new(scale: f32, min: f32) -> Self {
        Self { scale: f16::from_f32(scale), min: f16::from_f32(min) }
    }

    /// From code 0 at the least weight to code 15 at the largest.
    fn through_range(weights: &[f32; BLOCK]) -> Self {
        let least = weights.iter().copied().fold(f32::INFINITY, f32::min);
        let most = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Self::new((most - least) / 15.0, least)
    }

    /// Nearest to the weights, if their codes are `codes`.
    fn fit(weights: &[f32; BLOCK], codes: &[f32; BLOCK]) -> Option<Self> {
        let n = BLOCK as f32;
        let (sum, code_sum) = (weights.iter().sum::<f32>(), codes.iter().sum::<f32>());
        let products = weights.iter().zip(codes).map(|(w, c)| w * c).sum::<f32>();
        let squares = codes.iter().map(|c| c * c).sum::<f32>();
        let spread = n * squares - code_sum * code_sum; // 0 if all codes are one
        let scale = (n * products - code_sum * sum) / spread;
        (spread > 0.0 && scale > 0.0).then(|| Self::new(scale, (sum - scale * code_sum) / n))
    }

    /// The weights' codes, and their squared error.
    fn codes(self, weights: &[f32; BLOCK]) -> ([f32; BLOCK], f32) {
        let (scale, min) = (self.scale.to_f32(), self.min.to_f32());
        let per_unit = inverse(scale);
        let codes = weights.map(|w| ((w - min) * per_unit).round_ties_even().clamp(0.0, 15.0));
        let errors = weights.iter().zip(&codes).map(|(w, code)| (code * scale + min - w).powi(2));
        (codes, errors.sum())
    }
}

fn q4_1(weights: &[f32; BLOCK], out: &mut [u8]) {
    let mut best = Line::through_range(weights);
    let (mut codes, mut error) = best.codes(weights);
    for _ in 0..ROUNDS {
        let Some(line) = Line::fit(weights, &codes) else { break };
        let (next, next_error) = line.codes(weights);
        if next_error >= error {
            break;
        }
        (best, codes, error) = (line, next, next_error);
    }
    out[..2].copy_from_slice(&best.scale.to_le_bytes());
    out[2..4].copy_from_slice(&best.min.to_le_bytes());
    let (low, high) = codes.split_at(BLOCK / 2);
    for (out, (low, high)) in out[4..].iter_mut().zip(low.iter().zip(high)) {
        *out = *low as u8 | (*high as u8) << 4;
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { scale.recip() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{matmul::Bits, quant::dequantize};

    fn there_and_back(format: Format, weights: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0; format.row_bytes(weights.len()).unwrap()];
        quantize(format, weights, &mut bytes);
        let mut back = vec![f32::NAN; weights.len()];
        dequantize(format, &bytes, &mut back);
        back
    }

    fn squared_error(weights: &[f32], back: &[f32]) -> f32 {
        weights.iter().zip(back).map(|(w, b)| (w - b).powi(2)).sum()
    }

    proptest! {
        /// Half a step, and what f16 takes from scale and minimum.
        #[test]
        fn every_weight_comes_back_near(seed: u64, size in -12i32..4, offset in -1.0f32..1.0) {
            let size = 2f32.powi(size);
            let weights: Vec<f32> =
                Bits(seed).numbers(BLOCK).into_iter().map(|w| (w + offset) * size).collect();
            let largest = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
            for (w, b) in weights.iter().zip(there_and_back(Format::Q8_0, &weights)) {
                // Small scales are subnormal in f16: steps of 2⁻²⁴, a hundred times.
                prop_assert!((w - b).abs() <= largest * 0.0045 + 4e-6, "{w} came back as {b}");
            }
            let range = 2.0 * size;
            let bound = BLOCK as f32 * (range / 15.0 * 0.51 + largest * 1e-3 + 1e-6).powi(2);
            let back = there_and_back(Format::Q4_1, &weights);
            prop_assert!(squared_error(&weights, &back) <= bound);
        }
    }

    #[test]
    fn constants_come_back_exact() {
        for format in [Format::Q8_0, Format::Q4_1] {
            assert_eq!(there_and_back(format, &[0.0; 64]), [0.0; 64]);
        }
        assert_eq!(there_and_back(Format::Q4_1, &[-0.5; 32]), [-0.5; 32]);
    }

    #[test]
    fn least_squares_beat_the_range() {
        let mut bits = Bits(1);
        // Near to normal: sums of numbers.
        let weights: Vec<f32> =
            (0..64 * BLOCK).map(|_| (0..6).map(|_| bits.number()).sum()).collect();
        let range: f32 = weights
            .as_chunks()
            .0
            .iter()
            .map(|block| Line::through_range(block).codes(block).1)
            .sum();
        let fitted = squared_error(&weights, &there_and_back(Format::Q4_1, &weights));
        assert!(fitted < 0.95 * range, "{fitted} of {range}");
    }

    #[test]
    fn what_has_no_more_bits_stays() {
        assert_eq!(Quantization::Int8.format(Format::Bf16), Format::Q8_0);
        assert_eq!(Quantization::Int8.format(Format::Q6K), Format::Q6K);
        assert_eq!(Quantization::Int4.format(Format::F32), Format::Q4_1);
        assert_eq!(Quantization::Int4.format(Format::Q8_0), Format::Q4_1);
        assert_eq!(Quantization::Int4.format(Format::Q4K), Format::Q4K);
    }
}
