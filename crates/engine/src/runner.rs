//! What runs a step: the model, or a fake in tests. The only thing the engine knows of a model.

use wharf_model::{Batch, Model};

/// Runs steps. It owns the KV memory; the engine owns which block means what.
///
/// The engine's promises rest on one property of the runner: a row's result depends on nothing but
/// the tokens of its sequence up to it, not on the batch, the chunks or the numbers of the blocks.
pub trait Runner: Send {
    /// Rows of the output matrix: one logit each.
    fn vocab_size(&self) -> usize;

    /// One step; `logits` becomes `[batch.logits_rows.len(), vocab_size]`.
    ///
    /// An error or a panic fails the sequences of this batch; the next call may be sound again.
    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), String>;
}

impl Runner for Model {
    fn vocab_size(&self) -> usize {
        self.info().vocab_size
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), String> {
        Model::forward(self, batch, logits).map_err(|e| e.to_string())
    }
}
