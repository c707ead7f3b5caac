//! Our forward pass against Hugging Face transformers, in float32.
//!
//! `tests/golden` holds tiny random checkpoints with the logits and greedy tokens that transformers
//! computes (xtask/golden/README.md). Each is run at every SIMD level this CPU has, and in every way a
//! scheduler may cut the work: whole, in chunks, beside other sequences. Whatever the way, the logits
//! must agree with transformers within [`TOLERANCE`], and with each other to the last bit.
//!
//! `cargo test -p wharf-model --test parity -- --nocapture` prints the largest differences.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use wharf_model::{
    BLOCK_TOKENS, Batch, BatchSequence, Isa, KvFormat, Level, LoadOptions, Model, StateSlots,
};

/// Largest |logit difference| to transformers.
const TOLERANCE: f32 = 1e-3;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// golden.json; what it also holds is for other tests.
#[derive(Deserialize)]
struct Golden {
    name: String,
    model: String,
    architecture: String,
    vocab_size: usize,
    /// What to load it for, where that makes a difference.
    max_model_len: Option<usize>,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    ids: Vec<u32>,
    logits: Vec<LogitsRow>,
    greedy: Vec<u32>,
}

#[derive(Deserialize)]
struct LogitsRow {
    position: usize,
    /// `[vocab_size]`
    values: Vec<f32>,
}

/// How the tokens of the prompts are cut into steps.
struct Way {
    name: &'static str,
    /// Rows per step of the prompt with this index.
    chunk: fn(usize) -> usize,
    /// All prompts in one batch, or one after the other.
    together: bool,
}

const WAYS: &[Way] = &[
    Way { name: "whole", chunk: |_| usize::MAX, together: false },
    Way { name: "by 1", chunk: |_| 1, together: false },
    Way { name: "by 7", chunk: |_| 7, together: false },
    Way { name: "by 16", chunk: |_| 16, together: false },
    Way { name: "batched", chunk: |_| usize::MAX, together: true },
    // The short prompts decode while the long ones still prefill.
    Way { name: "batched in chunks", chunk: |index| 5 + 6 * index, together: true },
];

/// One prompt on its way through the model.
struct Sequence<'a> {
    prompt: &'a Prompt,
    chunk: usize,
    tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    cached: usize,
    block_table: Vec<u32>,
    /// Where the state is of models that have one.
    slot: u32,
    /// `[prompt.logits.len()][vocab_size]`
    logits: Vec<Vec<f32>>,
}

impl Sequence<'_> {
    fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt.ids.len()..]
    }

    fn finished(&self) -> bool {
        self.generated().len() == self.prompt.greedy.len()
    }

    fn next_rows(&self) -> usize {
        self.chunk.min(self.tokens.len() - self.cached)
    }

    /// Whether the logits at `position` are wanted: to compare, or to choose the next token.
    fn wants(&self, position: usize) -> bool {
        position + 1 == self.tokens.len()
            || self.prompt.logits.iter().any(|row| row.position == position)
    }

    /// Takes the logits of `position`.
    fn take(&mut self, position: usize, logits: &[f32]) {
        if self.prompt.logits.iter().any(|row| row.position == position) {
            self.logits.push(logits.to_vec());
        }
        if position + 1 == self.tokens.len() {
            self.tokens.push(argmax(logits));
        }
    }
}

/// What one way of running gave.
#[derive(Clone)]
struct Trace {
    /// `[prompts][recorded positions][vocab_size]`
    logits: Vec<Vec<Vec<f32>>>,
    /// `[prompts][tokens]`
    greedy: Vec<Vec<u32>>,
}

