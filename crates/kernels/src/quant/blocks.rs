//! One block of a quantised format as codes, scales and minima.
//!
//! A weight is `code · scale + min`, `scale = unit · step` and `min = min_unit · min_step` of its
//! group; the factors are kept apart because they are stored so (f16 times a small integer), and the
//! packed matrix keeps them so too: exact, and small.

use half::f16;

use super::Format;
use crate::isa::FP4_DOUBLED;

/// Weights in a super-block of the K formats.
pub(crate) const SUPER: usize = 256;

/// A decoded block.
pub(crate) struct Codes {
    /// `[block_len]`: 0 to 15 for the 4-bit formats, signed where the format has no minimum.
    pub(crate) codes: [i8; SUPER],
    /// Weights in the block.
    pub(crate) len: usize,
    /// Weights per group: 16 or 32.
    pub(crate) group: usize,
    /// f16 bits of the block's scale.
    pub(crate) unit: u16,
    /// `[len / group]`; 1 for the formats without.
    pub(crate) steps: [i8; 16],
    /// f16 bits of the block's minimum, to be added (ggml's K formats store it to be subtracted).
    pub(crate) min_unit: u16,
    /// `[len / group]`; 1 for the formats without, 0 where there is no minimum.
    pub(crate) min_steps: [i8; 16],
}

impl Default for Codes {
    fn default() -> Self {
        Self {
            codes: [0; SUPER],
            len: 0,
            group: 32,
            unit: 0,
            steps: [1; 16],
            min_unit: 0,
            min_steps: [0; 16],
        }
    }
}

const ONE: [i8; 16] = [1; 16];
const NONE: [i8; 16] = [0; 16];

impl Codes {
    /// Decodes `block`, of `format.block_bytes()` bytes.
    ///
    /// # Panics
    /// For the formats without blocks, and when `block` is too short.
    pub(crate) fn decode(&mut self, format: Format, block: &[u8]) {
        self.len = format.block_len();
        self.group = if format == Format::Q6K { 16 } else { 32 };
        match format {
            Format::F32 | Format::F16 | Format::Bf16 => unreachable!("{format:?} has no blocks"),
            Format::Q4_0 => {
                self.legacy(u16_at(block, 0), None);
                // ggml's (q - 8) · d, with the 8 as a minimum: -8 · d is exact, and so their sum.
                self.min_unit = self.unit;
                self.min_steps = [-8; 16];
                nibbles(&block[2..18], &mut self.codes);
            }
            Format::Q4_1 => {
                self.legacy(u16_at(block, 0), Some(u16_at(block, 2)));
                nibbles(&block[4..20], &mut self.codes);
            }
            Format::Q5_0 => {
                self.legacy(u16_at(block, 0), None);
                nibbles(&block[6..22], &mut self.codes);
                fifth_bits(u32_at(block, 2), &mut self.codes);
                self.codes[..32].iter_mut().for_each(|code| *code -= 16);
            }
            Format::Q5_1 => {
                self.legacy(u16_at(block, 0), Some(u16_at(block, 2)));
                nibbles(&block[8..24], &mut self.codes);
                fifth_bits(u32_at(block, 4), &mut self.codes);
            }
            Format::Q8_0 => {
                self.legacy(u16_at(block, 0), None);
                for (code, &byte) in self.codes.iter_mut().zip(&block[2..34]) {
                    *code = byte.cast_signed();
                }
            }
            Format::Q4K => {
                self.k_scales(&block[..16]);
                for (half, bytes) in block[16..144].chunks_exact(32).enumerate() {
                    k_nibbles(bytes, &mut self.codes[64 * half..64 * half + 64]);
                }
            }
            Format::Q5K => {
                self.k_scales(&block[..16]);
                let high = &block[16..48];
                for (half, bytes) in block[48..176].chunks_exact(32).enumerate() {
                    let codes = &mut self.codes[64 * half..64 * half + 64];
                    k_nibbles(bytes, codes);
                    for (i, bits) in high.iter().enumerate() {
                        codes[i] |= ((bits >> (2 * half)) & 1).cast_signed() << 4;
                        codes[i + 32] |= ((bits >> (2 * half + 1)) & 1).cast_signed() << 4;
                    }
                }
            }
            Format::Q6K => self.q6k(block),
            Format::Mxfp4 => {
                // Half the scale, as the numbers are doubled. What f16 has no power of two for would be
                // weights above 10^5, or below 10^-6, which become 0.
                let half = f32::from_bits(u32::from(block[0]) << 23) / 2.0;
                self.legacy(f16::from_f32(half).to_bits(), None);
                nibbles(&block[1..17], &mut self.codes);
                for code in &mut self.codes[..32] {
                    *code = FP4_DOUBLED[usize::from(code.cast_unsigned())];
                }
            }
        }
    }

