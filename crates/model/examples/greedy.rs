//! Continues token ids greedily: `cargo run --release -p wharf-model --example greedy -- MODEL ID...`
//!
//! Prints the ids, how long loading and the prompt took, and tokens per second. For a look at a model
//! without a server; it knows no text.

use std::{
    error::Error,
    num::NonZeroUsize,
    path::Path,
    time::{Duration, Instant},
};

use wharf_model::{
    BLOCK_TOKENS, Batch, BatchSequence, Isa, KvFormat, LoadOptions, Model, StateSlots,
};

/// Tokens to generate.
const TOKENS: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: greedy MODEL ID...")?;
    let mut ids = arguments.map(|id| id.parse()).collect::<Result<Vec<u32>, _>>()?;
    if ids.is_empty() {
        return Err("give at least one token id".into());
    }
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let options = LoadOptions::exact(Isa::detect(), threads);

    let begun = Instant::now();
    let mut model = Model::load(Path::new(&path), &options)?;
    println!("loaded in {:.0?}, {} MB", begun.elapsed(), model.info().weight_bytes / 1_000_000);
    let prompt = ids.len();
    let num_blocks = (prompt + TOKENS).div_ceil(BLOCK_TOKENS);
    model.allocate(num_blocks, KvFormat::F16, 1);
    let block_table: Vec<u32> = (0..num_blocks as u32).collect();

    let (mut cached, mut logits, mut decoding) = (0, Vec::new(), Duration::ZERO);
    while ids.len() < prompt + TOKENS {
        let begun = Instant::now();
        let num_rows = ids.len() - cached;
        let sequence = BatchSequence {
            first_row: 0,
            num_rows,
            start: cached,
            block_table: block_table.clone(),
            state: Some(StateSlots { slot: 0, restore: None, save: None }),
        };
        let batch = Batch {
            tokens: ids[cached..].to_vec(),
            sequences: vec![sequence],
            logits_rows: vec![num_rows - 1],
        };
        model.forward(&batch, &mut logits)?;
        if cached == 0 {
            println!("{prompt} prompt tokens in {:.1?}", begun.elapsed());
        } else {
            decoding += begun.elapsed();
        }
        cached = ids.len();
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        let best = best.ok_or("no logits")? as u32;
        ids.push(best);
        if model.info().eos_token_ids.contains(&best) {
            break;
        }
    }
    let generated = &ids[prompt..];
    println!("{generated:?}");
    let rate = (generated.len() - 1) as f64 / decoding.as_secs_f64();
    println!("{rate:.1} tokens/s at {:?} with {} threads", options.isa.level(), threads);
    Ok(())
}
