//! Every level against the definition, and against itself in every way of cutting the rows.

use std::num::NonZeroUsize;

use super::*;

const SHAPES: [DeltaShape; 5] = [
    shape(1, 1, 4, 4, HeadOrder::Grouped),
    shape(2, 4, 8, 24, HeadOrder::Grouped),
    shape(2, 6, 5, 17, HeadOrder::Tiled),
    shape(1, 2, 16, 112, HeadOrder::Grouped),
    shape(2, 4, 128, 128, HeadOrder::Tiled),
];

const fn shape(
    key_heads: usize,
    value_heads: usize,
    key_dim: usize,
    value_dim: usize,
    order: HeadOrder,
) -> DeltaShape {
    DeltaShape { key_heads, value_heads, key_dim, value_dim, order }
}

fn numbers(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| ((i as f32 + seed) * 0.7391).sin()).collect()
}

/// Rows with keys of length 1, as the rule wants them.
struct Step {
    qkv: Vec<f32>,
    decay: Vec<f32>,
    beta: Vec<f32>,
}

impl Step {
    fn new(shape: DeltaShape, rows: usize) -> Self {
        let mut qkv = numbers(rows * shape.channels(), 1.0);
        for row in qkv.chunks_exact_mut(shape.channels()) {
            for head in row[..2 * shape.key_heads * shape.key_dim].chunks_exact_mut(shape.key_dim) {
                let norm = head.iter().map(|x| x * x).sum::<f32>().sqrt();
                head.iter_mut().for_each(|x| *x /= norm);
            }
        }
        let gates = numbers(2 * rows * shape.value_heads, 2.0);
        let (decay, beta) = gates.split_at(rows * shape.value_heads);
        Self {
            qkv,
            decay: decay.iter().map(|x| 0.75 + 0.25 * x).collect(),
            beta: beta.iter().map(|x| 0.5 + 0.5 * x).collect(),
        }
    }

    fn inputs(&self) -> DeltaInputs<'_> {
        DeltaInputs { qkv: &self.qkv, decay: &self.decay, beta: &self.beta }
    }
}

fn states(shape: DeltaShape, slots: usize) -> RecurrentStates {
    let DeltaShape { value_heads, key_dim, value_dim, .. } = shape;
    let channels = shape.channels();
    let of = StateShape { history: 3, channels, value_heads, key_dim, value_dim };
    RecurrentStates::new(2, slots, of)
}

fn team(threads: usize) -> Team {
    Team::new(NonZeroUsize::new(threads).unwrap())
}

/// All rows of a sequence in slot 1, layer 1, in steps of `chunk`.
fn run(
    isa: Isa,
    threads: usize,
    shape: DeltaShape,
    step: &Step,
    rows: usize,
    chunk: usize,
) -> Vec<f32> {
    let (mut states, team) = (states(shape, 2), team(threads));
    let mut out = vec![0.0; rows * shape.value_heads * shape.value_dim];
    for first_row in (0..rows).step_by(chunk) {
        let sequences = [SlotRows { first_row, num_rows: chunk.min(rows - first_row), slot: 1 }];
        delta_rule(isa, &team, shape, &mut states, 1, &sequences, step.inputs(), &mut out);
    }
    assert!(states.is_clear(0) && !states.is_clear(1));
    out
}

#[test]
fn every_level_agrees_with_the_reference_and_with_each_other() {
    for shape in SHAPES {
        let rows = 9;
        let step = Step::new(shape, rows);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let out = run(isa, 2, shape, &step, rows, rows);
            for head in 0..shape.value_heads {
                let mut state = vec![0.0; shape.key_dim * shape.value_dim];
                let DeltaInputs { qkv, decay, beta } = step.inputs();
                let want = reference::delta_rule(shape, head, qkv, decay, beta, &mut state);
                for (i, want) in want.iter().enumerate() {
                    let (row, j) = (i / shape.value_dim, i % shape.value_dim);
                    let ours = out[(row * shape.value_heads + head) * shape.value_dim + j];
                    assert!((f64::from(ours) - want).abs() < 1e-5, "{shape:?}: {ours}, {want}");
                }
            }
            assert_eq!(first.get_or_insert_with(|| out.clone()), &out, "{:?}", isa.level());
        }
    }
}

#[test]
fn a_row_has_the_same_bits_however_the_rows_are_cut_and_shared_out() {
    for shape in SHAPES {
        let rows = 12;
        let step = Step::new(shape, rows);
        for isa in Isa::available() {
            let whole = run(isa, 1, shape, &step, rows, rows);
            for (threads, chunk) in [(1, 1), (2, 5), (3, 7), (2, rows)] {
                assert_eq!(run(isa, threads, shape, &step, rows, chunk), whole);
            }
        }
    }
}

