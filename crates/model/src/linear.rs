//! A linear layer: packed weights and perhaps a bias.

use wharf_kernels::matmul::{PackedMatrix, matmul_all};

use crate::{decoder::Compute, rows};

/// y = x · Wᵀ + b.
pub(crate) struct Linear {
    /// `[out, in]`
    pub(crate) weight: PackedMatrix,
    /// `[out]`
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    /// `out[rows, out]` = `x[rows, in]` through the layer.
    pub(crate) fn forward(&self, compute: Compute<'_>, x: &[f32], rows: usize, out: &mut [f32]) {
        forward_all(compute, x, rows, [(self, out)]);
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, |bias| bias.len() * size_of::<f32>())
    }
}

/// `out[rows, out]` = `x[rows, in]` through each layer, side by side.
pub(crate) fn forward_all<const N: usize>(
    compute: Compute<'_>,
    x: &[f32],
    rows: usize,
    mut layers: [(&Linear, &mut [f32]); N],
) {
    let outputs = layers.each_mut().map(|(layer, out)| (&layer.weight, &mut **out));
    matmul_all(compute.isa, compute.team, x, rows, outputs);
    for (layer, out) in layers {
        if let Some(bias) = &layer.bias {
            rows::add_bias(compute, out, bias);
        }
    }
}
