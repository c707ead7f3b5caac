//! The memory of recurrent layers: a slot for each sequence, the same size however long it is.
//!
//! A slot is its layers, one after the other, and a layer of it what its convolution remembers,
//! `[taps - 1, channels]`, then the heads' states, `[value_heads, key_dim, value_dim]`, the last
//! dimension padded to 16. Whoever owns the slots says which one means what; a slot that is handed
//! on is zeroed or overwritten first.

use std::{cmp::Ordering, ops::Range};

use crate::{
    buffer::Buffer,
    isa::LANES,
    team::{SharedSlice, Team},
};

/// Shape of one layer's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateShape {
    /// Inputs that the convolution keeps: one less than its taps.
    pub history: usize,
    /// Channels of the convolution.
    pub channels: usize,
    /// Heads of values, each with a state of its own.
    pub value_heads: usize,
    /// Dimensions of a key.
    pub key_dim: usize,
    /// Dimensions of a value.
    pub value_dim: usize,
}

impl StateShape {
    /// Vectors of what the convolution keeps. Sizes past all sense give `usize::MAX`, which
    /// `RecurrentStates::new` then refuses, rather than a small wrapped number.
    fn history_len(&self) -> usize {
        self.history.saturating_mul(self.channels).div_ceil(LANES)
    }

    /// Vectors of a row of a head's state.
    pub(super) fn vectors(&self) -> usize {
        self.value_dim.div_ceil(LANES)
    }

    /// Vectors of a head's state.
    pub(super) fn head_len(&self) -> usize {
        self.key_dim.saturating_mul(self.vectors())
    }

    /// Vectors of a layer.
    fn layer_len(&self) -> usize {
        self.history_len().saturating_add(self.value_heads.saturating_mul(self.head_len()))
    }
}

/// One sequence's rows in a step, and the slot of its state before them and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotRows {
    /// Its first row in the step.
    pub first_row: usize,
    /// How many rows.
    pub num_rows: usize,
    /// Its slot.
    pub slot: usize,
}

/// The states of all layers: `num_slots` slots. Memory is reserved, and touched only as slots are
/// first written.
pub struct RecurrentStates {
    shape: StateShape,
    layers: usize,
    slots: usize,
    store: Buffer<[f32; LANES]>, // [slots][layers][layer_len]
    /// By slot: number of the last call that wrote it.
    written: Vec<u64>,
    calls: u64,
}

/// Vectors that a task copies, or makes zero: 256 KiB take some tens of microseconds, and a region to
/// share out less than two of them costs more than it saves.
const TASK_VECTORS: usize = 4096;

/// What is done with a head's state: `(sequence, head, state)`.
type HeadTask<'a> = dyn Fn(&SlotRows, usize, &mut [[f32; LANES]]) + Sync + 'a;

impl RecurrentStates {
    /// Bytes one slot takes over all `layers`.
    pub fn slot_bytes(layers: usize, shape: StateShape) -> usize {
        layers.saturating_mul(shape.layer_len()).saturating_mul(LANES * size_of::<f32>())
    }

    /// `slots` slots of `layers` layers, all zero.
    ///
    /// # Panics
    /// When the size overflows `usize`; when the system refuses the memory, the process ends: size it
    /// by [`RecurrentStates::slot_bytes`] first.
    #[allow(clippy::expect_used)] // documented above, and the sizes come from our own planning
    pub fn new(layers: usize, slots: usize, shape: StateShape) -> Self {
        let len = layers.checked_mul(shape.layer_len()).and_then(|len| len.checked_mul(slots));
        let store = Buffer::zeroed(len.expect("size of the recurrent states overflows usize"));
        Self { shape, layers, slots, store, written: vec![0; slots], calls: 0 }
    }

    /// Its shape.
    pub fn shape(&self) -> StateShape {
        self.shape
    }

    /// How many slots there are.
    pub fn num_slots(&self) -> usize {
        self.slots
    }

