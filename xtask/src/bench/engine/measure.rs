//! One measurement: a server is started, asked, and ended.

use std::{
    fs::File,
    io,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    cell::{CACHED_PREFIX, CACHED_PROMPT, Cell, STREAM_INPUT, STREAM_OUTPUT},
    contest::{Contest, Running, Side},
    gap,
    subject::Subject,
};
use crate::bench::{http::Endpoint, words};

/// What a server may take beside weights, keys and values.
const SPARE_BYTES: f64 = 150e6;
/// Tokens of the decoded stream's prompt and answer.
const DECODE_INPUT: usize = 64;
const DECODE_OUTPUT: usize = 128;

/// What the machine could do, where it was measured.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// Bytes per second from memory.
    pub(super) bandwidth: Option<f64>,
    /// Operations per second of the kernels at their best.
    pub(super) multiplication: Option<f64>,
}

/// A figure.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// In the cell's unit.
    pub(super) value: f64,
    /// As [`Cell::measure_of_share`] says.
    pub(super) share: Option<f64>,
    /// What else was seen.
    pub(super) details: Value,
}

/// A measurement to be taken.
pub(super) struct Trial<'a> {
    pub(super) contest: &'a Contest,
    pub(super) subject: &'a Subject,
    pub(super) cell: Cell,
    pub(super) side: Side,
    /// Prompts of different runs differ.
    pub(super) run: usize,
    pub(super) limits: Limits,
}

