//! Repacking a matrix from its file's layout into panels, in parallel over panels.

use std::{
    marker::PhantomData,
    sync::{Mutex, PoisonError},
};

use super::panel::{
    CODE_STEP, Code, CodePanels, Factors, Minima, PairPanels, PlainPanels, Weights,
};
use crate::{
    buffer::{Buffer, Plain},
    isa::{FP4_DOUBLED, LANES},
    quant::{Codes, Format, QuantizationError, dequantize, quantize},
    team::{SharedSlice, Team},
};

/// A matrix to be packed.
pub(super) struct Source<'a> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) origin: Origin<'a>,
    /// The format to keep it in; if that is not the origin's, one that weights are quantised to.
    pub(super) into: Format,
    /// What that loses.
    pub(super) error: Mutex<QuantizationError>,
}

/// Where rows come from.
pub(super) enum Origin<'a> {
    /// A matrix as its file holds it, checked to have the rows, of `row_bytes` each.
    Bytes {
        format: Format,
        src: &'a [u8],
        row_bytes: usize,
        row_of: &'a (dyn Fn(usize) -> usize + Sync),
    },
    /// What a function writes, `[cols]`.
    Floats(&'a (dyn Fn(usize, &mut [f32]) + Sync)),
}

impl Source<'_> {
    pub(super) fn pack(&self, team: &Team) -> Weights {
        match self.into {
            Format::F32 => Weights::F32(PlainPanels {
                data: self.plain(team, f32::from_le_bytes),
                cols: self.cols,
            }),
            Format::F16 => Weights::F16(PlainPanels {
                data: self.plain(team, u16::from_le_bytes),
                cols: self.cols,
            }),
            Format::Bf16 if self.cols.is_multiple_of(2) => {
                Weights::Bf16(PairPanels { words: self.pairs(team), cols: self.cols })
            }
            // Of no real model; exact all the same.
            Format::Bf16 => Weights::F32(PlainPanels {
                data: self.plain(team, |[low, high]| f32::from_le_bytes([0, 0, low, high])),
                cols: self.cols,
            }),
            Format::Q4_0 | Format::Q4_1 | Format::Q4K => {
                Weights::Int4(self.coded(team, put_nibbles))
            }
            Format::Mxfp4 => Weights::Fp4(self.coded(team, put_fp4)),
            Format::Q5_0 | Format::Q5_1 | Format::Q8_0 | Format::Q5K | Format::Q6K => {
                Weights::Int8(self.coded(team, put_bytes))
            }
        }
    }

    fn panels(&self) -> usize {
        // Rows of no bytes would let a file ask for any number of panels.
        if self.cols == 0 { 0 } else { self.rows.div_ceil(LANES) }
    }

    /// Calls `put(lane, bytes)` for the rows of `panel`, in the format that they are kept in.
    fn each_row(&self, panel: usize, mut put: impl FnMut(usize, &[u8])) {
        let first = panel * LANES;
        let mut converted = Converted::default();
        for row in first..self.rows.min(first + LANES) {
            put(row - first, self.row(row, &mut converted));
        }
        self.error.lock().unwrap_or_else(PoisonError::into_inner).add(converted.error);
    }

    fn row<'s>(&'s self, row: usize, converted: &'s mut Converted) -> &'s [u8] {
        match self.origin {
            Origin::Bytes { format, src, row_bytes, row_of } => {
                let from = row_of(row);
                assert!(from < self.rows, "row_of({row}) = {from}, of {} rows", self.rows);
                let bytes = &src[from * row_bytes..][..row_bytes];
                if format == self.into {
                    return bytes;
                }
                converted.row(self, &|weights| dequantize(format, bytes, weights))
            }
            Origin::Floats(read) => converted.row(self, &|weights| read(row, weights)),
        }
    }

    /// `[panels][cols]` numbers of `N` bytes.
    fn plain<T: Plain, const N: usize>(
        &self,
        team: &Team,
        read: fn([u8; N]) -> T,
    ) -> Buffer<[T; LANES]> {
        let mut data = Buffer::in_huge_pages(self.panels() * self.cols);
        team.run_chunks(&mut data, self.cols.max(1), &|panel, out: &mut [[T; LANES]], _| {
            self.each_row(panel, |lane, bytes| {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
                    out[lane] = read(*bytes);
                }
            });
        });
        data
    }

    /// `[panels][cols / 2]` words of two numbers of two bytes; `cols` is even.
    fn pairs(&self, team: &Team) -> Buffer<[u32; LANES]> {
        let words = self.cols / 2;
        let mut data = Buffer::in_huge_pages(self.panels() * words);
        team.run_chunks(&mut data, words.max(1), &|panel, out: &mut [[u32; LANES]], _| {
            self.each_row(panel, |lane, bytes| {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    out[lane] = u32::from_le_bytes(*bytes);
                }
            });
        });
        data
    }

    /// Codes, which `put` writes to a lane of words.
    fn coded<C: Code>(
        &self,
        team: &Team,
        put: impl Fn(&[i8], &mut [[u32; LANES]], usize) + Sync,
    ) -> CodePanels<C> {
        let mut packed = CodePanels::<C>::zeroed(self.into, self.panels(), self.cols);
        let groups = self.cols / packed.group;
        {
            let codes = SharedSlice::new(&mut packed.codes);
            let scales = packed.scales.shared();
            let minima = match &mut packed.minima {
                Minima::Each(factors) => Some(factors.shared()),
                Minima::None | Minima::Zero(_) | Minima::Zeros(_) => None,
            };
            let words = |cols: usize| cols / CODE_STEP * C::WORDS;
            let all = words(self.cols);
            team.run(self.panels(), &|panel, _| {
                // SAFETY: a panel is one task's, and panels do not overlap; so for the next two.
                let out = unsafe { codes.range(panel * all..(panel + 1) * all) };
                // SAFETY: as above.
                let mut scales = unsafe { scales.panel(panel, groups) };
                // SAFETY: as above.
                let mut minima = minima.as_ref().map(|m| unsafe { m.panel(panel, groups) });
                let mut block = Codes::default();
                self.each_row(panel, |lane, bytes| {
                    let blocks = bytes.chunks_exact(self.into.block_bytes());
                    for (i, bytes) in blocks.enumerate() {
                        block.decode(self.into, bytes);
                        let out = &mut out[words(i * block.len)..words((i + 1) * block.len)];
                        put(&block.codes[..block.len], out, lane);
                        scales.set(i, lane, block.unit, &block.steps);
                        if let Some(minima) = &mut minima {
                            minima.set(i, lane, block.min_unit, &block.min_steps);
                        }
                    }
                });
            });
        }
        packed
    }
}

