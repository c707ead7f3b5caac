//! `cargo xtask bench server`: our server and llama.cpp's under any number of streams.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    machine,
    process::{Server, free_port},
    statistics::median,
};
use crate::tools;

#[derive(clap::Args)]
pub(super) struct ServerArgs {
    /// A GGUF file, or `smollm2`
    #[arg(long, default_value = "smollm2")]
    model: String,
    /// A directory that holds llama.cpp's llama-server
    #[arg(long)]
    peer_llama: Option<PathBuf>,
    /// Numbers of concurrent streams
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    streams: Vec<usize>,
    /// Requests per stream
    #[arg(long, default_value_t = 3)]
    requests: usize,
    /// Prompt tokens (about)
    #[arg(long, default_value_t = 256)]
    input_tokens: usize,
    /// Tokens of each answer
    #[arg(long, default_value_t = 128)]
    output_tokens: usize,
    /// Times that each server is started and measured; medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Compute threads of each server
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Write every figure here, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Whom to measure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Wharf,
    Llama,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Wharf => "wharf",
            Who::Llama => "llama.cpp",
        }
    }
}

/// One measurement: a server under a number of streams.
struct Cell {
    who: Who,
    streams: usize,
    report: Value,
    /// Largest resident set of the server, bytes.
    peak_memory: u64,
}

pub(super) fn run(args: &ServerArgs) -> Result<()> {
    tools::run(tools::cargo().args(["build", "--release", "--package", "wharf"]))?;
    let wharf = tools::target_dir().join("release/wharf");
    let model = model_path(&wharf, &args.model)?;
    let mut cells = Vec::new();
    for _ in 0..args.rounds {
        for &streams in &args.streams {
            cells.push(measure(args, Who::Wharf, &wharf, &model, streams)?);
            if args.peer_llama.is_some() {
                cells.push(measure(args, Who::Llama, &wharf, &model, streams)?);
            }
        }
    }
    print_table(args, &cells);
    if let Some(path) = &args.json {
        let all: Vec<Value> = cells
            .iter()
            .map(|cell| {
                json!({
                    "server": cell.who.name(),
                    "streams": cell.streams,
                    "peak_memory_bytes": cell.peak_memory,
                    "report": cell.report,
                })
            })
            .collect();
        fs::write(path, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}

/// Where the model's file is, fetched if need be.
pub(super) fn model_path(wharf: &Path, model: &str) -> Result<PathBuf> {
    let output = Command::new(wharf)
        .args(["pull", model])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "cannot fetch {model}");
    let text = String::from_utf8(output.stdout)?;
    Ok(PathBuf::from(text.lines().last().context("`wharf pull` printed no path")?))
}

fn measure(
    args: &ServerArgs,
    who: Who,
    wharf: &Path,
    model: &Path,
    streams: usize,
) -> Result<Cell> {
    let port = free_port()?;
    let context = args.input_tokens + args.output_tokens + 128;
    let threads = args.threads.to_string();
    let port_text = port.to_string();
    let mut command = match (who, &args.peer_llama) {
        (Who::Wharf, _) => {
            let mut command = Command::new(wharf);
            command.arg("engine").arg("--model").arg(model).args(["--port", &port_text]);
            command.args(["--threads", &threads]);
            command
        }
        (Who::Llama, Some(dir)) => {
            let mut command = Command::new(dir.join("llama-server"));
            command.arg("-m").arg(model).args(["--port", &port_text, "-t", &threads]);
            command.args(["-np", &streams.to_string(), "-c", &(context * streams).to_string()]);
            command
        }
        (Who::Llama, None) => bail!("--peer-llama is missing"),
    };
    let mut server = Server::start(&mut command, port)?;
    server.wait_until_ready()?;
    let report = load(args, wharf, port, streams)?;
    let peak_memory = server.peak_memory()?;
    println!(
        "{:<10} {streams:>3} streams: done, load average {}",
        who.name(),
        machine::load_average()
    );
    Ok(Cell { who, streams, report, peak_memory })
}

/// `wharf bench` against the server at `port`.
fn load(args: &ServerArgs, wharf: &Path, port: u16, streams: usize) -> Result<Value> {
    let output = Command::new(wharf)
        .args(["bench", "--base-url", &format!("http://127.0.0.1:{port}/v1")])
        .args(["--concurrency", &streams.to_string()])
        .args(["--requests", &(streams * args.requests).to_string()])
        .args(["--input-tokens", &args.input_tokens.to_string()])
        .args(["--output-tokens", &args.output_tokens.to_string()])
        .args(["--json", "-"])
        .stderr(std::process::Stdio::null())
        .output()?;
    ensure!(output.status.success(), "wharf bench: {}", output.status);
    serde_json::from_slice(&output.stdout).context("wharf bench's report")
}

/// The figures shown: heading, and where they stand in `wharf bench`'s report.
const FIGURES: &[(&str, &[&str])] = &[
    ("output tok/s", &["output_tokens_per_second"]),
    ("TTFT p50 ms", &["time_to_first_token_ms", "p50"]),
    ("TTFT p99 ms", &["time_to_first_token_ms", "p99"]),
    ("ITL p50 ms", &["inter_token_latency_ms", "p50"]),
    ("ITL p99 ms", &["inter_token_latency_ms", "p99"]),
];

fn print_table(args: &ServerArgs, cells: &[Cell]) {
    println!("\nmedians of {} rounds, {} threads:", args.rounds, args.threads);
    for &streams in &args.streams {
        println!(
            "\n{streams} streams, {} tokens in, {} out",
            args.input_tokens, args.output_tokens
        );
        println!("{:<14} {:>10} {:>10} {:>8}", "", "wharf", "llama.cpp", "ratio");
        for (heading, path) in FIGURES {
            print_row(heading, cells, streams, |cell| at(&cell.report, path));
        }
        print_row("peak MB", cells, streams, |cell| Some(cell.peak_memory as f64 / 1e6));
    }
}

fn print_row(heading: &str, cells: &[Cell], streams: usize, figure: impl Fn(&Cell) -> Option<f64>) {
    let of = |who| {
        let chosen = cells.iter().filter(|cell| cell.who == who && cell.streams == streams);
        median(chosen.filter_map(&figure).collect())
    };
    let shown = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
    let (ours, theirs) = (of(Who::Wharf), of(Who::Llama));
    let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
    println!("{heading:<14} {:>10} {:>10} {:>8}", shown(ours), shown(theirs), shown(ratio));
}

fn at(report: &Value, path: &[&str]) -> Option<f64> {
    path.iter().try_fold(report, |value, key| value.get(key))?.as_f64()
}
