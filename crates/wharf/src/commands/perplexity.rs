//! `wharf perplexity`: how well a model predicts a text, to compare formats and settings on one model.
//!
//! The text is cut into windows, each predicted from its own start; the second half of each counts, so
//! that every token has half a window before it. llama.cpp's `llama-perplexity` counts the same
//! tokens, so the two compare.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use wharf_model::{BLOCK_TOKENS, Batch, BatchSequence, Model, StateSlots};
use wharf_text::tokenizer::Tokenizer;

use super::{loading, model_source};
use crate::cli::PerplexityArgs;
use crate::shutdown::{Heed, Shutdown};

/// Rows of a step: logits of so many are in memory at once.
const STEP_ROWS: usize = 128;

/// Runs the command.
pub(crate) async fn run(args: &PerplexityArgs) -> Result<()> {
    let text = read_text(&args.text)?;
    let shutdown = Shutdown::listen(Heed::Signals)?;
    let measuring = async {
        let path = model_source::fetch(&args.model, &args.hub).await?;
        let (compute, window) = (args.compute.clone(), args.window as usize);
        let measuring = tokio::task::spawn_blocking(move || {
            let format = loading::kv_format(&compute)?; // before the weights, in case it is refused
            let mut model = loading::model(&path, &compute, Some(window))?;
            let tokenizer = loading::tokenizer(&model.info().tokenizer)?;
            let windows = windows(tokenizer.as_ref(), &text, window)?;
            let max = model.info().max_model_len;
            ensure!(window <= max, "--window {window} is longer than the model's context of {max}");
            model.allocate(window.div_ceil(BLOCK_TOKENS), format, 1);
            measure(&mut model, &windows)
        });
        measuring.await.context("measuring failed")?
    };
    tokio::select! {
        report = measuring => println!("{}", report?),
        () = shutdown.begun() => {}
    }
    Ok(())
}

fn read_text(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text).map(drop),
        false => std::fs::read_to_string(file).map(|read| text = read),
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

/// The text's tokens in windows of `len`; what does not fill the last one is left out. Each begins with
/// the beginning-of-sequence token if the model's texts do.
fn windows(tokenizer: &dyn Tokenizer, text: &str, len: usize) -> Result<Vec<Vec<u32>>> {
    let tokens = tokenizer.encode(text, true)?;
    let bos = tokenizer.bos_token().and_then(|token| tokenizer.token_to_id(token));
    let bos = bos.filter(|bos| tokens.first() == Some(bos));
    let count = tokens.len();
    ensure!(count >= len, "the text has {count} tokens, fewer than one --window of {len}");
    let with_bos = |window: &[u32]| {
        let mut window = window.to_vec();
        window[0] = bos.unwrap_or(window[0]);
        window
    };
    Ok(tokens.chunks_exact(len).map(with_bos).collect())
}

/// `-log p` of the tokens that count.
fn measure(model: &mut Model, windows: &[Vec<u32>]) -> Result<String> {
    let begun = Instant::now();
    let mut losses = Vec::new();
    for window in windows {
        losses_of(model, window, &mut losses)?;
    }
    let count = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / count;
    let variance = losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let perplexity = mean.exp();
    // Of the mean's standard error, to first order.
    let error = perplexity * (variance / count).sqrt();
    let tokens: usize = windows.iter().map(Vec::len).sum();
    let rate = tokens as f64 / begun.elapsed().as_secs_f64();
    Ok(format!(
        "perplexity {perplexity:.4} +- {error:.4} ({} tokens counted of {tokens}, {rate:.0} tokens/s)",
        losses.len()
    ))
}

/// Appends `-log p` of each token of the window's second half, from the tokens before it.
fn losses_of(model: &mut Model, window: &[u32], losses: &mut Vec<f64>) -> Result<()> {
    let block_table: Vec<u32> = (0..window.len().div_ceil(BLOCK_TOKENS) as u32).collect();
    let first = window.len() / 2; // the first row whose prediction counts
    let mut logits = Vec::new();
    for (step, tokens) in window.chunks(STEP_ROWS).enumerate() {
        let start = step * STEP_ROWS;
        // The window's last row predicts what is outside of it.
        let end = (start + tokens.len()).min(window.len() - 1);
        let counted = first.max(start)..end;
        let batch = Batch {
            tokens: tokens.to_vec(),
            sequences: vec![BatchSequence {
                first_row: 0,
                num_rows: tokens.len(),
                start,
                block_table: block_table.clone(),
                state: Some(StateSlots { slot: 0, restore: None, save: None }),
            }],
            logits_rows: counted.clone().map(|position| position - start).collect(),
        };
        model.forward(&batch, &mut logits)?;
        let vocab = model.info().vocab_size;
        for (position, row) in counted.zip(logits.chunks_exact(vocab)) {
            losses.push(loss(row, window[position + 1]));
        }
    }
    Ok(())
}

/// `-log softmax(logits)[token]`.
fn loss(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_minus_the_log_of_the_softmax() {
        // p = 1/4 each, then 1/(1 + 3 e^-1000).
        assert!((loss(&[5.0; 4], 2) - 4f64.ln()).abs() < 1e-12);
        assert!(loss(&[1000.0, 0.0, 0.0, 0.0], 0).abs() < 1e-12);
        assert!((loss(&[1000.0, 0.0, 0.0, 0.0], 1) - 1000.0).abs() < 1e-9);
    }
}