/// A row on its way to another format.
#[derive(Default)]
struct Converted {
    weights: Vec<f32>, // [cols]
    bytes: Vec<u8>,
    back: Vec<f32>, // [cols]
    error: QuantizationError,
}

impl Converted {
    fn row(&mut self, source: &Source<'_>, read: &dyn Fn(&mut [f32])) -> &[u8] {
        self.weights.resize(source.cols, 0.0);
        self.bytes.resize(source.into.row_bytes(source.cols).unwrap_or(0), 0);
        read(&mut self.weights);
        if source.into == Format::F32 {
            for (out, weight) in self.bytes.as_chunks_mut().0.iter_mut().zip(&self.weights) {
                *out = weight.to_le_bytes();
            }
            return &self.bytes;
        }
        quantize(source.into, &self.weights, &mut self.bytes);
        self.back.resize(source.cols, 0.0);
        dequantize(source.into, &self.bytes, &mut self.back);
        self.error.add(QuantizationError::of(&self.weights, &self.back));
        &self.bytes
    }
}

/// Writes a row's codes of 4 bits to its lane.
pub(super) fn put_nibbles(codes: &[i8], out: &mut [[u32; LANES]], lane: usize) {
    for (out, codes) in out.iter_mut().zip(codes.as_chunks::<8>().0) {
        out[lane] = eight_nibbles(*codes);
    }
}

