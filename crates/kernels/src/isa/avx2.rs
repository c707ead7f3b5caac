//! The operations on AVX2 with FMA and F16C: two registers of 8 lanes each.

use std::arch::x86_64::*;

use super::{
    Kernel,
    simd::{FP4_DOUBLED, LANES, Simd},
};

/// Proof of AVX2, FMA and F16C: only [`enter`] makes one.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Runs `kernel` in a function compiled with the features.
///
/// # Safety
/// The CPU must have them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

macro_rules! proven {
    ($op:expr) => {
        // SAFETY: the token proves that the CPU has the instructions; pointers come from
        // references to arrays of 16, of which the halves at 0 and 8 are read or written.
        unsafe { $op }
    };
}

/// The sum as a tree of halves.
///
/// # Safety
/// The CPU must have AVX.
#[inline]
#[target_feature(enable = "avx")]
pub(super) unsafe fn sum_of_eight(v: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// The largest lane in the same tree, of lower half and upper half.
///
/// # Safety
/// The CPU must have AVX.
#[inline]
#[target_feature(enable = "avx")]
pub(super) unsafe fn max_of_eight(v: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// Lanes 0 to 7 and 8 to 15.
type V = (__m256, __m256);

impl Avx2 {
    /// Lanes `FIRST..FIRST + 8` of [`Simd::dot_nibbles`]. A sum of 16 products in 16 bits, two k of
    /// each of eight words, is at most 16 · 15 · 127 = 30,480: it does not saturate.
    #[inline(always)]
    fn half_dot_nibbles<const M: usize, const FIRST: usize>(
        self,
        codes: &[[u32; LANES]; 4],
        x: &[[u32; 8]; M],
    ) -> [__m256; M] {
        proven!({
            let mask = _mm256_set1_epi8(15);
            let mut bytes = [_mm256_setzero_si256(); 8];
            for i in 0..4 {
                let words = _mm256_loadu_si256(codes[i].as_ptr().add(FIRST).cast());
                bytes[2 * i] = _mm256_and_si256(words, mask);
                bytes[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16::<4>(words), mask);
            }
            let mut out = [_mm256_setzero_ps(); M];
            for m in 0..M {
                let mut sum = _mm256_setzero_si256();
                for i in 0..8 {
                    let x = _mm256_set1_epi32(x[m][i].cast_signed());
                    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(bytes[i], x));
                }
                out[m] = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
            }
            out
        })
    }

    /// Lanes `FIRST..FIRST + 8` of [`Simd::dot_bytes`]. The unsigned factor of `maddubs` is the
    /// code's magnitude (128 at most), the signed one x with the code's sign: a pair is at most
    /// 2 · 128 · 127 = 32,512 and does not saturate.
    #[inline(always)]
    fn half_dot_bytes<const M: usize, const W: usize, const FIRST: usize>(
        self,
        codes: &[[u32; LANES]; W],
        x: &[[u32; 8]; M],
        first: usize,
    ) -> [__m256; M] {
        proven!({
            let ones = _mm256_set1_epi16(1);
            let mut sums = [_mm256_setzero_si256(); M];
            for i in 0..W {
                let code = _mm256_loadu_si256(codes[i].as_ptr().add(FIRST).cast());
                let magnitude = _mm256_abs_epi8(code);
                for m in 0..M {
                    let x = _mm256_sign_epi8(
                        _mm256_set1_epi32(x[m][(first + i) % 8].cast_signed()),
                        code,
                    );
                    let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, x), ones);
                    sums[m] = _mm256_add_epi32(sums[m], pairs);
                }
            }
            let mut out = [_mm256_setzero_ps(); M];
            for m in 0..M {
                out[m] = _mm256_cvtepi32_ps(sums[m]);
            }
            out
        })
    }
}