    /// The weights themselves, `[len]`.
    pub(crate) fn weights(&self, out: &mut [f32]) {
        let (unit, min_unit) = (to_f32(self.unit), to_f32(self.min_unit));
        let groups = out.chunks_exact_mut(self.group).zip(self.codes.chunks_exact(self.group));
        for (group, (out, codes)) in groups.enumerate() {
            let scale = unit * f32::from(self.steps[group]);
            let min = match self.min_steps[group] {
                0 => 0.0, // not 0 · min_unit, which is NaN where the file holds an infinity
                step => min_unit * f32::from(step),
            };
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = f32::from(code).mul_add(scale, min);
            }
        }
    }

    fn legacy(&mut self, unit: u16, min: Option<u16>) {
        self.unit = unit;
        self.steps = ONE;
        self.min_unit = min.unwrap_or(0);
        self.min_steps = if min.is_some() { ONE } else { NONE };
    }

    /// `d`, `dmin` and eight pairs of 6-bit scale and minimum in 12 bytes (Q4_K, Q5_K): the first
    /// four pairs in the low bits of bytes 0-3 and 4-7; of the others, the low four bits in bytes
    /// 8-11, the high two in the top bits of bytes 0-7.
    fn k_scales(&mut self, head: &[u8]) {
        self.unit = u16_at(head, 0);
        self.min_unit = u16_at(head, 2) ^ 0x8000; // to be subtracted: the sign bit turned
        let packed = &head[4..16];
        for i in 0..4 {
            self.steps[i] = (packed[i] & 63).cast_signed();
            self.min_steps[i] = (packed[i + 4] & 63).cast_signed();
            self.steps[i + 4] = (packed[i + 8] & 15 | (packed[i] >> 6) << 4).cast_signed();
            self.min_steps[i + 4] = (packed[i + 8] >> 4 | (packed[i + 4] >> 6) << 4).cast_signed();
        }
    }

    /// Low four bits `[2][64]`, high two bits `[2][32]`, 16 scales, `d`. In each half of 128, the
    /// four runs of 32 take their low bits from (bytes 0-31 low, 32-63 low, 0-31 high, 32-63 high)
    /// and their high bits from bit pairs 0 to 3 of the 32 bytes.
    fn q6k(&mut self, block: &[u8]) {
        self.unit = u16_at(block, 208);
        self.min_steps = NONE;
        for (step, &byte) in self.steps.iter_mut().zip(&block[192..208]) {
            *step = byte.cast_signed();
        }
        for half in 0..2 {
            let low = &block[64 * half..64 * half + 64];
            let high = &block[128 + 32 * half..160 + 32 * half];
            let codes = &mut self.codes[128 * half..128 * half + 128];
            for i in 0..32 {
                let runs = [low[i] & 15, low[i + 32] & 15, low[i] >> 4, low[i + 32] >> 4];
                for (run, low) in runs.into_iter().enumerate() {
                    let code = low | ((high[i] >> (2 * run)) & 3) << 4;
                    codes[32 * run + i] = code.cast_signed() - 32;
                }
            }
        }
    }
}

/// 16 bytes to 32 codes: the low halves, then the high ones.
fn nibbles(bytes: &[u8], codes: &mut [i8]) {
    for (i, byte) in bytes.iter().enumerate() {
        codes[i] = (byte & 15).cast_signed();
        codes[i + 16] = (byte >> 4).cast_signed();
    }
}

/// 32 bytes to 64 codes: the low halves, then the high ones.
fn k_nibbles(bytes: &[u8], codes: &mut [i8]) {
    for (i, byte) in bytes.iter().enumerate() {
        codes[i] = (byte & 15).cast_signed();
        codes[i + 32] = (byte >> 4).cast_signed();
    }
}

/// Bit `i` of `bits` is bit 4 of code `i`.
fn fifth_bits(bits: u32, codes: &mut [i8; SUPER]) {
    for (i, code) in codes[..32].iter_mut().enumerate() {
        *code |= (((bits >> i) & 1) as i8) << 4;
    }
}

fn to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
