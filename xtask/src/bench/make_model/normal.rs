//! Normally distributed numbers that a seed repeats, fast, and from any place of the stream: so
//! threads share a tensor without sharing a state.
//!
//! Number `i` is the sum of the eight bytes of SplitMix64's output number `i` (Steele, Lea and Flood,
//! 2014). By the central limit that is a normal distribution up to about four deviations, with 2,041
//! values: finer than bf16, and random weights need no longer tails.

/// SplitMix64's increment.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
/// Of the sum of eight bytes.
const MEAN: f32 = 8.0 * 127.5;
/// √(8 · (256² − 1) / 12)
const DEVIATION: f32 = 209.022;

/// A stream of numbers of mean 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Normal {
    base: u64,
    scale: f32,
}

impl Normal {
    /// The stream called `name` of `seed`.
    pub(super) fn new(seed: u64, name: &str, deviation: f32) -> Self {
        let base = name.bytes().fold(mix(seed.wrapping_add(GAMMA)), |hash, byte| {
            mix(hash.wrapping_add(GAMMA) ^ u64::from(byte))
        });
        Self { base, scale: deviation / DEVIATION }
    }

    /// Numbers `first` and on.
    pub(super) fn fill(self, first: usize, numbers: &mut [f32]) {
        let mut state = self.base.wrapping_add(GAMMA.wrapping_mul(first as u64));
        for number in numbers {
            state = state.wrapping_add(GAMMA);
            *number = (byte_sum(mix(state)) as f32 - MEAN) * self.scale;
        }
    }
}

/// SplitMix64's output function.
pub(in crate::bench) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The sum of the bytes: added in pairs, then the four 16-bit lanes by a multiplication.
fn byte_sum(z: u64) -> u32 {
    const EVEN: u64 = 0x00FF_00FF_00FF_00FF;
    let pairs = (z & EVEN) + ((z >> 8) & EVEN);
    (pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_summed() {
        for z in [0, u64::MAX, 0x0102_0304_0506_0708, mix(7)] {
            let sum: u32 = z.to_le_bytes().iter().map(|byte| u32::from(*byte)).sum();
            assert_eq!(byte_sum(z), sum, "{z:x}");
        }
    }

    #[test]
    fn the_distribution_is_normal() {
        let mut numbers = vec![0.0; 1 << 18];
        Normal::new(1, "w", 0.02).fill(0, &mut numbers);
        let moment = |power: i32| {
            let sum: f64 = numbers.iter().map(|x| (f64::from(*x) / 0.02).powi(power)).sum();
            sum / numbers.len() as f64
        };
        assert!(moment(1).abs() < 0.01, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.01, "{}", moment(2));
        assert!(moment(3).abs() < 0.03, "{}", moment(3));
        // 3 of a true normal distribution, 3 − 1.2 / 8 of eight summands.
        assert!((moment(4) - 2.85).abs() < 0.05, "{}", moment(4));
    }

    #[test]
    fn a_stream_is_the_same_from_any_place_and_no_other_stream() {
        let normal = Normal::new(1, "w", 1.0);
        let (mut whole, mut part, mut other) = ([0.0; 64], [0.0; 10], [0.0; 64]);
        normal.fill(0, &mut whole);
        normal.fill(50, &mut part);
        assert_eq!(whole[50..60], part);
        for (seed, name) in [(1, "v"), (2, "w")] {
            Normal::new(seed, name, 1.0).fill(0, &mut other);
            assert_ne!(whole, other);
        }
    }
}
