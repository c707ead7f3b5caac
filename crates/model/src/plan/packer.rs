//! The second step: tensors that a plan has found become layers.

use std::{borrow::Cow, cell::Cell, ops::Range};

use wharf_kernels::{
    matmul::{CodeBits, CodedRow, CodedShape, PackedMatrix},
    quant::{Format, Quantization, QuantizationError},
    team::Team,
};

use super::{ExpertsPlan, FeedForwardPlan, GatedPlan, LayerPlan, LinearPlan};
use crate::{
    config::Config,
    decoder::Layer,
    error::ModelError,
    feed_forward::{Experts, FeedForward, Gated, SharedExpert},
    linear::Linear,
    matrix::{CodesMatrix, ExpertMatrix, Fp8Matrix, Matrix},
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
        let norm = |lent: Option<Lent<'_>>| lent.map(|lent| self.norm(&lent));
        Ok(Layer {
            attention_norm: norm(plan.attention_norm),
            mixer: self.mixer(&plan.mixer, config, number)?,
            post_attention_norm: norm(plan.post_attention_norm),
            feed_forward_norm: norm(plan.feed_forward_norm),
            feed_forward: self.feed_forward(&plan.feed_forward)?,
            post_feed_forward_norm: norm(plan.post_feed_forward_norm),
        })
    }

    fn feed_forward(&self, plan: &FeedForwardPlan<'_>) -> Result<FeedForward, ModelError> {
        match plan {
            FeedForwardPlan::Gated(plan) => Ok(FeedForward::Gated(Box::new(self.gated(plan)?))),
            FeedForwardPlan::Experts(plan) => {
                Ok(FeedForward::Experts(Box::new(self.experts(plan)?)))
            }
        }
    }

    fn gated(&self, plan: &GatedPlan<'_>) -> Result<Gated, ModelError> {
        Ok(Gated {
            gate: self.linear(&plan.gate)?,
            up: self.linear(&plan.up)?,
            down: self.linear(&plan.down)?,
        })
    }

    fn experts(&self, plan: &ExpertsPlan<'_>) -> Result<Experts, ModelError> {
        let experts = plan.experts.iter().map(|expert| self.gated(expert));
        let shared = plan.shared.as_ref().map(|shared| {
            let gate = self.linear_in(&shared.gate, None)?;
            Ok(SharedExpert { expert: self.gated(&shared.expert)?, gate })
        });
        Ok(Experts {
            // Small, and it decides what is read.
            router: self.linear_in(&plan.router, None)?,
            experts: experts.collect::<Result<_, ModelError>>()?,
            num_experts_per_tok: plan.of.num_experts_per_tok,
            norm_topk_prob: plan.of.norm_topk_prob,
            shared: shared.transpose()?,
        })
    }

    pub(super) fn norm(&self, lent: &Lent<'_>) -> Vec<f32> {
        lent.decode().iter().map(|weight| weight + self.norm_offset).collect()
    }

    pub(super) fn linear(&self, plan: &LinearPlan<'_>) -> Result<Linear, ModelError> {
        self.linear_in(plan, self.options.quantization)
    }

    pub(super) fn linear_in(
        &self,
        plan: &LinearPlan<'_>,
        quantization: Option<Quantization>,
    ) -> Result<Linear, ModelError> {
        let rows = plan.rows.as_deref();
        let weight = self.matrix(&plan.weight, rows, quantization)?;
        let bias = plan.bias.map(|lent| {
            let values = lent.decode();
            match rows {
                None => values,
                Some(rows) => rows.iter().map(|&row| values[row]).collect(),
            }
        });
        let input_order = match &plan.weight {
            Matrix::Codes(codes) => codes.order.clone(),
            Matrix::Plain(_) | Matrix::Fp8(_) | Matrix::Expert(_) => None,
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

    /// Those `rows` of a matrix, in this order; `None`: all, as they come.
    fn matrix(
        &self,
        matrix: &Matrix<'_>,
        rows: Option<&[usize]>,
        quantization: Option<Quantization>,
    ) -> Result<PackedMatrix, ModelError> {
        let chosen = Chosen { rows, count: rows.map_or(matrix.rows(), <[usize]>::len) };
        let packed = match matrix {
            Matrix::Plain(lent) => self.plain(lent, rows, quantization)?,
            Matrix::Fp8(fp8) => self.fp8(fp8, chosen, quantization),
            Matrix::Expert(expert) => self.expert(expert, chosen, quantization)?,
            Matrix::Codes(codes) => self.codes(codes, chosen, quantization),
        };
        let mut lost = self.lost.get();
        lost.add(packed.quantization_error());
        self.lost.set(lost);
        Ok(packed.with_activations(self.options.activations))
    }

    /// A run of rows, or all of them in any order, is packed from where it lies; others are gathered
    /// first.
    fn plain(
        &self,
        lent: &Lent<'_>,
        rows: Option<&[usize]>,
        quantization: Option<Quantization>,
    ) -> Result<PackedMatrix, ModelError> {
        let (lent, rows) = match rows.and_then(run) {
            Some(run) => (lent.slice(run), None),
            None => (*lent, rows),
        };
        let (bytes, order) = match rows {
            Some(rows) if rows.len() != lent.rows => (Cow::Owned(lent.gather(rows)), None),
            order => (Cow::Borrowed(lent.bytes), order),
        };
        let count = rows.map_or(lent.rows, <[usize]>::len);
        let row_of = |row: usize| order.map_or(row, |order| order[row]);
        let (format, cols, name) = (lent.format, lent.cols(), &lent.info.name);
        let wanted = quantization.map_or(format, |to| to.format(format));
        let into = self.fitting(wanted, format, cols, name);
        let packed = PackedMatrix::pack_into(into, self.team, format, count, cols, &bytes, &row_of);
        self.release(lent.file, lent.start, lent.bytes.len());
        packed.map_err(|error| self.inventory.fault(name, error.to_string()))
    }

    fn fp8(
        &self,
        fp8: &Fp8Matrix<'_>,
        chosen: Chosen<'_>,
        quantization: Option<Quantization>,
    ) -> PackedMatrix {
        let into = quantization.map_or(Format::F32, Quantization::format_of_floats);
        let into = self.fitting(into, Format::F32, fp8.cols, fp8.name());
        let read = fp8.reader();
        let read = |row: usize, out: &mut [f32]| read(chosen.row(row), out);
        let packed = PackedMatrix::pack_floats(into, self.team, chosen.count, fp8.cols, &read);
        self.release(fp8.bytes.file, fp8.bytes.info.bytes.start, fp8.bytes.bytes.len());
        packed
    }

    /// Codes stay what they are, unless they have more bits than is asked for.
    fn codes(
        &self,
        codes: &CodesMatrix<'_>,
        chosen: Chosen<'_>,
        quantization: Option<Quantization>,
    ) -> PackedMatrix {
        let row_of = |row: usize| chosen.row(row);
        let (shape, read) =
            (CodedShape { rows: chosen.count, ..codes.shape }, codes.reader(&row_of));
        let packed = if shape.bits == CodeBits::Four || quantization != Some(Quantization::Int4) {
            PackedMatrix::pack_codes(self.team, &shape, &read)
        } else {
            let floats = |row: usize, out: &mut [f32]| {
                let mut coded = [CodedRow::of(&shape)];
                read(row..row + 1, &mut coded);
                coded[0].weights(&shape, out);
            };
            PackedMatrix::pack_floats(Format::Q4_1, self.team, shape.rows, shape.cols, &floats)
        };
        let info = codes.codes.info;
        self.release(codes.codes.file, info.bytes.start, info.bytes.len());
        packed
    }

    fn expert(
        &self,
        expert: &ExpertMatrix<'_>,
        chosen: Chosen<'_>,
        quantization: Option<Quantization>,
    ) -> Result<PackedMatrix, ModelError> {
        let (format, rows, cols) = (expert.format(), chosen.count, expert.cols);
        let wanted = quantization.map_or(format, |to| to.format(format));
        let into = self.fitting(wanted, format, cols, expert.name());
        let bytes = expert.rows(self.team, rows, &|row| chosen.row(row));
        let packed =
            PackedMatrix::pack_into(into, self.team, format, rows, cols, &bytes, &|row| row);
        // Of gates, whose ups lie between them, too: they are read in again from the system's cache.
        let (file, bytes) = expert.expert_bytes();
        self.release(file, bytes.start, bytes.len());
        packed.map_err(|error| self.inventory.fault(expert.name(), error.to_string()))
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

/// Which rows of a matrix are packed, and how many.
#[derive(Clone, Copy)]
struct Chosen<'a> {
    rows: Option<&'a [usize]>,
    count: usize,
}

impl Chosen<'_> {
    /// The matrix's row that becomes row `row`.
    fn row(&self, row: usize) -> usize {
        self.rows.map_or(row, |rows| rows[row])
    }
}

/// The range that rows are, if each is the one after the one before.
fn run(rows: &[usize]) -> Option<Range<usize>> {
    let first = *rows.first()?;
    let follows = |(index, row): (usize, &usize)| *row == first + index;
    rows.iter().enumerate().all(follows).then(|| first..first + rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_rows_is_told_from_others() {
        assert_eq!(run(&[3, 4, 5]), Some(3..6));
        assert_eq!(run(&[7]), Some(7..8));
        assert_eq!(
            (run(&[]), run(&[3, 5]), run(&[3, 4, 4]), run(&[4, 3])),
            (None, None, None, None)
        );
    }
}