    /// Makes all layers of a slot zero: the state before the first token.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn clear(&mut self, team: &Team, slot: usize) {
        let range = self.layers_of(slot, 0..self.layers);
        team.run_chunks(&mut self.store[range], TASK_VECTORS, &|_, piece, _| {
            piece.fill([0.0; LANES]);
        });
    }

    /// Copies all layers of a slot to another.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn copy(&mut self, team: &Team, from: usize, to: usize) {
        self.copy_layers(team, [from, to], 0..self.layers, 0..self.layers * self.shape.layer_len());
    }

    /// Copies what the convolution of one layer keeps to another slot.
    ///
    /// # Panics
    /// When there is no such slot or layer.
    pub fn copy_history(&mut self, team: &Team, from: usize, to: usize, layer: usize) {
        self.copy_layers(team, [from, to], layer..layer + 1, 0..self.shape.history_len());
    }

    /// Copies the heads' states of one layer to another slot.
    ///
    /// # Panics
    /// When there is no such slot or layer.
    pub fn copy_heads(&mut self, team: &Team, from: usize, to: usize, layer: usize) {
        let heads = self.shape.history_len()..self.shape.layer_len();
        self.copy_layers(team, [from, to], layer..layer + 1, heads);
    }

    /// Copies `part`, counted from where the layers of a slot begin.
    fn copy_layers(
        &mut self,
        team: &Team,
        [from, to]: [usize; 2],
        layers: Range<usize>,
        part: Range<usize>,
    ) {
        let [source, target] = [from, to].map(|slot| {
            let start = self.layers_of(slot, layers.clone()).start;
            start + part.start..start + part.end
        });
        let (source, target) = match from.cmp(&to) {
            Ordering::Equal => return,
            Ordering::Less => {
                let (before, after) = self.store.split_at_mut(target.start);
                (&before[source], &mut after[..target.len()])
            }
            Ordering::Greater => {
                let (before, after) = self.store.split_at_mut(source.start);
                (&after[..source.len()], &mut before[target])
            }
        };
        team.run_chunks(target, TASK_VECTORS, &|index, piece, _| {
            piece.copy_from_slice(&source[index * TASK_VECTORS..][..piece.len()]);
        });
    }

    /// Whether all of a slot is zero.
    #[cfg(test)]
    pub(super) fn is_clear(&self, slot: usize) -> bool {
        self.store[self.layers_of(slot, 0..self.layers)].iter().flatten().all(|&x| x == 0.0)
    }

    /// Where layers of a slot lie.
    fn layers_of(&self, slot: usize, layers: Range<usize>) -> Range<usize> {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        assert!(layers.start <= layers.end && layers.end <= self.layers, "no layers {layers:?}");
        let (first, len) = (slot * self.layers, self.shape.layer_len());
        (first + layers.start) * len..(first + layers.end) * len
    }

    /// What the convolution of a layer keeps, `[history, channels]`.
    pub(crate) fn history(&self, slot: usize, layer: usize) -> &[f32] {
        let start = self.layers_of(slot, layer..layer + 1).start;
        let StateShape { history, channels, .. } = self.shape;
        &self.store[start..][..self.shape.history_len()].as_flattened()[..history * channels]
    }

    /// Calls `task(sequence, history)` for each sequence, on the team's threads if there is enough to
    /// do: `history` as [`RecurrentStates::history`] gives it.
    ///
    /// # Panics
    /// When two sequences have one slot, or there is no such slot or layer.
    pub(crate) fn for_each_history(
        &mut self,
        team: &Team,
        layer: usize,
        sequences: &[SlotRows],
        task: &(dyn Fn(&SlotRows, &mut [f32]) + Sync),
    ) {
        self.check_slots(layer, sequences);
        let StateShape { history, channels, .. } = self.shape;
        let len = self.shape.history_len();
        let (layers, layer_len) = (self.layers, self.shape.layer_len());
        let store = SharedSlice::new(&mut self.store[..]);
        let one = |sequence: &SlotRows| {
            let start = (sequence.slot * layers + layer) * layer_len;
            // SAFETY: each sequence is one task, and no two have one slot (checked above).
            let vectors = unsafe { store.range(start..start + len) };
            task(sequence, &mut vectors.as_flattened_mut()[..history * channels]);
        };
        match sequences.len() * len < 2 * TASK_VECTORS {
            true => sequences.iter().for_each(one),
            false => team.run(sequences.len(), &|index, _| one(&sequences[index])),
        }
    }

    /// Each sequence has a slot of its own, and there is such a layer.
    fn check_slots(&mut self, layer: usize, sequences: &[SlotRows]) {
        self.calls += 1;
        for sequence in sequences {
            let call = &mut self.written[sequence.slot];
            assert!(*call != self.calls, "slot {} has two sequences", sequence.slot);
            *call = self.calls;
        }
        assert!(layer < self.layers, "layer {layer} of {}", self.layers);
    }

    /// Calls `task(sequence, head, state)` for each head of each sequence, on the team's threads.
    ///
    /// # Panics
    /// When two sequences have one slot, or there is no such slot or layer.
    pub(super) fn for_each_head(
        &mut self,
        team: &Team,
        layer: usize,
        sequences: &[SlotRows],
        task: &HeadTask<'_>,
    ) {
        self.check_slots(layer, sequences);
        let (heads, head_len) = (self.shape.value_heads, self.shape.head_len());
        let (layers, layer_len) = (self.layers, self.shape.layer_len());
        let history_len = self.shape.history_len();
        let store = SharedSlice::new(&mut self.store[..]);
        team.run(sequences.len() * heads, &|index, _| {
            let (sequence, head) = (&sequences[index / heads], index % heads);
            let layer = sequence.slot * layers + layer;
            let start = layer * layer_len + history_len + head * head_len;
            // SAFETY: each (sequence, head) is one task, heads of a slot lie one after the other, and
            // no two sequences have one slot (checked above).
            let state = unsafe { store.range(start..start + head_len) };
            task(sequence, head, state);
        });
    }
}
