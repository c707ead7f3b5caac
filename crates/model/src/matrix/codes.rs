//! Integer codes with scales for groups, as AWQ, GPTQ and compressed-tensors pack them into words.
//!
//! In all of them, the place of a code is the sum of something of its column and something of its row
//! ([`Place`]); the layouts differ in what. AWQ: Lin et al. 2023, its packing as AutoAWQ's "gemm" does
//! it. GPTQ: Frantar et al. 2022, its packing as AutoGPTQ does it; the first version of that stores
//! zeros less 1. compressed-tensors: its "pack-quantized" and "int-quantized".

use std::ops::Range;

use wharf_kernels::matmul::{CodeBits, CodedRow, CodedShape};

use super::Stem;
use crate::{
    config::CodeLayout,
    error::ModelError,
    tensor::Dtype,
    weights::{Inventory, Lent, Raw},
};

/// What config.json says of codes.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) layout: CodeLayout,
    pub(super) bits: usize,
    /// Columns; `None`: all.
    pub(super) group: Option<usize>,
}

/// Such a matrix.
#[derive(Clone)]
pub(crate) struct CodesMatrix<'w> {
    layout: CodeLayout,
    pub(crate) codes: Raw<'w>,
    scales: Lent<'w>,
    zeros: Option<Raw<'w>>,
    /// Its columns in the order of their groups, if that is another; see [`column_order`].
    pub(crate) order: Option<Vec<u32>>,
    pub(crate) shape: CodedShape,
}

/// A place among words: which one, and how far its lowest bit is shifted.
#[derive(Clone, Copy, Default)]
struct Place {
    word: usize,
    shift: usize,
}

impl std::ops::Add for Place {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { word: self.word + other.word, shift: self.shift + other.shift }
    }
}

impl Place {
    /// Of number `index` in a run of numbers of `bits`.
    fn packed(index: usize, bits: usize) -> Self {
        let per_word = 32 / bits;
        Self { word: index / per_word, shift: index % per_word * bits }
    }

    /// Of feature `row` among eight in a word, in AutoAWQ's order: the nibbles hold 0 2 4 6 1 3 5 7.
    fn awq(row: usize) -> Self {
        const NIBBLE_OF: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
        Self { word: row / 8, shift: 4 * NIBBLE_OF[row % 8] }
    }

    fn times(self, words: usize) -> Self {
        Self { word: self.word * words, ..self }
    }
}

/// Numbers in little-endian words.
#[derive(Clone, Copy)]
struct Words<'w> {
    bytes: &'w [u8],
    mask: u32,
}

impl<'w> Words<'w> {
    fn new(raw: Raw<'w>, bits: usize) -> Self {
        Self { bytes: raw.bytes, mask: (1 << bits) - 1 }
    }

    fn get(self, place: Place) -> u8 {
        let word = self.bytes.as_chunks().0[place.word];
        (u32::from_le_bytes(word) >> place.shift & self.mask) as u8
    }
}

impl<'w> CodesMatrix<'w> {
    /// `None` if the files have no such codes: the layer may not be quantised.
    pub(super) fn find(
        inventory: &mut Inventory<'w>,
        stem: &Stem,
        kind: Kind,
    ) -> Result<Option<Self>, ModelError> {
        let (part, layer, [rows, cols]) = (stem.part, stem.layer, stem.shape);
        let name = match kind.layout {
            CodeLayout::Awq | CodeLayout::Gptq { .. } => "qweight",
            CodeLayout::PackQuantized { .. } => "weight_packed",
            CodeLayout::IntQuantized => "weight",
        };
        let int = kind.layout == CodeLayout::IntQuantized;
        let codes = inventory.raw(part, layer, name);
        let Some(codes) = codes.filter(|raw| !int || raw.info.dtype == Dtype::I8) else {
            return Ok(None);
        };
        let group = kind.group.unwrap_or(cols);
        let shape = CodedShape {
            rows,
            cols,
            bits: if kind.bits == 4 { CodeBits::Four } else { CodeBits::Eight },
            group,
            zero: match kind.layout {
                CodeLayout::Awq | CodeLayout::Gptq { .. } => None,
                CodeLayout::PackQuantized { symmetric: false } => None,
                CodeLayout::PackQuantized { symmetric: true } if kind.bits == 4 => Some(8),
                CodeLayout::PackQuantized { .. } | CodeLayout::IntQuantized => Some(0),
            },
        };
        let per_word = 32 / kind.bits;
        let fault = shape.fault().or_else(|| {
            let packed = !rows.is_multiple_of(per_word) && shape.zero.is_none();
            packed.then(|| format!("{rows} features are no whole number of words"))
        });
        if let Some(reason) = fault {
            return Err(inventory.fault(&codes.info.name, reason));
        }
        let tensors = Tensors { stem, kind, groups: cols / group, per_word };
        tensors.find(inventory, codes, shape).map(Some)
    }

