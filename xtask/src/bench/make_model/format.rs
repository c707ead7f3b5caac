//! The formats of weights that we write, and their encoding: ggml's reference formulas
//! (`ggml-quants.c`), written anew.

use half::{bf16, f16};

/// Weights that share a scale.
pub(crate) const BLOCK: usize = 32;

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[value(name = "bf16")]
    Bf16,
    /// 8 bits a weight and a scale for 32.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits a weight and a scale for 32.
    #[value(name = "q4_0")]
    Q4_0,
    /// 4 bits a weight, a scale and a minimum for 32.
    #[value(name = "q4_1")]
    Q4_1,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
        }
    }

    /// `ggml_type`.
    pub(super) fn ggml_type(self) -> u32 {
        match self {
            Self::Bf16 => 30,
            Self::Q8_0 => 8,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
        }
    }

    /// `general.file_type`, llama.cpp's `llama_ftype`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::Bf16 => 32,
            Self::Q8_0 => 7,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
        }
    }

    /// Bytes of `weights` weights, a multiple of [`BLOCK`].
    pub(crate) fn bytes(self, weights: usize) -> usize {
        let per_block = match self {
            Self::Bf16 => 2 * BLOCK,
            Self::Q8_0 => 2 + BLOCK,
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
        };
        weights / BLOCK * per_block
    }

    /// Appends `weights`, whole blocks of them.
    pub(super) fn encode(self, weights: &[f32], out: &mut Vec<u8>) {
        for block in weights.as_chunks::<BLOCK>().0 {
            match self {
                Self::Bf16 => {
                    block.iter().for_each(|w| out.extend(bf16::from_f32(*w).to_le_bytes()));
                }
                Self::Q8_0 => q8_0(block, out),
                Self::Q4_0 => q4_0(block, out),
                Self::Q4_1 => q4_1(block, out),
            }
        }
    }
}

/// `weight ≈ code · scale`, codes -127 to 127.
fn q8_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0_f32, |largest, w| largest.max(w.abs()));
    let scale = largest / 127.0;
    out.extend(f16::from_f32(scale).to_le_bytes());
    let inverse = inverse(scale);
    out.extend(block.iter().map(|w| (w * inverse).round() as i8 as u8));
}

/// `weight ≈ (code - 8) · scale`: the weight of largest magnitude gets code 0.
fn q4_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let by_size = |a: &&f32, b: &&f32| a.abs().total_cmp(&b.abs());
    // Of equals ggml takes the first, which `max_by` from behind does too.
    let extreme = block.iter().rev().max_by(by_size).copied().unwrap_or_default();
    let scale = extreme / -8.0;
    out.extend(f16::from_f32(scale).to_le_bytes());
    let inverse = inverse(scale);
    nibbles(block, out, |w| w * inverse + 8.5);
}

/// `weight ≈ code · scale + minimum`.
fn q4_1(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let least = block.iter().copied().fold(f32::MAX, f32::min);
    let most = block.iter().copied().fold(f32::MIN, f32::max);
    let scale = (most - least) / 15.0;
    out.extend(f16::from_f32(scale).to_le_bytes());
    out.extend(f16::from_f32(least).to_le_bytes());
    let inverse = inverse(scale);
    nibbles(block, out, |w| (w - least) * inverse + 0.5);
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Codes of 4 bits, rounded down: a byte holds one of the block's first half (low) and one of its second.
fn nibbles(block: &[f32; BLOCK], out: &mut Vec<u8>, code: impl Fn(f32) -> f32) {
    let code = |w| (code(w) as u8).min(15);
    let (low, high) = block.split_at(BLOCK / 2);
    out.extend(low.iter().zip(high).map(|(low, high)| code(*low) | code(*high) << 4));
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    /// A block with both signs, an extreme of each and a zero.
    fn block() -> [f32; BLOCK] {
        std::array::from_fn(|i| ((i * 37 % 32) as f32 - 17.0) * 0.003)
    }

    fn f16_at(bytes: &[u8], at: usize) -> f32 {
        f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
    }

    /// What the block's bytes stand for, by the formats' definitions.
    fn decode(format: Format, bytes: &[u8]) -> Vec<f32> {
        let scale = f16_at(bytes, 0);
        let nibble = |codes: &[u8], i: usize| {
            f32::from(if i < 16 { codes[i] & 15 } else { codes[i - 16] >> 4 })
        };
        let weight = |i: usize| match format {
            Format::Bf16 => {
                f32::from_bits(u32::from_le_bytes([0, 0, bytes[2 * i], bytes[2 * i + 1]]))
            }
            Format::Q8_0 => f32::from(bytes[2 + i] as i8) * scale,
            Format::Q4_0 => (nibble(&bytes[2..], i) - 8.0) * scale,
            Format::Q4_1 => nibble(&bytes[4..], i) * scale + f16_at(bytes, 2),
        };
        (0..BLOCK).map(weight).collect()
    }

    fn encoded(format: Format, block: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        format.encode(block, &mut bytes);
        assert_eq!(bytes.len(), format.bytes(block.len()), "{format:?}");
        bytes
    }

    #[test]
    fn weights_come_back_within_half_a_step() {
        let block = block();
        // The largest of the block is 0.051 by size, its range 0.093.
        let steps = [(Format::Bf16, 0.0003), (Format::Q8_0, 0.0004), (Format::Q4_1, 0.093 / 15.0)];
        for (format, step) in steps {
            for (got, want) in decode(format, &encoded(format, &block)).iter().zip(block) {
                assert!((got - want).abs() <= step * 0.51, "{format:?}: {got} for {want}");
            }
        }
        // The end opposite to the extreme has no code of its own: a whole step.
        let step = 0.051 / 8.0;
        for (got, want) in decode(Format::Q4_0, &encoded(Format::Q4_0, &block)).iter().zip(block) {
            assert!((got - want).abs() <= step * 1.01, "{got} for {want}");
        }
    }

    #[test]
    fn codes_are_those_of_the_formulas() {
        let mut block = [0.0; BLOCK];
        (block[0], block[1], block[16], block[17]) = (-8.0, 7.0, 1.0, 0.4);
        // Scale 1: codes w + 8, rounded; zeros have 8.
        assert_eq!(encoded(Format::Q4_0, &block)[..5], [0x00, 0x3C, 0x90, 0x8F, 0x88]);
        // Scale 1, minimum -8.
        assert_eq!(encoded(Format::Q4_1, &block)[..7], [0, 0x3C, 0, 0xC8, 0x90, 0x8F, 0x88]);
        block[0] = -127.0;
        assert_eq!(encoded(Format::Q8_0, &block)[..5], [0, 0x3C, 129, 7, 0]);
    }

    #[test]
    fn a_block_of_zeros_is_zeros() {
        for format in Format::value_variants() {
            assert!(decode(*format, &encoded(*format, &[0.0; BLOCK])).iter().all(|w| *w == 0.0));
        }
    }
}
