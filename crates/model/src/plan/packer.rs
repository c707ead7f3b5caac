//! The second step: tensors that a plan has found become layers.

use std::cell::Cell;

use wharf_kernels::{
    matmul::{CodeBits, CodedRow, PackedMatrix},
    quant::{Format, Quantization, QuantizationError},
    team::Team,
};

use super::{FeedForwardPlan, GatedPlan, LayerPlan, LinearPlan, source_row};
use crate::{
    config::Config,
    decoder::Layer,
    error::ModelError,
    feed_forward::{Experts, FeedForward, Gated},
    linear::Linear,
    matrix::{CodesMatrix, Matrix, StridedMatrix},
    model::LoadOptions,
    weights::{Inventory, Lent, Weights},
};

/// Packs the tensors of a plan.
pub(super) struct Packer<'a, 'w> {
    pub(super) inventory: &'a Inventory<'w>,
    pub(super) weights: &'a Weights,
    pub(super) team: &'a Team,
    pub(super) options: &'a LoadOptions,
    /// What the weights of norms are stored less.
    pub(super) norm_offset: f32,
    /// By quantising.
    pub(super) lost: Cell<QuantizationError>,
}

impl Packer<'_, '_> {
    pub(super) fn layer(
        &self,
        plan: &LayerPlan<'_>,
        config: &Config,
        number: usize,
    ) -> Result<Layer, ModelError> {
        let window = config.windows[number];
        let local = window.is_some() && config.local_rope.is_some();
        let norm = |lent: Option<Lent<'_>>| lent.map(|lent| self.norm(&lent));
        Ok(Layer {
            attention_norm: norm(plan.attention_norm),
            query: self.linear(&plan.query)?,
            key: self.linear(&plan.key)?,
            value: self.linear(&plan.value)?,
            query_key_norms: plan
                .query_key_norms
                .map(|(query_norm, key_norm)| (self.norm(&query_norm), self.norm(&key_norm))),
            attention_output: self.linear(&plan.attention_output)?,
            sinks: plan.sinks.map(|sinks| sinks.decode()),
            post_attention_norm: norm(plan.post_attention_norm),
            rope: (!config.nope_layers[number]).then_some(usize::from(local)),
            window,
            feed_forward_norm: norm(plan.feed_forward_norm),
            feed_forward: self.feed_forward(&plan.feed_forward)?,
            post_feed_forward_norm: norm(plan.post_feed_forward_norm),
        })
    }

