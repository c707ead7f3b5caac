//! Storage formats of weights, as GGUF and safetensors lay them out, and their plain decoding.
//!
//! The block layouts are ggml's (`ggml-common.h`, `ggml-quants.c`). Each block format is decoded
//! once, here, into `Codes`: small integers with an exact scale and minimum per group; the plain
//! decoding and the matmul's packing both stand on it. A block is `[f32]` only in [`dequantize`].

mod blocks;
mod float8;
mod quantize;

pub(crate) use blocks::{Codes, SUPER};
pub use float8::e4m3_to_f32;
pub use quantize::{Quantization, QuantizationError, quantize};

/// How a row of weights is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE single precision, little-endian.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    Bf16,
    /// 32 weights of 4 bits, `(q - 8) · d`; `d` f16.
    Q4_0,
    /// 32 weights of 4 bits, `q · d + m`; `d`, `m` f16.
    Q4_1,
    /// 32 weights of 5 bits, `(q - 16) · d`.
    Q5_0,
    /// 32 weights of 5 bits, `q · d + m`.
    Q5_1,
    /// 32 weights of 8 bits, `q · d`.
    Q8_0,
    /// 256 weights of 4 bits, in eight groups with 6-bit scales and minima.
    Q4K,
    /// 256 weights of 5 bits, in eight groups with 6-bit scales and minima.
    Q5K,
    /// 256 weights of 6 bits, in sixteen groups with 8-bit scales.
    Q6K,
    /// 32 weights in E2M1 with a power of two as their scale (OCP MX specification 1.0), in ggml's
    /// layout: the scale's exponent (E8M0), the nibbles of weights 0 to 15 below those of 16 to 31.
    Mxfp4,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 12] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Mxfp4,
    ];

    /// Weights per block (1 for the plain formats).
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Mxfp4 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => SUPER,
        }
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4K => 2 + 2 + 12 + 128,
            Self::Q5K => 2 + 2 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
            Self::Mxfp4 => 1 + 16,
        }
    }

    /// Bytes of a row of `cols` weights; `None` if `cols` is not a whole number of blocks or the
    /// number overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

/// Decodes whole blocks of `src` into `dst` (`dst.len()` weights).
///
/// # Panics
/// When the lengths disagree.
pub fn dequantize(format: Format, src: &[u8], dst: &mut [f32]) {
    let need = format.row_bytes(dst.len());
    assert_eq!(need, Some(src.len()), "{} weights in {format:?}", dst.len());
    match format {
        Format::F32 => {
            for (weight, bytes) in dst.iter_mut().zip(src.as_chunks().0) {
                *weight = f32::from_le_bytes(*bytes);
            }
        }
        Format::F16 => {
            for (weight, bytes) in dst.iter_mut().zip(src.as_chunks().0) {
                *weight = half::f16::from_le_bytes(*bytes).to_f32();
            }
        }
        Format::Bf16 => {
            for (weight, bytes) in dst.iter_mut().zip(src.as_chunks().0) {
                *weight = half::bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        _ => {
            let mut codes = Codes::default();
            let blocks = src.chunks_exact(format.block_bytes());
            for (weights, block) in dst.chunks_exact_mut(format.block_len()).zip(blocks) {
                codes.decode(format, block);
                codes.weights(weights);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_bytes_needs_whole_blocks_and_does_not_overflow() {
        assert_eq!(Format::F32.row_bytes(3), Some(12));
        assert_eq!(Format::Q4_0.row_bytes(64), Some(36));
        assert_eq!(Format::Q4_0.row_bytes(33), None);
        assert_eq!(Format::Q6K.row_bytes(512), Some(420));
        for format in Format::ALL {
            assert_eq!(format.row_bytes(0), Some(0));
            let most = usize::MAX / format.block_len() * format.block_len();
            let fits = format.block_bytes() <= format.block_len();
            assert_eq!(format.row_bytes(most).is_some(), fits, "{format:?}");
        }
    }

    #[test]
    fn plain_formats() {
        let mut out = [0.0; 2];
        dequantize(Format::F32, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        dequantize(Format::F16, &[0, 0x3c, 0x01, 0x00], &mut out);
        assert_eq!(out, [1.0, 2f32.powi(-24)]);
        dequantize(Format::Bf16, &[0x80, 0x3f, 0x49, 0x40], &mut out);
        assert_eq!(out, [1.0, 3.140625]);
    }

    #[test]
    #[should_panic]
    fn a_short_source_is_refused() {
        dequantize(Format::Q8_0, &[0; 33], &mut [0.0; 32]);
    }
}