#[test]
fn sequences_beside_each_other_are_as_alone() {
    let shape = SHAPES[1];
    let step = Step::new(shape, 10);
    let width = shape.value_heads * shape.value_dim;
    let isa = Isa::detect();
    let team = team(2);
    let mut both = vec![0.0; 10 * width];
    let sequences = [
        SlotRows { first_row: 0, num_rows: 4, slot: 2 },
        SlotRows { first_row: 4, num_rows: 6, slot: 0 },
    ];
    let mut memory = states(shape, 3);
    delta_rule(isa, &team, shape, &mut memory, 0, &sequences, step.inputs(), &mut both);
    for sequence in sequences {
        let mut alone = vec![0.0; 10 * width];
        let mut memory = states(shape, 3);
        delta_rule(isa, &team, shape, &mut memory, 0, &[sequence], step.inputs(), &mut alone);
        let rows = sequence.first_row * width..(sequence.first_row + sequence.num_rows) * width;
        assert_eq!(alone[rows.clone()], both[rows]);
    }
}

#[test]
fn a_copied_state_goes_on_like_its_original_and_a_cleared_one_from_the_start() {
    let shape = SHAPES[2];
    let (step, team, isa) = (Step::new(shape, 4), team(1), Isa::detect());
    let mut memory = states(shape, 3);
    let width = shape.value_heads * shape.value_dim;
    let go = |memory: &mut RecurrentStates, layer, slot, first_row, num_rows| {
        let mut out = vec![0.0; 4 * width];
        let rows = [SlotRows { first_row, num_rows, slot }];
        delta_rule(isa, &team, shape, memory, layer, &rows, step.inputs(), &mut out);
        out
    };
    let beginning = go(&mut memory, 0, 0, 0, 2);
    go(&mut memory, 1, 0, 0, 2);
    memory.copy(&team, 0, 2);
    memory.copy_heads(&team, 0, 1, 0);
    let original = go(&mut memory, 0, 0, 2, 2);
    assert_eq!(go(&mut memory, 0, 2, 2, 2), original);
    assert_eq!(go(&mut memory, 1, 2, 2, 2), original);
    assert_eq!(go(&mut memory, 0, 1, 2, 2), original);
    assert_ne!(go(&mut memory, 1, 1, 2, 2), original, "only one layer was copied");
    memory.clear(&team, 2);
    assert_eq!(go(&mut memory, 0, 2, 0, 2), beginning);
}

/// Slots large enough to be copied by several threads, in both directions and to themselves.
#[test]
fn large_states_are_copied_whole_by_several_threads() {
    let of = StateShape { history: 3, channels: 50, value_heads: 9, key_dim: 100, value_dim: 130 };
    let team = team(3);
    let mut memory = RecurrentStates::new(3, 3, of);
    let fill = |memory: &mut RecurrentStates, slot, value: f32| {
        for layer in 0..3 {
            let rows = [SlotRows { first_row: 0, num_rows: 1, slot }];
            memory.for_each_head(&team, layer, &rows, &|_, head, state| {
                for (i, lanes) in state.iter_mut().enumerate() {
                    *lanes = std::array::from_fn(|lane| value + (head * 7 + i * 16 + lane) as f32);
                }
            });
            memory.for_each_history(&team, layer, &rows, &|_, history| history.fill(value));
        }
    };
    let layer = |memory: &mut RecurrentStates, slot, layer| {
        let heads = std::sync::Mutex::new(vec![Vec::new(); of.value_heads]);
        let rows = [SlotRows { first_row: 0, num_rows: 1, slot }];
        memory.for_each_head(&team, layer, &rows, &|_, head, state| {
            heads.lock().unwrap()[head] = state.to_vec();
        });
        (memory.history(slot, layer).to_vec(), heads.into_inner().unwrap())
    };
    for (from, to) in [(0, 2), (2, 0), (1, 1)] {
        (0..3).for_each(|slot| fill(&mut memory, slot, slot as f32));
        memory.copy(&team, from, to);
        for number in 0..3 {
            assert_eq!(layer(&mut memory, to, number), layer(&mut memory, from, number));
        }
        fill(&mut memory, to, 10.0);
        let before = layer(&mut memory, to, 1);
        memory.copy_heads(&team, from, to, 1);
        let copied = layer(&mut memory, to, 1);
        assert_eq!(copied.1, layer(&mut memory, from, 1).1);
        assert_eq!(copied.0, before.0, "what the convolution keeps is not heads'");
        memory.copy_history(&team, from, to, 1);
        assert_eq!(layer(&mut memory, to, 1), layer(&mut memory, from, 1));
        assert_eq!(layer(&mut memory, to, 0).0[0], 10.0, "one layer was copied");
    }
    memory.clear(&team, 2);
    assert!(memory.is_clear(2) && !memory.is_clear(1));
}

#[test]
#[should_panic(expected = "two sequences")]
fn one_slot_for_two_sequences_is_refused() {
    let shape = SHAPES[0];
    let step = Step::new(shape, 2);
    let rows = |first_row| SlotRows { first_row, num_rows: 1, slot: 0 };
    let mut out = vec![0.0; 8];
    delta_rule(
        Isa::detect(),
        &team(1),
        shape,
        &mut states(shape, 1),
        0,
        &[rows(0), rows(1)],
        step.inputs(),
        &mut out,
    );
}
