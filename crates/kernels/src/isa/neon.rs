//! The operations on NEON (Advanced SIMD, which all of AArch64 has): four registers of 4 lanes each.
//! With DotProd (ARMv8.2), four products of bytes and their sum are one instruction instead of three.
//! (Arm Architecture Reference Manual for A-profile, chapter C7.)

use std::arch::{aarch64::*, asm};

use super::{
    Kernel,
    simd::{FP4_DOUBLED, LANES, Simd},
};

/// Proof of NEON, and of DotProd: only [`enter`] and [`enter_dotprod`] make one.
#[derive(Clone, Copy)]
pub(super) struct Neon<const DOTPROD: bool>(());

/// Runs `kernel` in a function compiled with the features.
///
/// # Safety
/// The CPU must have them.
#[target_feature(enable = "neon")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon::<false>(()))
}

/// [`enter`], with DotProd.
///
/// # Safety
/// The CPU must have the features.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn enter_dotprod<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon::<true>(()))
}

macro_rules! proven {
    ($op:expr) => {
        // SAFETY: the token proves that the CPU has the instructions; pointers come from
        // references to arrays, of which what is read or written is a part.
        unsafe { $op }
    };
}

/// An operation on each of a vector's four registers, by number. Not a closure: it might miss the
/// instruction set.
macro_rules! quarters {
    (|$i:ident| $op:expr) => {
        proven!([
            {
                let $i = 0;
                $op
            },
            {
                let $i = 1;
                $op
            },
            {
                let $i = 2;
                $op
            },
            {
                let $i = 3;
                $op
            }
        ])
    };
}

/// Lanes of a register.
const QUARTER: usize = LANES / 4;

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
type V = [float32x4_t; 4];
type Words = [uint32x4_t; 4];

/// `sum + Σ codes · x`: of each of four words of bytes, and the word `LANE` of `x`. The intrinsic is
/// not stable in Rust.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const LANE: usize>(mut sum: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the features are this function's; the instruction reads and writes registers only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Registers of `M` vectors by their quarters as those vectors.
#[inline(always)]
fn in_quarters<const M: usize>(quarters: [[float32x4_t; M]; 4]) -> [V; M] {
    let mut out = [[quarters[0][0]; 4]; M];
    for m in 0..M {
        out[m] = [quarters[0][m], quarters[1][m], quarters[2][m], quarters[3][m]];
    }
    out
}

impl<const DOTPROD: bool> Neon<DOTPROD> {
    /// Lanes `FIRST..FIRST + 4` of [`Simd::dot_nibbles`].
    #[inline(always)]
    fn quarter_dot_nibbles<const M: usize, const FIRST: usize>(
        self,
        codes: &[[u32; LANES]; 4],
        x: &[[u32; 8]; M],
    ) -> [float32x4_t; M] {
        proven!({
            let mut bytes = [vdupq_n_s8(0); 8];
            for i in 0..4 {
                let nibbles = vreinterpretq_u8_u32(vld1q_u32(codes[i].as_ptr().add(FIRST)));
                bytes[2 * i] = vreinterpretq_s8_u8(vandq_u8(nibbles, vdupq_n_u8(15)));
                bytes[2 * i + 1] = vreinterpretq_s8_u8(vshrq_n_u8::<4>(nibbles));
            }
            // A sum of eight products in 16 bits is at most 8 · 15 · 127 = 15,240.
            self.dot_words::<M, 8, 8>(bytes, x, 0)
        })
    }

    /// Lanes `FIRST..FIRST + 4` of [`Simd::dot_bytes`].
    #[inline(always)]
    fn quarter_dot_bytes<const M: usize, const W: usize, const FIRST: usize>(
        self,
        codes: &[[u32; LANES]; W],
        x: &[[u32; 8]; M],
        first: usize,
    ) -> [float32x4_t; M] {
        proven!({
            let mut bytes = [vdupq_n_s8(0); W];
            for i in 0..W {
                bytes[i] = vreinterpretq_s8_u32(vld1q_u32(codes[i].as_ptr().add(FIRST)));
            }
            // A sum of two products in 16 bits is at most 2 · 128 · 127 = 32,512.
            self.dot_words::<M, W, 2>(bytes, x, first)
        })
    }

    /// Σ code · x over 4 `W` k, of 4 features and `M` rows; `x` as in [`Simd::dot_bytes`]. Without
    /// DotProd the products of `NARROW` words are summed in 16 bits, before pairs of them are in 32.
    #[inline(always)]
    fn dot_words<const M: usize, const W: usize, const NARROW: usize>(
        self,
        codes: [int8x16_t; W],
        x: &[[u32; 8]; M],
        first: usize,
    ) -> [float32x4_t; M] {
        let mut out = proven!([vdupq_n_f32(0.0); M]);
        for m in 0..M {
            out[m] = match DOTPROD {
                true => self.dot_by_four(codes, &x[m], first),
                false => self.dot_by_two::<W, NARROW>(codes, &x[m], first),
            };
        }
        out
    }

