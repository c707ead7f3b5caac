//! What one step runs: rows of tokens, and the sequences they belong to.
//!
//! A batch comes from our own engine, but a wrong one must not end the process: everything an index is
//! made from is checked here, once, before any arithmetic.

use wharf_kernels::attention::BLOCK_TOKENS;

use crate::error::ModelError;

/// One sequence's part of a step.
#[derive(Debug, Clone)]
pub struct BatchSequence {
    /// Its rows are `first_row .. first_row + num_rows` of [`Batch::tokens`].
    pub first_row: usize,
    /// How many.
    pub num_rows: usize,
    /// Position of its first row in the sequence.
    pub start: usize,
    /// KV blocks: `block_table[p / BLOCK_TOKENS]` holds position `p`.
    pub block_table: Vec<u32>,
    /// Where its state is; a model without recurrent layers takes no notice.
    pub state: Option<StateSlots>,
}

/// Where a sequence's recurrent state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSlots {
    /// Its own slot, with the state of its tokens before `start`; at 0 it begins anew.
    pub slot: u32,
    /// First copied to its own: the slot of a state of the same tokens before `start`. All copies of a
    /// step are made before its rows are computed.
    pub restore: Option<u32>,
    /// A copy made on the way.
    pub save: Option<StateSave>,
}

/// A copy of a sequence's state on its way through a step's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSave {
    /// After so many of its rows, at least one.
    pub after_rows: usize,
    /// Into this slot.
    pub slot: u32,
}

/// The tokens of one step, of any number of sequences: decode rows and chunks of prefill, mixed.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// `[rows]`
    pub tokens: Vec<u32>,
    /// Who the rows belong to: all of them, in order, without gaps.
    pub sequences: Vec<BatchSequence>,
    /// Rows whose logits are wanted, ascending.
    pub logits_rows: Vec<usize>,
}

/// What a batch is checked against.
pub(crate) struct BatchLimits {
    pub(crate) vocab_size: usize,
    pub(crate) max_model_len: usize,
    pub(crate) num_blocks: usize,
}

/// Remembers which blocks a step writes; kept between steps for its memory.
#[derive(Default)]
pub(crate) struct WrittenBlocks {
    /// By block: number of the last step that wrote it.
    step_of: Vec<u64>,
    step: u64,
}

impl Batch {
    /// Checks everything that the forward pass takes for granted.
    pub(crate) fn check(
        &self,
        limits: &BatchLimits,
        written: &mut WrittenBlocks,
    ) -> Result<(), ModelError> {
        if let Some(id) = self.tokens.iter().find(|id| **id as usize >= limits.vocab_size) {
            let reason = format!("token {id} is not in a vocabulary of {}", limits.vocab_size);
            return Err(ModelError::batch(reason));
        }
        written.step += 1;
        written.step_of.resize(limits.num_blocks, 0);
        let mut next_row = 0;
        for (number, sequence) in self.sequences.iter().enumerate() {
            if sequence.first_row != next_row || sequence.num_rows == 0 {
                let reason = format!("sequence {number} does not begin at row {next_row}");
                return Err(ModelError::batch(reason));
            }
            sequence.check(number, limits, written)?;
            next_row = next_row.saturating_add(sequence.num_rows);
        }
        if next_row != self.tokens.len() {
            let reason = format!("{} tokens, the sequences have {next_row}", self.tokens.len());
            return Err(ModelError::batch(reason));
        }
        let ascending = self.logits_rows.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || self.logits_rows.last().is_some_and(|row| *row >= self.tokens.len()) {
            return Err(ModelError::batch("logits_rows must be ascending rows of the batch"));
        }
        Ok(())
    }
}

impl BatchSequence {
    fn check(
        &self,
        number: usize,
        limits: &BatchLimits,
        written: &mut WrittenBlocks,
    ) -> Result<(), ModelError> {
        let end = self.start.saturating_add(self.num_rows);
        if end > limits.max_model_len {
            let reason =
                format!("sequence {number} reaches position {end} of {}", limits.max_model_len);
            return Err(ModelError::batch(reason));
        }
        let blocks = end.div_ceil(BLOCK_TOKENS);
        let Some(table) = self.block_table.get(..blocks) else {
            let have = self.block_table.len();
            let reason = format!("sequence {number} has {have} blocks for {end} tokens");
            return Err(ModelError::batch(reason));
        };
        if let Some(id) = table.iter().find(|id| **id as usize >= limits.num_blocks) {
            let reason = format!("block {id} is not one of {}", limits.num_blocks);
            return Err(ModelError::batch(reason));
        }
        for id in &table[self.start / BLOCK_TOKENS..] {
            let step = &mut written.step_of[*id as usize];
            if *step == written.step {
                return Err(ModelError::batch(format!("block {id} is written twice in one step")));
            }
            *step = written.step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(batch: &Batch) -> Result<(), ModelError> {
        let limits = BatchLimits { vocab_size: 10, max_model_len: 40, num_blocks: 4 };
        batch.check(&limits, &mut WrittenBlocks::default())
    }

    /// Sequences of (rows, start, blocks).
    fn batch(sequences: &[(usize, usize, &[u32])]) -> Batch {
        let mut batch = Batch::default();
        for (num_rows, start, blocks) in sequences {
            let first_row = batch.tokens.len();
            batch.tokens.resize(first_row + num_rows, 1);
            let block_table = blocks.to_vec();
            let (num_rows, start) = (*num_rows, *start);
            batch.sequences.push(BatchSequence {
                first_row,
                num_rows,
                start,
                block_table,
                state: None,
            });
        }
        batch
    }

    #[test]
    fn good_batches_pass() {
        assert!(check(&batch(&[])).is_ok());
        let mut mixed = batch(&[(17, 0, &[0, 1]), (1, 15, &[2]), (1, 16, &[2, 3])]);
        // The third sequence reads block 2, which the second one writes: a shared prefix may be
        // written and read in one step only by the same sequence, but that is the engine's to know.
        mixed.logits_rows = vec![0, 16, 18];
        assert!(check(&mixed).is_ok());
    }

    #[test]
    fn wrong_rows_are_refused() {
        let mut long = batch(&[(2, 0, &[0])]);
        long.tokens.push(1);
        assert!(check(&long).is_err());
        let mut gap = batch(&[(2, 0, &[0])]);
        gap.sequences[0].first_row = 1;
        assert!(check(&gap).is_err());
        let mut huge = batch(&[(2, 0, &[0])]);
        huge.sequences[0].num_rows = usize::MAX;
        assert!(check(&huge).is_err());
        assert!(check(&batch(&[(0, 0, &[0])])).is_err());
        for rows in [vec![2], vec![1, 0], vec![0, 0]] {
            let mut wrong = batch(&[(2, 0, &[0])]);
            wrong.logits_rows = rows;
            assert!(check(&wrong).is_err());
        }
    }

    #[test]
    fn wrong_tokens_positions_and_blocks_are_refused() {
        let mut unknown = batch(&[(1, 0, &[0])]);
        unknown.tokens[0] = 10;
        assert!(check(&unknown).is_err());
        assert!(check(&batch(&[(1, 40, &[0, 1, 2])])).is_err());
        assert!(check(&batch(&[(1, usize::MAX, &[0])])).is_err());
        assert!(check(&batch(&[(17, 0, &[0])])).is_err());
        assert!(check(&batch(&[(1, 0, &[4])])).is_err());
        assert!(check(&batch(&[(1, 0, &[1]), (1, 0, &[1])])).is_err());
        assert!(check(&batch(&[(17, 0, &[1, 1])])).is_err());
    }
}
