//! bfloat16: the upper half of an f32, to the nearest.

use crate::isa::LANES;

/// The nearest bfloat16 in the upper half, ties to even; of the lower half nothing is said. NaN stays NaN.
#[inline(always)]
pub(crate) fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    if x.is_nan() { bits | 0x0040_0000 } else { nearest }
}

/// Two to a word, as AMX has them: the first in the lower half.
#[inline(always)]
pub(crate) fn pairs(numbers: &[f32; 2 * LANES]) -> [u32; LANES] {
    let mut words = [0; LANES];
    for i in 0..LANES {
        words[i] = rounded(numbers[2 * i]) >> 16 | rounded(numbers[2 * i + 1]) & 0xffff_0000;
    }
    words
}
