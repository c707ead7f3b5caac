//! The vector operations the kernels need: 16 lanes of f32, and the loads that widen to them.
//!
//! Sixteen everywhere (one AVX-512 register, two AVX2 ones, an array in plain Rust), so that lane
//! sums come in the same order on every level. An implementor is a token that proves its features.

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen lanes of f32 and the integer words that unpack to them.
///
/// Each operation rounds once, to nearest even, as IEEE 754 says; there is nothing approximate
/// here, which is what makes the levels agree to the bit.
pub(crate) trait Simd: Copy {
    /// 16 × f32.
    type V: Copy;
    /// 16 × u32.
    type W: Copy;
    /// Vectors that the registers hold. A kernel made for more than that on a level is never called
    /// there, and says so, which spares compiling it.
    const REGISTERS: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Lanes from memory.
    fn load(self, from: &[f32; LANES]) -> Self::V;
    /// Lanes to memory.
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// Widens IEEE half precision, exact.
    fn load_f16(self, from: &[u16; LANES]) -> Self::V;
    /// Narrows to IEEE half precision, to nearest even, overflow to infinity.
    fn store_f16(self, v: Self::V, to: &mut [u16; LANES]);
    /// Rounds 32-bit integers, exact up to 2²⁴.
    fn load_i32(self, from: &[i32; LANES]) -> Self::V;
    /// Widens signed bytes, exact.
    fn load_i8(self, from: &[i8; LANES]) -> Self::V;
    /// Words from memory.
    fn load_words(self, from: &[u32; LANES]) -> Self::W;
    /// The lowest four bits of each word as a number 0 to 15; the words move on by four bits.
    fn next_nibble(self, words: &mut Self::W) -> Self::V;
    /// The lower half of each word as bfloat16, exact; the words move on by sixteen bits.
    fn next_bf16(self, words: &mut Self::W) -> Self::V;
    /// The lowest byte of each word as a signed number; the words move on by eight bits.
    fn next_byte(self, words: &mut Self::W) -> Self::V;
    /// The lowest four bits of each word as twice the number they are in E2M1, from [`FP4_DOUBLED`];
    /// the words move on by four bits.
    fn next_fp4(self, words: &mut Self::W) -> Self::V;
    /// Words of eight nibbles as words of bytes: the even ones, then the odd ones.
    #[inline(always)]
    fn split_nibbles(self, words: &[u32; LANES], to: &mut [[u32; LANES]; 2]) {
        const NIBBLES: u32 = 0x0f0f_0f0f;
        for lane in 0..LANES {
            to[0][lane] = words[lane] & NIBBLES;
            to[1][lane] = words[lane] >> 4 & NIBBLES;
        }
    }
    /// Words of eight numbers of E2M1 as signed bytes: of each eight the even ones, then the odd ones.
    fn split_fp4(self, words: &[[u32; LANES]; 4]) -> [[u32; LANES]; 8];

    /// Whole numbers from -127 to 127 as bytes: of each eight lanes the even ones, then the odd ones.
    fn store_bytes(self, v: Self::V, to: &mut [u32; 4]);
    /// Asks for a line of memory that is read soon. A hint: `line` may be anywhere.
    fn prefetch<T>(self, line: *const T);
    /// [`Simd::prefetch`] to L2 only, of what is read later.
    #[inline(always)]
    fn prefetch_far<T>(self, line: *const T) {
        self.prefetch(line);
    }
    /// [`Simd::prefetch`] of what is written.
    #[inline(always)]
    fn prefetch_write<T>(self, line: *mut T) {
        self.prefetch(line);
    }

    /// Σ code · x over 32 k, of 16 features and `M` rows; exact. `codes`: a word holds eight k of a
    /// feature, four unsigned bits each, lowest first. `x`: for each eight k, the signed bytes of
    /// the even ones, then of the odd ones; none is -128.
    fn dot_nibbles<const M: usize>(
        self,
        codes: &[[u32; LANES]; 4],
        x: &[[u32; 8]; M],
    ) -> [Self::V; M];
    /// Σ code · x over 4 `W` k, of 16 features and `M` rows; exact. `codes` and `x`: signed bytes,
    /// in the same order; in `x`, of which the `W` words from `first` are meant, none is -128.
    /// `sums`: of the bytes of the first and of the last four words of `x`.
    fn dot_bytes<const M: usize, const W: usize>(
        self,
        codes: &[[u32; LANES]; W],
        x: &[[u32; 8]; M],
        sums: &[[i32; 2]; M],
        first: usize,
    ) -> [Self::V; M];
    /// [`Simd::dot_bytes`] of codes from 0 to 15, `[8]`.
    #[inline(always)]
    fn dot_small_bytes<const M: usize>(
        self,
        codes: &[[u32; LANES]],
        x: &[[u32; 8]; M],
        sums: &[[i32; 2]; M],
    ) -> [Self::V; M] {
        self.dot_bytes::<M, 8>(&codes.as_chunks().0[0], x, sums, 0)
    }

    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lanes' sum as a tree of halves: `(i, i + 8)`, `(i, i + 4)`, `(i, i + 2)`, `(i, i + 1)`.
    #[inline(always)]
    fn sum_lanes(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        sum_of(lanes)
    }
    /// The largest lane, in the same tree, with [`Simd::max`] of the lower half and the upper one.
    #[inline(always)]
    fn max_lanes(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        max_of(lanes)
    }
    /// `2^n` from `t = n + 1.5·2²³` (whose low bits are `n`), for `n` in -127 to 127; 0 for -127.
    fn pow2_of_biased(self, t: Self::V) -> Self::V;
}

/// Twice the 16 numbers of E2M1 (a sign, two bits of exponent, one of fraction), by their bits; so they
/// are whole. OCP Microscaling Formats (MX) specification, version 1.0.
pub(crate) const FP4_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// [`Simd::sum_lanes`] of lanes in memory.
#[inline(always)]
fn sum_of(mut lanes: [f32; LANES]) -> f32 {
    // Each loop by itself: a loop over the widths would not be unrolled.
    for i in 0..8 {
        lanes[i] += lanes[i + 8];
    }
    for i in 0..4 {
        lanes[i] += lanes[i + 4];
    }
    (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
}

/// [`Simd::max_lanes`] of lanes in memory.
#[inline(always)]
fn max_of(mut lanes: [f32; LANES]) -> f32 {
    for i in 0..8 {
        lanes[i] = larger(lanes[i], lanes[i + 8]);
    }
    for i in 0..4 {
        lanes[i] = larger(lanes[i], lanes[i + 4]);
    }
    larger(larger(lanes[0], lanes[2]), larger(lanes[1], lanes[3]))
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}
