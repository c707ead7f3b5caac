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
mod portable;
mod simd;

use std::{fmt, str::FromStr};

pub(crate) use amx::{Amx, BfloatTiles, ByteTiles, PairOfSums};
pub(crate) use portable::Portable;
pub(crate) use simd::{FP4_DOUBLED, LANES, Simd, max_lanes, sum_lanes};

/// Rows of a tile of AMX.
pub(crate) const TILE_ROWS: usize = 16;

/// A level of SIMD support.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust. On x86-64 its fused multiply-add is a call into the C library: slow, and exact.
    Portable,
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
    /// All levels, from the plainest.
    pub const ALL: [Self; 5] =
        [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Vnni, Self::Amx];

    const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Amx => "amx",
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
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            let avx512 =
                has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            Self(match () {
                () if !avx2 => Level::Portable,
                () if !avx512 => Level::Avx2,
                () if !has!("avx512vnni") => Level::Avx512,
                () if Amx::detect().is_some() => Level::Amx,
                () => Level::Avx512Vnni,
            })
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self(Level::Portable)
    }

    /// `level`, if this CPU has it.
    pub fn at(level: Level) -> Option<Self> {
        (level <= Self::detect().0).then_some(Self(level))
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

    /// Runs `kernel`, compiled for this instruction set.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Portable => kernel.run(Portable),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa(Avx2)` is made only by `detect` and `at`, after asking the CPU.
            Level::Avx2 => unsafe { avx2::enter(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, for `Isa(Avx512)`.
            Level::Avx512 => unsafe { avx512::enter(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, for `Isa(Avx512Vnni)` and `Isa(Amx)`.
            Level::Avx512Vnni | Level::Amx => unsafe { avx512::enter_vnni(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("`at` gives only what `detect` found"),
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

#[cfg(test)]
mod tests {
    use super::*;

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
