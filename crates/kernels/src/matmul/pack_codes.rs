//! Packing of codes that stand in no format of ours: a function reads them, a panel at a time, because
//! such files (AWQ, GPTQ) have the features side by side, as panels do.
//!
//! `weight = (code - zero) · scale`, scale and zero for a group of any power of two times 32 k. In memory
//! the group stays as large as it is: 4-bit codes in groups of 128 take 4.19 bits a weight.

use std::{marker::PhantomData, ops::Range};

use half::f16;

use super::{
    PackedMatrix,
    pack::{put_bytes, put_nibbles},
    panel::{CODE_STEP, Code, CodePanels, Factors, Minima, Weights, Zeros},
};
use crate::{
    buffer::Buffer,
    isa::LANES,
    matmul::Activations,
    quant::QuantizationError,
    team::{SharedSlice, Team},
};

/// k that share the numbers of a group in the kernels.
const UNIT: usize = 32;

/// Bits of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeBits {
    /// 0 to 15.
    Four,
    /// -128 to 127.
    Eight,
}

/// A matrix of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodedShape {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Of a code.
    pub bits: CodeBits,
    /// Input features that share a scale and a zero; divides `cols`.
    pub group: usize,
    /// The code that stands for 0 in every group; `None`: each has its own.
    pub zero: Option<i8>,
}

impl CodedShape {
    /// What keeps such a matrix from being packed.
    pub fn fault(&self) -> Option<String> {
        let (cols, group) = (self.cols, self.group);
        if !cols.is_multiple_of(UNIT) {
            return Some(format!("{cols} columns are no multiple of {UNIT}"));
        }
        if !group.is_multiple_of(UNIT) || group == 0 || !cols.is_multiple_of(group) {
            return Some(format!("{cols} columns are no whole number of groups of {group}"));
        }
        None
    }

    /// The power of two times 32 in which groups are kept, a scale being repeated where its group is
    /// not one itself.
    fn kept_group(&self) -> usize {
        UNIT << (self.group / UNIT).trailing_zeros()
    }
}

/// A row of codes: weight k is `(codes[k] - zeros[k / group]) · scales[k / group]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CodedRow {
    /// `[cols]`
    pub codes: Vec<i8>,
    /// `[groups]`; kept as f16.
    pub scales: Vec<f32>,
    /// `[groups]`; not read where one zero is all groups'.
    pub zeros: Vec<i8>,
}

impl CodedRow {
    /// A row of zeros of such a matrix.
    pub fn of(shape: &CodedShape) -> Self {
        let groups = shape.cols / shape.group;
        Self { codes: vec![0; shape.cols], scales: vec![0.0; groups], zeros: vec![0; groups] }
    }

    /// The weights themselves, `[cols]`.
    pub fn weights(&self, shape: &CodedShape, out: &mut [f32]) {
        let groups = out.chunks_exact_mut(shape.group).zip(self.codes.chunks_exact(shape.group));
        for (group, (out, codes)) in groups.enumerate() {
            let zero = f32::from(shape.zero.unwrap_or(self.zeros[group]));
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = (f32::from(code) - zero) * self.scales[group];
            }
        }
    }
}

/// Writes the rows of a range, of which there are at most 16.
pub type ReadRows<'a> = &'a (dyn Fn(Range<usize>, &mut [CodedRow]) + Sync);

impl PackedMatrix {
    /// Packs what `read` gives. Where scales are f16 numbers, so that they are kept as they are, the
    /// weights are exact; others are rounded to f16.
    ///
    /// # Panics
    /// Where `shape` has a fault.
    pub fn pack_codes(team: &Team, shape: &CodedShape, read: ReadRows<'_>) -> Self {
        assert_eq!(shape.fault(), None);
        let weights = match shape.bits {
            CodeBits::Four => Weights::Int4(panels(team, shape, read, put_nibbles)),
            CodeBits::Eight => Weights::Int8(panels(team, shape, read, put_bytes)),
        };
        Self {
            rows: shape.rows,
            cols: shape.cols,
            weights,
            activations: Activations::F32,
            quantization_error: QuantizationError::default(),
        }
    }
}

/// Writes a row's codes to its lane.
type Put = fn(&[i8], &mut [[u32; LANES]], usize);

fn panels<C: Code>(team: &Team, shape: &CodedShape, read: ReadRows<'_>, put: Put) -> CodePanels<C> {
    let count = if shape.cols == 0 { 0 } else { shape.rows.div_ceil(LANES) };
    let kept = shape.kept_group();
    let (groups, repeats) = (shape.cols / kept, shape.group / kept);
    let words = shape.cols / CODE_STEP * C::WORDS;
    let mut codes = Buffer::zeroed(count * words);
    let mut units = Buffer::zeroed(count * groups);
    let mut zeros = shape.zero.is_none().then(|| Buffer::zeroed(count * groups));
    {
        let codes = SharedSlice::new(&mut codes);
        let units = SharedSlice::new(&mut units);
        let zeros = zeros.as_mut().map(|zeros| SharedSlice::new(zeros));
        team.run(count, &|panel, _| {
            let first = panel * LANES;
            let all = first..shape.rows.min(first + LANES);
            let mut rows = vec![CodedRow::of(shape); all.len()];
            read(all, &mut rows);
            let own = panel * groups..(panel + 1) * groups;
            // SAFETY: a panel is one task's, and panels do not overlap; so for the next two.
            let codes = unsafe { codes.range(panel * words..(panel + 1) * words) };
            // SAFETY: as above.
            let units: &mut [[u16; LANES]] = unsafe { units.range(own.clone()) };
            // SAFETY: as above.
            let mut zeros: Option<&mut [[i8; LANES]]> =
                zeros.as_ref().map(|zeros| unsafe { zeros.range(own) });
            for (lane, row) in rows.iter().enumerate() {
                put(&row.codes, codes, lane);
                for (group, units) in units.iter_mut().enumerate() {
                    units[lane] = f16::from_f32(row.scales[group / repeats]).to_bits();
                }
                for (group, zeros) in zeros.iter_mut().flat_map(|all| all.iter_mut()).enumerate() {
                    zeros[lane] = row.zeros[group / repeats];
                }
            }
        });
    }
    let shift = (kept / UNIT).ilog2();
    CodePanels {
        codes,
        scales: Factors { units, steps: None, shift },
        minima: match (zeros, shape.zero) {
            (Some(codes), _) => Minima::Zeros(Zeros { codes, shift }),
            (None, None | Some(0)) => Minima::None,
            (None, Some(zero)) => Minima::Zero(zero),
        },
        cols: shape.cols,
        group: UNIT,
        code: PhantomData,
    }
}
