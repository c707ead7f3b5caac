//! Trained models against Hugging Face transformers: the story models of `shared/fixtures/models`, a
//! folder beside the checkout that not everyone has. Without it these tests say so and pass.
//!
//! Random weights (`parity.rs`) find every wrong formula; trained ones have the outliers and the
//! near-certain tokens that random ones lack. One file each in F32, F16, Q8_0 and Q4_0.

use std::{
    error::Error,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use wharf_model::{
    Activations, BLOCK_TOKENS, Batch, BatchSequence, Isa, KvFormat, LoadOptions, Model,
    Quantization,
};

/// Largest difference of a log-probability to transformers.
const TOLERANCE: f32 = 1e-3;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt_ids: Vec<u32>,
    /// Of each prompt token after those before it; the first has none.
    prompt_logprobs: Vec<Option<f32>>,
    greedy_ids: Vec<u32>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    /// (token, log-probability), best first.
    top5: Vec<(u32, f32)>,
}

#[test]
fn stories260k_safetensors() {
    check("stories260k", ".", "golden_greedy.json");
}

#[test]
fn stories260k_gguf_f32() {
    check("stories260k", "stories260k-f32.gguf", "golden_greedy.json");
}

#[test]
fn stories3m_safetensors() {
    check("stories3m", ".", "golden_greedy.json");
}

#[test]
fn stories3m_gguf_f32() {
    check("stories3m", "stories3m-f32.gguf", "golden_greedy_gguf_f32.json");
}

#[test]
fn stories3m_gguf_f16() {
    check("stories3m", "stories3m-f16.gguf", "golden_greedy_gguf_f16.json");
}

#[test]
fn stories3m_gguf_q8_0() {
    check("stories3m", "stories3m-q8_0.gguf", "golden_greedy_gguf_q8_0.json");
}

#[test]
fn stories3m_gguf_q4_0() {
    check("stories3m", "stories3m-q4_0.gguf", "golden_greedy_gguf_q4_0.json");
}

fn check(name: &str, file: &str, golden: &str) {
    let Some(folder) = fixture(name) else {
        println!("skipped: no shared/fixtures/models/{name} beside the checkout");
        return;
    };
    match largest_difference(&folder.join(file), &folder.join(golden)) {
        Ok(largest) => println!("{name}/{file}: largest difference {largest:.1e}"),
        Err(error) => panic!("{name}/{file}: {error}"),
    }
}

fn fixture(name: &str) -> Option<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.parent()?;
    let folder = checkout.parent()?.join("shared/fixtures/models").join(name);
    folder.is_dir().then_some(folder)
}

/// The quantised files with activations rounded to bytes: what a text costs, in nats a token, beside
/// the exact ones.
#[test]
fn activations_in_8_bits_cost_less_than_half_a_percent_of_perplexity() {
    for file in ["stories3m-q8_0.gguf", "stories3m-q4_0.gguf"] {
        let Some(folder) = fixture("stories3m") else {
            println!("skipped: no shared/fixtures/models/stories3m beside the checkout");
            return;
        };
        let texts = folder.join("golden_greedy.json");
        let loss = |activations| match loss(&folder.join(file), &texts, activations, None) {
            Ok(loss) => loss,
            Err(error) => panic!("{file}: {error}"),
        };
        let (exact, rounded) = (loss(Activations::F32), loss(Activations::Rounded));
        let ratio = (rounded - exact).exp();
        println!("{file}: perplexity {:.4}, times {ratio:.5}", exact.exp());
        assert!(ratio < 1.005 && ratio != 1.0, "{file}: {ratio}");
    }
}

/// The model as it was trained, in 32 bits, quantised as it is loaded: what that costs beside Q4_0,
/// which has half a bit less than our 4-bit format.
#[test]
fn quantising_costs_next_to_nothing_in_8_bits_and_less_than_q4_0_in_4() {
    let Some(folder) = fixture("stories3m") else {
        println!("skipped: no shared/fixtures/models/stories3m beside the checkout");
        return;
    };
    let texts = folder.join("golden_greedy.json");
    let perplexity = |file: &str, quantization| match loss(
        &folder.join(file),
        &texts,
        Activations::F32,
        quantization,
    ) {
        Ok(loss) => loss.exp(),
        Err(error) => panic!("{quantization:?}: {error}"),
    };
    let exact = perplexity(".", None);
    let [int8, int4] = [Quantization::Int8, Quantization::Int4]
        .map(|quantization| perplexity(".", Some(quantization)) / exact);
    let q4_0 = perplexity("stories3m-q4_0.gguf", None) / exact;
    println!(
        "perplexity {exact:.4}, times {int8:.5} in int8, {int4:.5} in int4, {q4_0:.5} in Q4_0"
    );
    assert!((int8 - 1.0).abs() < 0.002 && int8 != 1.0, "{int8}");
    assert!(int4 < q4_0 && int4 > int8, "{int4}, Q4_0 has {q4_0}");
}

