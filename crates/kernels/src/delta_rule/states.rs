//! The memory of recurrent layers: a slot for each sequence, the same size however long it is.
//!
//! A slot is its layers, one after the other, and a layer of it what its convolution remembers,
//! `[taps - 1, channels]`, then the heads' states, `[value_heads, key_dim, value_dim]`, the last
//! dimension padded to 16. Whoever owns the slots says which one means what; a slot that is handed
//! on is zeroed or overwritten first.

use std::ops::Range;

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
    pub fn clear(&mut self, slot: usize) {
        let range = self.layers_of(slot, 0..self.layers);
        self.store[range].fill([0.0; LANES]);
    }

    /// Copies all layers of a slot to another.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn copy(&mut self, from: usize, to: usize) {
        let to = self.layers_of(to, 0..self.layers).start;
        let from = self.layers_of(from, 0..self.layers);
        self.store.copy_within(from, to);
    }

    /// Copies what the convolution of one layer keeps to another slot.
    ///
    /// # Panics
    /// When there is no such slot or layer.
    pub fn copy_history(&mut self, from: usize, to: usize, layer: usize) {
        self.copy_part(from, to, layer, 0..self.shape.history_len());
    }

    /// Copies the heads' states of one layer to another slot.
    ///
    /// # Panics
    /// When there is no such slot or layer.
    pub fn copy_heads(&mut self, from: usize, to: usize, layer: usize) {
        self.copy_part(from, to, layer, self.shape.history_len()..self.shape.layer_len());
    }

    fn copy_part(&mut self, from: usize, to: usize, layer: usize, part: Range<usize>) {
        let from = self.layers_of(from, layer..layer + 1).start;
        let to = self.layers_of(to, layer..layer + 1).start;
        self.store.copy_within(from + part.start..from + part.end, to + part.start);
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

    /// As [`RecurrentStates::history`].
    pub(crate) fn history_mut(&mut self, slot: usize, layer: usize) -> &mut [f32] {
        let start = self.layers_of(slot, layer..layer + 1).start;
        let StateShape { history, channels, .. } = self.shape;
        let len = self.shape.history_len();
        &mut self.store[start..][..len].as_flattened_mut()[..history * channels]
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
        self.calls += 1;
        for sequence in sequences {
            let call = &mut self.written[sequence.slot];
            assert!(*call != self.calls, "slot {} has two sequences", sequence.slot);
            *call = self.calls;
        }
        assert!(layer < self.layers, "layer {layer} of {}", self.layers);
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
