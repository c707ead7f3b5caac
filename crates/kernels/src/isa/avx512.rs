//! The operations on AVX-512: one register of 16 lanes each. With VNNI, a product of bytes and its sum
//! are one instruction instead of three.

use std::arch::{asm, x86_64::*};

use super::{
    Kernel,
    avx2::{max_of_eight, sum_of_eight},
    simd::{FP4_DOUBLED, LANES, Simd},
};

/// Proof of AVX-512 F, BW, DQ, VL with AVX2, FMA and F16C, and of VNNI: only [`enter`] and
/// [`enter_vnni`] make one.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const VNNI: bool>(());

/// Runs `kernel` in a function compiled with the features.
///
/// # Safety
/// The CPU must have them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

/// [`enter`], with VNNI.
///
/// # Safety
/// The CPU must have the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn enter_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true>(()))
}

macro_rules! proven {
    ($op:expr) => {
        // SAFETY: the token proves that the CPU has the instructions; pointers come from
        // references to arrays of exactly the bytes the instruction reads or writes.
        unsafe { $op }
    };
}

impl<const VNNI: bool> Simd for Avx512<VNNI> {
    type V = __m512;
    type W = __m512i;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        proven!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        proven!(_mm512_loadu_ps(from.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; LANES]) {
        proven!(_mm512_storeu_ps(to.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> __m512 {
        proven!(_mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())))
    }
    #[inline(always)]
    fn store_f16(self, v: __m512, to: &mut [u16; LANES]) {
        proven!(_mm256_storeu_si256(
            to.as_mut_ptr().cast(),
            _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)
        ))
    }
    #[inline(always)]
    fn load_i32(self, from: &[i32; LANES]) -> __m512 {
        proven!(_mm512_cvtepi32_ps(_mm512_loadu_si512(from.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> __m512 {
        proven!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))))
    }
    #[inline(always)]
    fn load_words(self, from: &[u32; LANES]) -> __m512i {
        proven!(_mm512_loadu_si512(from.as_ptr().cast()))
    }
    #[inline(always)]
    fn next_nibble(self, words: &mut __m512i) -> __m512 {
        // A permutation looks at the low four bits only: mask and conversion in one instruction.
        proven!({
            let numbers = _mm512_setr_ps(
                0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.,
            );
            let nibbles = _mm512_permutexvar_ps(*words, numbers);
            *words = _mm512_srli_epi32::<4>(*words);
            nibbles
        })
    }
    #[inline(always)]
    fn next_bf16(self, words: &mut __m512i) -> __m512 {
        proven!({
            let number = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(*words));
            *words = _mm512_srli_epi32::<16>(*words);
            number
        })
    }
    #[inline(always)]
    fn next_byte(self, words: &mut __m512i) -> __m512 {
        proven!({
            let bytes = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(*words));
            *words = _mm512_srli_epi32::<8>(*words);
            _mm512_cvtepi32_ps(bytes)
        })
    }
    #[inline(always)]
    fn next_fp4(self, words: &mut __m512i) -> __m512 {
        proven!({
            let numbers = _mm512_setr_ps(
                0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.,
            );
            let number = _mm512_permutexvar_ps(*words, numbers);
            *words = _mm512_srli_epi32::<4>(*words);
            number
        })
    }
    #[inline(always)]
    fn split_nibbles(self, words: &[u32; LANES], to: &mut [[u32; LANES]; 2]) {
        proven!({
            let mask = _mm512_set1_epi8(15);
            let words = self.load_words(words);
            let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(words), mask);
            _mm512_storeu_si512(to[0].as_mut_ptr().cast(), _mm512_and_si512(words, mask));
            _mm512_storeu_si512(to[1].as_mut_ptr().cast(), odd);
        });
    }
    #[inline(always)]
    fn split_fp4(self, words: &[[u32; LANES]; 4]) -> [[u32; LANES]; 8] {
        let mut out = [[0; LANES]; 8];
        proven!({
            let mask = _mm512_set1_epi8(15);
            let table = _mm_loadu_si128(FP4_DOUBLED.as_ptr().cast());
            let table = _mm512_broadcast_i32x4(table);
            for i in 0..4 {
                let words = self.load_words(&words[i]);
                let even = _mm512_and_si512(words, mask);
                let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(words), mask);
                let (even, odd) =
                    (_mm512_shuffle_epi8(table, even), _mm512_shuffle_epi8(table, odd));
                _mm512_storeu_si512(out[2 * i].as_mut_ptr().cast(), even);
                _mm512_storeu_si512(out[2 * i + 1].as_mut_ptr().cast(), odd);
            }
        });
        out
    }

    #[inline(always)]
    fn store_bytes(self, v: __m512, to: &mut [u32; 4]) {
        proven!({
            let order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm_shuffle_epi8(bytes, order));
        });
    }
    #[inline(always)]
    fn prefetch<T>(self, line: *const T) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(line.cast()));
    }
    #[inline(always)]
    fn prefetch_far<T>(self, line: *const T) {
        proven!(_mm_prefetch::<_MM_HINT_T1>(line.cast()));
    }
    #[inline(always)]
    fn prefetch_write<T>(self, line: *mut T) {
        proven!(asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags)));
    }
    #[inline(always)]
    fn dot_nibbles<const M: usize>(
        self,
        codes: &[[u32; LANES]; 4],
        x: &[[u32; 8]; M],
    ) -> [__m512; M] {
        proven!({
            let mask = _mm512_set1_epi8(15);
            let mut bytes = [_mm512_setzero_si512(); 8];
            for i in 0..4 {
                let words = self.load_words(&codes[i]);
                bytes[2 * i] = _mm512_and_si512(words, mask);
                bytes[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16::<4>(words), mask);
            }
            let mut out = [_mm512_setzero_ps(); M];
            for m in 0..M {
                let mut sum = _mm512_setzero_si512();
                for i in 0..8 {
                    let x = _mm512_set1_epi32(x[m][i].cast_signed());
                    sum = if VNNI {
                        _mm512_dpbusd_epi32(sum, bytes[i], x)
                    } else {
                        // 16 bits are enough: see `half_dot_nibbles` of AVX2.
                        _mm512_add_epi16(sum, _mm512_maddubs_epi16(bytes[i], x))
                    };
                }
                if !VNNI {
                    sum = _mm512_madd_epi16(sum, _mm512_set1_epi16(1));
                }
                out[m] = _mm512_cvtepi32_ps(sum);
            }
            out
        })
    }
    #[inline(always)]
    fn dot_bytes<const M: usize, const W: usize>(
        self,
        codes: &[[u32; LANES]; W],
        x: &[[u32; 8]; M],
        x_sums: &[[i32; 2]; M],
        first: usize,
    ) -> [__m512; M] {
        proven!({
            let (zero, ones) = (_mm512_setzero_si512(), _mm512_set1_epi16(1));
            let mut sums = [zero; M];
            if VNNI {
                // One factor of `dpbusd` is unsigned: the code plus 128, and so many x too much.
                for m in 0..M {
                    let [low, high] = x_sums[m];
                    let sum = if W == 8 { low + high } else { x_sums[m][first / 4 % 2] };
                    sums[m] = _mm512_set1_epi32(-128 * sum);
                }
            }
            for i in 0..W {
                let code = self.load_words(&codes[i]);
                if VNNI {
                    let code = _mm512_xor_si512(code, _mm512_set1_epi8(-128));
                    for m in 0..M {
                        let x = _mm512_set1_epi32(x[m][(first + i) % 8].cast_signed());
                        sums[m] = _mm512_dpbusd_epi32(sums[m], code, x);
                    }
                } else {
                    // As on AVX2; there is no `sign` here, so x is turned where the code is negative.
                    let (magnitude, negative) = (_mm512_abs_epi8(code), _mm512_movepi8_mask(code));
                    for m in 0..M {
                        let x = _mm512_set1_epi32(x[m][(first + i) % 8].cast_signed());
                        let x = _mm512_mask_sub_epi8(x, negative, zero, x);
                        let pairs = _mm512_madd_epi16(_mm512_maddubs_epi16(magnitude, x), ones);
                        sums[m] = _mm512_add_epi32(sums[m], pairs);
                    }
                }
            }
            let mut out = [_mm512_setzero_ps(); M];
            for m in 0..M {
                out[m] = _mm512_cvtepi32_ps(sums[m]);
            }
            out
        })
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sum_lanes(self, v: __m512) -> f32 {
        proven!(sum_of_eight(_mm256_add_ps(
            _mm512_castps512_ps256(v),
            _mm512_extractf32x8_ps::<1>(v)
        )))
    }
    #[inline(always)]
    fn max_lanes(self, v: __m512) -> f32 {
        proven!(max_of_eight(_mm256_max_ps(
            _mm512_castps512_ps256(v),
            _mm512_extractf32x8_ps::<1>(v)
        )))
    }
    #[inline(always)]
    fn pow2_of_biased(self, t: __m512) -> __m512 {
        proven!(_mm512_castsi512_ps(_mm512_add_epi32(
            _mm512_slli_epi32::<23>(_mm512_castps_si512(t)),
            _mm512_set1_epi32(0x3f80_0000)
        )))
    }
}
