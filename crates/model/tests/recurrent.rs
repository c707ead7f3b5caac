//! States of recurrent layers in slots: copied on the way, gone on from, and refused where they don't
//! stand where the batch begins. (That the logits are the right ones is `parity.rs`'s.)
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic, helpers included")]

use std::{num::NonZeroUsize, path::Path};

use wharf_model::{Batch, BatchSequence, Isa, KvFormat, LoadOptions, Model, StateSave, StateSlots};

const SLOTS: usize = 4;

fn model() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen35");
    let options = LoadOptions::exact(Isa::detect(), NonZeroUsize::new(2).unwrap());
    let mut model = Model::load(&path, &options).unwrap();
    model.allocate(16, KvFormat::F32, SLOTS);
    model
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * i * 7 + 3 * i + 5) % 300).collect()
}

/// Rows `start..end` of the tokens; keys and values in the blocks from `block` on.
fn step(start: usize, end: usize, block: u32, state: Option<StateSlots>) -> Batch {
    let num_rows = end - start;
    Batch {
        tokens: tokens(end)[start..].to_vec(),
        sequences: vec![BatchSequence {
            first_row: 0,
            num_rows,
            start,
            block_table: (block..block + 4).collect(),
            state,
        }],
        logits_rows: (0..num_rows).collect(),
    }
}

fn plain(slot: u32) -> Option<StateSlots> {
    Some(StateSlots { slot, restore: None, save: None })
}

fn bits(model: &mut Model, batch: &Batch) -> Vec<u32> {
    let mut logits = Vec::new();
    model.forward(batch, &mut logits).unwrap();
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn another_sequence_goes_on_from_a_copy_with_the_same_bits() {
    let mut model = model();
    let vocab = model.info().vocab_size;
    assert!(model.info().state_bytes > 0);
    assert_eq!((model.info().num_layers, model.info().num_kv_layers), (3, 1));
    let whole = bits(&mut model, &step(0, 40, 0, plain(0)));
    let save = Some(StateSave { after_rows: 16, slot: 3 });
    let saving = step(0, 40, 4, Some(StateSlots { slot: 1, restore: None, save }));
    assert_eq!(bits(&mut model, &saving), whole, "a copy on the way changes nothing");
    // Over the blocks of the one that made the copy, from another's slot.
    let restored = Some(StateSlots { slot: 2, restore: Some(3), save: None });
    assert_eq!(bits(&mut model, &step(16, 40, 4, restored)), whole[16 * vocab..]);
    // The original goes on as if nothing had been.
    assert_eq!(
        bits(&mut model, &step(40, 41, 4, plain(1))),
        bits(&mut model, &step(40, 41, 0, plain(0)))
    );
}

#[test]
fn a_slot_is_begun_anew_by_its_next_sequence() {
    let mut model = model();
    let first = bits(&mut model, &step(0, 20, 0, plain(0)));
    assert_eq!(bits(&mut model, &step(0, 20, 4, plain(0))), first);
}

#[test]
fn what_does_not_stand_where_the_batch_begins_is_refused() {
    let mut model = model();
    let mut logits = Vec::new();
    let mut refused = |model: &mut Model, batch: &Batch| {
        model.forward(batch, &mut logits).expect_err("refused").to_string()
    };
    assert!(refused(&mut model, &step(0, 4, 0, None)).contains("no slot"));
    assert!(refused(&mut model, &step(0, 4, 0, plain(SLOTS as u32))).contains("not one of"));
    assert!(refused(&mut model, &step(4, 8, 0, plain(0))).contains("stands at None"));
    bits(&mut model, &step(0, 8, 0, plain(0)));
    assert!(refused(&mut model, &step(7, 9, 0, plain(0))).contains("stands at Some(8)"));
    bits(&mut model, &step(8, 9, 0, plain(0)));
    model.allocate_kv(16, KvFormat::F32);
    assert!(refused(&mut model, &step(0, 4, 0, plain(0))).contains("not one of 0"));
}

#[test]
fn a_model_without_such_layers_takes_no_notice() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen3");
    let options = LoadOptions::exact(Isa::detect(), NonZeroUsize::new(1).unwrap());
    let mut model = Model::load(&path, &options).unwrap();
    assert_eq!(model.info().state_bytes, 0);
    model.allocate(16, KvFormat::F32, SLOTS);
    let without = bits(&mut model, &step(0, 8, 0, None));
    assert_eq!(bits(&mut model, &step(0, 8, 4, plain(99))), without);
}
