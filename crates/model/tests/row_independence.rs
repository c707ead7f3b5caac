//! Row independence on trained models (`../shared/fixtures/models` beside the checkout, if it is there):
//! a token's logits have the same bits however the work is cut, whatever runs beside it, and however
//! many threads share it. `stories.rs` says that they are the right ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic, helpers included")]

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use wharf_model::{
    Activations, BLOCK_TOKENS, Batch, BatchSequence, Isa, KvFormat, LoadOptions, Model,
};

/// `[texts][positions][vocab_size]`
type Logits = Vec<Vec<Vec<f32>>>;

/// A golden file's texts: all that is needed of it here.
#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
}

/// How the texts are cut into steps.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Most rows of one text in a step.
    chunk: usize,
    /// All texts in each step, or one after the other.
    together: bool,
    threads: usize,
}

const WHOLE: Way = Way { chunk: usize::MAX, together: false, threads: 2 };

const WAYS: [Way; 6] = [
    Way { threads: 1, ..WHOLE },
    Way { threads: 3, ..WHOLE },
    Way { chunk: 1, ..WHOLE },
    Way { chunk: 7, ..WHOLE },
    Way { together: true, ..WHOLE },
    Way { chunk: 3, together: true, threads: 2 },
];

/// The folder of fixtures, if this checkout has one beside it.
fn fixtures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/models");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: there is no {}", folder.display());
    None
}

#[test]
fn logits_have_the_same_bits_in_every_way_of_running() {
    let Some(folder) = fixtures() else { return };
    let models = [
        "stories260k",
        "stories3m",
        "stories3m/stories3m-f16.gguf",
        "stories3m/stories3m-q8_0.gguf",
        "stories3m/stories3m-q4_0.gguf",
    ];
    for name in models {
        let golden = name.split('/').next().unwrap();
        let texts = texts(&folder.join(golden).join("golden_greedy.json"));
        for (format, activations) in [
            (KvFormat::F32, Activations::F32),
            (KvFormat::F16, Activations::F32),
            (KvFormat::F16, Activations::Rounded),
            (KvFormat::Int8, Activations::Rounded),
            (KvFormat::Bf16, Activations::Rounded),
        ] {
            if !format.is_available(Isa::detect()) {
                println!("{format:?}: not on this CPU");
                continue;
            }
            let load = |way| load(&folder.join(name), way, activations);
            let whole = run(&mut load(WHOLE), &texts, format, WHOLE);
            for way in WAYS {
                let other = run(&mut load(way), &texts, format, way);
                assert!(
                    bits(&whole) == bits(&other),
                    "{name}, {format:?}, {activations:?}: {way:?}"
                );
            }
        }
    }
}

#[test]
fn rounded_keys_and_values_change_little() {
    let Some(folder) = fixtures() else { return };
    let texts = texts(&folder.join("stories3m/golden_greedy.json"));
    let mut model = load(&folder.join("stories3m"), WHOLE, Activations::F32);
    let exact = run(&mut model, &texts, KvFormat::F32, WHOLE);
    for (format, most) in [(KvFormat::F16, 0.05), (KvFormat::Int8, 0.5), (KvFormat::Bf16, 0.5)] {
        if !format.is_available(Isa::detect()) {
            println!("{format:?}: not on this CPU");
            continue;
        }
        let rounded = run(&mut model, &texts, format, WHOLE);
        let pairs = exact.iter().flatten().flatten().zip(rounded.iter().flatten().flatten());
        let difference = pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        println!("{format:?}: largest |logit difference| {difference:.1e}");
        assert!(difference > 0.0 && difference < most, "{format:?}: {difference}");
    }
}

fn load(path: &Path, way: Way, activations: Activations) -> Model {
    let threads = NonZeroUsize::new(way.threads).unwrap();
    Model::load(path, &LoadOptions { activations, ..LoadOptions::exact(Isa::detect(), threads) })
        .unwrap()
}

fn texts(golden: &Path) -> Vec<Vec<u32>> {
    let golden: Golden = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    // Past three blocks of keys and values, but not so long that the many ways take minutes.
    let text = |case: Case| [&case.prompt_ids[..], &case.greedy_ids[..48]].concat();
    golden.cases.into_iter().take(5).map(text).collect()
}

fn run(model: &mut Model, texts: &[Vec<u32>], format: KvFormat, way: Way) -> Logits {
    let blocks = |text: &[u32]| text.len().div_ceil(BLOCK_TOKENS) as u32;
    model.allocate_kv(texts.iter().map(|text| blocks(text) as usize).sum(), format);
    let mut first = 0;
    let mut table = |text: &Vec<u32>| {
        let own = first..first + blocks(text);
        first = own.end;
        own.rev().collect()
    };
    let tables: Vec<Vec<u32>> = texts.iter().map(&mut table).collect();
    let mut logits = vec![Vec::new(); texts.len()];
    let all: Vec<usize> = (0..texts.len()).collect();
    for group in all.chunks(if way.together { texts.len() } else { 1 }) {
        while step(model, texts, &tables, group, way.chunk, &mut logits) {}
    }
    logits
}

/// Runs the next chunk of each text of `group`; false when all are at their end.
fn step(
    model: &mut Model,
    texts: &[Vec<u32>],
    tables: &[Vec<u32>],
    group: &[usize],
    chunk: usize,
    all: &mut Logits,
) -> bool {
    let mut batch = Batch::default();
    let mut owners = Vec::new();
    for &text in group {
        let start = all[text].len();
        let num_rows = chunk.min(texts[text].len() - start);
        if num_rows == 0 {
            continue;
        }
        let first_row = batch.tokens.len();
        batch.tokens.extend(&texts[text][start..start + num_rows]);
        owners.extend(std::iter::repeat_n(text, num_rows));
        let block_table = tables[text].clone();
        batch.sequences.push(BatchSequence {
            first_row,
            num_rows,
            start,
            block_table,
            state: None,
        });
    }
    batch.logits_rows = (0..batch.tokens.len()).collect();
    let mut logits = Vec::new();
    model.forward(&batch, &mut logits).unwrap();
    let rows = logits.chunks_exact(model.info().vocab_size);
    for (&text, row) in owners.iter().zip(rows) {
        all[text].push(row.to_vec());
    }
    !owners.is_empty()
}

fn bits(logits: &Logits) -> Vec<u32> {
    logits.iter().flatten().flatten().map(|value| value.to_bits()).collect()
}
