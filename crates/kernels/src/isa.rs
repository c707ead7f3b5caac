//! The instruction set in use, as a value that proves the CPU has it.

/// A level of SIMD support.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
}

/// Proof that this CPU can run `level()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

impl Isa {
    /// The best level of this CPU.
    pub fn detect() -> Self {
        todo!()
    }
    /// `level`, if this CPU has it.
    pub fn at(level: Level) -> Option<Self> {
        (level <= Self::detect().0).then_some(Self(level))
    }
    /// The level proven.
    pub fn level(self) -> Level {
        self.0
    }
}