    pub(super) fn name(&self) -> &str {
        &self.codes.info.name
    }

    fn bits(&self) -> usize {
        match self.shape.bits {
            CodeBits::Four => 4,
            CodeBits::Eight => 8,
        }
    }

    /// What a column adds to the place of a code.
    fn column(&self, column: usize) -> Place {
        match self.layout {
            CodeLayout::Awq => Place { word: column * (self.shape.rows / 8), shift: 0 },
            CodeLayout::Gptq { .. } => Place::packed(column, self.bits()).times(self.shape.rows),
            CodeLayout::PackQuantized { .. } | CodeLayout::IntQuantized => {
                Place::packed(column, self.bits())
            }
        }
    }

    /// What a row adds to it.
    fn row(&self, row: usize) -> Place {
        match self.layout {
            CodeLayout::Awq => Place::awq(row),
            CodeLayout::Gptq { .. } => Place { word: row, shift: 0 },
            CodeLayout::PackQuantized { .. } | CodeLayout::IntQuantized => {
                Place { word: row * (self.shape.cols * self.bits() / 32), shift: 0 }
            }
        }
    }

    /// Of a group's zero, and of its scale (as an index).
    fn group(&self, group: usize, row: usize) -> (Place, usize) {
        let groups = self.shape.cols / self.shape.group;
        let (words, by_group) = (self.shape.rows * self.bits() / 32, group * self.shape.rows + row);
        match self.layout {
            CodeLayout::Awq => {
                (Place::awq(row) + Place { word: group * words, shift: 0 }, by_group)
            }
            CodeLayout::Gptq { .. } => {
                let place = Place::packed(row, self.bits());
                (place + Place { word: group * words, shift: 0 }, by_group)
            }
            CodeLayout::PackQuantized { .. } | CodeLayout::IntQuantized => {
                let place = Place::packed(row, self.bits()).times(groups);
                (place + Place { word: group, shift: 0 }, row * groups + group)
            }
        }
    }

    /// What writes rows: codes, scales and zeros, of the columns in the order of [`Self::order`].
    /// `row_of` gives, for each row asked for, which one it is.
    pub(crate) fn reader<'a>(
        &'a self,
        row_of: &'a (dyn Fn(usize) -> usize + Sync),
    ) -> impl Fn(Range<usize>, &mut [CodedRow]) + Sync + 'a {
        let columns: Vec<Place> = match &self.order {
            None => (0..self.shape.cols).map(|column| self.column(column)).collect(),
            Some(order) => order.iter().map(|&column| self.column(column as usize)).collect(),
        };
        let (codes, scales) = (Words::new(self.codes, self.bits()), self.scales.decode());
        let zeros = self.zeros.map(|zeros| Words::new(zeros, self.bits()));
        // Codes of 8 bits are kept signed; those of compressed-tensors' I8 are so already.
        let signed = match (self.shape.bits, self.layout) {
            (CodeBits::Four, _) | (_, CodeLayout::IntQuantized) => 0,
            (CodeBits::Eight, _) => 0x80,
        };
        let mask = (1u32 << self.bits()) - 1;
        let zero_offset = match self.layout {
            CodeLayout::Gptq { zero_offset } => u32::from(zero_offset),
            _ => 0,
        };
        move |range, out| {
            let rows: Vec<usize> = range.map(row_of).collect();
            let places: Vec<Place> = rows.iter().map(|&row| self.row(row)).collect();
            for (k, &column) in columns.iter().enumerate() {
                for (out, &row) in out.iter_mut().zip(&places) {
                    out.codes[k] = (codes.get(column + row) ^ signed).cast_signed();
                }
            }
            for (out, &row) in out.iter_mut().zip(&rows) {
                for group in 0..out.scales.len() {
                    let (place, scale) = self.group(group, row);
                    out.scales[group] = scales[scale];
                    if let Some(zeros) = zeros {
                        let zero = (u32::from(zeros.get(place)) + zero_offset) & mask;
                        out.zeros[group] = (zero as u8 ^ signed).cast_signed();
                    }
                }
            }
        }
    }
}

