//! A runner for tests. It has a paged memory like the model's, and its logits are a hash of all
//! that a row reads through its block table: whatever goes wrong with block tables, sharing,
//! caching, eviction or preemption changes what is generated. If it is to have recurrent layers, the
//! logits are a hash of what a sequence's state has seen too. It also checks each batch against what
//! the engine promises a runner.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use wharf_model::{BLOCK_TOKENS, Batch, BatchSequence};

use crate::{EngineConfig, Runner};

/// How a step goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Error,
    Panic,
    /// The logits of this row of `logits_rows` are no numbers.
    NotANumber(usize),
    /// Too few logits.
    Short,
}

/// Decides, from the number of the step, whether it goes wrong.
pub(crate) type Faults = Box<dyn FnMut(u64, &Batch) -> Option<Fault> + Send>;

pub(crate) struct FakeRunner {
    vocab_size: usize,
    max_batched_tokens: usize,
    max_running: usize,
    /// `[num_blocks][BLOCK_TOKENS]`: what a position's "keys and values" are.
    memory: Vec<[Option<u64>; BLOCK_TOKENS]>,
    /// `[num_slots]`: how many tokens a state has seen, and what they came to. Empty: no recurrent
    /// layers.
    slots: Vec<Option<(usize, u64)>>,
    steps: u64,
    /// The texts that it writes mostly repeat themselves after so many tokens.
    pub(crate) period: Option<u64>,
    /// Runners of different twists are different models.
    pub(crate) twist: u64,
    faults: Faults,
    /// Every batch so far.
    pub(crate) log: Arc<Mutex<Vec<Batch>>>,
}

impl FakeRunner {
    pub(crate) fn new(config: &EngineConfig, vocab_size: usize) -> Self {
        Self::with_faults(config, vocab_size, Box::new(|_, _| None))
    }

    pub(crate) fn with_faults(config: &EngineConfig, vocab_size: usize, faults: Faults) -> Self {
        Self {
            vocab_size,
            max_batched_tokens: config.max_batched_tokens,
            max_running: config.max_running,
            memory: vec![[None; BLOCK_TOKENS]; config.num_blocks],
            slots: match config.num_state_snapshots {
                Some(snapshots) => vec![None; config.max_running + snapshots],
                None => Vec::new(),
            },
            steps: 0,
            period: None,
            twist: 0,
            faults,
            log: Arc::default(),
        }
    }

    /// `seen`: what a sequence's state has come to after so many rows.
    fn write_state(&mut self, sequence: &BatchSequence, rows: usize, seen: u64) {
        let own = sequence.state.expect("a slot");
        let value = Some((sequence.start + rows, seen));
        self.slots[own.slot as usize] = value;
        if let Some(save) = own.save.filter(|save| save.after_rows == rows) {
            self.slots[save.slot as usize] = value;
        }
    }

    fn check(&self, batch: &Batch) {
        assert!(!batch.tokens.is_empty(), "an empty batch");
        assert!(batch.tokens.len() <= self.max_batched_tokens, "over the budget");
        assert!(batch.sequences.len() <= self.max_running, "too many sequences");
        assert!(batch.logits_rows.is_sorted_by(|a, b| a < b), "logits rows don't ascend");
        let mut next_row = 0;
        let mut users: HashMap<u32, usize> = HashMap::new();
        for sequence in &batch.sequences {
            assert_eq!(sequence.first_row, next_row, "rows overlap or have a gap");
            assert!(sequence.num_rows > 0);
            next_row += sequence.num_rows;
            for &block in &sequence.block_table {
                *users.entry(block).or_default() += 1;
            }
        }
        assert_eq!(next_row, batch.tokens.len());
        for sequence in &batch.sequences {
            let end = sequence.start + sequence.num_rows;
            let written = sequence.start / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS);
            for &block in &sequence.block_table[written] {
                assert_eq!(users[&block], 1, "block {block} is written while others read it");
            }
        }
        let states = batch.sequences.iter().filter_map(|sequence| sequence.state);
        let written = states.flat_map(|state| [Some(state.slot), state.save.map(|save| save.slot)]);
        let mut written: Vec<u32> = written.flatten().collect();
        let count = written.len();
        written.sort_unstable();
        written.dedup();
        assert_eq!(written.len(), count, "a slot is written twice");
    }

    /// What the states are before the rows, by sequence.
    fn begin_states(&self, batch: &Batch) -> Vec<u64> {
        let begin = |sequence: &BatchSequence| {
            let state = sequence.state.expect("a slot");
            let from = match state.restore {
                None if sequence.start == 0 => return 0,
                from => from.unwrap_or(state.slot),
            };
            let (position, seen) = self.slots[from as usize].expect("a state");
            assert_eq!(position, sequence.start, "a state at another position");
            seen
        };
        batch.sequences.iter().map(begin).collect()
    }
}

impl Runner for FakeRunner {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), String> {
        self.check(batch);
        self.log.lock().unwrap().push(batch.clone());
        self.steps += 1;
        let fault = (self.faults)(self.steps, batch);
        let mut states = Vec::new(); // [rows]
        let mut positions = Vec::new(); // [rows]
        let recurrent = !self.slots.is_empty();
        let seen = if recurrent { self.begin_states(batch) } else { Vec::new() };
        for (index, sequence) in batch.sequences.iter().enumerate() {
            let mut seen = seen.get(index).copied();
            for row in 0..sequence.num_rows {
                let position = sequence.start + row;
                let place =
                    |p: usize| (sequence.block_table[p / BLOCK_TOKENS] as usize, p % BLOCK_TOKENS);
                let mut state = mix(u64::from(batch.tokens[sequence.first_row + row]) + 1);
                for (block, slot) in (0..position).map(place) {
                    let read = self.memory[block][slot].expect("reads what was never written");
                    state = mix(state ^ read);
                }
                let (block, slot) = place(position);
                self.memory[block][slot] = Some(state);
                if let Some(seen) = &mut seen {
                    *seen = mix(*seen ^ state);
                    state = *seen;
                    self.write_state(sequence, row + 1, state);
                }
                states.push(state);
                positions.push(position as u64);
            }
        }
        logits.clear();
        for &row in &batch.logits_rows {
            let likely = self.period.map(|period| positions[row] % period);
            let boost = |id: u64| if likely == Some(id) { BOOST } else { 0.0 };
            logits.extend(
                (0..self.vocab_size as u64)
                    .map(|id| logit(states[row] ^ self.twist, id) + boost(id)),
            );
        }
        match fault {
            None => {}
            Some(Fault::Error) => return Err("a fault on demand".into()),
            Some(Fault::Panic) => panic!("a panic on demand"),
            Some(Fault::NotANumber(row)) => logits[row * self.vocab_size] = f32::NAN,
            Some(Fault::Short) => logits.truncate(1),
        }
        Ok(())
    }
}

/// What a token is likelier by where the text repeats itself: it is the best one four times in five.
const BOOST: f32 = 6.0;

/// In `[-4, 4)`.
fn logit(state: u64, id: u64) -> f32 {
    let bits = mix(state.wrapping_add(id << 32)) >> 40;
    bits as f32 / (1u32 << 21) as f32 - 4.0
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
