//! 8-bit floats as weights are stored in (Micikevicius et al. 2022, "FP8 Formats for Deep Learning").

/// E4M3: a sign, four bits of exponent (bias 7), three of fraction. No infinities; all ones is NaN.
pub fn e4m3_to_f32(bits: u8) -> f32 {
    let sign = u32::from(bits & 0x80) << 24;
    let magnitude = bits & 0x7f;
    let value = match magnitude {
        0x7f => f32::NAN,
        // Subnormal: eighths of 2^-6.
        0..8 => f32::from(magnitude) / 512.0,
        // The exponent's bias becomes 127.
        _ => f32::from_bits((u32::from(magnitude) << 20) + ((127 - 7) << 23)),
    };
    f32::from_bits(value.to_bits() | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in arithmetic.
    #[test]
    fn every_byte() {
        for bits in 0..=255u8 {
            let (exponent, fraction) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
            let magnitude = match (exponent, fraction) {
                (15, 7.0) => f32::NAN,
                (0, _) => fraction / 8.0 * 2f32.powi(-6),
                _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
            };
            let want = if bits < 128 { magnitude } else { -magnitude };
            let got = e4m3_to_f32(bits);
            assert!(got == want || got.is_nan() && want.is_nan(), "{bits:#x}: {got}, not {want}");
            assert_eq!(got.is_sign_negative(), bits > 127);
        }
        assert_eq!((e4m3_to_f32(0x7e), e4m3_to_f32(0x81)), (448.0, -1.0 / 512.0));
    }
}
