//! A linear layer: packed weights and perhaps a bias.

use wharf_kernels::matmul::{PackedMatrix, matmul_all};

use crate::{decoder::Compute, rows};

/// y = x · Wᵀ + b.
pub(crate) struct Linear {
    /// `[out, in]`
    pub(crate) weight: PackedMatrix,
    /// `[out]`
    pub(crate) bias: Option<Vec<f32>>,
    /// Which of x's values the weight's columns meet, `[in]`; `None`: each its own. (Columns are
    /// quantised in groups that may lie scattered: GPTQ's `desc_act`.)
    pub(crate) input_order: Option<Vec<u32>>,
}

impl Linear {
    /// `out[rows, out]` = `x[rows, in]` through the layer.
    pub(crate) fn forward(&self, compute: Compute<'_>, x: &[f32], rows: usize, out: &mut [f32]) {
        forward_all(compute, x, rows, [(self, out)]);
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let order = self.input_order.as_ref().map_or(0, |order| order.len() * size_of::<u32>());
        let bias = self.bias.as_ref().map_or(0, |bias| bias.len() * size_of::<f32>());
        self.weight.bytes() + bias + order
    }
}

/// `out[rows, out]` = `x[rows, in]` through each layer, side by side.
pub(crate) fn forward_all<const N: usize>(
    compute: Compute<'_>,
    x: &[f32],
    rows: usize,
    mut layers: [(&Linear, &mut [f32]); N],
) {
    if N > 1 && layers.iter().any(|(layer, _)| layer.input_order.is_some()) {
        return layers.into_iter().for_each(|layer| forward_all(compute, x, rows, [layer]));
    }
    let order = layers.first().and_then(|(layer, _)| layer.input_order.as_ref());
    let ordered = order.map(|order| rows::gathered(compute, x, order));
    let x = ordered.as_deref().unwrap_or(x);
    let outputs = layers.each_mut().map(|(layer, out)| (&layer.weight, &mut **out));
    matmul_all(compute.isa, compute.team, x, rows, outputs);
    for (layer, out) in layers {
        if let Some(bias) = &layer.bias {
            rows::add_bias(compute, out, bias);
        }
    }
}