    fn feed_forward(&self, plan: &FeedForwardPlan<'_>) -> Result<FeedForward, ModelError> {
        let gated = |plan: &GatedPlan<'_>| {
            Ok(Gated {
                gate: self.linear(&plan.gate)?,
                up: self.linear(&plan.up)?,
                down: self.linear(&plan.down)?,
            })
        };
        match plan {
            FeedForwardPlan::Gated(plan) => Ok(FeedForward::Gated(Box::new(gated(plan)?))),
            FeedForwardPlan::Experts { router, experts, of } => {
                Ok(FeedForward::Experts(Box::new(Experts {
                    // Small, and it decides what is read.
                    router: self.linear_in(router, None)?,
                    experts: experts.iter().map(gated).collect::<Result<_, ModelError>>()?,
                    num_experts_per_tok: of.num_experts_per_tok,
                    norm_topk_prob: of.norm_topk_prob,
                })))
            }
        }
    }

    pub(super) fn norm(&self, lent: &Lent<'_>) -> Vec<f32> {
        lent.decode().iter().map(|weight| weight + self.norm_offset).collect()
    }

    fn linear(&self, plan: &LinearPlan<'_>) -> Result<Linear, ModelError> {
        self.linear_in(plan, self.options.quantization)
    }

    fn linear_in(
        &self,
        plan: &LinearPlan<'_>,
        quantization: Option<Quantization>,
    ) -> Result<Linear, ModelError> {
        let weight = self.matrix(&plan.weight, plan.interleaved, quantization)?;
        let bias = plan.bias.map(|lent| {
            let values = lent.decode();
            match plan.interleaved {
                None => values,
                Some(dim) => (0..values.len()).map(|row| values[source_row(row, dim)]).collect(),
            }
        });
        let input_order = match &plan.weight {
            Matrix::Codes(codes) => codes.order.clone(),
            Matrix::Plain(_) | Matrix::Fp8(_) | Matrix::Strided(_) => None,
        };
        Ok(Linear { weight, bias, input_order })
    }

    /// The output matrix. Of 4 bits it would blur the choice among tokens; so llama.cpp, too, gives it
    /// more.
    pub(super) fn output(&self, matrix: &Matrix<'_>) -> Result<PackedMatrix, ModelError> {
        if let Matrix::Codes(codes) = matrix
            && codes.order.is_some()
        {
            let reason = "columns out of the order of their groups are not supported here";
            return Err(self.inventory.fault(matrix.name(), reason));
        }
        let quantization = match self.options.quantization {
            Some(Quantization::Int4) => Some(Quantization::Int8),
            other => other,
        };
        self.matrix(matrix, None, quantization)
    }

    fn matrix(
        &self,
        matrix: &Matrix<'_>,
        interleaved: Option<usize>,
        quantization: Option<Quantization>,
    ) -> Result<PackedMatrix, ModelError> {
        let packed = match matrix {
            Matrix::Plain(lent) => {
                let packed = self.plain(lent, interleaved, quantization)?;
                // If it is the embedding too: rows are read in again as tokens need them.
                self.release(lent.file, lent.start, lent.bytes.len());
                packed
            }
            Matrix::Fp8(fp8) => {
                let into = quantization.map_or(Format::F32, Quantization::format_of_floats);
                let into = self.fitting(into, Format::F32, fp8.cols, matrix.name());
                let (rows, cols) = (fp8.rows.len(), fp8.cols);
                let packed = PackedMatrix::pack_floats(into, self.team, rows, cols, &fp8.reader());
                let first = fp8.bytes.info.bytes.start + fp8.rows.start * cols;
                self.release(fp8.bytes.file, first, rows * cols);
                packed
            }
            Matrix::Strided(strided) => self.strided(strided, quantization),
            Matrix::Codes(codes) => {
                let packed = self.codes(codes, quantization);
                let info = codes.codes.info;
                self.release(codes.codes.file, info.bytes.start, info.bytes.len());
                packed
            }
        };
        let mut lost = self.lost.get();
        lost.add(packed.quantization_error());
        self.lost.set(lost);
        Ok(packed.with_activations(self.options.activations))
    }

    fn plain(
        &self,
        lent: &Lent<'_>,
        interleaved: Option<usize>,
        quantization: Option<Quantization>,
    ) -> Result<PackedMatrix, ModelError> {
        let row_of = move |row: usize| match interleaved {
            None => row,
            Some(dim) => source_row(row, dim),
        };
        let (format, cols, name) = (lent.format, lent.cols(), &lent.info.name);
        let wanted = quantization.map_or(format, |to| to.format(format));
        let into = self.fitting(wanted, format, cols, name);
        PackedMatrix::pack_into(into, self.team, format, lent.rows, cols, lent.bytes, &row_of)
            .map_err(|error| self.inventory.fault(name, error.to_string()))
    }

    /// Codes stay what they are, unless they have more bits than is asked for.
    fn codes(&self, codes: &CodesMatrix<'_>, quantization: Option<Quantization>) -> PackedMatrix {
        let (shape, read) = (&codes.shape, codes.reader());
        if shape.bits == CodeBits::Four || quantization != Some(Quantization::Int4) {
            return PackedMatrix::pack_codes(self.team, shape, &read);
        }
        let floats = |row: usize, out: &mut [f32]| {
            let mut coded = [CodedRow::of(shape)];
            read(row..row + 1, &mut coded);
            coded[0].weights(shape, out);
        };
        let (rows, cols) = (shape.rows, shape.cols);
        PackedMatrix::pack_floats(Format::Q4_1, self.team, rows, cols, &floats)
    }

    fn strided(
        &self,
        strided: &StridedMatrix<'_>,
        quantization: Option<Quantization>,
    ) -> PackedMatrix {
        let (format, rows, cols) = (strided.format(), strided.rows.count, strided.cols);
        let wanted = quantization.map_or(format, |to| to.format(format));
        let into = self.fitting(wanted, format, cols, Matrix::Strided(*strided).name());
        let packed = if into == format {
            PackedMatrix::pack_rows(format, self.team, rows, cols, &strided.reader())
        } else {
            PackedMatrix::pack_floats(into, self.team, rows, cols, &strided.floats())
        };
        // Of gates, whose ups lie between them, too: they are read in again from the system's cache.
        let (file, bytes) = strided.expert_bytes();
        self.release(file, bytes.start, bytes.len());
        packed
    }

    /// `wanted`, if rows of `cols` fit it, or else the format that they have.
    fn fitting(&self, wanted: Format, format: Format, cols: usize, name: &str) -> Format {
        if wanted.row_bytes(cols).is_some() {
            return wanted;
        }
        tracing::warn!("{name} is not quantised: {cols} columns are no whole number of groups");
        format
    }

    /// The tensor's pages are not needed any more.
    fn release(&self, file: usize, start: usize, len: usize) {
        self.weights.files()[file].release(start..start + len);
    }
}
