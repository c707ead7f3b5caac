//! `cargo xtask bench pressure`: many streams in a cache too small for them, beside the same load
//! with room for all.
//!
//! Speeds depend on the machine and on what else it does. What preemption costs is counted, not
//! timed: tokens whose keys and values were computed again, for each token of the answers.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    http, machine,
    process::{Server, free_port},
    server::model_path,
};
use crate::tools;

/// Tokens of a block.
const BLOCK_TOKENS: usize = 16;

#[derive(clap::Args)]
pub(super) struct PressureArgs {
    /// A GGUF file, a Hugging Face directory, or `smollm2`
    #[arg(long, default_value = "smollm2")]
    model: String,
    /// Concurrent streams
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// Requests per stream
    #[arg(long, default_value_t = 2)]
    requests: usize,
    /// Prompt tokens (about)
    #[arg(long, default_value_t = 64)]
    input_tokens: usize,
    /// Tokens of each answer
    #[arg(long, default_value_t = 256)]
    output_tokens: usize,
    /// Sizes of the cache, in percent of what all streams need at full length
    #[arg(long, value_delimiter = ',', default_value = "100,75,50,25")]
    room: Vec<usize>,
    /// Compute threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// A built wharf [default: one is built for the purpose]
    #[arg(long, value_name = "FILE", env = "WHARF_BIN")]
    wharf: Option<PathBuf>,
}

/// What a load took of a cache of some size.
struct Row {
    speed: f64,
    generated: u64,
    preemptions: u64,
    recomputed: u64,
}

pub(super) fn run(args: &PressureArgs) -> Result<()> {
    let wharf = match &args.wharf {
        Some(wharf) => wharf.clone(),
        None => {
            tools::run(tools::cargo().args(["build", "--release", "--package", "wharf"]))?;
            tools::target_dir().join("release/wharf")
        }
    };
    let model = model_path(&wharf, &args.model)?;
    let full = args.streams * (args.input_tokens + args.output_tokens).div_ceil(BLOCK_TOKENS);
    println!(
        "{} streams, {} tokens in, {} out, {} requests each\n",
        args.streams, args.input_tokens, args.output_tokens, args.requests
    );
    println!(
        "{:>6} {:>7} {:>8} {:>12} {:>11} {:>10} {:>6}",
        "room", "blocks", "tok/s", "preemptions", "recomputed", "per token", "load"
    );
    for &percent in &args.room {
        let blocks = (full * percent).div_ceil(100);
        let row = measure(args, &wharf, &model, blocks)?;
        println!(
            "{percent:>5}% {blocks:>7} {:>8.1} {:>12} {:>11} {:>10.3} {:>6}",
            row.speed,
            row.preemptions,
            row.recomputed,
            row.recomputed as f64 / row.generated.max(1) as f64,
            machine::load_average()
        );
    }
    Ok(())
}

fn measure(args: &PressureArgs, wharf: &Path, model: &Path, blocks: usize) -> Result<Row> {
    let port = free_port()?;
    let mut command = Command::new(wharf);
    command.arg("engine").arg("--model").arg(model).args(["--port", &port.to_string()]);
    command.args(["--threads", &args.threads.to_string()]);
    command.args(["--max-num-seqs", &args.streams.to_string()]);
    command.args(["--num-blocks", &blocks.to_string(), "--speculative-method", "off"]);
    let mut server = Server::start(&mut command, port)?;
    server.wait_until_ready().with_context(|| format!("{command:?}"))?;
    let output = Command::new(wharf)
        .args(["bench", "--base-url", &format!("http://127.0.0.1:{port}/v1")])
        .args(["--concurrency", &args.streams.to_string(), "--warmup", "0"])
        .args(["--requests", &(args.streams * args.requests).to_string()])
        .args(["--input-tokens", &args.input_tokens.to_string()])
        .args(["--output-tokens", &args.output_tokens.to_string(), "--json", "-"])
        .stderr(std::process::Stdio::null())
        .output()?;
    ensure!(output.status.success(), "wharf bench: {}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).context("wharf bench's report")?;
    let metrics = http::metrics(port)?;
    let counter = |name: &str| -> Result<u64> {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.with_context(|| format!("/metrics has no {name}"))?;
        value.parse().with_context(|| format!("{name} {value}"))
    };
    Ok(Row {
        speed: report["output_tokens_per_second"].as_f64().context("wharf bench's report")?,
        generated: counter("vllm:generation_tokens_total")?,
        preemptions: counter("vllm:num_preemptions_total")?,
        recomputed: counter("wharf:recomputed_tokens_total")?,
    })
}
