//! AMX: tiles of 16 rows of 64 bytes, and products of two tiles summed in a third (Intel, Architecture
//! Instruction Set Extensions Programming Reference, chapter 3). The intrinsics are not stable in
//! Rust, so this is assembly: five instructions, in one place.
//!
//! Tiles are a thread's state, which the kernel lets a process use once it has asked. They are
//! configured before they are used, and released after, so that a switch of threads needn't save them.

use std::{
    arch::{asm, x86_64::__cpuid_count},
    marker::PhantomData,
    sync::OnceLock,
};

use super::{LANES, TILE_ROWS};

/// Proof that this process may use tiles of bytes.
#[derive(Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// Asks the CPU and, once, the kernel.
    pub(crate) fn detect() -> Option<Self> {
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        ALLOWED.get_or_init(|| has_byte_tiles() && request_permission()).then_some(Self(()))
    }

    /// Sets up this thread's tiles for products over `words` words of four k, 8 at most.
    ///
    /// # Safety
    /// No other [`ByteTiles`] of this thread may be alive.
    pub(crate) unsafe fn byte_tiles(self, words: usize) -> ByteTiles {
        assert!((1..=8).contains(&words), "{words} words");
        let mut config = Config { palette: 1, ..Config::default() };
        let (x, codes, sums) = ((16, 4 * words), (words, 64), (16, 64));
        for (tile, (rows, bytes)) in [sums, x, codes, sums, x, codes].into_iter().enumerate() {
            (config.rows[tile], config.bytes[tile]) = (rows as u8, bytes as u16);
        }
        // SAFETY: the token proves the instruction; it reads the 64 bytes of `config`, which are a
        // valid configuration. Without `nomem` the compiler takes all memory to be read.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags))
        };
        ByteTiles { words, of_this_thread: PhantomData }
    }
}

/// CPUID's bits of AMX-TILE and AMX-INT8.
fn has_byte_tiles() -> bool {
    let (tile, int8) = (1 << 24, 1 << 25);
    __cpuid_count(7, 0).edx & (tile | int8) == tile | int8
}

/// Asks Linux for the tiles' state, for all threads of this process: 8 KiB that most never need.
fn request_permission() -> bool {
    const SYS_ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: the system call takes two numbers and touches no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// What `ldtilecfg` reads.
#[derive(Default)]
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, by tile.
    bytes: [u16; 16],
    /// Rows, by tile.
    rows: [u8; 16],
}

/// This thread's tiles, set up for products of bytes: twice sums, x and codes, so that two products
/// may be on their way at once.
pub(crate) struct ByteTiles {
    words: usize,
    of_this_thread: PhantomData<*mut ()>,
}

impl ByteTiles {
    /// `sums[m][n] = Σ x[m] · codes[n]`, over the bytes of the words from `first` of `x`, and of as many
    /// `codes`; signed, exact. `odd` says which of the two sets of tiles; calls should take turns.
    #[inline(always)]
    pub(crate) fn multiply(
        &self,
        odd: bool,
        x: &[[u32; 8]; TILE_ROWS],
        first: usize,
        codes: &[[u32; LANES]],
        sums: &mut [[i32; LANES]; TILE_ROWS],
    ) {
        assert!(first + self.words <= 8 && codes.len() >= self.words);
        let x = x.as_flattened()[first..].as_ptr();
        macro_rules! product {
            ($sums:tt, $x:tt, $codes:tt) => {
                // SAFETY: the tiles are configured, so the instructions are there; they read
                // `words` words of 16 rows 32 bytes apart from `x`, `words` lines of `codes`, and
                // write the 16 lines of `sums`.
                unsafe {
                    asm!(
                        concat!("tilezero ", $sums),
                        concat!("tileloadd ", $x, ", [{x} + {x_row} * 1]"),
                        concat!("tileloadd ", $codes, ", [{codes} + {line} * 1]"),
                        concat!("tdpbssd ", $sums, ", ", $x, ", ", $codes),
                        concat!("tilestored [{sums} + {line} * 1], ", $sums),
                        x = in(reg) x,
                        x_row = in(reg) size_of::<[u32; 8]>(),
                        codes = in(reg) codes.as_ptr(),
                        sums = in(reg) sums.as_mut_ptr(),
                        line = in(reg) size_of::<[u32; LANES]>(),
                        out($sums) _,
                        out($x) _,
                        out($codes) _,
                        options(nostack, preserves_flags),
                    )
                }
            };
        }
        if odd {
            product!("tmm3", "tmm4", "tmm5");
        } else {
            product!("tmm0", "tmm1", "tmm2");
        }
    }
}

impl Drop for ByteTiles {
    fn drop(&mut self) {
        // SAFETY: whoever has tiles has the instruction.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}
