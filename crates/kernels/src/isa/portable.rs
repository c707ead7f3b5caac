//! The operations in plain Rust, for every CPU, and the meaning of those in the other files.

use half::f16;

use super::simd::{FP4_DOUBLED, LANES, Simd};

/// Needs nothing of the CPU.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type V = [f32; LANES];

#[inline(always)]
fn map(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    let mut out = a;
    for (a, b) in out.iter_mut().zip(b) {
        *a = f(*a, b);
    }
    out
}

/// Σ of the products of signed bytes. At most 32 of them: the sum is exact in f32, too.
#[inline(always)]
fn dot(x: &[u32], codes: impl Fn(usize) -> u32) -> f32 {
    let mut sum = 0;
    for (word, x) in x.iter().enumerate() {
        for (x, code) in x.to_le_bytes().into_iter().zip(codes(word).to_le_bytes()) {
            sum += i32::from(x.cast_signed()) * i32::from(code.cast_signed());
        }
    }
    sum as f32
}

impl Simd for Portable {
    type V = V;
    type W = [u32; LANES];
    const REGISTERS: usize = 8; // as AVX2: there are none to fill

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        *from
    }
    #[inline(always)]
    fn store(self, v: V, to: &mut [f32; LANES]) {
        *to = v;
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> V {
        from.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    fn store_f16(self, v: V, to: &mut [u16; LANES]) {
        *to = v.map(|x| f16::from_f32(x).to_bits());
    }
    #[inline(always)]
    fn load_i32(self, from: &[i32; LANES]) -> V {
        from.map(|n| n as f32)
    }
    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> V {
        from.map(f32::from)
    }
    #[inline(always)]
    fn load_words(self, from: &[u32; LANES]) -> [u32; LANES] {
        *from
    }
    #[inline(always)]
    fn next_nibble(self, words: &mut [u32; LANES]) -> V {
        let nibbles = words.map(|w| (w & 15) as f32);
        words.iter_mut().for_each(|w| *w >>= 4);
        nibbles
    }
    #[inline(always)]
    fn next_bf16(self, words: &mut [u32; LANES]) -> V {
        let numbers = words.map(|w| f32::from_bits(w << 16));
        words.iter_mut().for_each(|w| *w >>= 16);
        numbers
    }
    #[inline(always)]
    fn next_byte(self, words: &mut [u32; LANES]) -> V {
        let bytes = words.map(|w| f32::from(w as i8));
        words.iter_mut().for_each(|w| *w >>= 8);
        bytes
    }
    #[inline(always)]
    fn next_fp4(self, words: &mut [u32; LANES]) -> V {
        let numbers = words.map(|w| f32::from(FP4_DOUBLED[(w & 15) as usize]));
        words.iter_mut().for_each(|w| *w >>= 4);
        numbers
    }
    #[inline(always)]
    fn split_fp4(self, words: &[[u32; LANES]; 4]) -> [[u32; LANES]; 8] {
        let code = |byte: u8| FP4_DOUBLED[usize::from(byte & 15)].cast_unsigned();
        std::array::from_fn(|i| {
            words[i / 2].map(|word| {
                let nibbles = word >> (4 * (i % 2));
                u32::from_le_bytes(nibbles.to_le_bytes().map(code))
            })
        })
    }

    #[inline(always)]
    fn store_bytes(self, v: V, to: &mut [u32; 4]) {
        *to = std::array::from_fn(|i| {
            let first = i / 2 * 8 + i % 2;
            let byte = |j| v[first + 2 * j] as i8 as u8;
            u32::from_le_bytes(std::array::from_fn(byte))
        });
    }
    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
    #[inline(always)]
    fn dot_nibbles<const M: usize>(self, codes: &[[u32; LANES]; 4], x: &[[u32; 8]; M]) -> [V; M] {
        const NIBBLES: u32 = 0x0f0f_0f0f;
        let split = |word: usize, lane: usize| match word % 2 {
            0 => codes[word / 2][lane] & NIBBLES,
            _ => codes[word / 2][lane] >> 4 & NIBBLES,
        };
        x.each_ref().map(|x| std::array::from_fn(|lane| dot(x, |word| split(word, lane))))
    }
    #[inline(always)]
    fn dot_bytes<const M: usize, const W: usize>(
        self,
        codes: &[[u32; LANES]; W],
        x: &[[u32; 8]; M],
        _: &[[i32; 2]; M],
        first: usize,
    ) -> [V; M] {
        let dot = |x: &[u32; 8], lane| dot(&x[first..first + W], |word| codes[word][lane]);
        x.each_ref().map(|x| std::array::from_fn(|lane| dot(x, lane)))
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        map(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        let mut out = c;
        for i in 0..LANES {
            out[i] = a[i].mul_add(b[i], c[i]);
        }
        out
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        map(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        map(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn pow2_of_biased(self, t: V) -> V {
        t.map(|t| f32::from_bits((t.to_bits() << 23).wrapping_add(0x3f80_0000)))
    }
}
