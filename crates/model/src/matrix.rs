//! A linear layer's matrix as a checkpoint stores it: plain numbers or GGUF's blocks, FP8 with scales, or
//! integer codes as AWQ, GPTQ and compressed-tensors lay them out. It is found and its shapes are
//! checked here; `plan` packs it.

mod codes;
mod expert;
mod fp8;

pub(crate) use codes::CodesMatrix;
pub(crate) use expert::{ExpertMatrix, Fused};
pub(crate) use fp8::Fp8Matrix;

use crate::{
    config::StoredQuantization,
    error::ModelError,
    tensor::Dtype,
    weights::{Inventory, Lent, Part, Raw},
};

/// A matrix lent out, its shape checked.
#[derive(Clone)]
pub(crate) enum Matrix<'w> {
    /// In one tensor.
    Plain(Lent<'w>),
    /// 8-bit floats with scales.
    Fp8(Fp8Matrix<'w>),
    /// Integers with scales.
    Codes(CodesMatrix<'w>),
    /// An expert's in a tensor of all, where its rows don't just lie there in a [`Lent`].
    Expert(ExpertMatrix<'w>),
}

impl<'w> Matrix<'w> {
    /// A part's, `[rows, cols]`; `None` if the files have none.
    pub(crate) fn find(
        inventory: &mut Inventory<'w>,
        part: Part,
        layer: usize,
        shape: [usize; 2],
    ) -> Result<Option<Self>, ModelError> {
        let stem = Stem { part, layer, shape };
        match inventory.stored_quantization() {
            Some(StoredQuantization::Fp8 { block }) => {
                let raw = inventory.raw(part, layer, "weight");
                if let Some(raw) = raw.filter(|raw| raw.info.dtype == Dtype::F8E4M3) {
                    return Ok(Some(Self::Fp8(Fp8Matrix::new(inventory, &stem, raw, block)?)));
                }
            }
            Some(StoredQuantization::Codes { layout, bits, group }) => {
                let kind = codes::Kind { layout, bits, group };
                if let Some(matrix) = CodesMatrix::find(inventory, &stem, kind)? {
                    return Ok(Some(Self::Codes(matrix)));
                }
            }
            // Its experts are found otherwise: see `expert`.
            Some(StoredQuantization::Mxfp4) | None => {}
        }
        Ok(inventory.weight_if_there(part, layer, &shape)?.map(Self::Plain))
    }

    /// As [`Matrix::find`], of one that must be there.
    pub(crate) fn required(
        inventory: &mut Inventory<'w>,
        part: Part,
        layer: usize,
        shape: [usize; 2],
    ) -> Result<Self, ModelError> {
        match Self::find(inventory, part, layer, shape)? {
            Some(matrix) => Ok(matrix),
            None => Err(inventory.missing(part, layer, "weight")),
        }
    }

    /// How many rows it has.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Plain(lent) => lent.rows,
            Self::Fp8(matrix) => matrix.rows,
            Self::Codes(matrix) => matrix.shape.rows,
            Self::Expert(matrix) => matrix.rows,
        }
    }

    /// The tensor that it is called by.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Plain(lent) => &lent.info.name,
            Self::Fp8(matrix) => matrix.name(),
            Self::Codes(matrix) => matrix.name(),
            Self::Expert(matrix) => matrix.name(),
        }
    }
}

/// Which matrix is looked for.
struct Stem {
    part: Part,
    layer: usize,
    /// `[rows, cols]`
    shape: [usize; 2],
}

impl Stem {
    /// A tensor of it that must be there, of this type and shape.
    fn tensor<'w>(
        &self,
        inventory: &mut Inventory<'w>,
        kind: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Raw<'w>, ModelError> {
        match inventory.raw(self.part, self.layer, kind) {
            Some(raw) => inventory.check_raw(raw, dtype, shape),
            None => Err(inventory.missing(self.part, self.layer, kind)),
        }
    }

    /// Takes what rounds activations, if it is there: ours are not rounded by it.
    fn pass_over(&self, inventory: &mut Inventory<'_>, kinds: &[&str]) {
        for kind in kinds {
            let _ = inventory.raw(self.part, self.layer, kind);
        }
    }
}
