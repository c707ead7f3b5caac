//! The instruction set in use, as a value that proves the CPU has it.
//!
//! A kernel is a struct of its operands with one method, generic over `Simd` (16 lanes of f32);
//! `Isa::dispatch` compiles it once per instruction set and calls the one proven. So the
//! arithmetic of the kernels is safe code: the intrinsics' `unsafe` stays in this folder. (Learnt
//! from rten's and pulp's tokens.) What is `unsafe` elsewhere is memory, not arithmetic: aligned
//! buffers (`buffer`), the region's closure (`team`), and outputs that tasks write in parts.
//!
//! Must not: choose an algorithm. All levels run the same operations in the same order and give the
//! same bits; they differ in tile sizes only. AMX alone is no such level of vectors but a unit with an
//! order of its own: its kernels are written apart (`matmul/bfloat_rows.rs`).

#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), path = "no_amx.rs")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod simd;
mod tile_operands;

use std::{fmt, str::FromStr};

pub(crate) use amx::{Amx, BfloatTiles, ByteTiles};
pub(crate) use portable::Portable;
pub(crate) use simd::{FP4_DOUBLED, LANES, Simd};
pub(crate) use tile_operands::{BfloatPass, PagedPairs, PairOfSums, Sums};

/// Rows of a tile of AMX.
pub(crate) const TILE_ROWS: usize = 16;

/// A level of SIMD support. Each has a name on every architecture, also where no CPU can have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Plain Rust. On x86-64 its fused multiply-add is a call into the C library: slow, and exact.
    Portable,
    /// NEON, which all of AArch64 has.
    Neon,
    /// DotProd (ARMv8.2), and all of [`Level::Neon`].
    NeonDotprod,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL, and all of [`Level::Avx2`].
    Avx512,
    /// AVX-512 VNNI, and all of [`Level::Avx512`].
    Avx512Vnni,
    /// AMX with bytes and bfloat16, on Linux, and all of [`Level::Avx512Vnni`].
    Amx,
}

impl Level {
    /// All levels, those of an architecture from the plainest to the best.
    pub const ALL: [Self; 7] = [
        Self::Portable,
        Self::Neon,
        Self::NeonDotprod,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Amx,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Amx => "amx",
        }
    }

    /// Whether this CPU has all that the level's kernels are compiled for.
    fn is_here(self) -> bool {
        #[cfg(target_arch = "aarch64")]
        use std::arch::is_aarch64_feature_detected as has;
        #[cfg(target_arch = "x86_64")]
        use std::arch::is_x86_feature_detected as has;
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => has!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => Self::Neon.is_here() && has!("dotprod"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => has!("avx2") && has!("fma") && has!("f16c"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_here()
                    && has!("avx512f")
                    && has!("avx512bw")
                    && has!("avx512dq")
                    && has!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Self::Avx512.is_here() && has!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Vnni.is_here() && Amx::detect().is_some(),
            _ => false, // another architecture's
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no [`Level`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown level `{0}`: expected one of {names}", names = Level::ALL.map(Level::name).join(", "))]
pub struct UnknownLevel(pub String);

impl FromStr for Level {
    type Err = UnknownLevel;
    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        let found = Self::ALL.into_iter().find(|level| level.name() == name);
        found.ok_or_else(|| UnknownLevel(name.to_owned()))
    }
}

/// Proof that this CPU can run `level()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

impl Isa {
    /// The best level of this CPU.
    pub fn detect() -> Self {
        let best = Level::ALL.into_iter().rev().find_map(Self::at);
        best.unwrap_or(Self(Level::Portable))
    }

    /// `level`, if this CPU has it.
    pub fn at(level: Level) -> Option<Self> {
        level.is_here().then_some(Self(level))
    }

    /// Every level this CPU has, from the plainest.
    pub fn available() -> impl Iterator<Item = Self> {
        Level::ALL.into_iter().filter_map(Self::at)
    }

    /// The level proven.
    pub fn level(self) -> Level {
        self.0
    }

    /// Tiles, if they are part of the level.
    #[inline]
    pub(crate) fn amx(self) -> Option<Amx> {
        (self.0 == Level::Amx).then(Amx::detect).flatten()
    }

    /// [`Simd::REGISTERS`]: vectors that the registers hold, 8 or 32. Tile sizes go by it.
    pub(crate) fn registers(self) -> usize {
        self.dispatch(Registers)
    }

    /// Runs `kernel`, compiled for this instruction set.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Portable => kernel.run(Portable),
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Isa(Neon)` is made only by `at`, after asking the CPU.
            Level::Neon => unsafe { neon::enter(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above, for `Isa(NeonDotprod)`.
            Level::NeonDotprod => unsafe { neon::enter_dotprod(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa(Avx2)` is made only by `at`, after asking the CPU.
            Level::Avx2 => unsafe { avx2::enter(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, for `Isa(Avx512)`.
            Level::Avx512 => unsafe { avx512::enter(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, for `Isa(Avx512Vnni)` and `Isa(Amx)`.
            Level::Avx512Vnni | Level::Amx => unsafe { avx512::enter_vnni(kernel) },
            _ => unreachable!("`at` gives no level of another architecture"),
        }
    }
}

/// A piece of arithmetic, written once for all instruction sets.
///
/// `run` and everything it calls down to the vector operations must be `#[inline(always)]`, and
/// must not go through closures: only what is inlined into the entry is compiled with its features.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// The arithmetic.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

struct Registers;

impl Kernel for Registers {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::REGISTERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lanes' sum and the largest, as the portable level has them, bit by bit.
    #[derive(Clone, Copy)]
    struct Trees([f32; LANES]);

    impl Kernel for Trees {
        type Output = [u32; 2];
        fn run<S: Simd>(self, s: S) -> [u32; 2] {
            let v = s.load(&self.0);
            [s.sum_lanes(v), s.max_lanes(v)].map(f32::to_bits)
        }
    }

    #[test]
    fn lanes_are_added_and_compared_in_one_order_on_every_level() {
        let mut seed = 1u32;
        for _ in 0..1000 {
            let lanes = std::array::from_fn(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // A NaN, of which which one meets what matters, and numbers of many sizes.
                match seed >> 27 {
                    0 => f32::NAN,
                    size => (seed as i32) as f32 * 2f32.powi(size as i32 - 40),
                }
            });
            let want = Isa(Level::Portable).dispatch(Trees(lanes));
            for isa in Isa::available() {
                assert_eq!(isa.dispatch(Trees(lanes)), want, "{lanes:?} {:?}", isa.level());
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse::<Level>(), Ok(level));
        }
        assert!("sse9".parse::<Level>().is_err());
    }

    #[test]
    fn portable_is_always_there_and_the_best_is_available() {
        assert!(Isa::at(Level::Portable).is_some());
        assert_eq!(Isa::available().last(), Some(Isa::detect()));
    }
}