impl Simd for Avx2 {
    type V = V;
    type W = (__m256i, __m256i);
    const REGISTERS: usize = 8; // 16 of 8 lanes

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        proven!((_mm256_set1_ps(x), _mm256_set1_ps(x)))
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        let p = from.as_ptr();
        proven!((_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))))
    }
    #[inline(always)]
    fn store(self, v: V, to: &mut [f32; LANES]) {
        let p = to.as_mut_ptr();
        proven!({
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        })
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> V {
        let p = from.as_ptr();
        proven!((
            _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))
        ))
    }
    #[inline(always)]
    fn store_f16(self, v: V, to: &mut [u16; LANES]) {
        let p = to.as_mut_ptr();
        proven!({
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.0));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.1));
        })
    }
    #[inline(always)]
    fn load_i32(self, from: &[i32; LANES]) -> V {
        proven!((
            _mm256_cvtepi32_ps(_mm256_loadu_si256(from.as_ptr().cast())),
            _mm256_cvtepi32_ps(_mm256_loadu_si256(from.as_ptr().add(8).cast())),
        ))
    }
    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> V {
        let p = from.as_ptr();
        proven!((
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast())))
        ))
    }
    #[inline(always)]
    fn load_words(self, from: &[u32; LANES]) -> (__m256i, __m256i) {
        let p = from.as_ptr();
        proven!((_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())))
    }
    #[inline(always)]
    fn next_nibble(self, words: &mut (__m256i, __m256i)) -> V {
        proven!({
            let mask = _mm256_set1_epi32(15);
            let nibbles = (
                _mm256_cvtepi32_ps(_mm256_and_si256(words.0, mask)),
                _mm256_cvtepi32_ps(_mm256_and_si256(words.1, mask)),
            );
            *words = (_mm256_srli_epi32::<4>(words.0), _mm256_srli_epi32::<4>(words.1));
            nibbles
        })
    }
    #[inline(always)]
    fn next_bf16(self, words: &mut (__m256i, __m256i)) -> V {
        proven!({
            let (low, high) = *words;
            *words = (_mm256_srli_epi32::<16>(low), _mm256_srli_epi32::<16>(high));
            (
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            )
        })
    }
    #[inline(always)]
    fn next_byte(self, words: &mut (__m256i, __m256i)) -> V {
        proven!({
            let bytes = (
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(words.0))),
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(words.1))),
            );
            *words = (_mm256_srli_epi32::<8>(words.0), _mm256_srli_epi32::<8>(words.1));
            bytes
        })
    }
    #[inline(always)]
    fn next_fp4(self, words: &mut (__m256i, __m256i)) -> V {
        proven!({
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(FP4_DOUBLED.as_ptr().cast()));
            let mask = _mm256_set1_epi32(15);
            // The lowest byte of a word is its number; the others, all index 0, are 0.
            let low = _mm256_shuffle_epi8(table, _mm256_and_si256(words.0, mask));
            let high = _mm256_shuffle_epi8(table, _mm256_and_si256(words.1, mask));
            *words = (_mm256_srli_epi32::<4>(words.0), _mm256_srli_epi32::<4>(words.1));
            (
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(low))),
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(high))),
            )
        })
    }
    #[inline(always)]
    fn split_fp4(self, words: &[[u32; LANES]; 4]) -> [[u32; LANES]; 8] {
        let mut out = [[0; LANES]; 8];
        proven!({
            let mask = _mm256_set1_epi8(15);
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(FP4_DOUBLED.as_ptr().cast()));
            for i in 0..4 {
                for half in [0, LANES / 2] {
                    let words = _mm256_loadu_si256(words[i].as_ptr().add(half).cast());
                    let even = _mm256_and_si256(words, mask);
                    let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(words), mask);
                    let even = _mm256_shuffle_epi8(table, even);
                    let odd = _mm256_shuffle_epi8(table, odd);
                    _mm256_storeu_si256(out[2 * i].as_mut_ptr().add(half).cast(), even);
                    _mm256_storeu_si256(out[2 * i + 1].as_mut_ptr().add(half).cast(), odd);
                }
            }
        });
        out
    }

    #[inline(always)]
    fn store_bytes(self, v: V, to: &mut [u32; 4]) {
        proven!({
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.0), _mm256_cvtps_epi32(v.1));
            // Packing goes by halves of the registers: lanes 0-3, 8-11, 4-7, 12-15.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
            let bytes = _mm_shuffle_epi8(_mm_packs_epi16(low, high), order);
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        });
    }
    #[inline(always)]
    fn prefetch<T>(self, line: *const T) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(line.cast()));
    }
    #[inline(always)]
    fn dot_nibbles<const M: usize>(self, codes: &[[u32; LANES]; 4], x: &[[u32; 8]; M]) -> [V; M] {
        let mut out = [self.splat(0.0); M];
        // Half of the lanes after the other: the eight vectors of bytes fill half of the registers.
        let low = self.half_dot_nibbles::<M, 0>(codes, x);
        let high = self.half_dot_nibbles::<M, 8>(codes, x);
        for m in 0..M {
            out[m] = (low[m], high[m]);
        }
        out
    }
    #[inline(always)]
    fn dot_small_bytes<const M: usize>(
        self,
        codes: &[[u32; LANES]],
        x: &[[u32; 8]; M],
        _: &[[i32; 2]; M],
    ) -> [V; M] {
        proven!({
            // In 16 bits, as in `half_dot_nibbles`. Six rows fill twelve registers; two more hold
            // the codes, one x. The compiler doesn't know that there are eight words: it would
            // unroll the loop, load all of them first, and have no registers left.
            let mut sums = [(_mm256_setzero_si256(), _mm256_setzero_si256()); M];
            for (i, code) in codes.iter().enumerate() {
                let p = code.as_ptr();
                let low = _mm256_loadu_si256(p.cast());
                let high = _mm256_loadu_si256(p.add(8).cast());
                for m in 0..M {
                    let x = _mm256_set1_epi32(x[m][i % 8].cast_signed());
                    sums[m].0 = _mm256_add_epi16(sums[m].0, _mm256_maddubs_epi16(low, x));
                    sums[m].1 = _mm256_add_epi16(sums[m].1, _mm256_maddubs_epi16(high, x));
                }
            }
            let ones = _mm256_set1_epi16(1);
            let mut out = [self.splat(0.0); M];
            for m in 0..M {
                out[m] = (
                    _mm256_cvtepi32_ps(_mm256_madd_epi16(sums[m].0, ones)),
                    _mm256_cvtepi32_ps(_mm256_madd_epi16(sums[m].1, ones)),
                );
            }
            out
        })
    }
    #[inline(always)]
    fn dot_bytes<const M: usize, const W: usize>(
        self,
        codes: &[[u32; LANES]; W],
        x: &[[u32; 8]; M],
        _: &[[i32; 2]; M],
        first: usize,
    ) -> [V; M] {
        let mut out = [self.splat(0.0); M];
        let low = self.half_dot_bytes::<M, W, 0>(codes, x, first);
        let high = self.half_dot_bytes::<M, W, 8>(codes, x, first);
        for m in 0..M {
            out[m] = (low[m], high[m]);
        }
        out
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        proven!((_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        proven!((_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        proven!((_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        proven!((_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        proven!((_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        proven!((_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        proven!((_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)))
    }
    #[inline(always)]
    fn sum_lanes(self, (low, high): V) -> f32 {
        proven!(sum_of_eight(_mm256_add_ps(low, high)))
    }
    #[inline(always)]
    fn max_lanes(self, (low, high): V) -> f32 {
        proven!(max_of_eight(_mm256_max_ps(low, high)))
    }
    #[inline(always)]
    fn pow2_of_biased(self, t: V) -> V {
        proven!({
            let one = _mm256_set1_epi32(0x3f80_0000);
            let low = _mm256_slli_epi32::<23>(_mm256_castps_si256(t.0));
            let high = _mm256_slli_epi32::<23>(_mm256_castps_si256(t.1));
            (
                _mm256_castsi256_ps(_mm256_add_epi32(low, one)),
                _mm256_castsi256_ps(_mm256_add_epi32(high, one)),
            )
        })
    }
}
