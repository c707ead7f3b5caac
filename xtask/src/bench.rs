//! `cargo xtask bench`: speed, beside a peer in the same run, as a ratio.
//!
//! `kernels` runs the kernels' own benchmark. `server` alternates our server with llama.cpp's
//! on the same file, loads each with `wharf bench`, and prints medians: these figures
//! depend on the machine and on what else it does, so its load average stands beside them.

mod make_model;
mod shape;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::tools;

#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The kernels alone, as GFLOP/s and GB/s
    Kernels,
    /// The server, and llama.cpp's beside it
    Server(ServerArgs),
    /// Make a model of random weights in a published shape
    MakeModel(make_model::MakeModelArgs),
}

#[derive(clap::Args)]
struct ServerArgs {
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

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.what {
        What::Kernels => tools::run(tools::cargo().args(["bench", "--package", "wharf-kernels"])),
        What::Server(args) => server(args),
        What::MakeModel(args) => make_model::run(args),
    }
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

fn server(args: &ServerArgs) -> Result<()> {
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
fn model_path(wharf: &Path, model: &str) -> Result<PathBuf> {
    let output = Command::new(wharf).args(["pull", model]).stderr(Stdio::inherit()).output()?;
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
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
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
    let mut server = Server(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    server.wait_until_ready(port)?;
    let report = load(args, wharf, port, streams)?;
    let peak_memory = server.peak_memory()?;
    println!("{:<10} {streams:>3} streams: done, load average {}", who.name(), load_average());
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
        .stderr(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "wharf bench: {}", output.status);
    serde_json::from_slice(&output.stdout).context("wharf bench's report")
}

/// A server that ends with us.
struct Server(Child);

impl Server {
    fn wait_until_ready(&mut self, port: u16) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.0.try_wait()? {
                bail!("the server ended while starting: {status}");
            }
            if healthy(port) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the server was not ready within 60 s")
    }

    /// `VmHWM` of /proc, in bytes.
    fn peak_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("/proc has no VmHWM")?.parse::<u64>()? * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing to do about a server that is already gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether `GET /health` answers 200.
fn healthy(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut socket) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = [0; 12];
    socket.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && socket.write_all(request).is_ok()
        && socket.read_exact(&mut answer).is_ok()
        && answer.ends_with(b"200")
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
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

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