/// What is looked for beside the codes.
struct Tensors<'a> {
    stem: &'a Stem,
    kind: Kind,
    groups: usize,
    per_word: usize,
}

impl Tensors<'_> {
    fn find<'w>(
        &self,
        inventory: &mut Inventory<'w>,
        codes: Raw<'w>,
        shape: CodedShape,
    ) -> Result<CodesMatrix<'w>, ModelError> {
        let ([rows, cols], groups, per_word) = (self.stem.shape, self.groups, self.per_word);
        let (code_shape, scale_shape, zero_shape) = match self.kind.layout {
            CodeLayout::Awq => ([cols, rows / 8], [groups, rows], [groups, rows / 8]),
            CodeLayout::Gptq { .. } => {
                ([cols / per_word, rows], [groups, rows], [groups, rows / per_word])
            }
            CodeLayout::PackQuantized { .. } => {
                ([rows, cols / per_word], [rows, groups], [rows / per_word, groups])
            }
            CodeLayout::IntQuantized => ([rows, cols], [rows, groups], [0, 0]),
        };
        let (dtype, scale_name, zero_name, order_name) = match self.kind.layout {
            CodeLayout::Awq => (Dtype::I32, "scales", "qzeros", None),
            CodeLayout::Gptq { .. } => (Dtype::I32, "scales", "qzeros", Some("g_idx")),
            CodeLayout::PackQuantized { .. } => {
                (Dtype::I32, "weight_scale", "weight_zero_point", Some("weight_g_idx"))
            }
            CodeLayout::IntQuantized => (Dtype::I8, "weight_scale", "weight_zero_point", None),
        };
        let codes = inventory.check_raw(codes, dtype, &code_shape)?;
        let (part, layer) = (self.stem.part, self.stem.layer);
        let Some(scales) = inventory.raw(part, layer, scale_name) else {
            return Err(inventory.missing(part, layer, scale_name));
        };
        let scales = inventory.weights_of(scales)?;
        if scales.info.shape != scale_shape {
            let reason =
                format!("has shape {:?} where it must be {scale_shape:?}", scales.info.shape);
            return Err(inventory.fault(&scales.info.name, reason));
        }
        let zeros = match shape.zero {
            Some(_) => None,
            None => Some(self.stem.tensor(inventory, zero_name, Dtype::I32, &zero_shape)?),
        };
        if let CodeLayout::PackQuantized { .. } = self.kind.layout {
            self.check_weight_shape(inventory)?;
        }
        self.stem.pass_over(inventory, &["input_scale", "input_zero_point"]);
        let order = match order_name.and_then(|name| inventory.raw(part, layer, name)) {
            None => None,
            Some(raw) => {
                let raw = inventory.check_raw(raw, Dtype::I32, &[cols])?;
                column_order(raw.bytes, shape.group)
                    .map_err(|reason| inventory.fault(&raw.info.name, reason))?
            }
        };
        let layout = self.kind.layout;
        Ok(CodesMatrix { layout, codes, scales, zeros, order, shape })
    }

    /// compressed-tensors writes down what shape the words are of.
    fn check_weight_shape(&self, inventory: &mut Inventory<'_>) -> Result<(), ModelError> {
        let raw = self.stem.tensor(inventory, "weight_shape", Dtype::I64, &[2])?;
        let stored = raw.bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
        if stored.eq(self.stem.shape.map(|dim| dim as i64)) {
            return Ok(());
        }
        let reason = format!("is not {:?}, as the config has it", self.stem.shape);
        Err(inventory.fault(&raw.info.name, reason))
    }
}