/// Mean of -log p over the texts' tokens.
fn loss(
    model: &Path,
    texts: &Path,
    activations: Activations,
    quantization: Option<Quantization>,
) -> Outcome<f64> {
    let golden: Golden = serde_json::from_slice(&fs::read(texts)?)?;
    let threads = NonZeroUsize::new(2).ok_or("no threads")?;
    let mut model = Model::load(
        model,
        &LoadOptions { activations, quantization, ..LoadOptions::exact(Isa::detect(), threads) },
    )?;
    let (mut sum, mut count) = (0.0, 0);
    for case in &golden.cases {
        let tokens = [&case.prompt_ids[..], &case.greedy_ids[..]].concat();
        for (row, &next) in all_logprobs(&mut model, case)?.iter().zip(&tokens[1..]) {
            sum -= f64::from(row[next as usize]);
            count += 1;
        }
    }
    Ok(sum / f64::from(count))
}

fn largest_difference(model: &Path, golden: &Path) -> Outcome<f32> {
    let golden: Golden = serde_json::from_slice(&fs::read(golden)?)?;
    let threads = NonZeroUsize::new(2).ok_or("no threads")?;
    let mut model = Model::load(model, &LoadOptions::exact(Isa::detect(), threads))?;
    let mut largest: f32 = 0.0;
    for (index, case) in golden.cases.iter().enumerate() {
        let logprobs = all_logprobs(&mut model, case)?;
        for (expected, position, token) in expectations(case) {
            let difference = (logprobs[position][token as usize] - expected).abs();
            // A NaN is an error too.
            if difference.is_nan() || difference > TOLERANCE {
                return Err(format!("case {index}, position {position}: {difference}").into());
            }
            largest = largest.max(difference);
        }
        check_greedy(case, &logprobs).map_err(|error| format!("case {index}: {error}"))?;
    }
    Ok(largest)
}

/// `[positions][vocab_size]`: what each position of prompt and greedy tokens says of the next token.
fn all_logprobs(model: &mut Model, case: &Case) -> Outcome<Vec<Vec<f32>>> {
    let tokens: Vec<u32> = case.prompt_ids.iter().chain(&case.greedy_ids).copied().collect();
    let (rows, vocab_size) = (tokens.len(), model.info().vocab_size);
    let blocks = rows.div_ceil(BLOCK_TOKENS);
    model.allocate_kv(blocks, KvFormat::F32);
    let block_table = (0..blocks).map(u32::try_from).collect::<Result<_, _>>()?;
    let sequences =
        vec![BatchSequence { first_row: 0, num_rows: rows, start: 0, block_table, state: None }];
    let mut logits = Vec::new();
    model.forward(&Batch { tokens, sequences, logits_rows: (0..rows).collect() }, &mut logits)?;
    Ok(logits.chunks_exact(vocab_size).map(log_softmax).collect())
}

/// (log-probability, position that says it, token it is about)
fn expectations(case: &Case) -> Vec<(f32, usize, u32)> {
    let prompt = case.prompt_logprobs.iter().zip(&case.prompt_ids).enumerate();
    let of_prompt =
        prompt.filter_map(|(i, (logprob, token))| logprob.map(|logprob| (logprob, i - 1, *token)));
    let last = case.prompt_ids.len() - 1;
    let of_steps = case.steps.iter().enumerate().flat_map(|(i, step)| {
        step.top5.iter().map(move |(token, logprob)| (*logprob, last + i, *token))
    });
    of_prompt.chain(of_steps).collect()
}

/// The best token is transformers' at every step, but where its two best are closer than the tolerance.
fn check_greedy(case: &Case, logprobs: &[Vec<f32>]) -> Outcome<()> {
    for (i, (step, token)) in case.steps.iter().zip(&case.greedy_ids).enumerate() {
        let row = &logprobs[case.prompt_ids.len() - 1 + i];
        let near_tie = step.top5[0].1 - step.top5[1].1 < TOLERANCE;
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if row[*token as usize] < best && !near_tie {
            return Err(format!("step {i}: {token} is not the best token").into());
        }
    }
    Ok(())
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    logits.iter().map(|logit| (f64::from(logit - most) - sum.ln()) as f32).collect()
}
