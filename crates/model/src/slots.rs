//! Which slot of recurrent state holds how many tokens of its sequence.
//!
//! Unlike keys and values, a state can't be read at another position than the one it stands at: a step
//! that begins elsewhere would give wrong answers without complaint. So the position of every slot is
//! known here, and a batch is checked against it.

use crate::{
    batch::{Batch, BatchSequence, StateSlots},
    error::ModelError,
};

/// The slots' positions.
#[derive(Default)]
pub(crate) struct SlotPositions {
    /// By slot: tokens that its state has seen; `None`: nobody's, or a step broke off.
    positions: Vec<Option<usize>>,
    /// By slot: number of the last step that writes it.
    written: Vec<u64>,
    step: u64,
}

impl SlotPositions {
    /// Of `slots` slots without a meaning.
    pub(crate) fn new(slots: usize) -> Self {
        Self { positions: vec![None; slots], written: vec![0; slots], step: 0 }
    }

    /// Checks everything about states that the forward pass takes for granted.
    pub(crate) fn check(&mut self, batch: &Batch) -> Result<(), ModelError> {
        self.step += 1;
        for (number, sequence) in batch.sequences.iter().enumerate() {
            let state = state_of(number, sequence)?;
            self.write(state.slot)?;
            if let Some(save) = state.save {
                self.write(save.slot)?;
                if save.after_rows == 0 || save.after_rows > sequence.num_rows {
                    let (after, rows) = (save.after_rows, sequence.num_rows);
                    let reason = format!("sequence {number} saves after {after} of {rows} rows");
                    return Err(ModelError::batch(reason));
                }
            }
        }
        for (number, sequence) in batch.sequences.iter().enumerate() {
            let state = state_of(number, sequence)?;
            let from = match state.restore {
                Some(from) => from,
                None if sequence.start == 0 => continue,
                None => state.slot,
            };
            let found = self.positions.get(from as usize).copied().flatten();
            if found != Some(sequence.start) {
                let start = sequence.start;
                let reason =
                    format!("sequence {number} begins at {start}, slot {from} stands at {found:?}");
                return Err(ModelError::batch(reason));
            }
            // Copies are made one after the other: one must not read what another has written.
            let others = batch.sequences.iter().filter_map(|other| other.state);
            if state.restore.is_some() && others.into_iter().any(|other| other.slot == from) {
                return Err(ModelError::batch(format!("slot {from} is restored from and run on")));
            }
        }
        Ok(())
    }

    fn write(&mut self, slot: u32) -> Result<(), ModelError> {
        let slots = self.written.len();
        let Some(step) = self.written.get_mut(slot as usize) else {
            return Err(ModelError::batch(format!("slot {slot} is not one of {slots}")));
        };
        if *step == self.step {
            return Err(ModelError::batch(format!("slot {slot} is written twice in one step")));
        }
        *step = self.step;
        Ok(())
    }

    /// A checked batch is about to run: should it break off, what it writes means nothing.
    pub(crate) fn begin(&mut self, batch: &Batch) {
        for state in batch.sequences.iter().filter_map(|sequence| sequence.state) {
            self.set(state.slot, None);
            if let Some(save) = state.save {
                self.set(save.slot, None);
            }
        }
    }

    /// It has run.
    pub(crate) fn end(&mut self, batch: &Batch) {
        for sequence in &batch.sequences {
            let Some(state) = sequence.state else { continue };
            self.set(state.slot, Some(sequence.start + sequence.num_rows));
            if let Some(save) = state.save {
                self.set(save.slot, Some(sequence.start + save.after_rows));
            }
        }
    }

    fn set(&mut self, slot: u32, position: Option<usize>) {
        if let Some(of) = self.positions.get_mut(slot as usize) {
            *of = position;
        }
    }
}

fn state_of(number: usize, sequence: &BatchSequence) -> Result<StateSlots, ModelError> {
    let missing = || ModelError::batch(format!("sequence {number} has no slot for its state"));
    sequence.state.ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::StateSave;

    /// Sequences of (rows, start, state).
    fn batch(sequences: &[(usize, usize, StateSlots)]) -> Batch {
        let mut batch = Batch::default();
        for &(num_rows, start, state) in sequences {
            let first_row = batch.tokens.len();
            batch.tokens.resize(first_row + num_rows, 1);
            let (block_table, state) = (Vec::new(), Some(state));
            batch.sequences.push(BatchSequence { first_row, num_rows, start, block_table, state });
        }
        batch
    }

    fn plain(slot: u32) -> StateSlots {
        StateSlots { slot, restore: None, save: None }
    }

    fn saving(slot: u32, after_rows: usize, to: u32) -> StateSlots {
        StateSlots { save: Some(StateSave { after_rows, slot: to }), ..plain(slot) }
    }

    fn restored(slot: u32, from: u32) -> StateSlots {
        StateSlots { restore: Some(from), ..plain(slot) }
    }

    fn run(slots: &mut SlotPositions, sequences: &[(usize, usize, StateSlots)]) -> bool {
        let batch = batch(sequences);
        let fits = slots.check(&batch).is_ok();
        if fits {
            slots.begin(&batch);
            slots.end(&batch);
        }
        fits
    }

    #[test]
    fn a_sequence_goes_on_where_its_state_stands() {
        let mut slots = SlotPositions::new(4);
        assert!(!run(&mut slots, &[(1, 3, plain(0))]), "nothing is in it");
        assert!(run(&mut slots, &[(20, 0, saving(0, 16, 3)), (2, 0, plain(1))]));
        assert!(!run(&mut slots, &[(1, 19, plain(0))]), "it would see a token twice");
        assert!(run(&mut slots, &[(1, 20, plain(0)), (1, 2, plain(1))]));
        assert!(!run(&mut slots, &[(1, 20, restored(2, 3))]));
        assert!(run(&mut slots, &[(1, 16, restored(2, 3)), (4, 0, plain(1))]));
        assert!(run(&mut slots, &[(1, 17, plain(2))]));
        assert!(run(&mut slots, &[(3, 0, plain(2))]), "it is another's now");
    }

    #[test]
    fn wrong_slots_are_refused() {
        let mut slots = SlotPositions::new(4);
        assert!(run(&mut slots, &[(4, 0, plain(0))]));
        assert!(!run(&mut slots, &[(1, 0, plain(4))]));
        assert!(!run(&mut slots, &[(1, 0, plain(1)), (1, 0, plain(1))]));
        assert!(!run(&mut slots, &[(1, 0, saving(1, 1, 2)), (1, 0, plain(2))]));
        assert!(!run(&mut slots, &[(2, 0, saving(1, 0, 2))]));
        assert!(!run(&mut slots, &[(2, 0, saving(1, 3, 2))]));
        assert!(!run(&mut slots, &[(2, 0, saving(1, 2, 4))]));
        assert!(!run(&mut slots, &[(1, 4, restored(1, 9))]));
        assert!(!run(&mut slots, &[(1, 4, restored(1, 0)), (1, 4, plain(0))]));
        let mut without = batch(&[(1, 0, plain(1))]);
        without.sequences[0].state = None;
        assert!(slots.check(&without).is_err());
    }

    #[test]
    fn what_a_broken_step_wrote_means_nothing() {
        let mut slots = SlotPositions::new(2);
        assert!(run(&mut slots, &[(4, 0, plain(0))]));
        let broken = batch(&[(1, 4, plain(0))]);
        assert!(slots.check(&broken).is_ok());
        slots.begin(&broken);
        assert!(!run(&mut slots, &[(1, 4, plain(0))]));
    }
}
