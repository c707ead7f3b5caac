//! AMX: tiles of 16 rows of 64 bytes, and products of two tiles summed in a third (Intel, Architecture
//! Instruction Set Extensions Programming Reference, chapter 3). The intrinsics are not stable in
//! Rust, so this is assembly, all of it in this file.
//!
//! Tiles are a thread's state, which the kernel lets a process use once it has asked. They are
//! configured before they are used, and released after, so that a switch of threads needn't save them.

use std::{
    arch::{asm, x86_64::__cpuid_count},
    marker::PhantomData,
    sync::OnceLock,
};

use super::{BfloatPass, LANES, PagedPairs, PairOfSums, Sums, TILE_ROWS};

/// Proof that this process may use tiles of bytes and of bfloat16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amx(());

impl Amx {
    /// Asks the CPU and, once, the kernel.
    pub(crate) fn detect() -> Option<Self> {
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        ALLOWED.get_or_init(|| has_tiles() && request_permission()).then_some(Self(()))
    }

    /// Sets up this thread's tiles for products over `words` words of four bytes of k, 8 at most.
    ///
    /// # Safety
    /// No other tiles of this thread may be alive.
    pub(crate) unsafe fn byte_tiles(self, words: usize) -> ByteTiles {
        assert!((1..=8).contains(&words), "{words} words");
        let (x, codes, sums) = ((16, 4 * words), (words, 64), (16, 64));
        // SAFETY: by this function's contract.
        let configured = unsafe { self.configure(&[sums, x, codes, sums, x, codes]) };
        ByteTiles { words, _configured: configured }
    }

    /// Sets up this thread's tiles for products of `rows` rows of bfloat16, 16 at most.
    ///
    /// # Safety
    /// No other tiles of this thread may be alive.
    pub(crate) unsafe fn bfloat_tiles(self, rows: usize) -> BfloatTiles {
        assert!((1..=TILE_ROWS).contains(&rows), "{rows} rows");
        let (x, weights, sums) = ((rows, 64), (16, 64), (rows, 64));
        // SAFETY: by this function's contract.
        let configured =
            unsafe { self.configure(&[sums, sums, sums, sums, x, x, weights, weights]) };
        BfloatTiles { rows, _configured: configured }
    }

    /// # Safety
    /// No other [`Configured`] of this thread may be alive.
    unsafe fn configure(self, tiles: &[(usize, usize)]) -> Configured {
        let mut config = Config { palette: 1, ..Config::default() };
        for (tile, (rows, bytes)) in tiles.iter().enumerate() {
            (config.rows[tile], config.bytes[tile]) = (*rows as u8, *bytes as u16);
        }
        // SAFETY: the token proves the instruction; it reads the 64 bytes of `config`, which are a
        // valid configuration. Without `nomem` the compiler takes all memory to be read.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags))
        };
        Configured(PhantomData)
    }
}