    /// [`Neon::dot_words`] of one row, with DotProd.
    #[inline(always)]
    fn dot_by_four<const W: usize>(
        self,
        codes: [int8x16_t; W],
        x: &[u32; 8],
        first: usize,
    ) -> float32x4_t {
        let x = x.as_chunks::<4>().0;
        proven!({
            let mut sum = vdupq_n_s32(0);
            for i in 0..W / 4 {
                let x = vreinterpretq_s8_u32(vld1q_u32(x[(first / 4 + i) % 2].as_ptr()));
                sum = sdot::<0>(sum, codes[4 * i], x);
                sum = sdot::<1>(sum, codes[4 * i + 1], x);
                sum = sdot::<2>(sum, codes[4 * i + 2], x);
                sum = sdot::<3>(sum, codes[4 * i + 3], x);
            }
            vcvtq_f32_s32(sum)
        })
    }

    /// [`Neon::dot_words`] of one row, without DotProd.
    #[inline(always)]
    fn dot_by_two<const W: usize, const NARROW: usize>(
        self,
        codes: [int8x16_t; W],
        x: &[u32; 8],
        first: usize,
    ) -> float32x4_t {
        proven!({
            let (mut low, mut high) = (vdupq_n_s32(0), vdupq_n_s32(0));
            for words in 0..W / NARROW {
                let (mut narrow_low, mut narrow_high) = (vdupq_n_s16(0), vdupq_n_s16(0));
                for i in words * NARROW..(words + 1) * NARROW {
                    let x = vreinterpretq_s8_u32(vdupq_n_u32(x[(first + i) % 8]));
                    let code = vget_low_s8(codes[i]);
                    narrow_low = vmlal_s8(narrow_low, code, vget_low_s8(x));
                    narrow_high = vmlal_high_s8(narrow_high, codes[i], x);
                }
                low = vpadalq_s16(low, narrow_low);
                high = vpadalq_s16(high, narrow_high);
            }
            vcvtq_f32_s32(vpaddq_s32(low, high))
        })
    }
}