/// The columns by their groups, of which `g_idx` has one for each; `None` if they are in that order
/// already. (GPTQ with `desc_act` quantises columns in the order of their importance.)
fn column_order(g_idx: &[u8], group: usize) -> Result<Option<Vec<u32>>, String> {
    let groups: Vec<i32> =
        g_idx.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
    let mut order: Vec<u32> = (0..groups.len() as u32).collect();
    order.sort_by_key(|&column| groups[column as usize]);
    let member = |place: usize, column: u32| groups[column as usize] as usize == place / group;
    if !order.iter().enumerate().all(|(place, &column)| member(place, column)) {
        return Err(format!("its groups are not of {group} columns each"));
    }
    let sorted = order.iter().enumerate().all(|(place, &column)| place == column as usize);
    Ok((!sorted).then_some(order))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wharf_kernels::quant::Format;

    use super::*;
    use crate::tensor::TensorInfo;

    fn bytes(groups: &[i32]) -> Vec<u8> {
        groups.iter().flat_map(|group| group.to_le_bytes()).collect()
    }

    #[test]
    fn columns_are_brought_into_the_order_of_their_groups() {
        assert_eq!(column_order(&bytes(&[0, 0, 1, 1]), 2), Ok(None));
        assert_eq!(column_order(&bytes(&[1, 0, 1, 0]), 2), Ok(Some(vec![1, 3, 0, 2])));
        for wrong in [[0, 0, 0, 1], [0, 0, 2, 2], [-1, -1, 0, 0], [0, 0, 1, i32::MAX]] {
            assert!(column_order(&bytes(&wrong), 2).is_err(), "{wrong:?}");
        }
    }

    /// A matrix without bytes.
    fn empty(
        info: &TensorInfo,
        layout: CodeLayout,
        [rows, cols]: [usize; 2],
        bits: CodeBits,
    ) -> CodesMatrix<'_> {
        CodesMatrix {
            layout,
            codes: Raw { info, file: 0, bytes: &[] },
            scales: Lent { info, format: Format::F32, file: 0, start: 0, bytes: &[], rows: 0 },
            zeros: None,
            order: None,
            shape: CodedShape { rows, cols, bits, group: 32, zero: None },
        }
    }

    proptest! {
        /// The codes of a matrix fill its words, each in a place of its own; so do the zeros.
        #[test]
        fn every_code_has_a_place(
            layout in prop::sample::select(vec![
                CodeLayout::Awq,
                CodeLayout::Gptq { zero_offset: 1 },
                CodeLayout::PackQuantized { symmetric: false },
                CodeLayout::IntQuantized,
            ]),
            rows in (1usize..9).prop_map(|n| 8 * n),
            cols in (1usize..4).prop_map(|n| 32 * n),
            eight: bool,
        ) {
            let eight = eight && layout != CodeLayout::Awq || layout == CodeLayout::IntQuantized;
            let bits = if eight { CodeBits::Eight } else { CodeBits::Four };
            let info = TensorInfo {
                name: String::new(), dtype: Dtype::I32, shape: Vec::new(), bytes: 0..0,
            };
            let matrix = empty(&info, layout, [rows, cols], bits);
            let all = (0..rows).flat_map(|row| (0..cols).map(move |column| (row, column)));
            let codes: Vec<Place> =
                all.map(|(row, column)| matrix.column(column) + matrix.row(row)).collect();
            prop_assert!(fill_to(rows * cols, codes, &matrix));
            let all = (0..rows).flat_map(|row| (0..cols / 32).map(move |group| (row, group)));
            let groups: Vec<(Place, usize)> =
                all.map(|(row, group)| matrix.group(group, row)).collect();
            let mut scales: Vec<usize> = groups.iter().map(|(_, scale)| *scale).collect();
            scales.sort_unstable();
            prop_assert!(scales.into_iter().eq(0..groups.len()));
            if layout != CodeLayout::IntQuantized {
                let zeros = groups.into_iter().map(|(zero, _)| zero).collect();
                prop_assert!(fill_to(rows * cols / 32, zeros, &matrix));
            }
        }
    }

    /// Whether `places` are the first `count` of words, each once.
    fn fill_to(count: usize, places: Vec<Place>, matrix: &CodesMatrix<'_>) -> bool {
        let bits = matrix.bits();
        let mut numbers: Vec<usize> =
            places.iter().map(|place| place.word * (32 / bits) + place.shift / bits).collect();
        numbers.sort_unstable();
        numbers.into_iter().eq(0..count)
    }

    #[test]
    fn awq_nibbles() {
        // The nibbles of a word, lowest first, are of these features.
        let features = [0, 2, 4, 6, 1, 3, 5, 7];
        for (nibble, feature) in features.into_iter().enumerate() {
            assert_eq!(Place::awq(feature).shift, 4 * nibble);
            assert_eq!(Place::awq(feature + 8).word, 1);
        }
    }
}