/// CPUID's bits of AMX-BF16, AMX-TILE and AMX-INT8.
fn has_tiles() -> bool {
    let all = 1 << 22 | 1 << 24 | 1 << 25;
    __cpuid_count(7, 0).edx & all == all
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

/// This thread's tiles, as long as they are configured.
struct Configured(PhantomData<*mut ()>);

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: whoever has tiles has the instruction.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

/// Tiles for products of bytes: twice sums, x and codes, so that two products may be on their way at
/// once.
pub(crate) struct ByteTiles {
    words: usize,
    _configured: Configured,
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

/// Tiles for products of bfloat16: four of sums, two of x, two of weights.
pub(crate) struct BfloatTiles {
    rows: usize,
    _configured: Configured,
}

/// What the assembly reads from memory.
#[repr(C)]
struct Operands {
    outputs: [[*mut f32; 2]; 2], // [tile][panel]
    sums: *const Sums,
    x_step: usize,
    per_step: usize,
    /// Of the outputs, of which memory is still to be asked for.
    rows: usize,
}

/// A step's requests for memory: for some lines of what is multiplied next, and a row of the outputs.
macro_rules! prefetches {
    () => {
        "
        mov {count}, [{operands} + 48]
        test {count}, {count}
        jz 4f
        3:
        prefetcht1 [{ahead0}]
        prefetcht1 [{ahead1}]
        add {ahead0}, {line}
        add {ahead1}, {line}
        dec {count}
        jnz 3b
        4:
        cmp qword ptr [{operands} + 56], 0
        je 6f
        prefetchw [{y}]
        prefetchw [{y} + 64]
        add {y}, {row}
        dec qword ptr [{operands} + 56]
        6:
        "
    };
}

impl BfloatTiles {
    /// `outputs[t][m][p][n] = sums[t][p][m][n] + Σ x[t][m] · weights[p][n]` for two tiles of rows and
    /// two panels.
    ///
    /// `x`: `[k / 32][rows][16]`, words of two k; `weights`: `[k / 2][16]`, words of two k. The sum of
    /// 32 k is a chain of fused multiply-adds of the even ones from 0, one of the odd ones, and the sum
    /// of both; these are added up in order of k. Numbers too small to be normal count as 0.
    ///
    /// # Safety
    /// All `rows` rows of the outputs of both tiles are the caller's to write, and nobody writes `sums`.
    pub(crate) unsafe fn multiply_two(
        &self,
        x: [&[[u32; LANES]]; 2],
        weights: [&[[u32; LANES]]; 2],
        pass: BfloatPass,
    ) {
        let steps = self.steps(&x, weights);
        let mut operands = self.operands(&pass, 2);
        // SAFETY: the tiles are configured, so the instructions are there. Each step reads `rows` lines
        // of each `x` and 16 of each of `weights`, which have as many for each step; sums and outputs
        // are as this function's contract has it. The block names every register of tiles that it
        // changes.
        unsafe {
            asm!(
                "mov {count}, [{operands} + 32]",
                "test {count}, {count}",
                "jz 7f",
                "tileloadd tmm0, [{count} + {line} * 1]",
                "tileloadd tmm1, [{count} + {line} * 1 + 1024]",
                "tileloadd tmm2, [{count} + {line} * 1 + 2048]",
                "tileloadd tmm3, [{count} + {line} * 1 + 3072]",
                "jmp 2f",
                "7:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm6, [{w0} + {line} * 1]",
                "tileloadd tmm4, [{x0} + {line} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {line} * 1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {line} * 1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                prefetches!(),
                "add {w0}, 1024",
                "add {w1}, 1024",
                "add {x0}, [{operands} + 40]",
                "add {x1}, [{operands} + 40]",
                "dec {steps}",
                "jnz 2b",
                "mov {w0}, [{operands}]",
                "mov {w1}, [{operands} + 8]",
                "mov {x0}, [{operands} + 16]",
                "mov {x1}, [{operands} + 24]",
                "tilestored [{w0} + {row} * 1], tmm0",
                "tilestored [{w1} + {row} * 1], tmm1",
                "tilestored [{x0} + {row} * 1], tmm2",
                "tilestored [{x1} + {row} * 1], tmm3",
                w0 = inout(reg) weights[0].as_ptr() => _,
                w1 = inout(reg) weights[1].as_ptr() => _,
                x0 = inout(reg) x[0].as_ptr() => _,
                x1 = inout(reg) x[1].as_ptr() => _,
                steps = inout(reg) steps => _,
                line = in(reg) size_of::<[u32; LANES]>(),
                row = in(reg) pass.row * size_of::<f32>(),
                y = inout(reg) pass.outputs[0] => _,
                ahead0 = inout(reg) pass.ahead[0] => _,
                ahead1 = inout(reg) pass.ahead[1] => _,
                count = out(reg) _,
                operands = in(reg) &raw mut operands,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// [`BfloatTiles::multiply_two`] for one tile of rows.
    ///
    /// # Safety
    /// As of `multiply_two`, for the first tile.
    pub(crate) unsafe fn multiply_one(
        &self,
        x: &[[u32; LANES]],
        weights: [&[[u32; LANES]]; 2],
        pass: BfloatPass,
    ) {
        let steps = self.steps(&[x], weights);
        let mut operands = self.operands(&pass, 1);
        // SAFETY: as in `multiply_two`, with one `x` and two tiles of sums.
        unsafe {
            asm!(
                "mov {count}, [{operands} + 32]",
                "test {count}, {count}",
                "jz 7f",
                "tileloadd tmm0, [{count} + {line} * 1]",
                "tileloadd tmm1, [{count} + {line} * 1 + 1024]",
                "jmp 2f",
                "7:",
                "tilezero tmm0",
                "tilezero tmm1",
                "2:",
                "tileloadd tmm4, [{x} + {line} * 1]",
                "tileloadd tmm6, [{w0} + {line} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {line} * 1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                prefetches!(),
                "add {w0}, 1024",
                "add {w1}, 1024",
                "add {x}, [{operands} + 40]",
                "dec {steps}",
                "jnz 2b",
                "mov {w0}, [{operands}]",
                "mov {w1}, [{operands} + 8]",
                "tilestored [{w0} + {row} * 1], tmm0",
                "tilestored [{w1} + {row} * 1], tmm1",
                w0 = inout(reg) weights[0].as_ptr() => _,
                w1 = inout(reg) weights[1].as_ptr() => _,
                x = inout(reg) x.as_ptr() => _,
                steps = inout(reg) steps => _,
                line = in(reg) size_of::<[u32; LANES]>(),
                row = in(reg) pass.row * size_of::<f32>(),
                y = inout(reg) pass.outputs[0] => _,
                ahead0 = inout(reg) pass.ahead[0] => _,
                ahead1 = inout(reg) pass.ahead[1] => _,
                count = out(reg) _,
                operands = in(reg) &raw mut operands,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    fn operands(&self, pass: &BfloatPass, tiles: usize) -> Operands {
        Operands {
            outputs: pass.outputs.map(|y| [y, y.wrapping_add(pass.panel)]),
            sums: pass.sums,
            x_step: self.rows * size_of::<[u32; LANES]>(),
            per_step: pass.per_step,
            rows: if pass.fetches { tiles * self.rows } else { 0 },
        }
    }

    /// Steps of 32 k. Panics where the operands disagree about them, or there are none.
    fn steps(&self, x: &[&[[u32; LANES]]], weights: [&[[u32; LANES]]; 2]) -> usize {
        let steps = weights[0].len() / 16;
        assert!(steps > 0);
        for weights in weights {
            assert_eq!(weights.len(), 16 * steps, "weights of {steps} steps");
        }
        for x in x {
            assert_eq!(x.len(), self.rows * steps, "{} rows of {steps} steps", self.rows);
        }
        steps
    }
}

/// Tiles for sums of values in bfloat16, each times its weight: four of sums, two of weights, two of values.
pub(crate) struct WeightedTiles {
    rows: usize,
    _configured: Configured,
}

impl Amx {
    /// Sets up this thread's tiles for sums for `rows` rows, 16 at most.
    ///
    /// # Safety
    /// No other tiles of this thread may be alive.
    pub(crate) unsafe fn weighted_tiles(self, rows: usize) -> WeightedTiles {
        assert!((1..=TILE_ROWS).contains(&rows), "{rows} rows");
        let (weights, values, sums) = ((rows, 32), (8, 64), (rows, 64));
        // SAFETY: by this function's contract.
        let configured =
            unsafe { self.configure(&[sums, sums, sums, sums, weights, weights, values, values]) };
        WeightedTiles { rows, _configured: configured }
    }
}

impl WeightedTiles {
    /// `sums[t][n][m] += Σ weights[t][.., m] · values[.., 16 · (line + n)..]` over the positions of all blocks,
    /// for two tiles of rows and two lines of values.
    ///
    /// `weights`: `[blocks][rows][16 positions]`. The order of additions is that of
    /// [`BfloatTiles::multiply_two`], with 16 positions, a block, to a step.
    pub(crate) fn sum_two(
        &self,
        weights: [&[[u16; LANES]]; 2],
        values: PagedPairs<'_>,
        line: usize,
        sums: &mut [PairOfSums; 2],
    ) {
        let steps = self.steps(&weights, values, line);
        if steps == 0 {
            return;
        }
        // SAFETY: the tiles are configured, so the instructions are there. `steps` has looked at all that
        // is read: of each block `rows` lines of each of `weights`, and 8 times two lines of the values of
        // a block that is there. `sums` are four tiles. The block names every register of tiles
        // that it changes.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {half} * 4]",
                "tileloadd tmm1, [{sums} + {half} * 4 + 1024]",
                "tileloadd tmm2, [{sums} + {half} * 4 + 2048]",
                "tileloadd tmm3, [{sums} + {half} * 4 + 3072]",
                "2:",
                "mov {entry:e}, dword ptr [{table}]",
                "imul {entry}, {block}",
                "add {entry}, {values}",
                "tileloadd tmm6, [{entry} + {stride} * 1]",
                "tileloadd tmm4, [{w0} + {half} * 2]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{entry} + {stride} * 1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{w1} + {half} * 2]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {table}, 4",
                "add {w0}, {w_step}",
                "add {w1}, {w_step}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {half} * 4], tmm0",
                "tilestored [{sums} + {half} * 4 + 1024], tmm1",
                "tilestored [{sums} + {half} * 4 + 2048], tmm2",
                "tilestored [{sums} + {half} * 4 + 3072], tmm3",
                entry = out(reg) _,
                table = inout(reg) values.table.as_ptr() => _,
                block = in(reg) values.block_len * size_of::<[u32; LANES]>(),
                values = in(reg) values.lines[line..].as_ptr(),
                stride = in(reg) values.stride * size_of::<[u32; LANES]>(),
                w0 = inout(reg) weights[0].as_ptr() => _,
                w1 = inout(reg) weights[1].as_ptr() => _,
                w_step = in(reg) self.rows * size_of::<[u16; LANES]>(),
                steps = inout(reg) steps => _,
                half = in(reg) 16usize, // bytes: half a line of weights, a quarter of one of sums
                sums = in(reg) sums.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// [`WeightedTiles::sum_two`] for one tile of rows.
    pub(crate) fn sum_one(
        &self,
        weights: &[[u16; LANES]],
        values: PagedPairs<'_>,
        line: usize,
        sums: &mut PairOfSums,
    ) {
        let steps = self.steps(&[weights], values, line);
        if steps == 0 {
            return;
        }
        // SAFETY: as in `sum_two`, with one of `weights` and two tiles of sums.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {half} * 4]",
                "tileloadd tmm1, [{sums} + {half} * 4 + 1024]",
                "2:",
                "mov {entry:e}, dword ptr [{table}]",
                "imul {entry}, {block}",
                "add {entry}, {values}",
                "tileloadd tmm4, [{weights} + {half} * 2]",
                "tileloadd tmm6, [{entry} + {stride} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{entry} + {stride} * 1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {table}, 4",
                "add {weights}, {w_step}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {half} * 4], tmm0",
                "tilestored [{sums} + {half} * 4 + 1024], tmm1",
                entry = out(reg) _,
                table = inout(reg) values.table.as_ptr() => _,
                block = in(reg) values.block_len * size_of::<[u32; LANES]>(),
                values = in(reg) values.lines[line..].as_ptr(),
                stride = in(reg) values.stride * size_of::<[u32; LANES]>(),
                weights = inout(reg) weights.as_ptr() => _,
                w_step = in(reg) self.rows * size_of::<[u16; LANES]>(),
                steps = inout(reg) steps => _,
                half = in(reg) 16usize, // as in `sum_two`
                sums = in(reg) sums.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Blocks. Panics where an operand is too short for them.
    fn steps(&self, weights: &[&[[u16; LANES]]], values: PagedPairs<'_>, line: usize) -> usize {
        let PagedPairs { lines, block_len, stride, table } = values;
        for weights in weights {
            assert_eq!(weights.len(), self.rows * table.len(), "weights of {} rows", self.rows);
        }
        assert!(line + 2 <= stride);
        let most = table.iter().fold(0, |most, &block| most.max(block)) as usize;
        assert!(most * block_len + 8 * stride <= lines.len(), "values of block {most}");
        table.len()
    }
}