#[test]
fn every_golden_checkpoint_agrees_with_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let goldens = golden_folders(&folder).expect("tests/golden can be read");
    assert!(goldens.len() >= 68, "only {} checkpoints in {}", goldens.len(), folder.display());

    let mut failures = Vec::new();
    let mut largest: BTreeMap<String, f32> = BTreeMap::new();
    for level in Level::ALL {
        let Some(isa) = Isa::at(level) else {
            println!("{level:?}: this CPU does not have it");
            continue;
        };
        for golden in &goldens {
            match check(golden, isa, &mut failures) {
                Ok((architecture, difference)) => {
                    println!("{level:?} {:<20} {difference:.1e}", file_name(golden));
                    let entry = largest.entry(architecture).or_default();
                    *entry = entry.max(difference);
                }
                Err(error) => failures.push(format!("{}: {error}", file_name(golden))),
            }
        }
    }
    println!("\nlargest |logit difference| to transformers, all levels and ways of batching");
    for (architecture, difference) in &largest {
        println!("{architecture:<20} {difference:.1e}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs one checkpoint in every way. Returns its architecture and the largest difference.
fn check(folder: &Path, isa: Isa, failures: &mut Vec<String>) -> Outcome<(String, f32)> {
    let golden: Golden = serde_json::from_slice(&fs::read(folder.join("golden.json"))?)?;
    let threads = NonZeroUsize::new(2).ok_or("no threads")?;
    let mut model = Model::load(
        &folder.join(&golden.model),
        &LoadOptions { max_model_len: golden.max_model_len, ..LoadOptions::exact(isa, threads) },
    )?;
    let label = format!("{} at {:?}", golden.name, isa.level());
    if model.info().architecture != golden.architecture
        || model.info().vocab_size != golden.vocab_size
    {
        let info = model.info();
        failures.push(format!("{label}: is a {} of {}", info.architecture, info.vocab_size));
    }
    let mut largest: f32 = 0.0;
    let mut first: Option<Trace> = None;
    for way in WAYS {
        let trace = run(&mut model, &golden.prompts, way)?;
        let difference =
            compare(&trace, &golden.prompts, &format!("{label}, {}", way.name), failures);
        largest = largest.max(difference);
        let whole = first.get_or_insert_with(|| trace.clone());
        if bits(&trace.logits) != bits(&whole.logits) {
            failures.push(format!("{label}: {} and {} differ in some bit", way.name, WAYS[0].name));
        }
    }
    Ok((golden.architecture, largest))
}

/// The largest difference; what is past the tolerance, or another greedy token, is a failure.
fn compare(trace: &Trace, prompts: &[Prompt], label: &str, failures: &mut Vec<String>) -> f32 {
    let mut largest: f32 = 0.0;
    for (index, prompt) in prompts.iter().enumerate() {
        assert_eq!(prompt.logits.len(), trace.logits[index].len(), "{label}: rows of logits");
        for (row, ours) in prompt.logits.iter().zip(&trace.logits[index]) {
            let difference = largest_difference(&row.values, ours);
            // A NaN is a failure too.
            if difference.is_nan() || difference > TOLERANCE {
                failures.push(format!(
                    "{label}: prompt {index}, position {}: logits differ by {difference}",
                    row.position
                ));
            }
            largest = largest.max(difference);
        }
        if trace.greedy[index] != prompt.greedy {
            failures.push(format!(
                "{label}: prompt {index}: greedy tokens {:?}, transformers {:?}",
                trace.greedy[index], prompt.greedy
            ));
        }
    }
    largest
}

/// Prefills and decodes all prompts in this way.
fn run(model: &mut Model, prompts: &[Prompt], way: &Way) -> Outcome<Trace> {
    let mut sequences = start(model, prompts, way);
    if way.together {
        decode(model, &mut sequences)?;
    } else {
        for sequence in &mut sequences {
            decode(model, std::slice::from_mut(sequence))?;
        }
    }
    Ok(Trace {
        greedy: sequences.iter().map(|sequence| sequence.generated().to_vec()).collect(),
        logits: sequences.into_iter().map(|sequence| sequence.logits).collect(),
    })
}

/// Sequences whose blocks are shuffled among each other, so that a wrong block shows.
fn start<'a>(model: &mut Model, prompts: &'a [Prompt], way: &Way) -> Vec<Sequence<'a>> {
    let blocks = |prompt: &Prompt| (prompt.ids.len() + prompt.greedy.len()).div_ceil(BLOCK_TOKENS);
    let most = prompts.iter().map(blocks).max().unwrap_or(0);
    let total = most * prompts.len();
    model.allocate(total, KvFormat::F32, prompts.len());
    let place = |index: usize, block: usize| total - 1 - (block * prompts.len() + index);
    prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| Sequence {
            prompt,
            chunk: (way.chunk)(index),
            tokens: prompt.ids.clone(),
            cached: 0,
            block_table: (0..blocks(prompt)).map(|block| place(index, block) as u32).collect(),
            slot: (prompts.len() - 1 - index) as u32,
            logits: Vec::new(),
        })
        .collect()
}

/// Steps until every sequence is finished; those that are leave the batch.
fn decode(model: &mut Model, sequences: &mut [Sequence<'_>]) -> Outcome<()> {
    let vocab_size = model.info().vocab_size;
    let mut logits = Vec::new();
    loop {
        let mut active: Vec<&mut Sequence<'_>> =
            sequences.iter_mut().filter(|sequence| !sequence.finished()).collect();
        if active.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        // (index into `active`, position) of each row of `logits`
        let mut wanted = Vec::new();
        for (index, sequence) in active.iter().enumerate() {
            let (first_row, start, num_rows) =
                (batch.tokens.len(), sequence.cached, sequence.next_rows());
            batch.tokens.extend(&sequence.tokens[start..start + num_rows]);
            for position in (start..start + num_rows).filter(|position| sequence.wants(*position)) {
                batch.logits_rows.push(first_row + position - start);
                wanted.push((index, position));
            }
            let block_table = sequence.block_table.clone();
            let state = Some(StateSlots { slot: sequence.slot, restore: None, save: None });
            batch.sequences.push(BatchSequence { first_row, num_rows, start, block_table, state });
        }
        model.forward(&batch, &mut logits)?;
        assert_eq!(logits.len(), wanted.len() * vocab_size);
        for sequence in &mut active {
            sequence.cached += sequence.next_rows();
        }
        for ((index, position), row) in wanted.into_iter().zip(logits.chunks_exact(vocab_size)) {
            active[index].take(position, row);
        }
    }
}

/// Folders with a golden.json, in order.
fn golden_folders(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.join("golden.json").is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// NaN when any difference is, and when the lengths differ.
fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::NAN;
    }
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, |most, difference| {
        if most.is_nan() || difference <= most { most } else { difference }
    })
}

fn bits(logits: &[Vec<Vec<f32>>]) -> Vec<u32> {
    logits.iter().flatten().flatten().map(|value| value.to_bits()).collect()
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = index;
        }
    }
    best as u32
}