impl Trial<'_> {
    /// `None` where the side can't be measured so.
    pub(super) fn take(&self) -> Result<Option<Measured>> {
        if self.cell == Cell::Start {
            // Brings the file into the page cache, where it may not be yet.
            io::copy(&mut File::open(&self.subject.file)?, &mut io::sink())?;
        }
        let running = self.contest.start(self.side, self.subject, self.cell.room())?;
        let measured = match self.cell {
            Cell::Prefill512 => self.prefill(&running.endpoint, 512)?,
            Cell::Prefill2048 => self.prefill(&running.endpoint, 2048)?,
            Cell::Decode => self.decode(&running.endpoint)?,
            Cell::Streams8 => self.streams(&running.endpoint, 8)?,
            Cell::Streams16 => self.streams(&running.endpoint, 16)?,
            Cell::Gap => gap::measure(&running.endpoint, self.run)?,
            Cell::Cached => self.cached(&running.endpoint)?,
            Cell::Start => return Ok(running.start.map(start)),
            Cell::Memory => return self.memory(&running),
        };
        Ok(Some(measured))
    }

    fn prefill(&self, endpoint: &Endpoint, tokens: usize) -> Result<Measured> {
        let details =
            self.load(endpoint, Load { streams: 1, requests: 3, input: tokens, output: 1 })?;
        let prompt = number(&details, &["prompt_tokens"])? / number(&details, &["succeeded"])?;
        let seconds = number(&details, &["time_to_first_token_ms", "p50"])? / 1e3;
        let value = prompt / seconds;
        let operations = 2.0 * self.subject.weights as f64;
        let share = self.limits.multiplication.map(|best| operations * value / best);
        Ok(Measured { value, share, details })
    }

    fn decode(&self, endpoint: &Endpoint) -> Result<Measured> {
        let load = Load { streams: 1, requests: 2, input: DECODE_INPUT, output: DECODE_OUTPUT };
        let details = self.load(endpoint, load)?;
        let value = 1e3 / number(&details, &["time_per_output_token_ms", "p50"])?;
        // On average half of the answer is there.
        let prompt = number(&details, &["prompt_tokens"])? / number(&details, &["succeeded"])?;
        let context = prompt + DECODE_OUTPUT as f64 / 2.0;
        let bytes = self.subject.weight_bytes as f64 + context * self.subject.kv_token_bytes as f64;
        let share = self.limits.bandwidth.map(|best| bytes * value / best);
        Ok(Measured { value, share, details })
    }

    fn streams(&self, endpoint: &Endpoint, streams: usize) -> Result<Measured> {
        let (input, output) = (STREAM_INPUT, STREAM_OUTPUT);
        let load = Load { streams, requests: 2 * streams, input, output };
        let details = self.load(endpoint, load)?;
        let value = number(&details, &["output_tokens_per_second"])?;
        Ok(Measured { value, share: None, details })
    }

    fn cached(&self, endpoint: &Endpoint) -> Result<Measured> {
        let model = endpoint.model()?;
        let seed = 1000 + self.run as u64;
        let first_token = |prompt: String| -> Result<(f64, u64)> {
            let body = json!({"model": model, "prompt": prompt, "max_tokens": 1, "stream": true,
                "temperature": 0, "stream_options": {"include_usage": true}});
            let (mut first, mut tokens) = (None, 0);
            for event in endpoint.complete(&body)? {
                let event = event?;
                first = first.or(Some(event.at));
                tokens = event.prompt_tokens.unwrap_or(tokens);
            }
            Ok((milliseconds(first.context("the answer has no event")?), tokens))
        };
        // So that the cold one isn't the first that the server ever computes.
        first_token(words::prompt(seed + 2000, 64))?;
        let whole = words::prompt(seed, CACHED_PROMPT);
        let kept: Vec<&str> = whole.split(' ').take(CACHED_PREFIX).collect();
        let rest = words::prompt(seed + 4000, CACHED_PROMPT - CACHED_PREFIX);
        let other = format!("{} {rest}", kept.join(" "));
        let (cold, tokens) = first_token(whole)?;
        let (warm, _) = first_token(other)?;
        let details = json!({"cold_ms": cold, "warm_ms": warm, "prompt_tokens": tokens});
        Ok(Measured { value: warm, share: Some(warm / cold), details })
    }

    fn memory(&self, running: &Running) -> Result<Option<Measured>> {
        let Some(server) = &running.server else { return Ok(None) };
        self.streams(&running.endpoint, 8)?;
        let peak = server.peak_memory()? as f64;
        let room = self.cell.room();
        let kv = (room.slots * room.context * self.subject.kv_token_bytes) as f64;
        let budget = self.subject.file_bytes as f64 + kv + SPARE_BYTES;
        let details = json!({"peak_bytes": peak, "budget_bytes": budget, "kv_bytes": kv,
            "file_bytes": self.subject.file_bytes});
        Ok(Some(Measured { value: peak / 1e6, share: Some(peak / budget), details }))
    }

    /// `wharf bench`, and its report.
    fn load(&self, endpoint: &Endpoint, load: Load) -> Result<Value> {
        let mut command = Command::new(&self.contest.wharf);
        command.args(["bench", "--base-url", &endpoint.url(), "--json", "-"]);
        for (flag, value) in [
            ("--concurrency", load.streams),
            ("--requests", load.requests),
            ("--input-tokens", load.input),
            ("--output-tokens", load.output),
            ("--seed", self.run),
        ] {
            command.args([flag, &value.to_string()]);
        }
        let output = command.stderr(Stdio::null()).output()?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
        let report: Value =
            serde_json::from_slice(&output.stdout).context("wharf bench's report")?;
        ensure!(report["failed"] == 0, "{command:?}: {}", report["errors"]);
        Ok(report)
    }
}

/// What `wharf bench` is told.
struct Load {
    streams: usize,
    requests: usize,
    input: usize,
    output: usize,
}

fn start(took: Duration) -> Measured {
    Measured { value: took.as_secs_f64(), share: None, details: Value::Null }
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn number(report: &Value, path: &[&str]) -> Result<f64> {
    let value = path.iter().try_fold(report, |value, key| value.get(key));
    value.and_then(Value::as_f64).with_context(|| format!("the report has no {}", path.join(".")))
}