impl<const DOTPROD: bool> Simd for Neon<DOTPROD> {
    type V = V;
    type W = Words;
    const REGISTERS: usize = 8; // 32 of 4 lanes

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        quarters!(|_i| vdupq_n_f32(x))
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        quarters!(|i| vld1q_f32(from.as_ptr().add(i * QUARTER)))
    }
    #[inline(always)]
    fn store(self, v: V, to: &mut [f32; LANES]) {
        quarters!(|i| vst1q_f32(to.as_mut_ptr().add(i * QUARTER), v[i]));
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> V {
        quarters!(|i| {
            vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.as_ptr().add(i * QUARTER))))
        })
    }
    #[inline(always)]
    fn store_f16(self, v: V, to: &mut [u16; LANES]) {
        quarters!(|i| {
            let halves = vreinterpret_u16_f16(vcvt_f16_f32(v[i]));
            vst1_u16(to.as_mut_ptr().add(i * QUARTER), halves);
        });
    }
    #[inline(always)]
    fn load_i32(self, from: &[i32; LANES]) -> V {
        quarters!(|i| vcvtq_f32_s32(vld1q_s32(from.as_ptr().add(i * QUARTER))))
    }
    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> V {
        proven!({
            let bytes = vld1q_s8(from.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        })
    }
    #[inline(always)]
    fn load_words(self, from: &[u32; LANES]) -> Words {
        quarters!(|i| vld1q_u32(from.as_ptr().add(i * QUARTER)))
    }
    #[inline(always)]
    fn next_nibble(self, words: &mut Words) -> V {
        let mask = proven!(vdupq_n_u32(15));
        let nibbles = quarters!(|i| vcvtq_f32_u32(vandq_u32(words[i], mask)));
        *words = quarters!(|i| vshrq_n_u32::<4>(words[i]));
        nibbles
    }
    #[inline(always)]
    fn next_bf16(self, words: &mut Words) -> V {
        let numbers = quarters!(|i| vreinterpretq_f32_u32(vshlq_n_u32::<16>(words[i])));
        *words = quarters!(|i| vshrq_n_u32::<16>(words[i]));
        numbers
    }
    #[inline(always)]
    fn next_byte(self, words: &mut Words) -> V {
        // As the highest byte it is 2²⁴ times itself, which the conversion takes off again.
        let bytes = quarters!(|i| {
            vcvtq_n_f32_s32::<24>(vreinterpretq_s32_u32(vshlq_n_u32::<24>(words[i])))
        });
        *words = quarters!(|i| vshrq_n_u32::<8>(words[i]));
        bytes
    }
    #[inline(always)]
    fn next_fp4(self, words: &mut Words) -> V {
        let (table, mask) = proven!((vld1q_s8(FP4_DOUBLED.as_ptr()), vdupq_n_u32(15)));
        // The lowest byte of a word is its number; the others, all index 0, are 0.
        let numbers = quarters!(|i| {
            let index = vreinterpretq_u8_u32(vandq_u32(words[i], mask));
            let number = vreinterpretq_s32_s8(vqtbl1q_s8(table, index));
            vcvtq_n_f32_s32::<24>(vshlq_n_s32::<24>(number))
        });
        *words = quarters!(|i| vshrq_n_u32::<4>(words[i]));
        numbers
    }
    #[inline(always)]
    fn split_fp4(self, words: &[[u32; LANES]; 4]) -> [[u32; LANES]; 8] {
        let mut out = [[0; LANES]; 8];
        proven!({
            let (table, mask) = (vld1q_s8(FP4_DOUBLED.as_ptr()), vdupq_n_u8(15));
            for i in 0..4 {
                for at in [0, QUARTER, 2 * QUARTER, 3 * QUARTER] {
                    let nibbles = vreinterpretq_u8_u32(vld1q_u32(words[i].as_ptr().add(at)));
                    let even = vqtbl1q_s8(table, vandq_u8(nibbles, mask));
                    let odd = vqtbl1q_s8(table, vshrq_n_u8::<4>(nibbles));
                    vst1q_u32(out[2 * i].as_mut_ptr().add(at), vreinterpretq_u32_s8(even));
                    vst1q_u32(out[2 * i + 1].as_mut_ptr().add(at), vreinterpretq_u32_s8(odd));
                }
            }
        });
        out
    }

    #[inline(always)]
    fn store_bytes(self, v: V, to: &mut [u32; 4]) {
        const ORDER: [u8; 16] = [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15];
        let words = quarters!(|i| vreinterpretq_s16_s32(vcvtq_s32_f32(v[i])));
        proven!({
            // The lower halves of the words, and then of those.
            let low = vreinterpretq_u8_s16(vuzp1q_s16(words[0], words[1]));
            let high = vreinterpretq_u8_s16(vuzp1q_s16(words[2], words[3]));
            let bytes = vqtbl1q_u8(vuzp1q_u8(low, high), vld1q_u8(ORDER.as_ptr()));
            vst1q_u32(to.as_mut_ptr(), vreinterpretq_u32_u8(bytes));
        });
    }
    #[inline(always)]
    fn prefetch<T>(self, line: *const T) {
        // The intrinsic is not stable in Rust.
        // SAFETY: a hint, which faults nowhere and changes nothing that a program sees.
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) line, options(readonly, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    fn dot_nibbles<const M: usize>(self, codes: &[[u32; LANES]; 4], x: &[[u32; 8]; M]) -> [V; M] {
        // A quarter of the lanes after the other: its eight vectors of bytes fill as many registers.
        in_quarters([
            self.quarter_dot_nibbles::<M, 0>(codes, x),
            self.quarter_dot_nibbles::<M, QUARTER>(codes, x),
            self.quarter_dot_nibbles::<M, { 2 * QUARTER }>(codes, x),
            self.quarter_dot_nibbles::<M, { 3 * QUARTER }>(codes, x),
        ])
    }
    #[inline(always)]
    fn dot_bytes<const M: usize, const W: usize>(
        self,
        codes: &[[u32; LANES]; W],
        x: &[[u32; 8]; M],
        _: &[[i32; 2]; M],
        first: usize,
    ) -> [V; M] {
        in_quarters([
            self.quarter_dot_bytes::<M, W, 0>(codes, x, first),
            self.quarter_dot_bytes::<M, W, QUARTER>(codes, x, first),
            self.quarter_dot_bytes::<M, W, { 2 * QUARTER }>(codes, x, first),
            self.quarter_dot_bytes::<M, W, { 3 * QUARTER }>(codes, x, first),
        ])
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        quarters!(|i| vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        quarters!(|i| vsubq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        quarters!(|i| vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        quarters!(|i| vdivq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        quarters!(|i| vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        // `fmax` would give NaN where either is.
        quarters!(|i| vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        quarters!(|i| vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn pow2_of_biased(self, t: V) -> V {
        let one = proven!(vdupq_n_u32(0x3f80_0000));
        quarters!(|i| {
            let exponent = vshlq_n_u32::<23>(vreinterpretq_u32_f32(t[i]));
            vreinterpretq_f32_u32(vaddq_u32(exponent, one))
        })
    }
}