/// Writes a row's numbers, of which each is twice one of E2M1, to its lane.
fn put_fp4(doubled: &[i8], out: &mut [[u32; LANES]], lane: usize) {
    let code = |doubled: i8| FP4_DOUBLED.iter().position(|&of| of == doubled).unwrap_or(0) as i8;
    for (out, doubled) in out.iter_mut().zip(doubled.as_chunks::<8>().0) {
        out[lane] = eight_nibbles(doubled.map(code));
    }
}

/// Writes a row's codes of 8 bits to its lane.
pub(super) fn put_bytes(codes: &[i8], out: &mut [[u32; LANES]], lane: usize) {
    for (out, codes) in out.as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks::<8>().0) {
        let [even, odd] = even_and_odd(codes.map(i8::cast_unsigned));
        (out[0][lane], out[1][lane]) = (even, odd);
    }
}

/// Eight codes of four bits as one word, the first in the lowest bits.
fn eight_nibbles(codes: [i8; 8]) -> u32 {
    let x = u64::from_le_bytes(codes.map(i8::cast_unsigned));
    // Halves the distance between the nibbles three times: 8 bits, 16, 32.
    let x = (x | x >> 4) & 0x00ff_00ff_00ff_00ff;
    let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    (x | x >> 16) as u32
}

/// Eight bytes as two words: those of even places, and those of odd ones.
pub(super) fn even_and_odd(bytes: [u8; 8]) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = bytes;
    [u32::from_le_bytes([a, c, e, g]), u32::from_le_bytes([b, d, f, h])]
}

impl<C: Code> CodePanels<C> {
    fn zeroed(format: Format, panels: usize, cols: usize) -> Self {
        let group = if format == Format::Q6K { 16 } else { 32 };
        let factors = || Factors::zeroed(format.block_len() / group, panels, cols / group);
        let minima = match format {
            Format::Q4_0 => Minima::Zero(8),
            Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => Minima::Each(factors()),
            _ => Minima::None,
        };
        let codes = Buffer::in_huge_pages(panels * (cols / CODE_STEP) * C::WORDS);
        Self { codes, scales: factors(), minima, cols, group, code: PhantomData }
    }
}

impl Factors {
    /// `per_block` groups in a block, which share a unit.
    fn zeroed(per_block: usize, panels: usize, groups: usize) -> Self {
        Self {
            units: Buffer::in_huge_pages(panels * (groups / per_block)),
            steps: (per_block > 1).then(|| Buffer::in_huge_pages(panels * groups)),
            shift: per_block.ilog2(),
        }
    }

    fn shared(&mut self) -> SharedFactors<'_> {
        SharedFactors {
            units: SharedSlice::new(&mut self.units),
            steps: self.steps.as_mut().map(|steps| SharedSlice::new(steps)),
            shift: self.shift,
        }
    }
}

struct SharedFactors<'a> {
    units: SharedSlice<'a, [u16; LANES]>,
    steps: Option<SharedSlice<'a, [i8; LANES]>>,
    shift: u32,
}

impl SharedFactors<'_> {
    /// # Safety
    /// The caller's task alone has this panel.
    unsafe fn panel(&self, panel: usize, groups: usize) -> FactorsMut<'_> {
        let units = groups >> self.shift;
        FactorsMut {
            // SAFETY: by this function's contract.
            units: unsafe { self.units.range(panel * units..(panel + 1) * units) },
            steps: self.steps.as_ref().map(|steps| {
                // SAFETY: as above.
                unsafe { steps.range(panel * groups..(panel + 1) * groups) }
            }),
            shift: self.shift,
        }
    }
}

/// One panel's factors.
struct FactorsMut<'a> {
    units: &'a mut [[u16; LANES]],
    steps: Option<&'a mut [[i8; LANES]]>,
    shift: u32,
}

impl FactorsMut<'_> {
    fn set(&mut self, block: usize, lane: usize, unit: u16, steps: &[i8; 16]) {
        self.units[block][lane] = unit;
        if let Some(out) = &mut self.steps {
            let out = &mut out[block << self.shift..(block + 1) << self.shift];
            for (out, &step) in out.iter_mut().zip(steps) {
                out[lane] = step;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_go_lowest_first() {
        assert_eq!(eight_nibbles([1, 2, 3, 4, 5, 6, 7, 15]), 0xf765_4321);
    }
}
